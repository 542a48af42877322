"""Checkpoints damaged in each of their files: opened, converted or refused in one line that names the file.

Of the weights the header is damaged most; a number changed within a tensor cannot be told.
"""

import json
import random
import shutil
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from florence2.predictor import checkpoints
from tests.fuzz.attempts import Attempt, limited, one_line
from tests.fuzz.damage import damaged_binary, damaged_bytes, damaged_json
from tests.training.tiny import tiny_model

LAYOUTS = ("florence2", "microsoft", "transformers")


def drawn(base):
    """Layout -> a folder with a tiny checkpoint; "adapter" a LoRA of the first."""
    tiny_model(base / "florence2")
    found = checkpoints.find(base / "florence2")
    parts = checkpoints.open_parts(found)
    for layout in LAYOUTS[1:]:
        checkpoints.save(parts.model, parts.tokenizer, parts.tasks, base / layout, layout)
    adapter = base / "adapter"
    adapter.mkdir()
    module = "base_model.model.language_model.model.decoder.layers.0.fc1"
    width, hidden = 32, 64
    save_file({f"{module}.lora_A.weight": torch.ones(2, width), f"{module}.lora_B.weight": torch.ones(hidden, 2)},
              adapter / "adapter_model.safetensors")  # fmt: skip
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "base_model_name_or_path": "../florence2",
                "target_modules": ["fc1"], "bias": "none", "rank_pattern": {}, "alpha_pattern": {},
                "use_dora": False}  # fmt: skip
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    return {name: base / name for name in (*LAYOUTS, "adapter")}


def attempts(seed):
    """Damaged checkpoints of each layout in turn, without end."""
    base = Path(tempfile.mkdtemp(prefix="fuzz-checkpoints-"))
    try:
        folders = drawn(base)
        for folder in folders.values():
            assert not _fault(folder, 0, base), _fault(folder, 0, base)
        number = 0
        while True:
            for layout, folder in folders.items():
                rng = random.Random(f"{seed}-{layout}-{number}")
                file = rng.choice(sorted(path for path in folder.iterdir() if path.is_file()))
                whole = file.read_bytes()
                what, data = _damaged(rng, file, whole)
                if data is None:
                    file.unlink()
                else:
                    file.write_bytes(data)
                fault = _fault(folder, len(data or b""), base)
                file.write_bytes(whole)
                yield Attempt(f"{layout}, {file.name}", f"seed {seed}, number {number}: {what}", fault)
            number += 1
    finally:
        shutil.rmtree(base, ignore_errors=True)


def _damaged(rng, file, whole):
    if rng.random() < 0.05:
        return "deleted", None
    if file.suffix == ".json":
        return damaged_json(rng, whole)
    if file.suffix == ".txt":
        return damaged_bytes(rng, whole)
    length = int.from_bytes(whole[:8], "little")
    if rng.random() < 0.6:
        what, head = damaged_json(rng, whole[8 : 8 + length])
        return what, len(head).to_bytes(8, "little") + head + whole[8 + length :]
    return damaged_binary(rng, whole, end=rng.choice((8, 8 + length)))


def _fault(folder, size, base):
    faults = []
    with limited(10_000_000 + size, faults):
        try:
            parts = checkpoints.open_parts(checkpoints.find(folder))
            if any(not tensor.isfinite().all() for tensor in parts.model.state_dict().values()):
                faults.append("weights that are no numbers")
        except (ValueError, OSError) as error:
            faults.append(one_line(error, base))
        except Exception as error:
            faults.append(f"{type(error).__name__}: {str(error)[:300]}")
    return "; ".join(filter(None, faults))
