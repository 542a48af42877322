"""One unit of work: these pictures, this specialist. Decodes, asks in batches, stamps, checks, commits two fragments.

Whatever a specialist does, each picture ends as annotations or as one Failure with a reason word. Failures are
committed first: the annotations fragment, even one of no rows, says that the unit is done.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from florence2 import pixels, sources
from florence2.engine.execution.processes import Heartbeat
from florence2.engine.operator import Specialist, annotation_ids, digest
from florence2.records import Failure, Grounding, Item, Parsed, Region, Sample, Source, Text
from florence2.store import Store, scan, schema
from florence2.store.snapshots import Fragment

STRINGS = {  # fields that must hold valid Unicode
    Region: ("id", "kind", "label", "label_space", "description"),
    Text: ("id", "text", "detail", "question"),
    Grounding: ("id", "phrase"),
}


@dataclass(frozen=True)
class AnnotateTask:
    """What a worker needs to know to annotate a unit; references only, never pixels."""

    specialist: int  # index into the work's list
    unit: str  # of the images table
    samples: tuple[Sample, ...]  # bare: the good pictures that this operator takes
    reads: tuple[Fragment, ...]  # annotations to show it ...
    read_runs: frozenset[str]  # ... of these runs
    fingerprint: str
    run_id: str
    round: int
    path: str  # of the annotations fragment
    failures_path: str
    max_pixels: int

    def do(self, store: Store, specialist: Specialist | None, heartbeat: Heartbeat) -> UnitOutcome:
        """Annotate and commit."""
        assert specialist is not None
        return annotate_unit(store, specialist, self, heartbeat)


@dataclass(frozen=True)
class UnitOutcome:
    """What came of a unit: its fragments, and the seconds that it took by what they went into (SECONDS)."""

    fragments: tuple[Fragment, ...]
    seconds: Mapping[str, float]


# decode and sign run beside annotate; the others add up to the time a unit takes
SECONDS = {
    "decode": "reading and decoding pictures",
    "sign": "checking, clipping and naming what was said, and making rows of it",
    "wait": "waiting for these two",
    "annotate": "the specialist",
    "write": "Parquet written and synced",
    "rest": "reading what the specialist requires, and all else",
}


def annotate_unit(store: Store, specialist: Specialist, task: AnnotateTask, heartbeat: Heartbeat) -> UnitOutcome:
    """Annotate a unit and commit it."""
    begun = time.perf_counter()
    asking = UnitAnnotator(specialist, task, heartbeat)
    asking.all(_with_annotations(store.root, task))
    heartbeat.writing()
    spec, seconds = specialist.spec, asking.seconds
    about = {"operator": spec.name, "version": spec.version, "fingerprint": task.fingerprint, "round": task.round}
    fragments = []
    with timed(seconds, "write"):
        if asking.failures:
            fragments.append(store.put(task.failures_path, asking.failures, [task.unit], task.run_id, about))
        fragments.append(store.put(task.path, asking.rows, [task.unit], task.run_id, about))
    took = time.perf_counter() - begun
    seconds["rest"] = took - seconds["annotate"] - seconds["wait"] - seconds["write"]
    return UnitOutcome(tuple(fragments), seconds)


@contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Add what the block takes to `seconds[name]`."""
    begun = time.perf_counter()
    try:
        yield
    finally:
        seconds[name] += time.perf_counter() - begun


def _with_annotations(root: Path, task: AnnotateTask) -> list[Sample]:
    """The unit's samples with what its operator reads of the annotations made before, verdicts aside."""
    if not task.reads:
        return list(task.samples)
    table = scan.read_table(root, "annotations", task.reads)
    said = table.filter(pc.field("run_id").isin(sorted(task.read_runs)))
    bare = {sample.image.id: sample for sample in task.samples}
    images = [schema.image_row(sample) for sample in task.samples]
    found = schema.samples(images, said, None)
    return [dataclasses.replace(bare[s.id], regions=s.regions, texts=s.texts, groundings=s.groundings) for s in found]


