"""Killed at any step of the commit protocol, a command run again leaves what one left in peace leaves, to the byte.

The process is forked and kills itself by SIGKILL: nothing is cleaned up. The steps are all calls that reach the disk:
folders made, files written, synced, linked, replaced, removed; of an object store the requests that change it.
"""

import os
import signal

import pytest

import florence2
from florence2.engine.commands import import_labels
from florence2.engine.curation.merging import MergeConfig
from florence2.object_store import Objects
from florence2.store import Store
from florence2.store.storage import local, open_storage
from tests.engine.doubles import Boxes, Floor, Misbehaving, NoTexts, folder_of, fragments

POINTS = 20  # of the run's steps, spread evenly
OF_OBJECTS = 5  # so many of the fewer requests to an object store
STEPS = (
    *((os, name) for name in ("fsync", "link", "replace", "mkdir", "unlink", "rmdir")),
    *((Objects, name) for name in ("put", "put_if_absent", "copy", "delete")),
)


def commands(root, out):
    """A life of a store: every kind of command that writes."""
    reader = Boxes("reader", shift=1.0, requires={"region_text/object"})
    bad = Misbehaving("raises", ["p0001.png"], shift=0.5)

    def annotate(*with_):
        florence2.annotate(root / "pictures", out, with_, workers=0, unit=2, dependents=False)

    return [
        lambda: import_labels(root / "labels.jsonl", out, workers=0, unit=2),
        lambda: annotate(Boxes(), bad, reader),
        lambda: florence2.filter(out, [Floor(0.5), NoTexts()], merging=MergeConfig()),
        lambda: annotate(Boxes(version="2"), reader),
        lambda: Store(out).compact(rows=9),
        lambda: florence2.filter(out, [Floor(0.6)]),
        lambda: Store(out).undo(to=4),
    ]


def prepare(root):
    folder_of(root, 3)
    (root / "pictures" / "broken.png").write_bytes(b"\x89PNG")
    line = (
        '{"id": "0", "image": {"id": "0", "uri": "pictures/p0000.png"}, "regions": [{"id": "r", "box": [1, 1, 9, 9]}]}'
    )
    (root / "labels.jsonl").write_text(line + "\n")
    return root


class Counted:
    """Counts the steps of a process, before and after each, and ends it at one of them."""

    def __init__(self, end=0):
        self.count, self.end = 0, end

    def step(self):
        self.count += 1
        if self.count == self.end:
            os.kill(os.getpid(), signal.SIGKILL)

    def wrap(self, call):
        def counted(*args, **more):
            self.step()
            result = call(*args, **more)
            self.step()
            return result

        return counted

    def torn(self, write):
        def half(root, data, suffix, durable):
            self.count += 1
            if self.count == self.end:  # half the bytes have reached the disk
                write(root, data[: len(data) // 2], suffix, durable)
                os.kill(os.getpid(), signal.SIGKILL)
            return write(root, data, suffix, durable)

        return half

    def install(self, patch, of_objects=False):
        patch.setattr(Store, "keep_run_state", lambda *_: None)  # written by the clock, and no part of the data
        for module, name in STEPS:
            if of_objects and module is os:
                continue
            patch.setattr(module, name, self.wrap(getattr(module, name)))
        patch.setattr(local, "write_temp", self.torn(local.write_temp))


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """A store left in peace, and how many steps its life has."""
    root = prepare(tmp_path_factory.mktemp("clean"))
    counted = Counted()
    with pytest.MonkeyPatch.context() as patch:
        counted.install(patch)
        for command in commands(root, root / "s"):
            command()
    return root, counted.count


def killed(call, end, of_objects=False):
    """Run a call in a process of its own that ends at a step; whether it came so far."""
    child = os.fork()
    if not child:
        try:
            Counted(end).install(pytest.MonkeyPatch(), of_objects)
            call()
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def spread(steps, points):
    """So many of the steps, the first and the last among them."""
    return [1 + (steps - 1) * point // (points - 1) for point in range(points)]


def content(store):
    """All that a store holds: fragments, compacted files and snapshots, each to the byte."""
    storage = open_storage(store)
    files = [*storage.list("snapshots"), *storage.list("compact")]
    return {**fragments(store), **{path: storage.read(path) for path in files if path.endswith((".json", ".parquet"))}}


@pytest.mark.parametrize("point", range(POINTS))
def test_a_killed_command_run_again_leaves_the_same_store(clean, tmp_path, point):
    root, steps = clean
    assert steps > 10 * POINTS
    out, reached = tmp_path / "s", tmp_path / "reached"

    def life():
        for number, command in enumerate(commands(root, out)):
            reached.write_text(str(number))
            command()

    assert killed(life, spread(steps, POINTS)[point])
    assert content(out).items() <= content(root / "s").items()  # whole or not there
    for command in commands(root, out)[int(reached.read_text()) :]:
        command()
    assert content(out) == content(root / "s")
    assert Store(out).verify() == []


requests: list[int] = []


@pytest.mark.parametrize("point", range(OF_OBJECTS))
def test_a_command_killed_at_a_request_to_an_object_store_does_the_same(clean, bucket, tmp_path, point):
    root, _ = clean
    out, reached = f"{bucket}/s", tmp_path / "reached"

    def life():
        for number, command in enumerate(commands(root, out)):
            reached.write_text(str(number))
            command()

    if not requests:  # of a life in peace
        counted = Counted()
        with pytest.MonkeyPatch.context() as patch:
            counted.install(patch, of_objects=True)
            for command in commands(root, f"{bucket}/peace"):
                command()
        requests.append(counted.count)
    assert requests[0] > 5 * OF_OBJECTS
    assert killed(life, spread(requests[0], OF_OBJECTS)[point], of_objects=True)
    assert content(out).items() <= content(root / "s").items()
    for command in commands(root, out)[int(reached.read_text()) :]:
        command()
    assert content(out) == content(root / "s")
    assert Store(out).verify() == []


class DiesOnce(Boxes):
    """Ends its worker at the n-th step of committing its first unit; the next worker lives."""

    def __init__(self, flag, end):
        super().__init__("boxes")
        self.flag, self.end = flag, end

    def annotate(self, samples, images):
        if not self.flag.exists():
            self.flag.write_text("died")
            Counted(self.end).install(pytest.MonkeyPatch())
        return super().annotate(samples, images)


@pytest.mark.parametrize("end", [4, 8])  # before the link, after it
def test_a_worker_killed_while_it_commits_is_replaced(clean, tmp_path, end):
    folder = folder_of(tmp_path, 3)
    peace = florence2.annotate(folder, tmp_path / "peace", [Boxes()], workers=0, unit=2)
    store = florence2.annotate(folder, tmp_path / "s", [DiesOnce(tmp_path / "flag", end)], workers=1, unit=2)
    assert (tmp_path / "flag").exists() and fragments(store) == fragments(peace)
    assert sum("died" in p.read_text() for p in (store.root / "attempts").rglob("*") if p.is_file()) == 1
