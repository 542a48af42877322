"""One contract for all runners: the same tasks, in this process or in others, leave the same store to the byte."""

import os
import pickle
import signal
import sys
import time
from pathlib import Path

import pytest

import florence2
from florence2.engine.commands import import_labels
from florence2.engine.curation.merging import MergeConfig
from florence2.engine.execution.context import WorkerContext
from florence2.engine.execution.inline import InlineRunner
from florence2.engine.execution.jobs import Job, JobOutcome, Resources
from florence2.engine.execution.options import Execution
from florence2.engine.execution.processes import ProcessRunner, ProcessWorker
from florence2.engine.execution.supervision import FIRST_LEASE_S, LEASE_FACTOR
from florence2.store import Store
from tests.engine.doubles import Boxes, Floor, NoTexts, folder_of, fragments


class Squares:
    """A task that commits nothing."""

    def __init__(self, number):
        self.number = number

    def do(self, store, context):
        context.heartbeat.progress(1)
        return JobOutcome(facts=self.number**2)


def runners(root):
    return {"inline": InlineRunner(WorkerContext(root)), "processes": ProcessRunner(WorkerContext(root), cpus=2)}


@pytest.mark.parametrize("name", ["inline", "processes"])
def test_a_runner_gives_each_job_with_its_outcome(tmp_path, name):
    store = Store(tmp_path / "s", create=True)
    shown = []
    with runners(store.root)[name] as runner:
        jobs = (Job(f"square-{n}", 1, Squares(n)) for n in range(5))
        done = {
            job.key: outcome.facts for job, outcome in runner.run(jobs, Resources("x"), lambda j, n: shown.append(n))
        }
    assert done == {f"square-{n}": n * n for n in range(5)} and shown == [1] * 5


# cpus, GPUs of the machine, what the operator wants -> workers
FITS = [
    (4, 0, Resources("x"), 4),
    (4, 0, Resources("x", num_cpus=2), 2),
    (4, 0, Resources("x", num_cpus=8), 1),  # one at least
    (4, 0, Resources("x", num_cpus=0.5), 8),
    (4, 0, Resources("x", num_gpus=1), 4),  # no GPU: the processor does it
    (4, 2, Resources("x", num_gpus=1), 2),  # one a device
    (4, 2, Resources("x", num_gpus=0.25), 8),  # four share one
    (4, 2, Resources("x"), 4),
    (4, 0, Resources("x", at_once=1), 1),  # billed
]


@pytest.mark.parametrize("cpus, gpus, resources, expected", FITS)
def test_workers_are_as_many_as_the_machine_holds(tmp_path, cpus, gpus, resources, expected):
    context = WorkerContext(Store(tmp_path / "s", create=True).root)
    assert ProcessRunner(context, cpus, devices=[f"cuda:{n}" for n in range(gpus)]).workers(resources) == expected


def test_each_worker_has_a_device_of_its_own_where_gpus_are_wanted(tmp_path):
    folder = folder_of(tmp_path, 4)
    store = Store(tmp_path / "s", create=True)
    runner = ProcessRunner(WorkerContext(store.root), 4, devices=["cuda:0", "cuda:1"])
    sent = []

    class Wire:
        def send(self, message):
            sent.append(message[1])

    for slot in range(3):
        runner._give(ProcessWorker(None, Wire(), slot), Job("k", 1, Squares(1)), Resources("x", num_gpus=0.5))
    runner._give(ProcessWorker(None, Wire(), 0), Job("k", 1, Squares(1)), Resources("x"))
    assert sent == ["cuda:0", "cuda:1", "cuda:0", ""] and folder.is_dir()


def life(root, out, workers):
    """A store's life with every phase that there is."""
    reader = Boxes("reader", shift=1.0, requires={"region_text/object"})
    import_labels(root / "labels.jsonl", out, workers=workers, unit=3)
    for version in "1", "2":  # the second supersedes
        florence2.annotate(root / "pictures", out, [Boxes(version=version), reader], workers=workers, unit=3)
    florence2.filter(out, [Floor(0.5), NoTexts()], merging=MergeConfig(), workers=workers)
    return Store(out)


