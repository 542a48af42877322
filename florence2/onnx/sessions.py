"""The graphs run by onnxruntime, as a model that a search can step: numpy in, numpy out. Knows no torch.

Legend: B pictures, P prompts, R rows being decoded, N picture vectors, L prompt tokens, M = N + L, T tokens, C d_model,
G heads, D = C/G, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime
from onnxruntime import OrtValue

from florence2.arrays import NumpyArrays
from florence2.labels import one_line
from florence2.model.model_config import ModelConfig
from florence2.onnx.onnx_folder import GRAPHS, OnnxFolder

KINDS = ("key", "value")
INPUTS = {
    "vision_encoder": ("pixel_values",),
    "embed_tokens": ("input_ids",),
    "encoder_model": ("inputs_embeds", "attention_mask"),
    "decoder_model_merged": (
        "inputs_embeds", "encoder_hidden_states", "encoder_attention_mask", "use_cache_branch",
    ),
}  # fmt: skip


class OnnxNetwork:
    """Exported graphs with the calls that `Florence` has."""

    arrays = NumpyArrays()
    joins = False  # the decoder's graph knows rows of one length
    in_runs = False

    def __init__(
        self, folder: OnnxFolder, quantize: str | None, threads: int | None, providers: Sequence[str] = ()
    ) -> None:
        self.config: ModelConfig = folder.config
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # others want to compute too
        self.sessions = {name: _session(folder.graph(name, quantize), options, providers) for name in GRAPHS}
        layers = range(self.config.text.decoder_layers)
        self.own = [f"{layer}.decoder.{kind}" for layer in layers for kind in KINDS]
        self.cross = [f"{layer}.encoder.{kind}" for layer in layers for kind in KINDS]
        self._check_inputs(folder, quantize)

    def _check_inputs(self, folder: OnnxFolder, quantize: str | None) -> None:
        """Refuse a graph that is not the one its name and the record say."""
        for graph, session in self.sessions.items():
            pasts = [f"past_key_values.{name}" for name in (*self.own, *self.cross)]
            wanted = {*INPUTS[graph], *(pasts if graph == "decoder_model_merged" else ())}
            got = {value.name for value in session.get_inputs()}
            if got != wanted:
                raise ValueError(
                    f"{folder.graph(graph, quantize)}: expected the inputs {_some(wanted)}, got {_some(got)}; "
                    "it is not of this model: export again"
                )

    def encode_image(self, pixels: np.ndarray) -> np.ndarray:
        """(B, 3, H, W) pixels to (B, N, C)."""
        return self._run("vision_encoder", {"pixel_values": pixels})[0]

    def prefill(self, image_features: np.ndarray, prompt_ids: np.ndarray, prompt_mask: np.ndarray | None) -> OnnxCache:
        """Read pictures' features (P, N, C) and prompts (P, L); a cache of one row each."""
        mask = np.ones(prompt_ids.shape, np.int64) if prompt_mask is None else prompt_mask.astype(np.int64)
        mask = np.concatenate([np.ones(image_features.shape[:2], np.int64), mask], 1)
        embedded = np.concatenate([image_features, self._embed(prompt_ids)], 1)
        if embedded.shape[1] > self.config.text.max_positions:
            raise ValueError(
                f"prompt: expected at most {self.config.text.max_positions} positions with the picture, got "
                f"{embedded.shape[1]}; shorten the prompt"
            )
        hidden = self._run("encoder_model", {"inputs_embeds": embedded, "attention_mask": mask})[0]
        return OnnxCache(hidden, mask)

    def states(self, ids: np.ndarray, cache: OnnxCache) -> np.ndarray:
        """(R, V): here a state is its logits, which the decoder's graph gives."""
        return self._decode(ids[:, None], cache)[:, -1]

    def logits(self, states: np.ndarray, span: tuple[int, int] | None = None) -> np.ndarray:
        """Logits (R, V) of states; of a span of ids only those."""
        return states if span is None else states[:, span[0] : span[1]]

    def __call__(
        self, image_features: np.ndarray, prompt_ids: np.ndarray, prompt_mask: np.ndarray | None, ids: np.ndarray
    ) -> np.ndarray:
        """Logits (P, T, V) after every token of ids (P, T) at once."""
        return self._decode(ids, self.prefill(image_features, prompt_ids, prompt_mask))

    def _decode(self, ids: np.ndarray, cache: OnnxCache) -> np.ndarray:
        """Logits (R, T, V) of T more tokens a row, (R, T); the cache takes them in."""
        text = self.config.text
        rows, begun = len(ids), bool(cache.own)
        if cache.length + ids.shape[1] > text.max_positions:
            raise ValueError(f"answer: the model holds {text.max_positions} positions; ask for fewer new tokens")
        width = text.d_model // text.decoder_heads
        none = _value(np.zeros((rows, text.decoder_heads, 0, width), np.float32))
        feeds = {
            "inputs_embeds": _value(self._embed(ids)),
            "encoder_hidden_states": _value(cache.hidden[:, :0] if begun else cache.hidden),  # read once
            "encoder_attention_mask": _value(cache.mask),
            "use_cache_branch": _value(np.array([begun])),
            **{f"past_key_values.{name}": cache.own.get(name, none) for name in self.own},
            **{f"past_key_values.{name}": cache.cross.get(name, none) for name in self.cross},
        }
        wanted = self.own if begun else self.own + self.cross
        session = self.sessions["decoder_model_merged"]
        logits, *present = session.run_with_ort_values(["logits", *(f"present.{name}" for name in wanted)], feeds)
        found = dict(zip(wanted, present))
        cache.own = {name: found[name] for name in self.own}
        if not begun:
            cache.cross = {name: found[name] for name in self.cross}
        cache.length += ids.shape[1]
        out: np.ndarray = logits.numpy()
        return out

    def _embed(self, ids: np.ndarray) -> np.ndarray:
        return self._run("embed_tokens", {"input_ids": ids.astype(np.int64)})[0]

    def _run(self, graph: str, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        out: list[np.ndarray] = self.sessions[graph].run(None, feeds)
        return out


class OnnxCache:
    """What decoding keeps between steps, a row of everything for each row; all rows are equally long."""

    def __init__(self, hidden: np.ndarray, mask: np.ndarray) -> None:
        self.hidden, self.mask = hidden, mask
        self.own: Mapping[str, OrtValue] = {}
        self.cross: Mapping[str, OrtValue] = {}
        self.length = 0
        self.sample = list(range(len(hidden)))
        """The sample of each row: rows of one sample have equal cross keys."""

    def select(self, rows: Sequence[int]) -> None:
        """Go on with these rows, by index, in this order."""
        if list(rows) == list(range(len(self.sample))):
            return
        self.own = _rows_of(self.own, rows)
        sample = [self.sample[row] for row in rows]
        if sample != self.sample:
            self.cross, self.sample = _rows_of(self.cross, rows), sample
            self.hidden, self.mask = self.hidden[list(rows)], self.mask[list(rows)]

    def admit(self, other: OnnxCache) -> None:
        raise ValueError("onnx: a request cannot join others that are being answered; ask it in a call of its own")


def _some(names: set[str]) -> str:
    return f"{', '.join(sorted(names)[:4])}{f' and {len(names) - 4} more' if len(names) > 4 else ''}"


def _rows_of(values: Mapping[str, OrtValue], rows: Sequence[int]) -> dict[str, OrtValue]:
    return {name: _value(value.numpy()[list(rows)]) for name, value in values.items()}


def _value(array: np.ndarray) -> OrtValue:
    return OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))


def _session(path: Any, options: Any, providers: Sequence[str]) -> Any:
    wanted = list(providers) or ["CPUExecutionProvider"]
    if missing := [name for name in wanted if name not in onnxruntime.get_available_providers()]:
        there = ", ".join(onnxruntime.get_available_providers())
        raise ValueError(f"providers: expected some of {there}, got {missing[0]!r:.60}")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=wanted)
    except Exception as error:  # onnxruntime raises its own types, none of them public
        raise ValueError(f"{path}: not a graph that onnxruntime opens ({one_line(error, 300)}); export again") from None
