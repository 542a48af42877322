"""A checkpoint to a folder of ONNX graphs that was compared with it first; int8 where the gate passes it.

Its files are there once they were checked, the record last, or none is.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from florence2 import arguments, sources
from florence2.codec import official
from florence2.codec.tasks import Task, save_tasks
from florence2.evaluation.tier_gate import LEAST_AGREEMENT, TierGate, Verdict, logits_of, scored_tasks
from florence2.model.foreign import write_config
from florence2.model.tensor_files import read_json
from florence2.onnx.graphs import write_graphs
from florence2.onnx.int8_graphs import FORMS, write_int8
from florence2.onnx.onnx_folder import GRAPHS, QUANTIZED, RECORD, OnnxFolder
from florence2.onnx.onnx_model import OnnxModel, load
from florence2.predictor import checkpoints
from florence2.predictor.answer import Answer
from florence2.predictor.calibration import FILE, Calibration
from florence2.predictor.florence2 import Florence2
from florence2.records import Sample

PICTURES = 50
WORST_GAP = 0.01  # nats, of a token that both take
TIE = 0.001  # nats between two tokens, under which rounding may choose either
TOKENS = 64  # of an answer that is compared
PART = ".part"
SCENES = "scenes:200"  # what int8 is judged on where no data is given

OnLine = Callable[[str], None]


@dataclass(frozen=True)
class Exported:
    """What an export made, and the gate's verdict on int8 where it was asked for."""

    folder: OnnxFolder
    int8: Verdict | None = None


def export(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    int8: bool = False,
    data: str | None = None,
    tasks: Sequence[str] = (),
    split: str | None = None,
    format: str | None = None,
    limit: int | None = None,
    adapter: str | os.PathLike[str] | None = None,
    pictures: int = PICTURES,
    resamples: int | None = None,
    report: OnLine = lambda line: None,
) -> Exported:
    """Write the graphs of a checkpoint, its adapter merged, to the new folder OUT; `int8` those in int8 as well.

    `pictures` drawn scenes are answered by both; an id that differs refuses the export. Int8 is judged as `florence2
    quantize` judges a tier, on `data` (drawn scenes without it); graphs that hurt most stay in float32, and where that
    is not enough OUT holds float32 alone.
    """
    target = Path(arguments.path("out", out))
    with _room(target) as room:
        found = checkpoints.find(source, adapter=adapter)
        exact = Florence2(*checkpoints.open_parts(found, "float32", "cpu"))
        exact.calibration = checkpoints.calibration_of(found, "auto", exact.tasks)
        samples: list[Sample] = []
        rows: list[Task] = []
        if int8:  # before the graphs: what is wrong with the data is said at once
            samples = list(sources.open(data or SCENES, split, format, limit, tasks=exact.tasks))
            rows = scored_tasks(exact, samples, tasks, data or SCENES)
        folder = _write(exact, checkpoints.weights_sha256(found), room)
        compared = _compare(exact, load(room, threads=torch.get_num_threads()), pictures)
        ties = f"; {compared['ties']} at a tie are not" if compared["ties"] else ""
        report(f"float32: {compared['tokens']} tokens about {compared['pictures']} pictures are those of torch{ties}")
        folder = replace(folder, checked={"float32": compared})
        verdict = None
        if int8:
            gate = TierGate(exact, samples, rows, room / "gate", resamples, report)
            folder, verdict = _quantized(folder, gate, report)
            shutil.rmtree(room / "gate", ignore_errors=True)
            checked = {"data": data or SCENES, "samples": len(samples), **asdict(verdict)}
            folder = replace(folder, checked=folder.checked | {"int8": checked})
        folder.write()
    return Exported(replace(folder, path=target), verdict)