class UnitAnnotator:
    """Puts pictures to a specialist in batches, finds the one at fault where a batch raises, and makes rows of it all.

    While a batch is annotated, the next is decoded and the rows of the one before are made.
    """

    def __init__(self, specialist: Specialist, task: AnnotateTask, heartbeat: Heartbeat):
        self.specialist, self.task, self.heartbeat = specialist, task, heartbeat
        self.max_pixels = min(task.max_pixels, specialist.spec.max_pixels)
        spec = specialist.spec
        self.source = Source(spec.source_kind, spec.name, spec.version, task.round, task.run_id)
        self.config_sha = digest(dict(specialist.config))
        self.rows: list[schema.Row] = []
        self.failures: list[schema.Row] = []
        self.seconds = dict.fromkeys(SECONDS, 0.0)

    def all(self, samples: Sequence[Sample]) -> None:
        """Rows or a failure for each sample, in order."""
        if self.heartbeat.isolate:
            for index, sample in enumerate(samples):
                self._isolated(sample, index)
            return
        size = max(1, self.specialist.spec.batch_size)
        batches = [samples[start : start + size] for start in range(0, len(samples), size)]
        with ThreadPoolExecutor(1) as beside:
            loading = [beside.submit(self._load, batch) for batch in batches[:1]]
            signing = []
            for number, batch in enumerate(batches, 1):
                with timed(self.seconds, "wait"):
                    loaded = loading.pop().result()
                loading += [beside.submit(self._load, coming) for coming in batches[number : number + 1]]
                signing.append(beside.submit(self._sign, batch, self._annotated(batch, loaded)))
            with timed(self.seconds, "wait"):
                for signed in signing:
                    signed.result()

    def _isolated(self, sample: Sample, index: int) -> None:
        if index in self.heartbeat.poison_images:
            detail = "gave no answer, alone, after its unit had failed repeatedly"
            self._sign([sample], [Failure(reason=self.heartbeat.poison_images[index], detail=detail)])
            return
        self.heartbeat.picture(index)
        with timed(self.seconds, "wait"):
            loaded = self._load([sample])
        self._sign([sample], self._annotated([sample], loaded))

    def _load(self, samples: Sequence[Sample]) -> list[np.ndarray | Failure]:
        out: list[np.ndarray | Failure] = []
        with timed(self.seconds, "decode"):
            for sample in samples:
                try:
                    out.append(sources.pixels(sample.image, self.max_pixels))
                except pixels.BadImage as error:
                    out.append(Failure(reason=error.reason, detail=str(error)))
        return out

    def _annotated(self, samples: Sequence[Sample], loaded: list[np.ndarray | Failure]) -> list[Parsed | Failure]:
        good = [(sample, array) for sample, array in zip(samples, loaded) if isinstance(array, np.ndarray)]
        with timed(self.seconds, "annotate"):
            answers = iter(self._ask([sample for sample, _ in good], [array for _, array in good]))
        return [next(answers) if isinstance(array, np.ndarray) else array for array in loaded]

    def _sign(self, samples: Sequence[Sample], results: Sequence[Parsed | Failure]) -> None:
        """Check and sign what was said of each picture, and make rows of it."""
        with timed(self.seconds, "sign"):
            for sample, result in zip(samples, results):
                if isinstance(result, Parsed):
                    try:
                        stamped = attach_provenance(result, sample, self.source, self.task.fingerprint)
                        self.rows += schema.annotation_rows(stamped, self.config_sha)
                    except ValueError as error:
                        result = Failure(reason="invalid", detail=str(error))
                if isinstance(result, Failure):
                    detail = " ".join(result.detail.split()).encode("utf-8", "replace").decode()[:1000]
                    failure = Failure(id=sample.image.id, reason=result.reason or "error", detail=detail)
                    made = self.source.name, self.source.version, self.task.run_id, self.task.round
                    self.failures.append(schema.failure_row(failure, *made))

    def _ask(self, samples: list[Sample], images: list[np.ndarray]) -> list[Parsed | Failure]:
        if not samples:
            return []
        try:
            answers = list(self.specialist.annotate(samples, images))
            if len(answers) != len(samples):
                raise ValueError(f"annotate returned {len(answers)} results for {len(samples)} pictures")
        except Exception as error:  # a specialist may raise anything; its pictures answer for it one by one
            if len(samples) == 1:
                return [Failure(reason="error", detail=f"{type(error).__name__}: {error}")]
            # out of memory halves the batch, anything else goes to single pictures
            step = (len(samples) + 1) // 2 if _out_of_memory(error) else 1
            out: list[Parsed | Failure] = []
            for start in range(0, len(samples), step):
                out += self._ask(samples[start : start + step], images[start : start + step])
            return out
        return [_result(answer) for answer in answers]


def _out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or "out of memory" in str(error).lower()


def _result(answer: Any) -> Parsed | Failure:
    """A specialist's answer as a record: a Parsed, a Failure, or a plain list of regions, texts and groundings."""
    if isinstance(answer, (Parsed, Failure)):
        return answer
    kinds: dict[type, list[Any]] = {Region: [], Text: [], Grounding: []}
    if not isinstance(answer, (list, tuple)) or any(type(item) not in kinds for item in answer):
        what = type(answer).__name__ if not isinstance(answer, (list, tuple)) else "a list of other things"
        return Failure(
            reason="invalid", detail=f"expected a Parsed, a list of Regions or Texts, or a Failure, got {what}"
        )
    for item in answer:
        kinds[type(item)].append(item)
    return Parsed(regions=tuple(kinds[Region]), texts=tuple(kinds[Text]), groundings=tuple(kinds[Grounding]))


