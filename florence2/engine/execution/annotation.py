"""One unit of work: these pictures, this specialist. Decodes, asks in batches, stamps, checks, commits two fragments.

Whatever a specialist does, each picture ends as annotations or as one Failure with a reason word. Failures are
committed first: the annotations fragment, even one of no rows, says that the unit is done.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc

from florence2 import pixels, sources
from florence2.engine.execution.processes import Heartbeat
from florence2.engine.execution.provenance import attach_provenance
from florence2.engine.operator import Specialist, digest
from florence2.records import Failure, Grounding, Parsed, Region, Sample, Source, Text
from florence2.store import Store, parquet, schema
from florence2.store.parquet import Fragment
from florence2.store.storage import Storage


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
    asking.all(_with_annotations(store.storage, task))
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


def _with_annotations(storage: Storage, task: AnnotateTask) -> list[Sample]:
    """The unit's samples with what its operator reads of the annotations made before, verdicts aside."""
    if not task.reads:
        return list(task.samples)
    table = parquet.read_table(storage, "annotations", task.reads)
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
