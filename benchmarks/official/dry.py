"""Tiny random checkpoints in every layout in which people have Florence-2, to try the command on without a network."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import florence2
from benchmarks.official.compare import PUBLISHED_TOKENS, Plan, Vector
from florence2.codec.tokenizer import Tokenizer
from florence2.model.checkpoint import load_model
from florence2.predictor import Florence2
from tests.parity.twins import lively, tiny

TOKENS = 16
KNOWN = "<OD>"  # the task of which an answer is taken as published
LINES = ["a red car beside a green tree", "Locate the objects with category name in the image."]


def dry_plan(folder: Path, pictures: dict, tasks: list[str]) -> Plan:
    """Checkpoints in a folder; the answers of the first, read as ours, stand for published ones of the others."""
    sources = write_all(folder)
    name, picture = next(iter(pictures.items()))
    answer = florence2.load(folder / "ours").predict(picture, KNOWN, official=True, max_new_tokens=PUBLISHED_TOKENS)
    vectors: dict[str, list[Vector]] = {source: [(name, KNOWN, answer.token_ids)] for source in sources[:2]}
    twins = [(sources[1], next(source for source in sources if source.endswith("transformers")))]
    return Plan(sources, {name: picture}, tasks, TOKENS, twins=twins, vectors=vectors)


def write_all(folder: Path) -> list[str]:
    """The folders of all layouts, and what people do to them."""
    tokenizer = official_tokenizer() or Tokenizer.train(LINES * 4, 320)
    config = dataclasses.replace(tiny(96, vocab_size=tokenizer.vocab_size), image_id=None, rules="official")
    model = Florence2(lively(config, eos=1.4, location=1.3).half().float(), tokenizer)
    model.model.stored = torch.float16  # as the published ones
    for layout in ("microsoft", "transformers"):
        model.save(folder / layout, layout)
    model.save(folder / "ours")
    _pickled(_copy(folder / "microsoft", "microsoft-bin"))
    _sharded(_copy(folder / "transformers", "transformers-shards"))
    _pickled(_copy(folder / "transformers", "transformers-bin"))
    _fine_tune(_copy(folder / "microsoft", "fine-tune"))
    _long(model, folder / "long")
    _adapter(folder / "microsoft", folder / "adapter")
    names = ("microsoft-bin", "microsoft", "transformers", "transformers-shards", "transformers-bin", "ours")
    return [str(folder / name) for name in (*names, "fine-tune", "long", "adapter")]


def official_tokenizer() -> Tokenizer | None:
    """The real one, where the optional test data is."""
    checkout = Path(__file__).resolve().parents[2]
    for root in (os.environ.get("FLORENCE2_SHARED", ""), checkout.parent / "shared", checkout.parent.parent / "shared"):
        folder = Path(root) / "tokenizers" / "florence2"
        if root and folder.is_dir():
            return Tokenizer.load(folder)
    return None


def _copy(folder: Path, name: str) -> Path:
    return shutil.copytree(folder, folder.parent / name)


def _pickled(folder: Path) -> None:
    """The weights as pytorch_model.bin."""
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def _sharded(folder: Path) -> None:
    """The weights in two files behind an index."""
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    rows = {key: names[place % 2] for place, key in enumerate(state)}
    for name in names:
        save_file({key: state[key] for key, where in rows.items() if where == name}, folder / name, {"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": rows}))


def _fine_tune(folder: Path) -> None:
    """What a training of the remote code leaves: an empty model_type, wrong ids at the top, a bare `tokenizer.json`."""
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["model_type"] = ""
    config |= {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
    (folder / "config.json").write_text(json.dumps(config))
    content = json.loads((folder / "tokenizer.json").read_text())
    added = [row for row in content["added_tokens"] if row["content"] in ("<s>", "<pad>", "</s>", "<unk>", "<mask>")]
    (folder / "tokenizer.json").write_text(json.dumps({**content, "added_tokens": added}))
    (folder / "added_tokens.json").unlink()


def _long(model: Florence2, folder: Path) -> None:
    """4,096 positions, as the newest large one has."""
    config = dataclasses.replace(
        model.config, text=dataclasses.replace(model.config.text, max_positions=4096), image_id=None
    )
    Florence2(lively(config, eos=1.4, location=1.3), model.tokenizer).save(folder, "microsoft")


def _adapter(base: Path, folder: Path) -> None:
    """A LoRA folder that names its base."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    settings = LoraConfig(r=4, target_modules=r".*\.(attention|cross)\.(q|v)", init_lora_weights=False)
    adapted = get_peft_model(load_model(base), settings)
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    adapted.save_pretrained(folder)
