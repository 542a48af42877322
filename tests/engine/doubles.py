"""Specialists and filters made by hand: what they say depends on the pixels alone, and they misbehave on demand."""

import os
import time
from pathlib import Path

import numpy as np
from PIL import Image

from florence2.engine.operator import Spec
from florence2.records import Decision, Failure, Grounding, Parsed, Region, Text
from florence2.store import TABLES, Store
from florence2.store.storage import open_storage


def picture(folder, name, seed, size=(40, 30)):
    """Write a small picture of noise; returns its path."""
    path = Path(folder) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).save(path)
    return path


def folder_of(root, count, start=0):
    """A folder of `count` pictures p0000.png, ..."""
    folder = Path(root) / "pictures"
    for i in range(start, start + count):
        picture(folder, f"p{i:04}.png", i)
    return folder


class Boxes:
    """One box and one caption a picture, from its first pixel; a phrase of the caption points at the box."""

    def __init__(
        self, name="boxes", version="1", label="thing", requires=(), batch_size=4, kind="specialist", shift=0.0
    ):
        produces = frozenset({"region_text/object", "text/brief", "text_phrase_region"})
        self.spec = Spec(name, version, produces, frozenset(requires), batch_size=batch_size, source_kind=kind)
        self.config = {"label": label, "shift": shift}
        self.weights_sha256 = ""
        self.label, self.shift = label, shift

    def setup(self, device):
        pass

    def annotate(self, samples, images):
        return [self.one(sample, image) for sample, image in zip(samples, images)]

    def one(self, sample, image):
        value = int(image[0, 0, 0])
        box = (self.shift + value % 10, 2.0, self.shift + 20.0 + value % 10, 25.0)
        score = round(0.3 + value / 400, 3)
        return Parsed(
            texts=(Text("t", f"a {self.label} seen {len(sample.regions)} times", score=score),),
            regions=(Region("r", box=box, label=self.label, score=score),),
            groundings=(Grounding("g", "t", "", ((2, 2 + len(self.label)),), ("r",), score),),
        )

    def close(self):
        pass


class Slow(Boxes):
    """Takes its time over each picture."""

    def __init__(self):
        super().__init__("slow")

    def one(self, sample, image):
        time.sleep(0.15)
        return super().one(sample, image)


class Misbehaving(Boxes):
    """Does `deed` on the pictures whose file names are listed."""

    def __init__(self, deed, names, **more):
        super().__init__(name=f"bad-{deed}", **more)
        self.deed, self.names = deed, set(names)

    def one(self, sample, image):
        if Path(sample.image.uri).name in self.names:
            return getattr(self, self.deed)(sample, image)
        return super().one(sample, image)

    def exits(self, sample, image):
        os._exit(7)

    def hangs(self, sample, image):
        time.sleep(600)

    def raises(self, sample, image):
        raise RuntimeError("no luck")

    def nan(self, sample, image):
        return Parsed(regions=(Region(box=(0.0, float("nan"), 3.0, 4.0), label="x"),))

    def garbage(self, sample, image):
        return "a string"

    def fails(self, sample, image):
        return Failure(reason="refused", detail="will not")

    def wild(self, sample, image):
        return [Region(box=(-5.0, -5.0, 1000.0, 12.0), label="wide", score=np.float32(0.5))]


class Floor:
    """Rejects regions whose score is below a floor."""

    def __init__(self, floor, name="floor"):
        self.spec = Spec(name, "1")
        self.config = {"floor": floor}
        self.weights_sha256 = ""
        self.floor = floor

    def judge(self, sample):
        return [
            Decision(r.id, "rejected", "", "low_score", r.score, self.floor)
            for r in sample.regions
            if (r.score or 0) < self.floor
        ]


class NoTexts:
    """Rejects every text."""

    spec = Spec("no_texts", "1")
    config: dict = {}
    weights_sha256 = ""

    def judge(self, sample):
        return [Decision(t.id, "rejected", "", "text") for t in sample.texts]


def fragments(store):
    """path -> sha256 of every fragment a store has, whether a snapshot names it or not."""
    storage = store.storage if isinstance(store, Store) else open_storage(store)
    paths = (path for table in TABLES for path in storage.list(table) if path.endswith(".parquet"))
    return {path: storage.sha256(path) for path in paths}
