"""The runner on Ray keeps the contract of the others.

One embedded Ray for the module; it takes half a minute on an idle machine, nearly all of it in which Ray starts actors.
"""

import json
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

import florence2
from florence2.engine.commands import import_labels
from florence2.engine.curation.merging import MergeConfig
from florence2.engine.execution import ray as ray_runner
from florence2.engine.execution.context import WorkerContext
from florence2.engine.execution.job_worker import pickled
from florence2.engine.execution.jobs import Job, Resources
from florence2.engine.execution.options import Execution
from florence2.engine.execution.ray import ActorWorker, JobActor, RayRunner
from florence2.engine.status import status
from florence2.monitoring.run_journal import RunJournal
from florence2.monitoring.run_log import RunLog
from florence2.store import Store
from tests.engine.doubles import Boxes, Floor, Misbehaving, NoTexts, folder_of, fragments
from tests.engine.test_execution import Squares
from tests.engine.test_kill import DiesOnce
from tests.monitoring.test_run_journal import check_lines

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def embedded():
    """A Ray of two processors and one GPU that is none, which runners find and leave running."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("RAY_OVERRIDE_RESOURCES", json.dumps({"CPU": 2, "GPU": 1}))
        ray_runner._connect(None, None, "auto")
        yield
        ray.shutdown()


def runner(root, **more):
    return RayRunner(WorkerContext(root), **more)


def test_each_job_comes_with_its_outcome_and_its_signs(tmp_path):
    store = Store(tmp_path / "s", create=True)
    shown = []
    with runner(store.root) as runs:
        jobs = (Job(f"square-{n}", 1, Squares(n)) for n in range(5))
        done = {job.key: outcome.facts for job, outcome in runs.run(jobs, Resources("x"), lambda j, n: shown.append(n))}
    assert done == {f"square-{n}": n * n for n in range(5)} and shown == [1] * 5
    assert ray.is_initialized() and not list((store.root / "tmp").glob("beacon-*"))


# what the operator wants, processors named -> workers
FITS = [
    (Resources("x"), None, 2),
    (Resources("x", num_cpus=0.5), None, 4),
    (Resources("x", num_cpus=2), None, 1),
    (Resources("x"), 1, 1),
    (Resources("x"), 6, 6),  # a cluster may grow: the others wait
    (Resources("x", num_cpus=0.1, num_gpus=0.25), None, 4),  # four share the GPU
    (Resources("x", num_gpus=1), None, 1),
    (Resources("x", num_gpus=1, at_once=1), 4, 1),
    (Resources("x", memory_gb=10**6), None, 1),  # no node has it: one, which waits
]


@pytest.mark.parametrize("resources, cpus, expected", FITS)
def test_workers_are_as_many_as_the_cluster_holds(tmp_path, resources, cpus, expected):
    with runner(Store(tmp_path / "s", create=True).root, cpus=cpus) as runs:
        assert runs.workers(resources) == expected


def life(root, out, **by):
    """A store's life with every phase that there is."""
    reader = Boxes("reader", shift=1.0, requires={"region_text/object"})
    import_labels(root / "labels.jsonl", out, workers=0, unit=3)
    for version in "1", "2":  # the second supersedes
        florence2.annotate(root / "pictures", out, [Boxes(version=version), reader], unit=3, **by)
    florence2.filter(out, [Floor(0.5), NoTexts()], merging=MergeConfig(), **by)
    return Store(out)


def test_every_phase_leaves_the_same_store_in_this_process_and_on_ray(tmp_path, monkeypatch):
    folder_of(tmp_path, 5)
    line = {"id": "0", "image": {"id": "0", "uri": "pictures/p0000.png"}, "regions": [{"id": "r", "box": [1, 1, 9, 9]}]}
    (tmp_path / "labels.jsonl").write_text(json.dumps(line) + "\n")
    phases, sizes, give = set(), [], ActorWorker.give

    def seen(self, job, *rest):
        phases.add(type(job.task).__name__)
        sizes.append(len(pickle.dumps(job)))
        return give(self, job, *rest)

    monkeypatch.setattr(ActorWorker, "give", seen)
    here, there = life(tmp_path, tmp_path / "here", workers=0), life(tmp_path, tmp_path / "there", runner="ray")
    assert fragments(here) == fragments(there)
    assert here.snapshots() == there.snapshots()
    assert all(here.snapshot(n).to_bytes() == there.snapshot(n).to_bytes() for n in here.snapshots())
    assert phases == {"InspectTask", "AnnotateTask", "JudgeTask", "MergeTask", "SupersedeTask"}
    assert max(sizes) < 20_000  # references, no pixels: Ray's object store stays empty


