"""Say what a checkpoint is and whether it is whole: layout, sizes, ties, tokenizer, and a decode."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from florence2.codec.tokenizer import Tokenizer
from florence2.model.checkpoint import Checkpoint
from florence2.model.florence import Florence
from florence2.model.model_config import SIZES
from florence2.model.tensor_files import read_json
from florence2.model.tiers import quickest
from florence2.predictor import checkpoints
from florence2.predictor.florence2 import Florence2, gate_of

FREE_TOKENS = 16
LOOP = 4  # so many <s> one after another are a loop
TOLERANCE = 1e-3
# generation keys that change answers and that no search here knows -> the values that change nothing
IGNORED: dict[str, tuple[Any, ...]] = {
    "do_sample": (None, False),
    "repetition_penalty": (None, 1.0),
    "encoder_repetition_penalty": (None, 1.0),
    "encoder_no_repeat_ngram_size": (None, 0),
    "exponential_decay_length_penalty": (None,),
    "diversity_penalty": (None, 0.0),
    "num_beam_groups": (None, 1),
    "penalty_alpha": (None,),
    "min_length": (None, 0),
    "min_new_tokens": (None, 0),
    "suppress_tokens": (None, []),
    "begin_suppress_tokens": (None, []),
    "bad_words_ids": (None, []),
}


@dataclass(frozen=True)
class CheckpointReport:
    """What was found. `problems` make the checkpoint unfit; `notes` are worth knowing."""

    source: str
    layout: str
    size: str
    facts: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def examine(
    source: str | os.PathLike[str], revision: str | None = None, adapter: str | os.PathLike[str] | None = None
) -> CheckpointReport:
    """Open a checkpoint as `load` does, and check itself; what cannot be opened at all raises as in `load`."""
    found = checkpoints.find(source, revision, adapter)
    checkpoint, model, tokenizer = found.checkpoint(), found.model("float32"), found.tokenizer()
    named = str(found.adapter) if found.adapter else None
    predictor = Florence2(model, tokenizer, found.tasks())
    predictor.accelerate()
    facts = {**_facts(checkpoint, model), "adapter": named, **_vocabulary(model, tokenizer)}
    notes, problems = _findings(checkpoint, model, tokenizer)
    facts |= {"computes": predictor.info()}
    check_notes: list[str] = []
    check_problems: list[str] = []
    if not problems:
        check_notes, check_problems = self_check(predictor)
    for check in (_fast, _calibrated):
        try:
            facts |= check(found)
        except ValueError as error:
            check_problems.append(str(error))
    return CheckpointReport(
        os.fspath(source),
        checkpoint.layout,
        next((name for name, size in SIZES.items() if size.vision.dims == model.config.vision.dims), "its own"),
        facts,
        (*notes, *check_notes),
        (*problems, *check_problems),
    )


def _fast(found: checkpoints.FoundCheckpoint) -> dict[str, Any]:
    """What `load(..., speed="fast")` takes, and why."""
    gate = gate_of(found)
    return {"fast": quickest(gate).why if gate.good else gate.why}


def _calibrated(found: checkpoints.FoundCheckpoint) -> dict[str, Any]:
    """Whose scores the calibration beside the weights maps."""
    calibration = checkpoints.calibration_of(found, checkpoints.CALIBRATED_BY, found.tasks())
    return {"calibrated": sorted(calibration.maps) if calibration else None}


def self_check(model: Florence2) -> tuple[list[str], list[str]]:
    """Notes and problems of a decode: with the cache and without, without any rules, and as `predict` does it."""
    notes, problems = [], []
    encoded = model.encode_image(picture())
    prompt = torch.tensor([model.tokenizer.prompt_ids("What does the image describe?")])
    ids, gap = _free(model.model, encoded.features[None], prompt)
    if not gap < TOLERANCE:
        problems.append(f"decoding with the cache and without differ by {gap:.2g} in the logits")
    config = model.config
    if _run(ids, config.bos_id) >= LOOP:
        notes.append(
            f"without rules it loops on <s> ({_run(ids, config.bos_id)} of {FREE_TOKENS} tokens in a row), as "
            "published weights do; the official rules and the grammar forbid that"
        )
    answer = model.predict(encoded, "<CAPTION>", max_new_tokens=FREE_TOKENS)
    spoken = [i for i in answer.token_ids[1:] if i not in (config.bos_id, config.pad_id, config.eos_id)]
    if not spoken:
        problems.append(f"by its own rules ({config.rules}) it says nothing: {answer.text[:80]!r}; was it trained?")
    return notes, problems


def picture() -> np.ndarray:
    """A drawn picture: a dark disc on a light ramp, (96, 128, 3) uint8."""
    y, x = np.mgrid[0:96, 0:128]
    ramp = np.stack([x + 100, y + 120, 220 - x // 2], 2)
    disc = (x - 50) ** 2 + (y - 45) ** 2 < 900
    return np.where(disc[..., None], np.array([30, 40, 160]), ramp).clip(0, 255).astype(np.uint8)


def _facts(checkpoint: Checkpoint, model: Florence) -> dict[str, Any]:
    config = model.config
    return {
        "folder": str(checkpoint.folder),
        "weights": sorted({str(file.path.name) for file in checkpoint.tensors.files.values()}),
        "dtype": str(checkpoint.dtype).removeprefix("torch."),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "tower": {
            "dims": list(config.vision.dims),
            "depths": list(config.vision.depths),
            "window": config.vision.window,
        },
        "text": {
            "d_model": config.text.d_model,
            "layers": [config.text.encoder_layers, config.text.decoder_layers],
            "positions": config.text.max_positions,
        },
        "picture_wh": list(config.image_size_wh),
        "picture_tokens": config.image_tokens,
        "tied_head": config.text.tied_head,
        "rules": config.rules,
        "official_rules": {
            key: getattr(config, key)
            for key in ("num_beams", "no_repeat_ngram_size", "early_stopping", "length_penalty")
        },
    }


def _vocabulary(model: Florence, tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "vocabulary_rows": model.config.text.vocab_size,
        "tokenizer_ids": tokenizer.vocab_size,
        "added_tokens_appended": len(tokenizer.appended),
        "tokens_beyond_the_official": max(0, tokenizer.vocab_size - tokenizer.loc0 - 1020),  # <and> is loc0 + 1019
    }


def _findings(checkpoint: Checkpoint, model: Florence, tokenizer: Tokenizer) -> tuple[list[str], list[str]]:
    config, folder = model.config, checkpoint.folder
    notes: list[str] = []
    problems: list[str] = []
    if tokenizer.vocab_size > config.text.vocab_size:
        problems.append(
            f"the tokenizer names {tokenizer.vocab_size} ids, the weights hold {config.text.vocab_size} rows: "
            "they do not belong together"
        )
    if tokenizer.appended:
        notes.append(
            f"the tokenizer's files lack {len(tokenizer.appended)} of the 1,024 added tokens; appended in order"
        )
    if not config.text.tied_head:
        notes.append("the head is a matrix apart from the embedding, and is used as such")
    if checkpoint.layout != "florence2":
        notes += _foreign_notes(folder, checkpoint.layout, config.text.vocab_size)
    return notes, problems


def _foreign_notes(folder: Path, layout: str, rows: int) -> list[str]:
    notes = []
    data = read_json(folder / "config.json")
    declared = (data.get("text_config") or {}).get("vocab_size")
    if isinstance(declared, int) and declared != rows:
        notes.append(f"config.json says {declared} rows, the weights hold {rows}: the weights were believed")
    if not any((folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")):
        notes.append("no preprocessor_config.json: pictures of 768x768 were assumed")
    place, rules = "config.json: text_config", data.get("text_config") or {}
    if layout == "transformers":
        place = "generation_config.json"
        rules = read_json(folder / place) if (folder / place).is_file() else {}
    for key, harmless in IGNORED.items():
        if rules.get(key) not in harmless:
            notes.append(f"{place}: {key} {rules[key]!r:.40} is not followed: answers are searched by the rules above")
    return notes


@torch.inference_mode()
def _free(model: Florence, features: torch.Tensor, prompt: torch.Tensor) -> tuple[list[int], float]:
    """Token ids without any rule, and the largest gap between logits with the cache and all at once."""
    cache = model.prefill(features, prompt)
    ids, logits = [model.config.start_id], []
    for _ in range(FREE_TOKENS):
        logits.append(model.step(torch.tensor(ids[-1:]), cache)[0])
        ids.append(int(logits[-1].argmax()))
    whole = model(features, prompt, None, torch.tensor([ids[:-1]]))[0]
    return ids[1:], float((whole - torch.stack(logits)).abs().max())


def _run(ids: list[int], token: int) -> int:
    """The longest run of a token."""
    longest = run = 0
    for index in ids:
        run = run + 1 if index == token else 0
        longest = max(longest, run)
    return longest
