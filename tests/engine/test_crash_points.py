"""Every step at which a worker can die while it commits, one after another: the job done again leaves the same bytes.

Steps are all calls that reach the disk, before and after each, and every file half written (`test_kill`). What is
killed is what a worker of any runner is: a `JobWorker` with a job. Such deaths under a supervisor are tried in
`test_kill`, and on Ray in `test_ray_runner`.
"""

import os
import shutil
import signal

import pytest

import florence2
from florence2.engine.execution.annotation_phase import run_specialist
from florence2.engine.execution.context import WorkerContext
from florence2.engine.execution.job_worker import JobWorker, pickled
from florence2.engine.planning.dependencies import plan_steps
from florence2.engine.session import Session
from florence2.store import Store
from tests.engine.doubles import Boxes, Misbehaving, folder_of, fragments
from tests.engine.test_kill import Counted

SPECIALIST = Misbehaving("raises", ["p0001.png"], batch_size=2)  # so that there are failures to commit, too


class Drawn:
    """A runner that does nothing but draw the jobs."""

    def __init__(self):
        self.jobs = []

    def workers(self, resources):
        return 1

    def run(self, jobs, resources, on_progress=None):
        self.jobs += jobs
        return iter(())


def drawn_jobs(store, specialist):
    """The jobs that a specialist has to do over a store."""
    session, drawn = Session(store), Drawn()
    run_specialist(session, plan_steps(session, [(specialist, specialist)])[0], drawn, 10**8)
    return drawn.jobs


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A store of one unit that waits for a specialist, the two jobs of it, and what they leave."""
    root = tmp_path_factory.mktemp("crash")
    store = florence2.annotate(folder_of(root, 4), root / "s", [], workers=0, unit=4)
    jobs = drawn_jobs(store, SPECIALIST)
    assert [job.size for job in jobs] == [2, 2]  # pieces: the second puts the unit together
    for job in jobs:
        assert do(store.root, job)[-1][0] == "done"
    whole = fragments(store)
    assert sum("failures" in path for path in whole) == 1
    return root, jobs, whole


def do(root, job, attempt=(False, {})):
    """A job as a worker does it; its messages."""
    messages = []
    JobWorker(pickled(WorkerContext(root))[1]).do(job, "", *attempt, messages.append)
    return messages


def killed(root, job, step):
    """Do a job in a process that ends at a step; whether it came so far."""
    child = os.fork()
    if not child:
        try:
            Counted(step).install(pytest.MonkeyPatch())
            do(root, job)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize("number, least", [(0, 15), (1, 40)], ids=["a piece", "the piece that completes the unit"])
def test_a_job_killed_at_any_step_and_done_again_leaves_the_same_bytes(begun, number, least):
    root, jobs, whole = begun
    step = 0
    while True:
        step += 1
        out = root / f"{number}-{step}"
        shutil.copytree(root / "s", out)
        for path in set(fragments(out)) - {path for path in whole if path.startswith("images")}:
            (out / path).unlink()
        shutil.rmtree(out / "attempts")
        for job in jobs[:number]:
            do(out, job)
        died = killed(out, jobs[number], step)
        assert fragments(out).items() <= whole.items()  # whole or not there
        for job in jobs[number:]:
            assert do(out, job)[-1][0] == "done"
        assert fragments(out) == whole and Store(out).verify() == []
        shutil.rmtree(out)
        if not died:
            break
    assert step > least


class Passing(Boxes):
    """Fails on one picture while a file says so."""

    def __init__(self, mood):
        super().__init__("passing", batch_size=4)
        self.mood = mood

    def one(self, sample, image):
        if self.mood.exists() and sample.image.uri.endswith("p0001.png"):
            raise ConnectionError("no route")
        return super().one(sample, image)


def test_what_a_killed_worker_failed_on_and_the_next_answers_is_one_or_the_other(tmp_path):
    """Failures and annotations of a unit are two files: never those of one worker and these of another."""
    specialist = Passing(tmp_path / "mood")
    store = florence2.annotate(folder_of(tmp_path, 4), tmp_path / "s", [], workers=0, unit=4)
    (job,) = drawn_jobs(store, specialist)

    def done(name):
        shutil.copytree(tmp_path / "s", tmp_path / name)
        assert do(tmp_path / name, job)[-1][0] == "done"
        return fragments(tmp_path / name)

    answered = done("answered")
    specialist.mood.touch()
    failed = done("failed")
    assert len(failed) == len(answered) + 1
    step, seen = 0, []
    while True:
        step, out = step + 1, tmp_path / f"killed-{step}"
        shutil.copytree(tmp_path / "s", out)
        specialist.mood.touch()
        died = killed(out, job, step)
        specialist.mood.unlink()
        shutil.copytree(out, again := tmp_path / f"again-{step}")
        (message,) = [message for message in do(out, job) if message[0] == "done"]
        found = fragments(out)
        assert found in (answered, failed) and Store(out).verify() == []
        named = {fragment.path for fragment in message[1].fragments}
        assert named == {path for path in found if not path.startswith("images")}  # the command names all of it
        for _ in range(2):  # the same by a command begun again: what failed is asked once more, and only that
            florence2.annotate(tmp_path / "pictures", again, [specialist], workers=0, unit=4)
        assert Store(again).counts()["annotations"]["kept"] == 12 and Store(again).counts()["failures"] == 0
        seen.append(found == failed)
        if not died:
            break
    assert seen[-1] and not seen[0] and seen == sorted(seen)