def test_a_run_on_ray_is_taken_down_as_any_other(tmp_path):
    root, log = folder_of(tmp_path, 5), tmp_path / "log"
    bad = Misbehaving("raises", ["p0001.png"])
    florence2.annotate(root, tmp_path / "s", [bad], unit=3, runner="ray", journal=RunJournal([RunLog(log)]))
    events = {line["event"]: line for line in check_lines(log)}
    assert events["items_failed"]["reasons"] == {"error": 1} and events["phase_ended"]["items"] == 5
    found = status(tmp_path / "s")
    assert (found.specialists[0].done, found.specialists[0].failed) == (4, 1) and found.run.state.phases[
        -1
    ].workers == 2


class Erratic(Misbehaving):
    """Ends its process on one picture, hangs on another and raises on a third."""

    def __init__(self):
        super().__init__("", ["p0001.png", "p0003.png", "p0005.png"])

    def one(self, sample, image):
        name = Path(sample.image.uri).name
        self.deed = {"p0001.png": "exits", "p0003.png": "hangs", "p0005.png": "raises"}.get(name, "")
        return super().one(sample, image)


def test_what_ends_hangs_or_raises_is_given_up_and_the_rest_is_done(tmp_path):
    said = []
    by = {"runner": "ray", "unit": 3, "lease_s": 1.5, "attempts": 1}
    store = florence2.annotate(folder_of(tmp_path, 8), tmp_path / "s", [Erratic()], on_message=said.append, **by)
    assert store.reasons()["failures"] == {"worker_died": 1, "timeout": 1, "error": 1}
    assert store.counts()["annotations"]["kept"] == 5 * 3
    assert any("died" in line for line in said) and any("no sign of life" in line for line in said)


class Leaves(Boxes):
    """Leaves as programs do: on a picture, or when it is loaded."""

    def __init__(self, name, how):
        super().__init__(name, batch_size=1)
        self.how = how

    def setup(self, device):
        if self.how == "setup":
            sys.exit(3)

    def one(self, sample, image):
        if Path(sample.image.uri).name == "p0001.png":
            raise {"exit": SystemExit(3), "interrupt": KeyboardInterrupt()}.get(self.how, RuntimeError)
        return super().one(sample, image)


def test_a_specialist_that_leaves_is_the_same_on_every_runner(tmp_path):
    folder = folder_of(tmp_path, 3)
    runs = {"here": {"workers": 0}, "local": {"workers": 1}, "ray": {"runner": "ray"}}
    stores = {
        name: florence2.annotate(folder, tmp_path / name, [Leaves("leaves", "exit")], unit=2, **by)
        for name, by in runs.items()
    }
    assert stores["ray"].reasons()["failures"] == {"error": 1}
    assert fragments(stores["here"]) == fragments(stores["local"]) == fragments(stores["ray"])
    for name in "local", "ray":  # what would end any process
        by = {**runs[name], "attempts": 1, "unit": 2}
        store = florence2.annotate(folder, tmp_path / f"{name}-2", [Leaves("breaks", "interrupt")], **by)
        assert store.reasons()["failures"] == {"worker_died": 1}, name


def test_a_specialist_that_leaves_while_it_loads_is_not_waited_for(tmp_path):
    with pytest.raises(ChildProcessError, match="3 times while loading; run with --workers 0"):
        florence2.annotate(folder_of(tmp_path, 1), tmp_path / "s", [Leaves("l", "setup")], runner="ray", workers=1)


def test_an_actor_that_is_killed_while_it_commits_is_replaced(tmp_path):
    folder = folder_of(tmp_path, 3)
    peace = florence2.annotate(folder, tmp_path / "peace", [Boxes()], workers=0, unit=2)
    dying = DiesOnce(tmp_path / "flag", 7)  # half way through
    store = florence2.annotate(folder, tmp_path / "s", [dying], runner="ray", workers=1, unit=2)
    assert (tmp_path / "flag").exists() and fragments(store) == fragments(peace)
    assert sum("died" in p.read_text() for p in (store.root / "attempts").rglob("*") if p.is_file()) == 1


class Once(Boxes):
    """Loads once, in a file; GPUs are shared by four."""

    def __init__(self, notes):
        super().__init__("once")
        self.notes = notes
        self.spec = type(self.spec)(**{**vars(self.spec), "num_gpus": 0.25, "num_cpus": 0.5, "memory_gb": 0.5})

    def setup(self, device):
        with open(self.notes, "a") as file:
            file.write(f"{os.getpid()} {device} {os.environ.get('OMP_NUM_THREADS')}\n")


