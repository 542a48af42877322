"""What an uninterrupted run leaves is what every interrupted one leaves, in the end: the same fragments to the byte."""

import errno
import os
import signal
import subprocess
import sys
import time

import pytest

import florence2
from florence2.store import Store, commit
from tests.engine.doubles import Boxes, Floor, folder_of, fragments


def command(folder, out, workers):
    code = (
        "import florence2; from tests.engine.doubles import Slow; "
        f"florence2.annotate({str(folder)!r}, {str(out)!r}, [Slow()], workers={workers}, unit=2)"
    )
    return subprocess.Popen([sys.executable, "-c", code], cwd=os.getcwd(), stderr=subprocess.DEVNULL)


def committed(out, table="annotations"):
    return len(list((out / table).glob("**/*.parquet")))


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened in time"
        time.sleep(0.02)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_goes_on_and_blames_nobody(tmp_path, how):
    folder = folder_of(tmp_path, 8)
    clean = florence2.annotate(folder, tmp_path / "clean", [Boxes("slow")], workers=0, unit=2)
    out = tmp_path / "s"
    for wanted in (1, 2):
        process = command(folder, out, 1)
        wait_for(lambda wanted=wanted: committed(out) >= wanted)
        process.send_signal(how)
        process.wait(timeout=30)
        assert fragments(out).items() <= fragments(clean).items()  # whole or not there
    assert Store(out).snapshots() == []
    store = florence2.annotate(folder, out, [Boxes("slow")], workers=0, unit=2)
    assert fragments(store) == fragments(clean) and store.snapshot().to_bytes() == clean.snapshot().to_bytes()
    assert not any("died" in path.read_text() for path in (out / "attempts").iterdir())


def test_a_killed_worker_is_replaced(tmp_path):
    folder = folder_of(tmp_path, 8)
    clean = florence2.annotate(folder, tmp_path / "clean", [Boxes("slow")], workers=0, unit=2)
    out = tmp_path / "s"
    process = command(folder, out, 1)
    wait_for(lambda: committed(out) >= 1)
    children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True)
    for pid in children.stdout.split():
        os.kill(int(pid), signal.SIGKILL)
    assert process.wait(timeout=60) == 0
    assert fragments(out) == fragments(clean)


POINTS = [  # where in a commit the disk is full
    ("open", "write_aside"),
    ("link", "link"),
    ("sync_folder", "after the link"),
]


@pytest.mark.parametrize("name, where", POINTS)
@pytest.mark.parametrize("nth", [1, 3, 5])
def test_a_full_disk_is_said_and_loses_nothing(tmp_path, monkeypatch, name, where, nth):
    folder = folder_of(tmp_path, 4)
    clean = florence2.annotate(folder, tmp_path / "clean", [Boxes()], workers=0, unit=2)
    calls = 0

    def full(real):
        def call(*args, **more):
            nonlocal calls
            calls += 1
            if calls == nth:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*args, **more)

        return call

    with monkeypatch.context() as patch:
        if name == "open":
            patch.setattr(commit, "_write_temp", full(commit._write_temp))
        elif name == "link":
            patch.setattr(commit.os, "link", full(os.link))
        else:
            patch.setattr(commit, "sync_folder", full(commit.sync_folder))
        try:
            florence2.annotate(folder, tmp_path / "s", [Boxes()], workers=0, unit=2)
        except OSError as error:
            assert error.errno == errno.ENOSPC
    assert calls >= nth and not [p for p in (tmp_path / "s").glob("tmp/*") if p.is_file()]
    store = florence2.annotate(folder, tmp_path / "s", [Boxes()], workers=0, unit=2)
    assert fragments(store) == fragments(clean) and len(store.snapshots()) == 1


def test_a_worker_that_meets_a_full_disk_stops_the_command(tmp_path):
    folder = folder_of(tmp_path, 2)
    with pytest.raises(OSError, match="No space left"):
        florence2.annotate(folder, tmp_path / "s", [FullDisk()], workers=1)
    store = florence2.annotate(folder, tmp_path / "s", [Boxes()], workers=0)
    assert store.counts()["images"]["ok"] == 2


class FullDisk(Boxes):
    def setup(self, device):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_late_writer_changes_nothing(tmp_path, monkeypatch):
    folder = folder_of(tmp_path, 2)
    store = florence2.annotate(folder, tmp_path / "s", [Boxes()], workers=0)
    (path,) = (f.path for f in store.snapshot().of("annotations"))
    before = (store.root / path).read_bytes()
    assert not commit.commit(store.root, path, b"another result")
    assert (store.root / path).read_bytes() == before


def test_two_commands_on_one_store_both_stand(tmp_path):
    folder = folder_of(tmp_path, 4)
    florence2.annotate(folder, tmp_path / "s", [], workers=0, unit=2)
    base = Store(tmp_path / "s").snapshot()
    from florence2.engine.execution.processes import InlineRunner
    from florence2.engine.execution.specialist_phase import run_specialist
    from florence2.engine.execution.worker import WorkerContext
    from florence2.engine.planning.dependencies import plan_steps
    from florence2.engine.session import Session

    store = Store(tmp_path / "s")
    ledgers = [Session(store, base) for _ in range(2)]
    for session, specialist in zip(ledgers, (Boxes("one"), Boxes("two"))):
        (step,) = plan_steps(session, [(specialist, specialist)])
        run_specialist(session, step, InlineRunner(WorkerContext(store.root, [specialist])), 10**6)
    for session in ledgers:
        session.finish({})
    assert {r.source.name for s in store.samples() for r in s.regions} == {"one", "two"}
    assert len(store.snapshots()) == 3


def test_a_picture_that_vanishes_is_a_failure(tmp_path):
    folder = folder_of(tmp_path, 3)
    florence2.annotate(folder, tmp_path / "s", [], workers=0)
    (folder / "p0001.png").unlink()
    store = florence2.annotate(tmp_path / "s", with_=[Boxes()], workers=0)
    (failure,) = store.table("failures").to_pylist()
    assert failure["reason"] == "missing" and store.counts()["annotations"]["kept"] == 6


def test_a_specialist_out_of_memory_gets_half_a_batch(tmp_path):
    store = florence2.annotate(folder_of(tmp_path, 8), tmp_path / "s", [Greedy(batch_size=8)], workers=0)
    assert store.counts()["annotations"]["kept"] == 24 and store.counts()["failures"] == 0


class Greedy(Boxes):
    def annotate(self, samples, images):
        if len(images) > 2:
            raise MemoryError("CUDA out of memory")
        return super().annotate(samples, images)


def test_an_interrupted_filter_goes_on(tmp_path, monkeypatch):
    store = florence2.annotate(folder_of(tmp_path, 6), tmp_path / "s", [Boxes()], workers=0, unit=2)
    asked = 0

    class Stops(Floor):
        def judge(self, sample):
            nonlocal asked
            asked += 1
            if asked == 4:
                raise KeyboardInterrupt
            return super().judge(sample)

    with pytest.raises(KeyboardInterrupt):
        florence2.filter(store, [Stops(0.5)])
    assert len(store.snapshots()) == 1
    florence2.filter(store, [Floor(0.5)])
    assert store.counts()["decisions"] == sum(r.score < 0.5 for s in store.samples(view="all") for r in s.regions) * 2
