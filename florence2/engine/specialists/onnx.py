"""Any ONNX detector that a card describes: letterbox, run, decode, suppress, back to the picture's pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from florence2 import geometry, pixels
from florence2.engine.operator import Spec
from florence2.engine.specialists.cards import InputCard, read_card
from florence2.engine.specialists.decoders import decoder_of
from florence2.engine.specialists.requirements import sha256_of, version_of
from florence2.labels import one_line
from florence2.records import Failure, Parsed, Region, Result, Sample


class OnnxDetector:
    """Boxes, labels and scores by the model of a card."""

    def __init__(self, path: str) -> None:
        version_of("onnxruntime", path, "demo")
        self.card = read_card(path)
        self._decode = decoder_of(self.card)
        self.spec = Spec(self.card.name, self.card.version, produces=frozenset({"region_text/object"}), batch_size=1)
        plain = asdict(self.card)
        self.config = {key: plain[key] for key in ("classes", "input", "output", "score", "nms", "label_space")}
        own = self.card.output.decode.rpartition(":")[0]  # the decoder's file, where it is the card's own
        self.weights_sha256 = sha256_of([self.card.model, *([self.card.path.parent / own] if own else [])])
        self._session: Any = None
        self._input = ""

    def setup(self, device: str) -> None:
        """Open the model; one thread, since the runner has a process a core."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        wanted = ["CUDAExecutionProvider"] if device.startswith("cuda") else []
        providers = [p for p in wanted if p in onnxruntime.get_available_providers()] + ["CPUExecutionProvider"]
        try:
            self._session = onnxruntime.InferenceSession(str(self.card.model), options, providers=providers)
        except Exception as error:  # onnxruntime raises its own types, none of them public
            reason = one_line(error)
            raise ValueError(f"{self.card.model}: expected an ONNX model, got: {reason}") from None
        inputs = {i.name: i for i in self._session.get_inputs()}
        self._input = self.card.input.name or next(iter(inputs))
        if self._input not in inputs:
            raise ValueError(
                f"{self.card.path}: input.name: no input {self._input!r}; the model has {', '.join(inputs)}"
            )
        shape = inputs[self._input].shape[-2:]
        fixed = [
            (got, want) for got, want in zip(shape, self.card.input.size[::-1]) if isinstance(got, int) and got != want
        ]
        if fixed:
            width, height = self.card.input.size
            raise ValueError(
                f"{self.card.path}: input.size: the model takes {shape[1]}x{shape[0]}, the card says {width}x{height}"
            )

    def annotate(self, samples: Sequence[Sample], images: Sequence[np.ndarray]) -> list[Result]:
        """What the model finds in each picture."""
        return [self._detect(index, sample, image) for index, (sample, image) in enumerate(zip(samples, images))]

    def _detect(self, index: int, sample: Sample, image: np.ndarray) -> Result:
        tensor, scale, offset = prepare(image, self.card.input)
        names = [o.name for o in self._session.get_outputs()]
        outputs = dict(zip(names, self._session.run(names, {self._input: tensor})))
        boxes, scores, labels = (np.asarray(a) for a in self._decode(outputs, self.card))
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            return Failure(
                index, sample.id, sample.image.uri, "not_finite", f"{self.card.name} gave NaN or infinite boxes"
            )
        sure = (scores >= self.card.score) & (labels < len(self.card.classes))
        boxes, scores, labels = (boxes[sure] - np.tile(offset, 2)) / np.tile(scale, 2), scores[sure], labels[sure]
        boxes = geometry.clip(boxes, (image.shape[1], image.shape[0]))
        solid = geometry.area(boxes) > 0
        boxes, scores, labels = boxes[solid], scores[solid], labels[solid]
        kept = geometry.nms(boxes, scores, self.card.nms, labels.tolist())
        regions = tuple(
            Region(
                id=f"object-{i}",
                box=(float(boxes[k][0]), float(boxes[k][1]), float(boxes[k][2]), float(boxes[k][3])),
                label=self.card.classes[int(labels[k])],
                label_space=self.card.label_space,
                score=min(float(scores[k]), 1.0),
            )
            for i, k in enumerate(kept)
        )
        return Parsed(regions=regions)

    def close(self) -> None:
        """Drop the model."""
        self._session = None


def prepare(image: np.ndarray, card: InputCard) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """HWC uint8 RGB -> tensor (1, 3, H, W) float32, and scale and offset with input = picture * scale + offset."""
    height, width = image.shape[:2]
    if card.letterbox == "none":
        resized_wh = card.size
    else:
        factor = min(card.size[0] / width, card.size[1] / height)
        resized_wh = (max(1, round(width * factor)), max(1, round(height * factor)))
    resized = pixels.resize(image, resized_wh)
    spare = np.array(card.size) - np.array(resized_wh)
    offset = spare // 2 if card.letterbox == "center" else np.zeros(2, dtype=int)
    canvas = np.full((card.size[1], card.size[0], 3), card.pad, dtype=np.float32)
    canvas[offset[1] : offset[1] + resized_wh[1], offset[0] : offset[0] + resized_wh[0]] = resized
    if card.channels == "bgr":
        canvas = canvas[..., ::-1]
    scaled = (canvas * np.float32(card.scale) - np.array(card.mean, np.float32)) / np.array(card.std, np.float32)
    tensor = np.ascontiguousarray(scaled.transpose(2, 0, 1)[None], dtype=np.float32)  # (1, 3, H, W)
    return tensor, np.array(resized_wh) / np.array([width, height]), offset.astype(float)
