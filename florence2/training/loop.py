"""The one training loop. It knows a job, a trainer and a folder; what the pairs are about is decided elsewhere."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from florence2.training import lora, products
from florence2.training import ranks as processes
from florence2.training.batches import Batch
from florence2.training.config import TrainConfig
from florence2.training.examine import Tally
from florence2.training.examples import LeftOut
from florence2.training.periodic_evaluation import Evaluations
from florence2.training.reload import check_reload
from florence2.training.run_folder import LEFT_OUT, METRICS, WORKER_GONE, JsonLinesWriter, RunFolder, read_lines
from florence2.training.setup import TrainingJob, prepare
from florence2.training.trainer import MET, NotFinite, Progress, Trainer, keep_batches, now

PROBE = 4  # batches whose loss is measured before and after
JUDGED = 200  # pairs after which, at the latest, a run that leaves out more than half of them stops

log = logging.getLogger(__name__)

OnLine = Callable[[dict[str, Any]], None]
OnMessage = Callable[[str], None]


@dataclass(frozen=True)
class TrainResult:
    """What a run did: a run that did nothing shows equal losses."""

    folder: str
    steps: int
    loss_before: float
    loss_after: float
    weights_sha256: str
    seconds: float = 0.0
    interrupted: bool = False
    left_out: str = ""
    """What was left out, by reason, with names; empty: nothing."""
    stopped: str = ""
    """Why it ended before its last step, where it was not interrupted."""


def run(
    config: TrainConfig,
    progress: OnLine | None = None,
    *,
    restart: bool = False,
    on_message: OnMessage = lambda text: None,
) -> TrainResult:
    """Train as the config says, going on from OUT's newest checkpoint where there is one; `progress` gets each metrics
    line. `restart` moves OUT aside first, once all else is found right."""
    folder = RunFolder(config.out)
    if not restart:
        folder.refuse_another(config)
    if config.threads:
        torch.set_num_threads(config.threads)
    ranks = processes.join(config.device)
    try:
        if ranks.first:
            folder.refuse_busy()
        torch.manual_seed(config.seed)
        resumed = None if restart else folder.newest()
        job = prepare(config, ranks, resumed)
        trainer = Trainer(job)
        if restart and ranks.first:
            folder.refuse_needed(job.read_paths)
            aside = folder.move_aside()
            if aside is not None:
                on_message(f"the run before was moved to {aside}")
        ranks.wait()
        fast = products.float32_products(config.fast_fp32, ranks.device, config.precision)
        with folder.locked() if ranks.first else contextlib.nullcontext(), fast as stated:
            if stated and ranks.first:
                on_message(stated)
            if ranks.first:
                folder.refuse_another(config)
                folder.refuse_overtaken(resumed)
            return Run(job, trainer, folder, progress, on_message).run(resumed)
    except (RuntimeError, MemoryError, OSError) as error:
        what = _outside_cause(error, ranks)
        if not what:
            raise
        reason = str(error).strip().split("\n")[0][:200]
        raise OSError(f"{what} ({reason}); run the same command again to go on from the newest checkpoint") from None
    finally:
        ranks.leave()


def _outside_cause(error: Exception, ranks: processes.Ranks) -> str:
    """What ended a run that is no fault of the program's; "" where nothing is known of it."""
    text = str(error)
    if isinstance(error, OSError) and WORKER_GONE not in text:  # torch's saving makes one of what it was told meanwhile
        return ""
    if ranks.count > 1 and any(word in text for word in ("gloo", "NCCL", "onnection")):
        return f"rank {ranks.rank}: another rank has gone"
    if WORKER_GONE in text:
        return "a process that makes batches (workers) has gone"
    if isinstance(error, MemoryError) or "out of memory" in text or "allocate memory" in text:
        return "the memory does not suffice; --dry-run estimates it, gradient_checkpointing and a smaller batch save it"
    return ""


