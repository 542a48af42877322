"""What an uninterrupted run leaves is what every interrupted one leaves, in the end: the same fragments to the byte."""

import errno
import os
import signal
import subprocess
import sys
import time

import pytest

import florence2
from florence2.store import Store
from florence2.store.storage import local, open_storage
from tests.engine.doubles import Boxes, Floor, NoTexts, folder_of, fragments


def command(folder, out, workers):
    code = (
        "import florence2; from tests.engine.doubles import Slow; "
        f"florence2.annotate({str(folder)!r}, {str(out)!r}, [Slow()], workers={workers}, unit=2)"
    )
    return subprocess.Popen([sys.executable, "-c", code], cwd=os.getcwd(), stderr=subprocess.DEVNULL)


def committed(out, table="annotations"):
    return sum(path.endswith(".parquet") for path in open_storage(out).list(table))


def wait_for(condition, seconds=180):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened in time"
        time.sleep(0.02)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_goes_on_and_blames_nobody(tmp_path, place, how):
    folder = folder_of(tmp_path, 8)
    clean = florence2.annotate(folder, tmp_path / "clean", [Boxes("slow")], workers=0, unit=2)
    out = place
    for wanted in (1, 2):
        process = command(folder, out, 1)
        wait_for(lambda wanted=wanted: committed(out) >= wanted)
        process.send_signal(how)
        process.wait(timeout=30)
        assert fragments(out).items() <= fragments(clean).items()  # whole or not there
    assert Store(out).snapshots() == []
    store = florence2.annotate(folder, out, [Boxes("slow")], workers=0, unit=2)
    assert fragments(store) == fragments(clean) and store.snapshot().to_bytes() == clean.snapshot().to_bytes()
    assert not any(b"died" in store.storage.read(path) for path in store.storage.list("attempts"))


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
            patch.setattr(local, "write_temp", full(local.write_temp))
        elif name == "link":
            patch.setattr(local.os, "link", full(os.link))
        else:
            patch.setattr(local, "sync_folder", full(local.sync_folder))
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


def test_a_late_writer_changes_nothing(tmp_path, place):
    folder = folder_of(tmp_path, 2)
    store = florence2.annotate(folder, place, [Boxes()], workers=0)
    (path,) = (f.path for f in store.snapshot().of("annotations"))
    before = store.storage.read(path)
    assert not store.storage.put_if_absent([(path, b"another result")])[0]
    assert store.storage.read(path) == before


def test_a_command_that_another_overtook_works_on_what_now_stands(tmp_path, place):
    store = florence2.annotate(folder_of(tmp_path, 4), place, [Boxes()], workers=0, unit=2)
    overtaken = []

    class Late(Floor):
        def judge(self, sample):
            if not overtaken:  # while it judges, others end
                overtaken.append(florence2.annotate(store.root, with_=[Boxes("other", shift=3.0)], workers=0))
                florence2.filter(store, [NoTexts()])
            return super().judge(sample)

    florence2.filter(store, [Late(0.9)])
    twin = florence2.annotate(tmp_path / "pictures", tmp_path / "t", [Boxes()], workers=0, unit=2)
    florence2.annotate(twin.root, with_=[Boxes("other", shift=3.0)], workers=0)
    florence2.filter(twin, [NoTexts()])
    florence2.filter(twin, [Floor(0.9)])
    assert list(store.samples()) == list(twin.samples()) and store.verify() == []
    assert fragments(store) == fragments(twin)  # what it judged before is out of readers' sight
    assert store.snapshot().to_bytes() == twin.snapshot().to_bytes()


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
