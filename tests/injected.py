"""Faults injected into commands; in the end there is what an uninterrupted run leaves: the set of (fragment, sha256).

    python -m tests.injected [NAME=COUNT ...] [--seed N]      # `make faults`, with `python -m tests.faults` for pairs

Commands are forked from one process, so that each trial costs what the work costs. Those on Ray: tests/ray_faults.py.
"""

import argparse
import contextlib
import errno
import io
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np
import pytest
import skimage
from PIL import Image

import florence2
from florence2.engine.curation.merging import MergeConfig
from florence2.engine.execution import annotation_phase
from florence2.object_store import root_of
from florence2.store import Store
from florence2.store.storage import local, open_storage
from tests.engine import test_kill
from tests.engine.doubles import Boxes, Floor, Misbehaving, NoTexts, folder_of, fragments
from tests.object_server import ObjectServer
from tests.stores import removed

PICTURES = 9
SAID = 20  # so many injections between two words of how it goes


class Pausing(Boxes):
    """Takes a little time over each picture, so that a fault may find it at work."""

    def one(self, sample, image):
        time.sleep(0.01)
        return super().one(sample, image)


def life(folder, out, **by):
    """A store from pictures to merged annotations."""
    with_ = [Pausing(), Boxes("reader", shift=1.0, requires={"region_text/object"})]
    florence2.annotate(folder, out, with_, unit=3, **by)
    return florence2.filter(out, [Floor(0.5), NoTexts()], merging=MergeConfig(), **by)


def content(out):
    """All that a store holds: fragments and snapshots, to the byte."""
    storage = open_storage(out)
    snapshots = (path for path in storage.list("snapshots") if path.endswith(".json"))
    return {**fragments(out), **{path: storage.read(path) for path in snapshots}}