@dataclass
class Run:
    """One run under way."""

    job: TrainingJob
    trainer: Trainer
    folder: RunFolder
    progress: OnLine | None
    on_message: OnMessage
    done: Progress = field(default_factory=Progress)
    saved: int = -1
    learnt: bool = False
    """Whether any step yet, also before the run was resumed, had a token to learn from: else nothing is saved."""
    stepping: bool = False
    """In the middle of a step, whose state is not to be saved."""

    def run(self, resumed: Path | None) -> TrainResult:
        """From the state of a checkpoint, or from the start, to the last step or a stop."""
        started = time.monotonic()
        job, trainer, first = self.job, self.trainer, self.job.ranks.first
        for note in job.notes if first else ():
            self.on_message(note)
        if job.features is not None:  # before the first pictures are looked at
            job.features.on_message = self.on_message
            job.features.make_folder()
        if resumed is not None:
            self.done = trainer.resume(resumed)
            self.saved, self.learnt = self.done.step, True
        else:
            self.done = Progress(loss_before=trainer.probe(job.first(PROBE)))
        if first:
            self.folder.begin(job.config, self.done.step, job.held_out)
            if job.config.lora is not None:
                lora.keep_base(job.start, job.parts, job.config)
        job.ranks.wait()
        if job.found.lost.counts and first:
            self.on_message(f"data: of {job.found.pairs} pairs examined are left out: {job.found.lost}")
        if job.found.unsound.counts and first:
            self.on_message(f"data: regions and texts that are left out of their samples: {job.found.unsound}")
        if job.found.questions and first:
            self.on_message(
                f"data: {job.found.questions} answered questions are not trained, as no task is named for them; add "
                "tasks: [DocVQA] (the prompt is <DocVQA> and the question), [VQA] or [PROMPT] (the question alone) "
                "to the source"
            )
        evaluations = Evaluations(job, trainer, self.folder, self.on_message)
        losses = Losses(self.folder, first, sum(job.found.pairs_by_source))
        losses.add(self.done.step, job.found.records, 0, 0)
        with _stop_asked() as stop, contextlib.closing(self._lines_writer(METRICS)) as metrics:
            over = job.ranks.any(first and evaluations.out_of_patience())
            if over:
                why = "patience"
            else:
                with contextlib.closing(job.stream(self.done.step, self.done.cursor)) as stream:
                    try:
                        why = self._steps(stream, metrics, losses, evaluations, stop)
                    except Unfit:
                        raise
                    except Exception:
                        self._save_last()
                        raise
            interrupted = why == "interrupted"
            if not interrupted:
                losses.refuse_half(ended=True)
            self._save()
            if not interrupted and first:
                check_reload(self.folder.path, trainer, job)
        if job.features is not None and job.features.damaged:
            self.on_message(f"{job.features.damaged} files of kept features were damaged and computed anew")
        with trainer.averaged():
            after = trainer.probe(job.first(PROBE))
        return TrainResult(
            str(self.folder.path),
            self.done.step,
            self.done.loss_before,
            after,
            sha256(trainer.weights.to_save()),
            time.monotonic() - started,
            interrupted,
            "; ".join(filter(None, (str(losses.tally), str(job.found.unsound)))),
            "" if interrupted else why,
        )

    def _steps(
        self,
        stream: Iterator[Sequence[Batch]],
        metrics: JsonLinesWriter,
        losses: Losses,
        evaluations: Evaluations,
        stop: Callable[[], bool],
    ) -> str:
        """All steps that are left; why it ended before the last, empty where it did not."""
        job = self.job
        result = self._missing_evaluation(evaluations, stop)
        if result is not None:
            return result
        while self.done.step < job.steps:
            if job.ranks.any(stop()):
                return "interrupted"
            waited = time.monotonic()
            batches = self._next(stream)
            if batches is None:  # the last epoch is over
                if job.ranks.first:
                    self.on_message(f"data: all pairs are met after {self.done.step} of {job.steps} steps")
                break
            line = self._step(batches, waited)
            lost = [one for batch in batches for one in batch.left_out]
            losses.add(self.done.step, lost, line.pop(MET), line["left_out"])
            if job.ranks.first:
                metrics.write(line)
                if self.progress is not None:
                    self.progress(line)
            self.learnt = self.learnt or line["tokens"] > 0
            step = self.done.step
            losses.refuse_half(ended=step == job.steps)
            if self.learnt and evaluations.due(step):
                result = evaluations.evaluate(step, line["epoch"], self._save, stop)
                if result is not None:
                    return result
            if step % job.config.save_every == 0 and step < job.steps:
                self._save()
        self._refuse_nothing(losses)
        return self._missing_evaluation(evaluations, stop, ended=True) or ""

    def _refuse_nothing(self, losses: Losses) -> None:
        """Unfit where the run has ended and no step had anything to learn from."""
        if not self.learnt:
            raise Unfit(
                f"data: after {self.done.step} steps no pair could be trained on: "
                f"{str(losses.tally) or 'no token of any target is scored'}; {losses.tally.advice()}"
            )

    def _next(self, stream: Iterator[Sequence[Batch]]) -> Sequence[Batch] | None:
        """The next step's batches, None after the last. Where a rank cannot make its own all end, the state saved."""
        batches, failed = None, None
        try:
            batches = next(stream, None)
        except Exception as error:
            failed = error
        if self.job.ranks.any(failed is not None):
            self._save_last()
            self.job.ranks.wait()
            raise failed or OSError(f"rank {self.job.ranks.rank}: another rank cannot make its batch, and says why")
        return batches

    def _missing_evaluation(
        self, evaluations: Evaluations, stop: Callable[[], bool], ended: bool = False
    ) -> str | None:
        """Evaluate the state at hand where that was due and was not done; why the run is to stop, if it is."""
        ranks = self.job.ranks
        if not ranks.any(ranks.first and evaluations.missing(self.done.step, ended)):
            return None
        return evaluations.evaluate(self.done.step, round(self._epoch(), 4), self._save, stop)

    def _step(self, batches: Sequence[Batch], waited: float) -> dict[str, Any]:
        """One step and its line; a loss that is no number stops the run, the batch kept."""
        started, number, self.stepping = time.monotonic(), self.done.step + 1, True
        try:
            line = self.trainer.step(number, batches)
        except NotFinite as error:
            where = self.folder.path / "nonfinite"
            kept = keep_batches(where, number, batches, self.job.ranks.rank)
            last = self.folder.newest()
            last_kept = f"the checkpoint of {last.name} is kept" if last else "there is no checkpoint yet"
            raise NotFinite(
                f"{self.folder.path}: {error}; the batch is kept in {kept}; {last_kept}; lower lr or clip"
            ) from None
        self.done, self.stepping = Progress(number, batches[-1].cursor, self.done.loss_before), False
        ended = time.monotonic()
        line |= {"steps": self.job.steps, "epoch": round(self._epoch(), 4)}
        line |= {"wall": now(), "data_seconds": started - waited, "compute_seconds": ended - started}
        return line | {"seconds": ended - waited}

    def _epoch(self) -> float:
        """Passes over the data so far, by the pairs that were found beforehand."""
        return self.done.cursor.met / sum(self.job.found.pairs_by_source)

    def _save(self) -> Path | None:
        """The checkpoint of this step, unless there is one, or nothing was learnt yet."""
        if self.done.step == self.saved or not self.learnt or not self.job.ranks.first:
            return self.folder.newest()
        done = self.done
        checkpoint = self.folder.save(done.step, lambda where: self.trainer.write(where, done), self.job.config.keep)
        self.saved = done.step
        return checkpoint

    def _save_last(self) -> None:
        """Save the last whole step before an error ends the run; a save that fails too is not what is to be said."""
        if self.done.step and not self.stepping:
            with contextlib.suppress(Exception):
                self._save()

    def _lines_writer(self, name: str) -> JsonLinesWriter:
        if not self.job.ranks.first:
            return JsonLinesWriter(Path(os.devnull))
        board = self.folder.path / "tensorboard" if self.job.config.tensorboard else None
        return JsonLinesWriter(self.folder.path / name, board)