@contextmanager
def _room(target: Path) -> Iterator[Path]:
    """OUT/.part, where all is written; its files are moved to OUT at the end, the record last, or removed.

    Locked while its process lives: two exports do not meet, and what a killed one left is removed by the next. OUT may
    be an empty folder that is there already, as a volume of a container is.
    """
    import fcntl

    room, made = target / PART, not target.exists()
    _check_free(target)
    room.mkdir(parents=True, exist_ok=True)
    handle = os.open(room, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{target}: another export is writing it; wait for it, or name another folder") from None
        try:
            _check_free(target)  # another may have ended meanwhile
            for left in room.iterdir():
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            yield room
            for path in sorted(room.iterdir(), key=lambda path: path.name == RECORD):
                os.replace(path, target / path.name)
        finally:
            shutil.rmtree(room, ignore_errors=True)
            if made and not any(target.iterdir()):
                target.rmdir()
    finally:
        os.close(handle)


def _check_free(target: Path) -> None:
    if blocked := [folder for folder in target.parents if folder.exists() and not folder.is_dir()]:
        raise ValueError(f"{blocked[-1]}: is a file; expected a folder for {target.name}")
    if target.exists() and (not target.is_dir() or {path.name for path in target.iterdir()} - {PART}):
        raise ValueError(f"{target}: exists; name another folder, or remove it")


def _write(model: Florence2, sha256: str, room: Path) -> OnnxFolder:
    """The float32 graphs and the files beside them, as the published ONNX models have them."""
    (room / "onnx").mkdir()
    write_graphs(model.model, room / "onnx")
    files = write_config(model.config, "microsoft", "float32")
    files["generation_config.json"] = write_config(model.config, "transformers", "float32")["generation_config.json"]
    files["preprocessor_config.json"] |= _prompts(model.tasks)
    for name, content in files.items():
        _write_json(room / name, content)
    _name_dtypes(room, ())
    model.tokenizer.save(room)
    save_tasks(model.tasks, room)
    if isinstance(model.calibration, Calibration):
        model.calibration.save(room / FILE)
    folder = OnnxFolder(room, model.config, sha256, {}, {}).measured()
    folder.write()
    return folder


def _prompts(tasks: Mapping[str, Task]) -> dict[str, dict[str, str]]:
    """The tables of tasks that transformers.js reads beside the picture's size.

    It removes the task's token from a prompt that it fills; a prompt that holds it is left out of the table, and then
    taken as it was given, token and text.
    """
    plain = {token: task.prompt for token, task in tasks.items() if not task.input_kind}
    filled = {t: task.prompt for t, task in tasks.items() if task.input_kind and t not in task.prompt}
    kinds = {token: official.KINDS[task.output_kind] for token, task in tasks.items()}
    return {
        "tasks_answer_post_processing_type": kinds,
        "task_prompts_without_inputs": plain,
        "task_prompts_with_input": filled,
    }


def _name_dtypes(room: Path, int8: Collection[str]) -> None:
    """In config.json the graphs that transformers.js takes where it is told none: a browser would look for int8's."""
    path = room / "config.json"
    dtypes = {name: "q8" if name in int8 else "fp32" for name in GRAPHS}
    _write_json(path, read_json(path) | {"transformers.js_config": {"dtype": dtypes}})


def _compare(exact: Florence2, exported: OnnxModel, pictures: int) -> dict[str, Any]:
    """Greedy answers of both about drawn pictures, the tasks in turn; ValueError where an id differs.

    Where torch itself holds both ids for equally likely, rounding decides: that is counted, and the answer compared up
    to there.
    """
    tasks = [token for token, task in exact.tasks.items() if not task.input_kind]
    budget = min(TOKENS, exact.config.text.max_positions)
    tokens, ties, worst = 0, 0, 0.0
    for number, sample in enumerate(_scenes(pictures)):
        task = tasks[number % len(tasks)]
        wanted, got = (
            model.predict(sample.image, task, num_beams=1, max_new_tokens=budget) for model in (exact, exported)
        )
        end = _first_difference(wanted, got)
        gaps = [abs(a - b) for a, b in zip(wanted.token_logprobs[:end], got.token_logprobs[:end])]
        place = f"picture {number + 1} of {pictures}, {task}"
        if not max(gaps) <= WORST_GAP:
            raise ValueError(
                f"export: {place}: log-probabilities differ by {max(gaps):.2g}, expected "
                f"at most {WORST_GAP:g}; the graphs do not compute what the model does; nothing was written"
            )
        if end < max(len(wanted.token_ids), len(got.token_ids)):
            if not _tied(exact, wanted, got, end):
                raise ValueError(
                    f"export: {place}: token {end} is {wanted.token_ids[end : end + 1]} in torch, "
                    f"{got.token_ids[end : end + 1]} in onnxruntime; "
                    "the graphs do not compute what the model does; nothing was written"
                )
            ties += 1
        tokens += end - 1
        worst = max(worst, *gaps)
    return {"pictures": pictures, "tokens": tokens, "ties": ties, "max_abs_logprob": worst}


def _tied(exact: Florence2, wanted: Answer, got: Answer, place: int) -> bool:
    """Whether torch has less than a rounding error between the ids that two answers have at a place."""
    if place >= min(len(wanted.token_ids), len(got.token_ids)):
        return False
    logits = logits_of(exact, wanted)[place - 1]
    return bool(logits[wanted.token_ids[place]] - logits[got.token_ids[place]] <= TIE)


def _scenes(count: int) -> Iterator[Sample]:
    yield from sources.open(f"scenes:{count}")


def _first_difference(one: Answer, other: Answer) -> int:
    pairs = enumerate(zip(one.token_ids, other.token_ids))
    return next((n for n, (a, b) in pairs if a != b), min(len(one.token_ids), len(other.token_ids)))


def _quantized(folder: OnnxFolder, gate: TierGate, report: OnLine) -> tuple[OnnxFolder, Verdict]:
    """The folder with int8 graphs beside the others: each in its quickest form that is near enough alone, and as many
    of them as are near enough together; none where the gate refuses those."""

    def model_of(names: Sequence[str]) -> OnnxModel:
        tried = replace(folder.measured(), int8=tuple(names))
        tried.write()
        return load(folder.path, quantize="int8", threads=torch.get_num_threads())

    alone: dict[str, float] = {}
    for name, forms in FORMS.items():
        agreements: dict[str, float] = {}
        for form in forms:
            write_int8(folder.path / "onnx", name, form)
            agreements[form] = gate.agreement(model_of([name]))[0]
            report(f"int8, {name}, {form}: {agreements[form]:.1%} of tokens agree")
            if agreements[form] >= 1 - (1 - LEAST_AGREEMENT) / len(GRAPHS):
                break
        best = max(agreements, key=lambda form: agreements[form])
        alone[name] = agreements[best]
        if best != form:
            write_int8(folder.path / "onnx", name, best)
    names: list[str] = []
    for name in sorted(alone, key=lambda name: -alone[name]):
        if alone[name] >= LEAST_AGREEMENT and gate.agreement(model_of([*names, name]))[0] >= LEAST_AGREEMENT:
            names.append(name)
    names = [name for name in GRAPHS if name in names]
    kept = [name for name in GRAPHS if name not in names]
    if names:
        verdict = gate.judge(model_of(names), "int8", kept)
        names = names if verdict.passed else []
    else:
        tokens = sum(map(len, gate.picks))
        verdict = Verdict(False, "every graph would have to stay in float32", min(alone.values()), tokens, kept)
    for name in set(GRAPHS) - set(names):
        (folder.path / "onnx" / f"{name}{QUANTIZED}.onnx").unlink()
    _name_dtypes(folder.path, names)
    return replace(folder.measured(), int8=tuple(names)), verdict


def _write_json(path: Path, data: object) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
