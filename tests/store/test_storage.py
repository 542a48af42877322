"""What lies under the commit: names written once and whole, small journals, file systems that lack something."""

import errno
import hashlib
import os
import stat
import threading

import pytest

import florence2
from florence2.object_store import Objects
from florence2.store import Store, is_store
from florence2.store.journal import Journal
from florence2.store.storage import objects, open_storage
from tests.engine.doubles import Boxes, folder_of, fragments

CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE")


def test_of_many_writers_of_a_name_one_wins_and_no_half_is_left(place):
    storage, wins = open_storage(place), []
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


def test_it_lists_reads_and_frees_names(place):
    storage = open_storage(place)
    assert storage.list("x") == [] and not storage.exists("x/b")
    assert storage.put_if_absent([("x/b", b"1"), ("x/a/c", b"2")]) == [True, True]
    assert storage.put_if_absent([("x/b", b"3")]) == [False]
    assert storage.list("x") == ["x/a/c", "x/b"] and storage.read("x/a/c") == b"2"
    storage.discard("x/b")
    storage.discard("x/b")  # nothing there: nothing happens
    assert storage.list("x") == ["x/a/c"] and len(storage.list("tmp")) == 1
    assert storage.put_if_absent([("x/b", b"4")]) == [True]
    assert storage.delete_temporary(3600) == 0 and storage.delete_temporary(-1) == 1
    for ask in (storage.read, storage.stamp, storage.sha256):
        with pytest.raises(FileNotFoundError):
            ask("nothing")
    before = storage.stamp("x/b")
    storage.replace("x/b", b"another")
    assert storage.read("x/b") == b"another" and storage.stamp("x/b") != before
    for path in ("../x", "/x", "x/../../y", "x\0"):
        with pytest.raises(ValueError, match="expected a path inside the store"):
            storage.read(path)


def test_a_store_is_begun_once_and_not_among_other_files(place):
    storage = open_storage(place)
    assert not storage.is_store() and not is_store(place)
    storage.begin()
    assert storage.is_store() and is_store(place) and Store(place).snapshots() == []
    storage.put_if_absent([("below/other.txt", b"x")])
    other = open_storage(f"{place}/below")
    assert not other.is_store()
    with pytest.raises(ValueError, match="holds other .* and is not a store"):
        Store(f"{place}/below", create=True)


def test_a_folder_is_kept_whole_and_the_first_stays(place, tmp_path):
    storage = open_storage(place)
    for text in ("first", "second"):
        made = storage.temporary_folder(f"made-{text}")
        (made / "deep").mkdir()
        (made / "deep" / "a.txt").write_text(text)
        (made / "b.txt").write_text(text)
        assert storage.folder("students/k").is_dir() == (text == "second")
        storage.keep_folder(made, "students/k")
    for _ in range(2):
        found = open_storage(place).folder("students/k")
        assert {p.relative_to(found).as_posix(): p.read_text() for p in found.rglob("*.txt")} == {
            "deep/a.txt": "first", "b.txt": "first",
        }  # fmt: skip


def test_large_fragments_are_copied_once_and_the_oldest_copies_go(bucket, monkeypatch):
    monkeypatch.setattr(objects, "SMALL", 10)
    monkeypatch.setattr(objects, "KEPT_BYTES", 250)
    storage = open_storage(f"{bucket}/s")
    storage.put_if_absent([(f"a/{n}", bytes([n]) * 100) for n in range(3)])
    copies = {n: storage.source(f"a/{n}") for n in range(2)}
    assert [copy.read_bytes() for copy in copies.values()] == [bytes([n]) * 100 for n in range(2)]
    assert storage.sha256("a/1") == hashlib.sha256(b"\1" * 100).hexdigest()
    os.utime(copies[1], (1, 1))
    assert storage.source("a/2").read_bytes() == b"\2" * 100
    assert copies[0].exists() and not copies[1].exists()
    storage.replace("a/0", b"new" * 40)  # another tag: another copy
    assert storage.source("a/0").read_bytes() == b"new" * 40


@pytest.mark.parametrize("env, words", [
    ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "the object store gives no answer"),
    ({name: "/x" if name.endswith("FILE") else "" for name in CREDENTIALS}, "no credentials"),
])  # fmt: skip
def test_an_object_store_that_cannot_be_asked_is_refused_in_one_line(bucket, monkeypatch, env, words):
    monkeypatch.setattr("florence2.object_store._clients", {})
    monkeypatch.setattr("florence2.object_store.ATTEMPTS", 1)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(OSError, match=words) as refusal:
        Store(f"{bucket}/s", create=True)
    assert bucket in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_bucket_that_is_not_there_is_named(bucket):
    with pytest.raises(OSError, match="NoSuchBucket") as refusal:
        Store(f"{bucket}-other/s", create=True)
    assert f"{bucket}-other" in str(refusal.value)


def test_a_server_that_lets_every_writer_win_is_refused(bucket, monkeypatch):
    client = Objects._client

    class Heedless:
        def __init__(self, real):
            self.real = real

        def __getattr__(self, name):
            call = getattr(self.real, name)
            return (lambda IfNoneMatch=None, **more: call(**more)) if name == "put_object" else call

    with monkeypatch.context() as patch:
        patch.setattr(Objects, "_client", lambda self: Heedless(client(self)))
        for _ in range(2):
            with pytest.raises(OSError, match=f"takes no notice of If-None-Match.*{bucket}/s/snapshots/begun"):
                Store(f"{bucket}/s", create=True)
    Store(f"{bucket}/s", create=True)


def test_a_store_that_another_command_begins_at_the_same_time_is_no_strange_folder(place):
    one, other = open_storage(place), open_storage(place)
    assert not one.is_store() and not other.is_store()
    one.begin()
    one.put_if_absent([("runs/a.json", b"x")])
    other.begin()
    assert other.is_store()


def test_a_journal_keeps_lines_in_order_and_takes_up_one_of_an_earlier_version(place):
    storage = open_storage(place)
    storage.put_if_absent([("attempts/old", b"start\ndied\n")])
    journal = Journal(storage, "old")
    assert journal.lines() == ["start", "died"]
    journal.append("picture 3")
    assert journal.lines() == ["start", "died", "picture 3"]
    for n in range(12):
        Journal(storage, "new").append(str(n))
    assert Journal(storage, "new").lines() == [str(n) for n in range(12)]
    assert Journal(storage, "none").lines() == []


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