class Unfit(ValueError):
    """Data that a run is not to train on: what it made of them is not saved."""


class Losses:
    """What was left out so far: counted, named in OUT/left_out.jsonl, each pair once. `epoch`: pairs of one."""

    def __init__(self, folder: RunFolder, first: bool, epoch: float) -> None:
        self.tally, self._seen = Tally(), set[int]()
        self._pairs = self._lost = 0
        self._epoch = max(1.0, epoch)
        self._file = folder.path / LEFT_OUT if first else None
        for row in read_lines(self._file) if self._file else []:
            row.pop("step")
            self._new(LeftOut(**row))

    def add(self, step: int, lost: Sequence[LeftOut], pairs: int, count: int) -> None:
        """Note a step's pairs and what it left out."""
        self._pairs, self._lost = self._pairs + pairs, self._lost + count
        new = [one for one in lost if self._new(one)]
        if new and self._file is not None:
            with contextlib.closing(JsonLinesWriter(self._file)) as journal:
                for one in new:
                    journal.write({"step": step, **vars(one)})

    def refuse_half(self, ended: bool = False) -> None:
        """Unfit where more than half of the pairs since the start had to be left out: judged from JUDGED pairs on,
        as soon as every pair of the set was met, and when the run has `ended`."""
        met = self._pairs + self._lost
        epochs, rest = divmod(met, self._epoch)
        if met < JUDGED and epochs:  # the lost of one more epoch that has begun may all have come first
            more = self._lost - min(rest, self._epoch / 2) > epochs * self._epoch / 2
        else:
            more = (met >= JUDGED or ended) and self._lost > self._pairs
        if more:
            raise Unfit(
                f"data: {self._lost} of {met} pairs could not be trained on: {self.tally}; {self.tally.advice()}"
            )

    def _new(self, lost: LeftOut) -> bool:
        text = json.dumps(vars(lost), sort_keys=True)
        key = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
        if key in self._seen:
            return False
        self._seen.add(key)
        if lost.pairs:  # else a region or text of a sample that stays
            self.tally.add(lost)
        return True


def sha256(state: dict[str, Tensor]) -> str:
    """A name for these very weights."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def _stop_asked() -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM ask the loop to stop after its step; a second one stops at once."""
    asked: list[int] = []

    def ask(number: int, frame: object) -> None:
        asked.append(number)
        signal.signal(number, before[signal.Signals(number)])

    try:
        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: the caller's to stop
        yield lambda: False
        return
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