def test_every_phase_leaves_the_same_store_in_this_process_and_in_two_others(tmp_path, monkeypatch):
    folder_of(tmp_path, 5)
    line = (
        '{"id": "0", "image": {"id": "0", "uri": "pictures/p0000.png"}, "regions": [{"id": "r", "box": [1, 1, 9, 9]}]}'
    )
    (tmp_path / "labels.jsonl").write_text(line + "\n")
    phases = set()
    give = ProcessRunner._give

    def seen(self, worker, job, resources):
        phases.add(type(job.task).__name__)
        return give(self, worker, job, resources)

    monkeypatch.setattr(ProcessRunner, "_give", seen)
    here, there = (life(tmp_path, tmp_path / f"s{workers}", workers) for workers in (0, 2))
    assert fragments(here) == fragments(there)
    assert here.snapshots() == there.snapshots()
    assert all(here.snapshot(n).to_bytes() == there.snapshot(n).to_bytes() for n in here.snapshots())
    assert phases == {"InspectTask", "ImportTask", "AnnotateTask", "JudgeTask", "MergeTask", "SupersedeTask"}


def test_tasks_are_pickled_small(tmp_path, monkeypatch):
    store = florence2.annotate(folder_of(tmp_path, 8), tmp_path / "s", [Boxes()], workers=0, unit=4)
    sizes = []
    run = InlineRunner.run

    def measured(self, jobs, resources, on_progress=None):
        return run(self, (sizes.append(len(pickle.dumps(job))) or job for job in jobs), resources, on_progress)

    monkeypatch.setattr(InlineRunner, "run", measured)
    florence2.annotate(store.root, None, [Boxes("more", requires={"box"})], workers=0)
    florence2.filter(store, workers=0)
    assert sizes and max(sizes) < 20_000  # references, no pixels, no rows


def test_rules_of_ones_own_are_judged_here_unless_workers_are_named(tmp_path):
    store = florence2.annotate(folder_of(tmp_path, 4), tmp_path / "s", [Boxes()], workers=0, unit=2)

    class Local(Floor):
        """Cannot be imported by another process."""

    florence2.filter(store, [Local(0.5)])
    with pytest.raises(ValueError, match="cannot send this work.*importable module"):
        florence2.filter(store, [Local(0.6)], workers=2)
    assert Execution(None).for_rules([Floor(0.5)], store.snapshot()).workers == 0


def test_the_lease_is_learnt_for_each_operator(tmp_path):
    """An operator of long silences is not held to what another's jobs took: the first lease is generous."""
    runner = ProcessRunner(WorkerContext(Store(tmp_path / "s", create=True).root), 1)
    worker = ProcessWorker(None, None, 0)
    worker.job, worker.started = Job("k", 4, None), time.monotonic()
    runner._silences["inspecting"].extend([0.01] * 50)
    assert runner._patience(worker, Resources("slow")) == FIRST_LEASE_S
    runner._silences["slow"].extend([20.0, 20.0, 20.0])
    assert runner._patience(worker, Resources("slow")) == LEASE_FACTOR * 20.0


class Dozes(Boxes):
    """Each picture takes longer than the lease, if pictures were not heard of one by one."""

    def __init__(self):
        super().__init__("dozes", batch_size=1)

    def one(self, sample, image):
        time.sleep(0.4)
        return super().one(sample, image)


def test_a_slow_specialist_that_gives_signs_is_not_killed_and_a_kill_is_said(tmp_path):
    folder, said = folder_of(tmp_path, 5), []
    store = florence2.annotate(folder, tmp_path / "s", [Dozes()], workers=1, lease_s=1.5, on_message=said.append)
    assert store.counts()["failures"] == 0 and said == []
    florence2.annotate(store.root, None, [Hangs()], workers=1, lease_s=0.7, on_message=said.append)
    assert any("hangs" in line and "no sign of life" in line for line in said)
    assert store.reasons()["failures"] == {"timeout": 1}