class Faults:
    """Pictures, what a life in peace leaves of them, and the faults; each returns "" where nothing was lost by it."""

    def __init__(self, root, seed, bucket=""):
        self.root, self.draw, self.number, self.bucket = Path(root), random.Random(seed), 0, bucket
        self.made = []  # stores that are still there
        self.steps = {}  # where a store lies -> the steps of a life there, in the order in which they are tried
        self.folder = folder_of(self.root, PICTURES)
        begun = time.monotonic()
        self.wait(self.fork(life, self.folder, self.root / "clean", workers=0))
        self.took_s = time.monotonic() - begun
        self.clean = content(self.root / "clean")
        assert len(self.clean) > 12

    def out(self, of_objects=False):
        self.number += 1
        name = f"s{self.number}"
        self.made.append(root_of(f"{self.bucket}/{name}") if of_objects else self.root / name)
        return self.made[-1]

    def fork(self, call, *args, **more):
        """Call in a process of its own, in a group of its own; it ends with 0, or with 1 and a line in a file."""
        child = os.fork()
        if child:
            return child
        os.setpgid(0, 0)
        code = 0
        try:
            call(*args, **more)
        except (ValueError, OSError) as refusal:
            (self.root / "said").write_text(str(refusal))
            code = 1
        except BaseException:
            traceback.print_exc()
            code = 2
        finally:
            os._exit(code)

    def wait(self, child):
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def amiss(self, out):
        """What is wrong with a store that should be as the clean one."""
        found = content(out)
        lost, more = self.clean.keys() - found.keys(), found.keys() - self.clean.keys()
        other = [path for path in self.clean.keys() & found.keys() if self.clean[path] != found[path]]
        wrong = [
            f"{len(each)} {what}" for each, what in ((lost, "lost"), (more, "too many"), (other, "changed")) if each
        ]
        return ", ".join(wrong + [f"damaged: {d.path}" for d in Store(out).verify()])

    def whole_so_far(self, out):
        """What is half written after a kill: every file under a final name must be one of the clean store's, whole."""
        halves = [path for path, held in content(out).items() if self.clean.get(path) != held]
        return f"not whole after a kill: {halves[:3]}" if halves else ""

    def kill_local(self, workers=0):
        """kill -9 of the process at a random moment, up to three times, then in peace."""
        out = self.out()
        for _ in range(self.draw.randint(1, 3)):
            child = self.fork(life, self.folder, out, workers=workers)
            time.sleep(self.draw.uniform(0, self.took_s * 1.1))
            os.kill(child, signal.SIGKILL)
            self.wait(child)
            if wrong := self.whole_so_far(out):
                return wrong
        code = self.wait(self.fork(life, self.folder, out, workers=0))
        journals = [path.read_text() for path in (out / "attempts").rglob("*") if path.is_file()]
        if any("died" in line for line in journals):
            return "a kill of the whole run was counted against a job"
        return f"exit {code}" if code else self.amiss(out)

    def every_step(self, of_objects=False):
        """kill -9 at the next of all steps of a life that reach the disk, before or after it, or half way through.

        None where all were tried.
        """
        out = self.out(of_objects)
        if of_objects not in self.steps:
            self.steps[of_objects] = self.spread(of_objects)
        step = next(self.steps[of_objects], None)
        if step is None:
            return None

        def killed():
            test_kill.Counted(step).install(pytest.MonkeyPatch(), of_objects)
            life(self.folder, out, workers=0)

        if self.wait(self.fork(killed)) != -signal.SIGKILL:
            return f"step {step}: not killed"
        if wrong := self.whole_so_far(out):
            return f"step {step}: {wrong}"
        code = self.wait(self.fork(life, self.folder, out, workers=0))
        wrong = f"exit {code}" if code else self.amiss(out)
        return f"step {step}: {wrong}" if wrong else ""

    def every_request(self):
        """The same in an object store: at a request that changes it, before or after it."""
        return self.every_step(of_objects=True)

    def spread(self, of_objects):
        """Every step of a life, those first that lie far from one another: a few of them are of all parts of it."""
        out, counted = self.out(of_objects), self.root / "steps"

        def count():
            counter = test_kill.Counted()
            counter.install(pytest.MonkeyPatch(), of_objects)
            life(self.folder, out, workers=0)
            counted.write_text(str(counter.count))

        self.wait(self.fork(count))
        count = int(counted.read_text())
        bits = count.bit_length()
        backwards = (int(f"{n:0{bits}b}"[::-1], 2) for n in range(1 << bits))
        return (n + 1 for n in backwards if n < count)

    def tidy(self):
        """Delete the stores of a trial, wherever they lie."""
        for out in self.made:
            removed(out)
        self.made.clear()

    def kill_supervisor(self):
        """The same, with the work in two processes, which outlive it by half a second."""
        return self.kill_local(workers=2)

    def kill_worker(self):
        """kill -9 of a worker process at a random moment; its supervisor lives."""
        out = self.out()
        child = self.fork(life, self.folder, out, workers=2)
        time.sleep(self.draw.uniform(0, self.took_s + 1))
        workers = children_of(child)
        if workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.draw.choice(workers), signal.SIGKILL)
        code = self.wait(child)
        return f"exit {code}" if code else self.amiss(out)

    def two_writers(self):
        """The same command twice at once, a moment apart."""
        out = self.out()
        one = self.fork(life, self.folder, out, workers=0)
        time.sleep(self.draw.uniform(0, self.took_s / 2))
        codes = [self.wait(child) for child in (one, self.fork(life, self.folder, out, workers=0))]
        if any(codes):
            return f"exits {codes}: {(self.root / 'said').read_text()}"
        lost = {path for path in self.clean if path.endswith("parquet")} - content(out).keys()
        return f"{len(lost)} lost" if lost else self.amiss_but_snapshots(out)

    def amiss_but_snapshots(self, out):
        """As `amiss`, by fragments alone."""
        mine = {path: sha for path, sha in fragments(out).items()}
        theirs = {path: sha for path, sha in self.clean.items() if path.endswith(".parquet")}
        named = {fragment.path for fragment in Store(out).snapshot().fragments}
        wrong = (
            ""
            if mine == theirs and named == theirs.keys()
            else f"{len(mine.items() ^ theirs.items())} fragments differ"
        )
        return wrong + ", ".join(damage.path for damage in Store(out).verify())

    def disk_full(self, code=errno.ENOSPC):
        """A write that the disk refuses: the command says so in one line; room made, it goes on."""
        out, nth = self.out(), self.draw.randint(1, 40)

        def refused():
            write, count = local.write_temp, 0

            def full(root, data, *rest):
                nonlocal count
                count += 1
                if count >= nth:
                    raise OSError(code, os.strerror(code), str(root))
                return write(root, data, *rest)

            local.write_temp = full
            life(self.folder, out, workers=0)

        exit_code = self.wait(self.fork(refused))
        said = (self.root / "said").read_text() if exit_code == 1 else ""
        if exit_code not in (0, 1) or (exit_code and (os.strerror(code) not in said or "\n" in said)):
            return f"exit {exit_code}, said {said!r}"
        if out.exists() and (wrong := self.whole_so_far(out)):
            return wrong
        again = self.wait(self.fork(life, self.folder, out, workers=0))
        return f"exit {again}" if again else self.amiss(out)

    def permission_denied(self):
        """A write that the system forbids."""
        return self.disk_full(errno.EACCES)

    def clock_jumps(self):
        """Two commands on one store whose clocks jump by days, forwards and back, while they run."""
        out = self.out()

        def jumping(seed):
            draw, now = random.Random(seed), time.time
            time.time = lambda: now() + draw.uniform(-1, 1) * 10 * 24 * 3600
            life(self.folder, out, workers=0)

        children = [self.fork(jumping, self.draw.random()) for _ in range(2)]
        codes = [self.wait(child) for child in children]
        again = self.wait(self.fork(life, self.folder, out, workers=0))
        if again or any(code not in (0, 1) for code in codes):
            return f"exits {codes}, then {again}"
        return self.amiss_but_snapshots(out)

    def bad_specialist(self):
        """One that ends its process, hangs, raises, or says garbage or NaN, on one or two pictures."""
        deed, victims = self.draw.choice(list(REASONS)), self.draw.sample(range(PICTURES), self.draw.randint(1, 2))
        out, names = self.out(), [f"p{n:04}.png" for n in victims]
        by = {"workers": 2, "lease_s": 1.0, "attempts": 2, "unit": 3}
        code = self.wait(self.fork(florence2.annotate, self.folder, out, [Misbehaving(deed, names)], **by))
        if code:
            return f"{deed}: exit {code}"
        store = Store(out)
        uris = {sample.image.id: Path(sample.image.uri).name for sample in store.samples()}
        failed = {uris[row["image_id"]]: row["reason"] for row in store.table("failures").to_pylist()}
        kept = store.counts()["annotations"]["kept"]
        right = failed == dict.fromkeys(names, REASONS[deed]) and kept == 3 * (PICTURES - len(names))
        return "" if right and not store.verify() else f"{deed} on {names}: failures {failed}, kept {kept}"

    def one_in_a_thousand(self):
        """One that raises on one picture of a thousand."""
        folder, out = self.root / "thousand", self.out()
        if not folder.exists():
            folder.mkdir()
            for n in range(1000):
                Image.fromarray(np.random.default_rng(n).integers(0, 255, (12, 12, 3), dtype=np.uint8)).save(
                    folder / f"t{n:04}.png", compress_level=1
                )
        victim = f"t{self.draw.randrange(1000):04}.png"
        code = self.wait(self.fork(florence2.annotate, folder, out, [Misbehaving("raises", [victim])], workers=0))
        store = Store(out)
        (row,) = store.table("failures").to_pylist()
        right = row["reason"] == "error" and store.counts()["annotations"]["kept"] == 3 * 999
        shutil.rmtree(out)
        return "" if right and not code else f"exit {code}, {row['reason']}"

    def leaks(self):
        """One that holds 40 MB more with every picture, having said that it takes 0.25 GB: its worker is replaced."""
        out, notes = self.out(), self.root / f"leak-{self.number}"
        code = self.wait(self.fork(florence2.annotate, self.folder, out, [Leaking(notes)], workers=1, unit=3))
        pids = notes.read_text().split()
        store = Store(out)
        right = store.counts()["annotations"]["kept"] == 3 * PICTURES and len(set(pids)) > 1
        return "" if right and not code else f"exit {code}, {len(set(pids))} workers, {store.counts()}"

    def breaks(self):
        """One that fails on every picture is given up; another beside it is done."""
        out, every = self.out(), [path.name for path in self.folder.iterdir()]

        def run():
            annotation_phase.BROKEN_AFTER = 4
            reports = {}
            with_ = [Misbehaving(self.draw.choice(["raises", "nan"]), every), Boxes("other")]
            florence2.annotate(self.folder, out, with_, workers=0, unit=3, reports=reports)
            if not any(report.broken for report in reports.values()):
                raise RuntimeError("not given up")

        code = self.wait(self.fork(run))
        counts = Store(out).counts()
        right = counts["annotations"]["kept"] == 3 * PICTURES and counts["failures"] == 0
        return "" if right and not code else f"exit {code}, {counts}"

    def corrupted_picture(self, count=1):
        """Real pictures with flipped, cut, repeated, missing bytes: each ends ok, rejected or failed, with a reason."""
        folder, out = self.root / f"corrupted-{self.number}", self.out()
        folder.mkdir()
        originals = photographs()
        for n in range(count):
            data = mutated(bytearray(self.draw.choice(originals)), self.draw)
            (folder / f"c{n:05}.jpg").write_bytes(data)
        code = self.wait(self.fork(florence2.annotate, folder, out, [Boxes()], workers=0))
        store = Store(out)
        images, reasons = store.counts()["images"], store.reasons()["images"]
        asked = store.counts()["annotations"]["kept"] / 3 + store.counts()["failures"] - images["failed"]
        right = (
            images["total"] == count == images["ok"] + images["rejected"] + images["failed"] and asked == images["ok"]
        )
        right = right and sum(reasons.values()) == images["rejected"] + images["failed"] and not store.verify()
        shutil.rmtree(out)
        shutil.rmtree(folder)
        return "" if right and not code else f"exit {code}: {images}, {reasons}, asked about {asked}"