def test_a_specialist_loads_once_an_actor_and_shares_a_gpu(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    asked, options = [], ray.actor.ActorClass.options
    monkeypatch.setattr(ray.actor.ActorClass, "options", lambda self, **o: asked.append(o) or options(self, **o))
    folder, notes = folder_of(tmp_path, 8), tmp_path / "notes"
    store = florence2.annotate(folder, tmp_path / "s", [Once(notes)], runner="ray", unit=1)
    assert store.counts()["annotations"]["kept"] == 8 * 3
    loads = notes.read_text().splitlines()
    assert 1 <= len(loads) == len(set(loads)) <= 4 and {line.split()[2] for line in loads} == {"1"}
    assert {(o["num_cpus"], o["num_gpus"], o["memory"]) for o in asked[-len(loads) :]} == {(0.5, 0.25, 5 * 10**8)}


def test_a_node_that_is_not_like_this_one_is_refused(tmp_path):
    store = Store(tmp_path / "s", create=True)
    path, context = pickled(WorkerContext(store.root))
    with pytest.raises(ValueError, match="s: is another folder on this node"):
        JobActor(path, context, florence2.__version__, "tmp/absent")
    with pytest.raises(ValueError, match="florence2 is .* on this node and 0.0.1"):
        JobActor(path, context, "0.0.1", "tmp/absent")
    with pytest.raises(ChildProcessError, match="ended.*is another folder on this node.*3 times while loading"):
        with runner(store.root) as runs:
            runs._beacon = "tmp/absent"
            list(runs.run([Job("k", 1, Squares(1))], Resources("x")))


# settings -> what the refusal says
WRONG = [
    ({"kind": "dask"}, "runner 'dask'.*local or ray"),
    ({"ray_address": "auto"}, "ray_address.*goes with runner ray"),
    ({"kind": "ray", "workers": 0}, "workers 0"),
    ({"kind": "ray", "device": "cuda:1"}, "device 'cuda:1'.*auto, cpu or cuda"),
]


@pytest.mark.parametrize("settings, words", WRONG)
def test_wrong_use_is_refused(tmp_path, settings, words):
    with pytest.raises(ValueError, match=words):
        Execution(**settings).runner(Store(tmp_path / "s", create=True).root)


def command(folder, out, address):
    code = "from florence2.cli import script; script()"
    asked = [str(folder), "--out", str(out), "--with", "opencv", "--runner", "ray", "--ray-address", address]
    return subprocess.run([sys.executable, "-c", code, "annotate", *asked], capture_output=True, text=True)


def test_a_command_runs_on_a_cluster_that_is_there(tmp_path):
    folder = folder_of(tmp_path, 5)
    done = command(folder, tmp_path / "s", ray.get_runtime_context().gcs_address)
    assert done.returncode == 0, done.stderr
    assert fragments(Store(tmp_path / "s")) == fragments(florence2.annotate(folder, tmp_path / "here", ["opencv"]))


@pytest.mark.parametrize("address", ["ray://localhost:10001", "127.0.0.1:1", "nonsense"])
def test_a_cluster_that_is_not_reached_is_said_in_one_line(tmp_path, address):
    done = command(folder_of(tmp_path, 1), tmp_path / "s", address)
    assert done.returncode == 1 and f"--ray-address {address}" in done.stderr and len(done.stderr.splitlines()) == 1


def test_who_listens_and_is_no_ray_is_refused_at_once(monkeypatch):
    monkeypatch.setattr(ray_runner, "REACH_S", 0.3)
    ray_runner._check_reached(ray.get_runtime_context().gcs_address)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(OSError, match="timed out"):
        ray_runner._check_reached(f"127.0.0.1:{silent.getsockname()[1]}")
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as other:
        threading.Thread(target=other.handle_request, daemon=True).start()
        with pytest.raises(OSError, match="who answers there is no Ray|reset"):
            ray_runner._check_reached(f"127.0.0.1:{other.server_port}")


def test_a_worker_that_waits_for_room_holds_no_job(tmp_path):
    store = Store(tmp_path / "s", create=True)
    with runner(store.root, cpus=3) as runs:  # one more than there are
        begun = time.monotonic()
        done = [
            outcome.facts for _, outcome in runs.run([Job(f"k{n}", 1, Squares(n)) for n in range(6)], Resources("x"))
        ]
    assert sorted(done) == [n * n for n in range(6)] and time.monotonic() - begun < ray_runner.BOOT_S
