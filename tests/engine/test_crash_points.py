"""Every step at which a worker can die while it commits, one after another: the job done again leaves the same bytes.

On the disk steps are all calls that reach it, before and after each, and every file half written; in an object store
all requests that change it, before and after each (`test_kill`). What is killed is what a worker of any runner is: a
`JobWorker` with a job. Such deaths under a supervisor are tried in `test_kill`, and on Ray in `test_ray_runner`.
"""

import dataclasses
import itertools
import os
import signal

import pytest

import florence2
from florence2.engine.execution.annotation_phase import run_specialist
from florence2.engine.execution.context import WorkerContext
from florence2.engine.execution.job_worker import JobWorker, pickled
from florence2.engine.execution.jobs import Job
from florence2.engine.planning.dependencies import plan_steps
from florence2.engine.session import Session
from florence2.object_store import is_object_url, root_of
from florence2.store import Store
from tests.engine.doubles import Boxes, Misbehaving, folder_of, fragments
from tests.engine.test_kill import Counted
from tests.stores import copied, removed

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
            Counted(step).install(pytest.MonkeyPatch(), of_objects=is_object_url(root))
            do(root, job)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@dataclasses.dataclass
class Commit:
    """A store that waits for the last of some jobs, and what it holds once that is done."""

    base: object
    jobs: list[Job]
    whole: dict[str, str]

    def killed_at(self, step):
        """Kill that job at a step, do it and those after it again; whether it came so far."""
        out = copied(self.base, f"killed-{os.urandom(4).hex()}")
        died = killed(out, self.jobs[0], step)
        assert fragments(out).items() <= self.whole.items()  # whole or not there
        for job in self.jobs:
            assert do(out, job)[-1][0] == "done"
        assert fragments(out) == self.whole and Store(out).verify() == []
        removed(out)
        return died


def commits(folder, place):
    """Commits of a unit in two pieces: of the first, and of the second, which completes the unit."""
    root = root_of(place)
    florence2.annotate(folder, root, [], workers=0, unit=4)
    jobs = drawn_jobs(Store(root), SPECIALIST)
    assert [job.size for job in jobs] == [2, 2]
    begun = copied(root, "begun")
    do(begun, jobs[0])
    whole = copied(begun, "whole")
    do(whole, jobs[1])
    found = fragments(whole)
    assert sum("failures" in path for path in found) == 1
    return [Commit(root, jobs, found), Commit(begun, jobs[1:], found)]


@pytest.mark.parametrize(
    "number, least", [(0, (15, 2)), (1, (40, 8))], ids=["a piece", "the piece that completes the unit"]
)
def test_a_job_killed_at_any_step_and_done_again_leaves_the_same_bytes(place, tmp_path, number, least):
    commit = commits(folder_of(tmp_path, 4), place)[number]
    for step in itertools.count(1):
        if not commit.killed_at(step):
            break
    assert step > least[is_object_url(place)]


class Passing(Boxes):
    """Fails on one picture while a file says so."""

    def __init__(self, mood):
        super().__init__("passing", batch_size=4)
        self.mood = mood

    def one(self, sample, image):
        if self.mood.exists() and sample.image.uri.endswith("p0001.png"):
            raise ConnectionError("no route")
        return super().one(sample, image)


def test_what_a_killed_worker_failed_on_and_the_next_answers_is_one_or_the_other(place, tmp_path):
    """Failures and annotations of a unit are two files: never those of one worker and these of another."""
    specialist = Passing(tmp_path / "mood")
    store = florence2.annotate(folder_of(tmp_path, 4), place, [], workers=0, unit=4)
    (job,) = drawn_jobs(store, specialist)

    def done(name):
        out = copied(place, name)
        assert do(out, job)[-1][0] == "done"
        return fragments(out)

    answered = done("answered")
    specialist.mood.touch()
    failed = done("failed")
    assert len(failed) == len(answered) + 1
    seen = []
    for step in itertools.count(1):
        out = copied(place, f"killed-{step}")
        specialist.mood.touch()
        died = killed(out, job, step)
        specialist.mood.unlink()
        again = copied(out, f"again-{step}")
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
