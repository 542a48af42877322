"""What lies under the commit: names written once and whole, small journals, file systems that lack something."""

import errno
import os
import stat
import threading

import pytest

import florence2
from florence2.store import Store, is_store
from florence2.store.journal import Journal
from florence2.store.storage.local import LocalStorage
from tests.engine.doubles import Boxes, folder_of, fragments


def test_of_many_writers_of_a_name_one_wins_and_no_half_is_left(tmp_path):
    storage, wins = LocalStorage(tmp_path), []
    start = threading.Barrier(8)

    def write(number):
        start.wait()
        wins.append((storage.put_if_absent([("a/b/name", bytes([number]) * 10_000)])[0], number))

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [number for won, number in wins if won]
    assert storage.read("a/b/name") == bytes([winner]) * 10_000 and storage.list("tmp") == []


def test_it_lists_reads_and_frees_names(tmp_path):
    storage = LocalStorage(tmp_path / "s")
    assert storage.list("x") == [] and not storage.exists("x/b")
    assert storage.put_if_absent([("x/b", b"1"), ("x/a/c", b"2")]) == [True, True]
    assert storage.put_if_absent([("x/b", b"3")]) == [False]
    assert storage.list("x") == ["x/a/c", "x/b"] and storage.read("x/a/c") == b"2"
    storage.discard("x/b")
    storage.discard("x/b")  # nothing there: nothing happens
    assert storage.list("x") == ["x/a/c"] and len(storage.list("tmp")) == 1
    assert storage.put_if_absent([("x/b", b"4")]) == [True]
    assert storage.delete_temporary(3600) == 0 and storage.delete_temporary(-1) == 1
    with pytest.raises(FileNotFoundError):
        storage.read("nothing")


def test_a_journal_keeps_lines_in_order_and_takes_up_one_of_an_earlier_version(tmp_path):
    (tmp_path / "attempts").mkdir()
    (tmp_path / "attempts" / "old").write_text("start\ndied\n")
    journal = Journal(LocalStorage(tmp_path), "old")
    assert journal.lines() == ["start", "died"]
    journal.append("picture 3")
    assert journal.lines() == ["start", "died", "picture 3"]
    for n in range(12):
        Journal(LocalStorage(tmp_path), "new").append(str(n))
    assert Journal(LocalStorage(tmp_path), "new").lines() == [str(n) for n in range(12)]
    assert Journal(LocalStorage(tmp_path), "none").lines() == []


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP])
def test_a_disk_without_hard_links_is_refused_in_one_line(tmp_path, monkeypatch, code):
    def link(source, target, **options):
        raise OSError(code, os.strerror(code), str(source), None, str(target))

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(OSError, match="has no hard links, which a store needs; put it on a local disk") as refusal:
        florence2.annotate(folder_of(tmp_path, 2), tmp_path / "s", [Boxes()], workers=0)
    assert str(tmp_path / "s") in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP])
def test_a_share_that_cannot_sync_folders_holds_a_store(tmp_path, monkeypatch, code):
    folder = folder_of(tmp_path, 2)
    clean = florence2.annotate(folder, tmp_path / "clean", [Boxes()], workers=0)
    monkeypatch.setattr(os, "fsync", _sync_that_answers(code))
    store = florence2.annotate(folder, tmp_path / "s", [Boxes()], workers=0)
    assert store.verify() == [] and fragments(store) == fragments(clean)


def test_a_disk_that_fails_to_sync_a_folder_stays_a_fault(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", _sync_that_answers(errno.EIO))
    with pytest.raises(OSError) as fault:
        Store(tmp_path / "s", create=True)
    assert fault.value.errno == errno.EIO and not is_store(tmp_path / "s")


def _sync_that_answers(code):
    real = os.fsync

    def sync(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(code, os.strerror(code))
        return real(handle)

    return sync


@pytest.mark.parametrize("part", ["snapshots", "chain", "runs", "images", "annotations"])
def test_a_pipe_or_a_device_in_place_of_a_file_is_named_and_never_waited_for(tmp_path, part):
    store = florence2.annotate(folder_of(tmp_path, 2), tmp_path / "s", [Boxes()], workers=0)
    file = sorted(path for path in (store.root / part).rglob("*") if path.is_file())[-1]
    name = file.relative_to(store.root).as_posix()
    for put in (os.mkfifo, lambda path: path.symlink_to("/dev/zero"), os.mkdir):
        file.unlink() if file.is_symlink() or not file.is_dir() else file.rmdir()
        put(file)
        try:
            named = [damage.path for damage in Store(store.root).verify()]
            assert name in named or (file.is_dir() and part in ("runs", "chain"))
        except (ValueError, OSError) as error:
            assert part in ("snapshots", "chain") and (file.name in str(error) or part in str(error))
        if part in ("snapshots", "images", "annotations"):
            with pytest.raises((ValueError, OSError), match=None if file.is_dir() else file.name):
                list(Store(store.root).samples(view="all"))