class Hangs(Boxes):
    def __init__(self):
        super().__init__("hangs")

    def one(self, sample, image):
        if Path(sample.image.uri).name == "p0001.png":
            time.sleep(60)
        return super().one(sample, image)


@pytest.mark.parametrize("device", ["cuda:99", "xpu", "no such"])
def test_a_device_that_is_not_there_is_refused_before_anything_is_done(tmp_path, device):
    with pytest.raises(ValueError, match=f"device.*{device}") as refusal:
        florence2.annotate(folder_of(tmp_path, 1), tmp_path / "s", [Boxes()], device=device)
    assert "\n" not in str(refusal.value) and not list((tmp_path / "s").glob("images/*"))


LOADED = []  # by a preload, in the process that ran it and in those forked from it


class Preload:
    """Notes in a file who ran it."""

    def __init__(self, notes):
        self.notes = notes

    def __call__(self):
        LOADED.append(os.getpid())
        with open(self.notes, "a") as file:
            file.write(f"{os.getpid()}\n")


class Finds:
    """A task that reports what its process has loaded, after `dies` deaths."""

    def __init__(self, notes, dies=0):
        self.notes, self.dies = Path(notes), dies

    def do(self, store, context):
        if self.dies:
            died = self.notes.with_suffix(".died")
            if not died.exists():
                died.write_text("once")
                os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.2)  # so that both workers are given work
        return JobOutcome(facts=(os.getpid(), list(LOADED)))


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux alone")
def test_what_all_workers_need_is_loaded_once_and_the_workers_are_forked(tmp_path):
    store = Store(tmp_path / "s", create=True)
    notes, said = tmp_path / "notes", []
    preload = Preload(notes)
    with ProcessRunner(WorkerContext(store.root), cpus=2, on_message=said.append) as runner:
        jobs = [Job(f"k{n}", 1, Finds(notes, dies=n == 2), preload=preload) for n in range(6)]
        found = [outcome.facts for _, outcome in runner.run(jobs, Resources("x"))]
    (template,) = map(int, notes.read_text().split())
    assert all(loaded == [template] for _, loaded in found) and len(found) == 6
    workers = {pid for pid, _ in found}
    assert template not in workers and os.getpid() not in workers and len(workers) >= 2
    assert len(said) == 1 and "exit code -9" in said[0]  # the death of a forked worker is seen, and another is forked
    for pid in (template, *workers):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_template_that_dies_is_done_without(tmp_path):
    store = Store(tmp_path / "s", create=True)
    with ProcessRunner(WorkerContext(store.root), cpus=1) as runner:
        jobs = [Job(f"k{n}", 1, Squares(n), preload=Dies()) for n in range(3)]
        assert [outcome.facts for _, outcome in runner.run(jobs, Resources("x"))] == [0, 1, 4]


class Dies:
    """A preload that takes its process along."""

    def __call__(self):
        os._exit(3)


class HangingPreload:
    """A preload that does not end."""

    def __call__(self):
        time.sleep(600)


def test_a_template_that_hangs_is_ended_and_done_without(tmp_path):
    store = Store(tmp_path / "s", create=True)
    begun = time.monotonic()
    with ProcessRunner(WorkerContext(store.root), cpus=1, boot_s=60) as runner:
        runner.boot_s = 2  # of the template
        start = runner._start

        def started(slot, job, resources):
            worker, runner.boot_s = start(slot, job, resources), 60
            return worker

        runner._start = started
        jobs = [Job(f"k{n}", 1, Squares(n), preload=HangingPreload()) for n in range(2)]
        assert [outcome.facts for _, outcome in runner.run(jobs, Resources("x"))] == [0, 1]
        template = runner._template
    assert template._process.returncode == -9 and time.monotonic() - begun < 120