def attach_provenance(parsed: Parsed, sample: Sample, source: Source, fingerprint: str) -> Sample:
    """The sample with only these items, checked, clipped, named and signed; ValueError says what cannot stand."""
    items: list[Item] = [*parsed.regions, *parsed.texts, *parsed.groundings]
    for item in items:
        _check_strings(item)
    named = [item.id for item in items if item.id]
    if len(set(named)) != len(named):
        raise ValueError("two items of one answer have the same id")
    fresh = annotation_ids(sample.image.id, fingerprint, source.round, len(items))
    ids = {item.id: new for item, new in zip(items, fresh) if item.id}
    known = {item.id for item in schema.items_of(sample)}

    def resolve(name: str) -> str:
        if name and name not in ids and name not in known:
            raise ValueError(f"an item refers to {name!r}, which is neither in the answer nor in the sample")
        return ids.get(name, name)

    texts = {text.id: text.text for text in (*sample.texts, *parsed.texts)}
    new = iter(fresh)
    regions = tuple(
        dataclasses.replace(
            region,
            **_checked_shapes(region, sample.image.size_wh),
            id=next(new),
            score=_checked_score(region),
            source=source,
            refines=resolve(region.refines),
            derived_from=tuple(map(resolve, region.derived_from)),
        )
        for region in parsed.regions
    )
    stamped = tuple(
        dataclasses.replace(text, id=next(new), score=_checked_score(text), source=source) for text in parsed.texts
    )
    groundings = tuple(
        dataclasses.replace(
            grounding,
            phrase=_checked_phrase(grounding, texts),
            id=next(new),
            score=_checked_score(grounding),
            source=source,
            text_id=resolve(grounding.text_id),
            region_ids=tuple(map(resolve, grounding.region_ids)),
        )
        for grounding in parsed.groundings
    )
    return dataclasses.replace(sample, regions=regions, texts=stamped, groundings=groundings, decisions=())


def _checked_shapes(region: Region, size_wh: tuple[int, int]) -> dict[str, Any]:
    """The region's box, quad and polygons with all coordinates inside the picture; ValueError where one is none."""
    if region.box is not None:
        _check_numbers(region, "box", region.box)
    if region.quad:
        _check_numbers(region, "quad", region.quad)
    for polygon in region.polygons:
        _check_numbers(region, "polygon", polygon)
    box = None
    if region.box is not None:
        if len(region.box) != 4:
            raise ValueError(
                f"region {region.label!r:.40}: expected a box x1, y1, x2, y2, got {len(region.box)} values"
            )
        x1, y1, x2, y2 = box = clipped(region.box, size_wh)
        if x2 < x1 or y2 < y1:
            raise ValueError(
                f"region {region.label!r:.40}: box {list(region.box)!r:.80} is inside out, not x1, y1, x2, y2"
            )
    if region.quad and len(region.quad) != 8:
        raise ValueError(f"region {region.label!r:.40}: expected a quad of 8 values, got {len(region.quad)}")
    if any(len(p) < 6 or len(p) % 2 for p in region.polygons):
        raise ValueError(f"region {region.label!r:.40}: a polygon needs three corners or more, as flat x, y pairs")
    quad = clipped(region.quad, size_wh) if region.quad else ()
    return {"box": box, "quad": quad, "polygons": tuple(clipped(polygon, size_wh) for polygon in region.polygons)}


def _checked_phrase(grounding: Grounding, texts: dict[str, str]) -> str:
    """The grounding's phrase, read from its text; ValueError where a span is not in it."""
    if not grounding.spans or not grounding.text_id:
        return grounding.phrase
    text = texts.get(grounding.text_id)
    if text is None:
        raise ValueError(f"phrase {grounding.phrase!r:.40}: its text {grounding.text_id!r} is not there")
    for start, end in grounding.spans:
        if not 0 <= start < end <= len(text):
            raise ValueError(
                f"phrase {grounding.phrase!r:.40}: span {start}..{end} is not in a text of {len(text)} letters"
            )
    return " ".join(text[start:end] for start, end in grounding.spans)


def clipped(xy: Sequence[float], size_wh: tuple[int, int]) -> tuple[float, ...]:
    """Flat x, y values cut at the picture's edges, where its size is known."""
    if not all(size_wh):
        return tuple(map(float, xy))
    return tuple([float(min(max(v, 0.0), size_wh[i % 2])) for i, v in enumerate(xy)])


def _check_numbers(region: Region, name: str, values: Sequence[Any]) -> None:
    for v in values:
        if not isinstance(v, (float, int, np.number)) or not math.isfinite(v):
            raise ValueError(
                f"region {region.label!r:.40}: {name} {list(values)!r:.80} holds a value that is no number"
            )


def _check_strings(item: Item) -> None:
    """ValueError where a field holds what its column cannot."""
    if type(item) not in STRINGS:
        raise ValueError(f"expected Regions, Texts and Groundings, got {type(item).__name__}")
    for name in STRINGS[type(item)]:
        value = getattr(item, name)
        if not isinstance(value, str):
            raise ValueError(f"{type(item).__name__}.{name}: expected a string, got {value!r:.40}")
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise ValueError(f"{type(item).__name__}.{name}: {value!r:.40} is not valid Unicode") from None


def _checked_score(item: Item) -> float | None:
    """The item's score as a plain float; ValueError where it is no number."""
    if item.score is None:
        return None
    if not isinstance(item.score, (float, int, np.number)) or not math.isfinite(item.score):
        raise ValueError(f"score {item.score!r:.40} is no number")
    return float(item.score)