REASONS = {"exits": "worker_died", "hangs": "timeout", "raises": "error", "garbage": "invalid", "nan": "invalid"}


class Leaking(Boxes):
    """Holds on to memory."""

    def __init__(self, notes):
        super().__init__("leaking", batch_size=1)
        self.spec = type(self.spec)(**{**vars(self.spec), "memory_gb": 0.25})
        self.notes, self.held = notes, []

    def one(self, sample, image):
        self.held.append(np.ones(40_000_000, np.uint8))
        with open(self.notes, "a") as file:
            file.write(f"{os.getpid()}\n")
        return super().one(sample, image)


def children_of(pid):
    """The processes below one, at any depth."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    found = {pid}
    for _ in range(4):
        found |= {child for child, parent in parents.items() if parent in found}
    return sorted(found - {pid})


def photographs():
    """Files of four photographs, small, in four formats."""
    found = []
    for name in ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg"):
        picture = Image.open(Path(skimage.__file__).parent / "data" / name).convert("RGB")
        picture.thumbnail((160, 160))
        for kind in ("JPEG", "PNG", "WEBP", "GIF"):
            picture.save(buffer := io.BytesIO(), kind)
            found.append(buffer.getvalue())
    return found


def mutated(data, draw):
    """The bytes with one to four faults."""
    for _ in range(draw.randint(1, 4)):
        kind, at = draw.choice(["flip", "cut", "repeat", "zero", "empty"]), draw.randrange(max(1, len(data)))
        if kind == "flip" and data:
            data[at] ^= 1 << draw.randrange(8)
        elif kind == "cut":
            del data[at:]
        elif kind == "repeat":
            data[at:at] = data[at : at + draw.randrange(1, 500)]
        elif kind == "zero":
            data[at : at + 64] = bytes(len(data[at : at + 64]))
        elif draw.random() < 0.02:
            data.clear()
    return bytes(data)


ALL = 10**4  # more than there are
COUNTS = {  # fault -> how often `make faults` injects it
    "kill_local": 200, "every_step": ALL, "every_request": ALL, "kill_supervisor": 20, "kill_worker": 20,
    "two_writers": 40, "disk_full": 60, "permission_denied": 40, "clock_jumps": 20, "bad_specialist": 20,
    "one_in_a_thousand": 5, "leaks": 3, "breaks": 5, "corrupted_picture": 10_000,
}  # fmt: skip


def inject(faults, name, count):
    """Inject a fault so often, or as often as there is a place for it; how often, and what was amiss each time."""
    if name == "corrupted_picture":
        return count, [wrong for wrong in [faults.corrupted_picture(count)] if wrong]
    found = []
    for number in range(count):
        wrong = getattr(faults, name)()
        faults.tidy()
        if wrong is None:
            return number, found
        found += [wrong] if wrong else []
        if not (number + 1) % SAID:
            print(f"    {number + 1} so far, {len(found)} amiss", flush=True)
    return count, found


@contextlib.contextmanager
def bucket():
    """An empty bucket of a server that this process reaches."""
    server = ObjectServer()
    os.environ.update(server.env)
    try:
        yield server.new_bucket()
    finally:
        server.close()


def main():
    """Inject, print a table; exit code 1 where anything was amiss."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("counts", nargs="*", metavar="NAME=COUNT", help=f"of {', '.join(COUNTS)}; default: all")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    given = dict(each.split("=") for each in args.counts)
    wanted = {name: int(given.get(name, 0 if given else count)) for name, count in COUNTS.items()}
    bad = 0
    with tempfile.TemporaryDirectory() as folder, bucket() as objects:
        os.environ["XDG_CACHE_HOME"] = folder
        faults = Faults(folder, args.seed, objects)
        for name, count in wanted.items():
            if count:
                begun = time.monotonic()
                injected, found = inject(faults, name, count)
                bad += len(found)
                took_s = time.monotonic() - begun
                print(f"{name:<20}{injected:>7} injected{len(found):>5} amiss  {took_s:6.0f} s", flush=True)
                for wrong in found[:5]:
                    print(f"    {wrong}", flush=True)
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
