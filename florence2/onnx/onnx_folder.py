"""The folder of an exported model: the names that transformers.js expects, and one file of our own.

OUT/onnx/vision_encoder.onnx         pixel_values -> image_features
OUT/onnx/embed_tokens.onnx           input_ids -> inputs_embeds
OUT/onnx/encoder_model.onnx          inputs_embeds, attention_mask -> last_hidden_state
OUT/onnx/decoder_model_merged.onnx   inputs_embeds, encoder_hidden_states, encoder_attention_mask, use_cache_branch,
                                     past_key_values.* -> logits, present.*
OUT/onnx/*_quantized.onnx            the same in int8
OUT/config.json, generation_config.json, preprocessor_config.json, tokenizer files     as the published models have
OUT/florence2_onnx.json              what is here, from which weights, and how it was checked
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from florence2.atomic_files import write_atomic
from florence2.model.model_config import ModelConfig, from_json, to_json
from florence2.structuring import parse_json

RECORD = "florence2_onnx.json"
GRAPHS = ("vision_encoder", "embed_tokens", "encoder_model", "decoder_model_merged")
QUANTIZED = "_quantized"
BLOCK = 1 << 22


@dataclass(frozen=True)
class OnnxFolder:
    """What an exported model's folder holds."""

    path: Path
    config: ModelConfig
    weights_sha256: str
    """Of the checkpoint that was exported: what a calibration names."""
    sizes: dict[str, int]
    """Graph's file name -> bytes."""
    crc32: dict[str, int]
    """Graph's file name -> its checksum."""
    int8: tuple[str, ...] = ()
    """The graphs that int8 has; the others are taken in float32."""
    checked: dict[str, Any] = field(default_factory=dict)
    """How many pictures and tokens were compared; the gate's verdict on int8."""

    def graph(self, name: str, quantize: str | None = None) -> Path:
        """The file of a graph, in int8 where asked and there."""
        suffix = QUANTIZED if quantize == "int8" and name in self.int8 else ""
        return self.path / "onnx" / f"{name}{suffix}.onnx"

    def measured(self) -> OnnxFolder:
        """The same with the sizes and checksums of the graphs that are there."""
        files = sorted((self.path / "onnx").iterdir())
        return replace(self, sizes={f.name: f.stat().st_size for f in files}, crc32={f.name: _crc32(f) for f in files})

    def write(self) -> None:
        """The record; the last file that an export writes."""
        record = {
            "config": to_json(self.config),
            "weights_sha256": self.weights_sha256,
            "sizes": self.sizes,
            "crc32": self.crc32,
            "int8": list(self.int8),
            "checked": self.checked,
        }
        write_atomic(self.path / RECORD, json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def open_folder(folder: Path) -> OnnxFolder:
    """The folder, if its record is whole and every graph has the size and checksum that it states."""
    file = folder / RECORD
    if not file.is_file():
        if any(folder.glob("onnx/*.onnx")) or any(folder.glob("*.onnx")):
            raise ValueError(
                f"{folder}: holds graphs of another exporter, or of an export that was cut short: {RECORD} is missing; "
                "export the checkpoint itself by florence2 export-model"
            )
        raise ValueError(
            f"{file}: does not exist; expected a folder that florence2 export-model wrote (other checkpoints: "
            "florence2.load)"
        )
    try:
        data = parse_json(file.read_text(encoding="utf-8"))
        found = OnnxFolder(
            path=folder,
            config=from_json(data["config"]),
            weights_sha256=str(data["weights_sha256"]),
            sizes={str(name): int(size) for name, size in data["sizes"].items()},
            crc32={str(name): int(crc) for name, crc in data["crc32"].items()},
            int8=tuple(name for name in GRAPHS if name in data["int8"]),
            checked=dict(data["checked"]),
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{file}: not the record of an export ({error!r:.200}); export the model again") from None
    names = [found.graph(name).name for name in GRAPHS] + [found.graph(name, "int8").name for name in found.int8]
    for name in names:
        path, wanted = folder / "onnx" / name, found.sizes.get(name)
        got = path.stat().st_size if path.is_file() else None
        if wanted is None or got != wanted:
            raise ValueError(f"{path}: expected {wanted} bytes, as {RECORD} says, got {got}; export or copy it again")
        if _crc32(path) != found.crc32.get(name):
            raise ValueError(f"{path}: damaged: its bytes do not match its checksum; export or copy it again")
    return found


def _crc32(path: Path) -> int:
    found = 0
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            found = zlib.crc32(block, found)
    return found
