"""One specialist's work on a unit, or on a piece of it. Decodes, asks in batches, signs, checks, commits two fragments.

Whatever a specialist does, each picture ends as annotations or as one Failure with a reason word. Failures are
committed first: the annotations fragment, even one of no rows, says that the unit is done.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from florence2 import pixels, sources
from florence2.engine.current_annotations import Fresh, Mark, mark_metadata, retried_metadata
from florence2.engine.execution.context import WorkerContext
from florence2.engine.execution.jobs import JobOutcome
from florence2.engine.execution.provenance import attach_provenance
from florence2.engine.inputs import UnitInputs
from florence2.engine.operator import digest
from florence2.labels import one_line
from florence2.records import Failure, Grounding, Parsed, Region, Sample, Source, Text
from florence2.store import Fragment, Operator, Signed, Store, pending

AHEAD = 2  # batches that are decoded, or being decoded, while one is annotated
DECODERS = 2  # threads of a worker; decoding lets go of the interpreter's lock
OWN_FAULTS = ("error", "invalid")  # a specialist raised, or its answer is not valid

Loaded = np.ndarray | Failure  # a picture's pixels, or why there are none

# decode and sign run beside annotate; the others add up to the time that a job takes
SECONDS = {
    "decode": "reading and decoding pictures",
    "sign": "checking answers, clipping them, attaching ids and sources",
    "wait": "waiting for these two",
    "annotate": "the specialist",
    "write": "Parquet written and synced",
    "rest": "reading what the specialist requires, and all else",
}


@dataclass
class AnnotatedJob:
    """The results of a job's pictures: how many there were, and why some failed."""

    pictures: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    failed: tuple[str, ...] = ()  # ids of the pictures that gave nothing


@dataclass(frozen=True)
class AnnotateTask:
    """A unit's pictures from `start` up to `stop`, to be annotated by an operator; references only, never pixels."""

    inputs: UnitInputs
    operator: Operator
    uid: str  # of this operator's work on all pictures of `inputs`
    max_pixels: int
    start: int
    stop: int
    attempt: int = 1  # at these pictures
    mark: Mark | None = None  # the last verdict that was read
    fresh: Fresh = field(default_factory=dict)  # the only items it is to annotate
    later: bool = False  # it has annotated these pictures before
    retried: tuple[str, ...] = ()  # further attempts of those it reads, at pictures that had failed

    def do(self, store: Store, context: WorkerContext) -> JobOutcome:
        """Annotate and commit; the worker that finishes a unit's last piece puts the unit together."""
        begun = time.perf_counter()
        annotator = UnitAnnotator(self, context)
        found = annotator.all(visible_samples(self.inputs.load(store)[self.start : self.stop], self.mark, self.fresh))
        context.heartbeat.writing()
        seconds = annotator.seconds
        with timed(seconds, "write"):
            fragments = self._commit(store, found, digest(dict(context.specialist.config)))
        took = time.perf_counter() - begun
        seconds["rest"] = took - seconds["annotate"] - seconds["wait"] - seconds["write"]
        failures = Counter(each.reason for each in found if isinstance(each, Failure))
        failed = tuple(each.id for each in found if isinstance(each, Failure))
        return JobOutcome(tuple(fragments), seconds, AnnotatedJob(len(found), failures, failed))

    def _commit(self, store: Store, found: Sequence[Signed], config_sha: str) -> list[Fragment]:
        count = len(self.inputs.unit.samples)
        if (self.start, self.stop) == (0, count):
            return self._put(store, found, config_sha)
        pieces = store.pieces(pieces_name(self.uid, self.mark))
        pieces.remember(self.start, found)
        whole = pieces.collect(count)
        if whole is None:
            return []
        fragments = self._put(store, whole, config_sha)
        pieces.forget()
        return fragments

    def _put(self, store: Store, found: Sequence[Signed], config_sha: str) -> list[Fragment]:
        unit = self.inputs.unit.uid
        failures = [each for each in found if isinstance(each, Failure)]
        samples = [each for each in found if isinstance(each, Sample)]
        made = self.operator, self.uid, unit
        images = [sample.image.id for sample in self.inputs.unit.samples]
        about = pending.attempt_facts(self.attempt, images) | mark_metadata(self.mark) | retried_metadata(self.retried)
        found_failed = pending.failures_of(*made, failures, about)
        fragments: list[Fragment] = []
        if store.restoring is None and store.has(pending.path("annotations", self.operator, self.uid)):
            if store.has(found_failed.path):  # another worker has ended the unit: what it found counts, all of it
                fragments.append(store.fragment(found_failed.path, found_failed.units, found_failed.run_id))
        else:
            if store.has(found_failed.path):  # a killed worker's: what it failed on may be answered now
                store.discard_unnamed([found_failed.path])
            fragments += store.put_all([found_failed]) if failures else []
        return fragments + store.put_all([pending.annotations_of(*made, samples, config_sha, about)])


