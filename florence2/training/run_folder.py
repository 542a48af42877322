"""The folder of a run: whose run it is, who writes to it now, its checkpoints. Knows files, not what is trained.

    OUT/config.yaml          the run's settings, written before its first step
    OUT/held_out.json        what each source keeps out of training, fixed before the first step
    OUT/metrics.jsonl        a line a step; evaluations.jsonl, left_out.jsonl likewise
    OUT/checkpoints/step-N/  a checkpoint and, in `state/`, what a resumed run goes on from
    OUT/*                    the files of the newest checkpoint (hard links), so that `load(OUT)` opens it
    OUT/best/                the checkpoint that evaluated best

A checkpoint is written under another name and renamed once it is whole and on disk: whatever stops a run, also in
mid-save, the last good one is kept.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TextIO

import yaml
from safetensors import SafetensorError

from florence2.atomic_files import sync_folder, write_atomic
from florence2.formats import documents
from florence2.structuring import parse_json
from florence2.training.config import TrainConfig
from florence2.training.config_files import from_mapping, to_mapping

CONFIG = "config.yaml"
HELD_OUT_FILE = "held_out.json"
METRICS = "metrics.jsonl"
EVALUATIONS = "evaluations.jsonl"
LEFT_OUT = "left_out.jsonl"
CHECKPOINTS = "checkpoints"
STATE = "state"
PROGRESS = "progress.json"  # beside the tensors of a state
BEST = "best"
LOCK = ".lock"
WORKER_GONE = "DataLoader worker"  # how torch begins when a process that makes batches was killed
NEW, OLD = ".new", ".old"
WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "*.bin", "state.pt")

# keys that a resumed run may change; `steps` not below what is done, `epochs` only upwards
UPWARDS = ("steps", "epochs")
CHANGEABLE = {
    *("out", "device", "threads", "workers", "save_every", "keep", "evaluate_every", "patience", "tensorboard"),
    *("cache_folder", "cache_gb"),
}


class RunFolder:
    """OUT and its checkpoints."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.checkpoints = self.path / CHECKPOINTS

    def refuse_another(self, config: TrainConfig) -> None:
        """ValueError where OUT holds anything that this run would train over; nothing is touched."""
        self._refuse_file()
        if not (self.path / CONFIG).is_file():
            weights = self._weights()
            if weights or self.newest() is not None:
                what = weights[0] if weights else CHECKPOINTS
                raise ValueError(
                    f"out: {self.path}: holds {what} and no {CONFIG} of a run to go on with; "
                    "name another out, or move it aside with --restart"
                )
            return
        newest = self.newest()
        done = int(newest.name.rpartition("-")[2]) if newest else 0
        differences = _differences(self.path / CONFIG, config)
        if not config.epochs and config.steps < done:
            differences.append(f"steps: {done} are done, {config.steps} asked for")
        if differences:
            raise ValueError(
                f"out: {self.path}: holds another run: {'; '.join(differences)}; "
                "give the keys as they were, name another out, or move the old run aside with --restart"
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only run in OUT; released when the process ends, however it ends."""
        self.path.mkdir(parents=True, exist_ok=True)
        with self._alone() as file:
            file.truncate(0)
            file.write(f"process {os.getpid()}\n")
            file.flush()
            yield

    @contextmanager
    def _alone(self) -> Iterator[TextIO]:
        """Hold OUT's lock file; ValueError names who has it."""
        import fcntl

        with open(self.path / LOCK, "a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.seek(0)
                who = file.read().strip() or "another process"
                raise ValueError(f"out: {self.path}: {who} is training into it; wait, or name another out") from None
            yield file

    def move_aside(self) -> Path | None:
        """Rename OUT to the first free of OUT.1, OUT.2, ...; where it went, None where there was no run and no weights.
        ValueError where a run is under way in it."""
        self._refuse_file()
        with self._alone() if (self.path / LOCK).is_file() else nullcontext():
            if not self._holds_run():
                return None
            number = 1
            while (aside := self.path.with_name(f"{self.path.name}.{number}")).exists():
                number += 1
            self.path.rename(aside)
        return aside

    def refuse_needed(self, needed: Mapping[str, str]) -> None:
        """ValueError where OUT would be moved aside and holds what the new run reads: `needed` paths by their keys."""
        if not self._holds_run():
            return
        out, here = self.path.resolve(), Path.cwd()
        if out in (here, *here.parents):
            raise ValueError(f"out: {self.path}: --restart cannot move aside the folder that you are in; name another")
        for key, path in needed.items():
            if path and out in (Path(path).resolve(), *Path(path).resolve().parents):
                raise ValueError(
                    f"{key}: {path}: lies in out, which --restart would move aside; name another out, or copy it "
                    "elsewhere first"
                )

    def refuse_overtaken(self, resumed: Path | None) -> None:
        """ValueError where another run has saved into OUT since `resumed` was found to be its newest checkpoint."""
        if self.newest() != resumed:
            raise ValueError(
                f"out: {self.path}: another run has trained into it meanwhile; run the same command again to go on"
            )

    def _weights(self) -> list[str]:
        return [file.name for pattern in WEIGHTS for file in self.path.glob(pattern)]

    def _holds_run(self) -> bool:
        return (self.path / CONFIG).is_file() or bool(self._weights()) or self.newest() is not None

    def _refuse_file(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"out: {self.path}: expected a folder, got a file; name another out")

    def refuse_busy(self) -> None:
        """ValueError where a run is under way in OUT: found before the data are examined, which may take long."""
        if (self.path / LOCK).is_file():
            with self._alone():
                pass

    def begin(self, config: TrainConfig, step: int, held_out: Sequence[Any] = ()) -> None:
        """Remove what an interrupted save left, cut the journals back to `step`, write the config and what is held
        out."""
        for folder in (*self.checkpoints.glob(f"*{NEW}"), *self.path.glob(f"*{NEW}")):
            shutil.rmtree(folder) if folder.is_dir() else folder.unlink()
        if (self.path / f"{BEST}{OLD}").is_dir():  # stopped between two renames
            if (self.path / BEST).is_dir():
                shutil.rmtree(self.path / f"{BEST}{OLD}")
            else:
                (self.path / f"{BEST}{OLD}").rename(self.path / BEST)
        newest = self.newest()
        if newest is not None and not self._is_published(newest):  # stopped between a save and its files in OUT
            self._publish(newest)
        for name in (METRICS, EVALUATIONS, LEFT_OUT):
            _cut_back(self.path / name, step)
        text = yaml.safe_dump(to_mapping(config), sort_keys=False)
        write_atomic(self.path / HELD_OUT_FILE, json.dumps(list(held_out)) + "\n", sole=True)
        write_atomic(self.path / CONFIG, text, sole=True)

    # checkpoints

    def newest(self) -> Path | None:
        """The newest whole checkpoint."""
        found = self._all()
        return found[-1] if found else None

    def save(self, step: int, write: Callable[[Path], None], keep: int) -> Path:
        """A checkpoint made by `write(folder)`; OSError in one line where it cannot be written, the last one kept."""
        final = self.checkpoints / f"step-{step:08d}"
        if final.is_dir():
            return final
        new = final.with_name(final.name + NEW)
        try:
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir(parents=True)
            write(new)
            _sync(new)
            new.rename(final)
            sync_folder(self.checkpoints)
            self._publish(final)
        except (OSError, RuntimeError, SafetensorError) as error:
            shutil.rmtree(new, ignore_errors=True)
            if WORKER_GONE in str(error):  # torch says so wherever the main thread happens to be
                raise
            last = self.newest()
            last_kept = f"the checkpoint of {last.name} is kept" if last else "there is no earlier checkpoint"
            raise OSError(
                f"{self.path}: step {step}: cannot be saved ({_first_line(error)}); {last_kept}; make room and run the "
                "same command again"
            ) from None
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
        for old in self._all()[:-keep]:
            shutil.rmtree(old)
        for old in self._all()[:-1]:  # only the newest is gone on from
            shutil.rmtree(old / STATE, ignore_errors=True)
        return final

    def keep_best(self, checkpoint: Path, facts: Mapping[str, Any]) -> None:
        """Make a checkpoint the best one, `facts` beside it in best.json."""
        new, best, old = self.path / f"{BEST}{NEW}", self.path / BEST, self.path / f"{BEST}{OLD}"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        for file in checkpoint.iterdir():
            if file.is_file():
                _link(file, new / file.name)
        (new / "best.json").write_text(json.dumps(dict(facts)) + "\n", encoding="utf-8")
        _sync(new)
        shutil.rmtree(old, ignore_errors=True)
        if best.is_dir():
            best.rename(old)
        new.rename(best)
        shutil.rmtree(old, ignore_errors=True)

    def best_facts(self) -> dict[str, Any]:
        """What best.json holds; empty where nothing was evaluated."""
        file = self.path / BEST / "best.json"
        return documents.read_object(file, "metric", "value", "step") if file.is_file() else {}

    def _all(self) -> list[Path]:
        """The whole checkpoints, oldest first."""
        return sorted(p for p in self.checkpoints.glob("step-*") if not p.name.endswith(NEW))

    def _is_published(self, checkpoint: Path) -> bool:
        """Whether OUT's files are the checkpoint's own."""
        pairs = [(file, self.path / file.name) for file in checkpoint.iterdir() if file.is_file()]
        return all(there.is_file() and there.samefile(file) for file, there in pairs)

    def _publish(self, checkpoint: Path) -> None:
        """Link the checkpoint's files into OUT, each put in place whole."""
        for file in checkpoint.iterdir():
            if file.is_file():
                aside = self.path / (file.name + NEW)
                aside.unlink(missing_ok=True)
                _link(file, aside)
                aside.replace(self.path / file.name)
        sync_folder(self.path)


class JsonLinesWriter:
    """A file of JSON lines that is appended to, each line flushed; where `board` is given, TensorBoard's too."""

    def __init__(self, path: Path, board: Path | None = None) -> None:
        self._file = open(path, "a", encoding="utf-8")
        self._board = None
        if board is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(board))

    def write(self, line: Mapping[str, Any]) -> None:
        """Append one line; OSError in one line where the disk is full."""
        try:
            self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise OSError(f"{self._file.name}: cannot be written ({error.strerror}); make room and run again") from None
        if self._board is not None:
            for name, value in {**line, **line.get("metrics", {})}.items():
                if isinstance(value, (int, float)) and name not in ("step", "steps", "wall"):
                    self._board.add_scalar(name, value, line["step"])
            self._board.flush()

    def close(self) -> None:
        if self._board is not None:
            self._board.close()
        try:
            self._file.close()
        except OSError:  # what could not be written has been reported
            pass


def remembered_of(checkpoint: Path) -> list[Any] | None:
    """What the run of a checkpoint holds out, by source; None where it was begun before that was written down."""
    file = checkpoint.parent.parent / HELD_OUT_FILE
    return documents.read_json(file) if file.is_file() else None


def progress_of(checkpoint: Path, size: int) -> tuple[int, int]:
    """The step of a checkpoint and the pairs met until then; where that was not written down, steps of `size`."""
    step = int(checkpoint.name.rpartition("-")[2])
    try:
        return step, int(documents.read_json(checkpoint / STATE / PROGRESS)["cursor"]["met"])
    except (OSError, ValueError, KeyError, TypeError):  # a damaged one is refused when the state is taken over
        return step, step * size


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a journal, a torn last one left out."""
    if not path.is_file():
        return []
    lines = documents.read_text(path).split("\n")[:-1]
    return [documents.parse_json(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()]


def _differences(file: Path, config: TrainConfig) -> list[str]:
    """The keys by which a run's settings differ from its file, those apart that may change."""
    try:
        before = to_mapping(from_mapping(documents.read_settings(file), str(file)))
    except (ValueError, TypeError) as error:
        return [f"{file} cannot be read ({_first_line(error)})"]
    old, new = _flat(before), _flat(to_mapping(config))
    out = []
    for key in [*old, *(key for key in new if key not in old)]:
        top = key.split(".")[0]
        one, other = old.get(key), new.get(key)
        if one == other or top in CHANGEABLE or (top == "validation" and before.get(top) is None):
            continue  # `validation` may come later: it holds nothing out
        if key == "epochs" and one and other and other < one:
            out.append(f"epochs is {one} there, {other} here, and can only be raised")
        if key in UPWARDS:
            continue
        out.append(f"{key} is {one!r} there, {other!r} here")
    return out


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    """Nested settings as one level of dotted keys."""
    if isinstance(value, Mapping) and value:
        pairs = [(str(name), inner) for name, inner in value.items()]
    elif isinstance(value, list) and value and isinstance(value[0], Mapping):
        pairs = [(str(number), inner) for number, inner in enumerate(value)]
    else:
        return {key: value}
    return {k: v for name, inner in pairs for k, v in _flat(inner, f"{key}.{name}" if key else name).items()}


def _cut_back(file: Path, step: int) -> None:
    """Leave only the whole lines of steps up to `step`."""
    if not file.is_file():
        return
    rows = []
    for line in file.read_text(encoding="utf-8").split("\n"):
        try:
            rows.append((parse_json(line)["step"], line))
        except (ValueError, KeyError, TypeError):  # torn, or empty
            continue
    write_atomic(file, "".join(line + "\n" for number, line in rows if number <= step), sole=True)


def _link(source: Path, target: Path) -> None:
    """A hard link, or a copy where the file system has none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _sync(folder: Path) -> None:
    """Make every file below `folder` durable."""
    for file in folder.rglob("*"):
        if file.is_file():
            with open(file, "rb") as opened:
                os.fsync(opened.fileno())
    sync_folder(folder)


def _first_line(error: BaseException) -> str:
    if "enforce fail at inline_container" in str(error):  # torch's own words for a file that it cannot write whole
        return "the disk takes no whole state"
    return (str(error).strip().split("\n") or [""])[0][:200] or type(error).__name__