def pieces_name(uid: str, mark: Mark | None) -> str:
    """The name under which parts of a unit's work are kept: what was read before another verdict is another's part."""
    return f"{uid}@{mark[0]}-{mark[1]}" if mark else uid


def visible_samples(samples: Sequence[Sample], mark: Mark | None, fresh: Fresh) -> list[Sample]:
    """The samples as a specialist sees them: their kept items, of those the `fresh` ones alone where there are such."""
    current = [sample.current() for sample in samples] if mark else list(samples)
    if not fresh:
        return current
    return [
        dataclasses.replace(
            sample,
            regions=tuple(r for r in sample.regions if r.id in fresh[sample.image.id]),
            texts=tuple(t for t in sample.texts if t.id in fresh[sample.image.id]),
            groundings=tuple(g for g in sample.groundings if g.id in fresh[sample.image.id]),
        )
        for sample in current
    ]


@contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Add what the block takes to `seconds[name]`."""
    begun = time.perf_counter()
    try:
        yield
    finally:
        seconds[name] += time.perf_counter() - begun


class UnitAnnotator:
    """Puts pictures to a specialist in batches, finds the one at fault where a batch raises, and attaches sources.

    While a batch is annotated, the next two are decoded and the answers of the one before get ids and sources.
    """

    def __init__(self, task: AnnotateTask, context: WorkerContext):
        self.task, self.specialist, self.heartbeat = task, context.specialist, context.heartbeat
        self.max_pixels = min(task.max_pixels, self.specialist.spec.max_pixels)
        spec, operator = self.specialist.spec, task.operator
        # later annotations of a picture must not have the ids of the earlier ones
        self.naming = digest([operator.fingerprint, task.uid]) if task.later else operator.fingerprint
        self.source = Source(spec.source_kind, spec.name, spec.version, operator.round, operator.run_id)
        self.seconds = dict.fromkeys(SECONDS, 0.0)
        self._adding = threading.Lock()  # several threads decode
        self._fault_shown = False  # whether a fault is on the user's screen

    def all(self, samples: Sequence[Sample]) -> list[Signed]:
        """The annotations of each sample, or a failure, in order."""
        if self.heartbeat.isolate:
            return [self._isolated(sample, index) for index, sample in enumerate(samples, self.task.start)]
        size = max(1, self.specialist.spec.batch_size)
        batches = [samples[start : start + size] for start in range(0, len(samples), size)]
        with ThreadPoolExecutor(DECODERS) as decoders, ThreadPoolExecutor(1) as signer:
            loading: deque[list[Future[Loaded]]] = deque()
            signing = []
            for number, batch in enumerate(batches):
                for coming in batches[number + len(loading) : number + 1 + AHEAD]:
                    loading.append([decoders.submit(self._load, sample) for sample in coming])
                with timed(self.seconds, "wait"):
                    loaded = [each.result() for each in loading.popleft()]
                signing.append(signer.submit(self._sign, batch, self._annotated(batch, loaded)))
                self.heartbeat.progress(len(batch))
            with timed(self.seconds, "wait"):
                return [signed for batch in signing for signed in batch.result()]

    def _isolated(self, sample: Sample, index: int) -> Signed:
        if index in self.heartbeat.poison_images:
            detail = "gave no answer, alone, after its unit had failed repeatedly"
            results: list[Parsed | Failure] = [Failure(reason=self.heartbeat.poison_images[index], detail=detail)]
        else:
            self.heartbeat.image(index)
            with timed(self.seconds, "wait"):
                loaded = self._load(sample)
            results = self._annotated([sample], [loaded])
        self.heartbeat.progress(1)
        return self._sign([sample], results)[0]

    def _load(self, sample: Sample) -> Loaded:
        if sample.image.id in self.task.inputs.unit.gone:
            return Failure(reason="missing", detail=f"{sample.image.uri}: is not what it was taken in as")
        begun = time.perf_counter()
        try:
            return sources.pixels(sample.image, self.max_pixels)
        except pixels.BadImage as error:
            return Failure(reason=error.reason, detail=str(error))
        finally:
            with self._adding:
                self.seconds["decode"] += time.perf_counter() - begun

    def _annotated(self, samples: Sequence[Sample], loaded: Sequence[Loaded]) -> list[Parsed | Failure]:
        good = [(sample, array) for sample, array in zip(samples, loaded) if isinstance(array, np.ndarray)]
        with timed(self.seconds, "annotate"):
            answers = iter(self._ask([sample for sample, _ in good], [array for _, array in good]))
        return [next(answers) if isinstance(array, np.ndarray) else array for array in loaded]

    def _sign(self, samples: Sequence[Sample], results: Sequence[Parsed | Failure]) -> list[Signed]:
        """Check each picture's answer, and attach ids and sources to it."""
        out: list[Signed] = []
        with timed(self.seconds, "sign"):
            for sample, result in zip(samples, results):
                if isinstance(result, Parsed):
                    try:
                        out.append(attach_provenance(result, sample, self.source, self.naming))
                        continue
                    except ValueError as error:
                        result = Failure(reason="invalid", detail=str(error))
                detail = one_line(result.detail, 1000)
                failure = Failure(id=sample.image.id, reason=result.reason or "error", detail=detail)
                self._tell(sample, failure)
                out.append(failure)
        return out

    def _tell(self, sample: Sample, failure: Failure) -> None:
        """Put the first fault of the specialist itself on the screen at once."""
        if failure.reason in OWN_FAULTS and not self._fault_shown:
            self._fault_shown = True
            name = sources.files.name_of(sample.image)
            self.heartbeat.message(f"{self.source.name}: {name}: {failure.reason}: {failure.detail[:300]}")

    def _ask(self, samples: list[Sample], images: list[np.ndarray]) -> list[Parsed | Failure]:
        if not samples:
            return []
        try:
            answers = list(self.specialist.annotate(samples, images))
            if len(answers) != len(samples):
                raise ValueError(f"annotate returned {len(answers)} results for {len(samples)} pictures")
        except (Exception, SystemExit) as error:  # a specialist may raise anything; its pictures are tried one by one
            if len(samples) == 1:
                return [Failure(reason="error", detail=f"{type(error).__name__}: {error}")]
            # out of memory halves the batch, anything else goes to single pictures
            step = (len(samples) + 1) // 2 if _out_of_memory(error) else 1
            out: list[Parsed | Failure] = []
            for start in range(0, len(samples), step):
                out += self._ask(samples[start : start + step], images[start : start + step])
            return out
        return [_result(answer) for answer in answers]


def _out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or "out of memory" in str(error).lower()


def _result(answer: Any) -> Parsed | Failure:
    """A specialist's answer as a record: a Parsed, a Failure, or a plain list of regions, texts and groundings."""
    if isinstance(answer, (Parsed, Failure)):
        return answer
    kinds: dict[type, list[Any]] = {Region: [], Text: [], Grounding: []}
    if not isinstance(answer, (list, tuple)) or any(type(item) not in kinds for item in answer):
        what = type(answer).__name__ if not isinstance(answer, (list, tuple)) else "a list of other types"
        return Failure(
            reason="invalid", detail=f"expected a Parsed, a list of Regions or Texts, or a Failure, got {what}"
        )
    for item in answer:
        kinds[type(item)].append(item)
    return Parsed(regions=tuple(kinds[Region]), texts=tuple(kinds[Text]), groundings=tuple(kinds[Grounding]))
