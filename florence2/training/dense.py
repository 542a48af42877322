"""The auxiliary loss on the tower's last map: the contents of each cell, so that the tower gets a direct signal early.

Per cell: is an object's middle here (objectness), its box, its label, the words of its description, and the letters
written in the cell. It is DETR's and FCOS's work done by one linear layer, so what it learns is in the map itself.
The head is used in training only and saved beside the weights; a label or word it has not met gets a new row.

Legend: B pictures, S*S cells, C channels of the map, L labels, W words.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn

from florence2.atomic_files import replacing
from florence2.geometry import box_area, region_box
from florence2.labels import fold_label
from florence2.model.tensor_files import save_ordered
from florence2.records import Box, Region, Sample

TEXT = "<text>"  # the label of every text region; what it reads is left to the letters
LETTERS = tuple(chr(c) for c in range(33, 127))
PARTS = ("object", "letter", "box", "label", "word")
FILE = "dense.safetensors"


@dataclass(frozen=True)
class Vocabulary:
    """The labels and description words that the head classifies, in the order of its rows."""

    labels: tuple[str, ...]
    words: tuple[str, ...]

    @classmethod
    def of(cls, samples: Iterable[Sample], most: int = 512) -> Vocabulary:
        """The labels and words of these samples, the most frequent ones."""
        labels: dict[str, int] = {TEXT: 0}
        words: dict[str, int] = {}
        for sample in samples:
            for region in sample.current().regions:
                labels[label_of(region)] = labels.get(label_of(region), 0) + 1
                for word in words_of(region):
                    words[word] = words.get(word, 0) + 1
        return cls(_frequent(labels, most), _frequent(words, most))

    def joined(self, other: Vocabulary) -> Vocabulary:
        """This one, then what only the other knows."""
        return Vocabulary(
            tuple(dict.fromkeys(self.labels + other.labels)), tuple(dict.fromkeys(self.words + other.words))
        )


def label_of(region: Region) -> str:
    """The label of a region in the head's vocabulary."""
    return TEXT if region.kind == "text" else fold_label(region.label)


def words_of(region: Region) -> list[str]:
    """The words of a region's description; of a text region none."""
    return [] if region.kind == "text" else fold_label(region.description or region.label).split()


def cell_targets(sample: Sample, vocabulary: Vocabulary, side: int) -> dict[str, np.ndarray]:
    """What each of side*side cells should say: `object` (1; 0: nothing; -1: not scored, something ignored is here),
    `label` (-1: none that is known), `box` (x, y, w, h in cells), `words` and `letters` as multi-hot bytes."""
    index = {name: i for i, name in enumerate(vocabulary.labels)}
    word_index = {name: i for i, name in enumerate(vocabulary.words)}
    out: dict[str, np.ndarray] = {
        "object": np.zeros((side, side), np.int8),
        "label": np.full((side, side), -1, np.int16),
        "box": np.zeros((side, side, 4), np.float32),
        "words": np.zeros((side, side, len(vocabulary.words)), np.uint8),
        "letters": np.zeros((side, side, len(LETTERS)), np.uint8),
    }
    scale = side / np.array(sample.image.size_wh * 2, np.float32)
    centres = np.arange(side) + 0.5
    placed = [(region, box) for region in sample.current().regions if (box := region_box(region)) is not None]
    for box in (box for region, box in placed if region.ignore):
        x1, y1, x2, y2 = np.asarray(box, np.float32) * scale
        out["object"][np.ix_((centres > y1) & (centres < y2), (centres > x1) & (centres < x2))] = -1
    regions = [(region, box) for region, box in placed if not region.ignore]
    for region, box in sorted(regions, key=lambda r: -box_area(r[1])):  # the smaller one is last and wins its cells
        x1, y1, x2, y2 = np.asarray(box, np.float32) * scale
        cx, cy = np.clip((x1 + x2) / 2, 0, side - 1e-3), np.clip((y1 + y2) / 2, 0, side - 1e-3)
        columns = (abs(centres - cx) < 0.75) | (np.arange(side) == int(cx))
        rows = (abs(centres - cy) < 0.75) | (np.arange(side) == int(cy))
        cells = np.ix_(rows, columns)
        out["object"][cells] = 1
        out["label"][cells] = index.get(label_of(region), -1)
        out["box"][cells] = (cx, cy, max(x2 - x1, 0.05), max(y2 - y1, 0.05))
        out["words"][cells] = 0
        for word in words_of(region):
            if word in word_index:
                out["words"][..., word_index[word]][cells] = 1
        if region.kind == "text":
            _write_letters(region, box, out["letters"], scale[:2], side)
    return out


def cell_counts(cells: Mapping[str, Tensor]) -> dict[str, float]:
    """What each part of the dense loss is divided by."""
    if not cells:
        return dict.fromkeys(PARTS, 0.0)
    here = cells["object"] > 0
    known = float((here & (cells["label"] >= 0)).sum())
    middles = float(here.sum())
    letters = float(cells["letters"].sum(dtype=torch.int64))
    scored = float((cells["object"] >= 0).sum())
    return {"object": scored, "letter": letters, "box": middles, "label": known, "word": middles}


class DenseHead(nn.Module):
    """A norm and one linear layer on the map (B, S, S, C)."""

    def __init__(self, dim: int, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.norm = nn.LayerNorm(dim)
        self.place = nn.Linear(dim, 5)  # objectness, then x, y of the middle from the cell's, log w, log h
        self.label = nn.Linear(dim, len(vocabulary.labels))
        self.word = nn.Linear(dim, max(1, len(vocabulary.words)))
        self.letter = nn.Linear(dim, len(LETTERS))
        nn.init.constant_(self.place.bias, 0.0)
        with torch.no_grad():
            self.place.bias[0] = -3.0  # most cells hold no middle
            self.letter.bias.fill_(-5.0)
            self.word.bias.fill_(-2.0)

    def forward(self, feature_map: Tensor) -> dict[str, Tensor]:
        x = self.norm(feature_map)
        return {name: getattr(self, name)(x).float() for name in ("place", "label", "word", "letter")}

    def loss(self, feature_map: Tensor, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weighted parts of the loss, each a sum that is to be divided by its count in `cell_counts`."""
        outputs = self(feature_map)
        here = targets["object"] > 0  # (B, S, S)
        scored = (targets["object"] >= 0).float()
        objectness = _cross_entropy(outputs["place"][..., 0], here.float(), scored)
        written = _cross_entropy(outputs["letter"], targets["letters"].float(), scored[..., None])
        parts = {"object": 8 * objectness, "letter": 0.3 * written}
        if bool(here.any()):
            predicted, true = self.boxes(outputs["place"])[here], targets["box"][here]
            parts["box"] = 2 * (1 - giou(predicted, true)).sum() + _distance(predicted, true)
            known = here & (targets["label"] >= 0)
            if bool(known.any()):
                labels = targets["label"][known].long()
                parts["label"] = F.cross_entropy(outputs["label"][known], labels, reduction="sum")
            if self.vocabulary.words:
                words = targets["words"][here].float()
                parts["word"] = 0.4 * F.binary_cross_entropy_with_logits(outputs["word"][here], words, reduction="sum")
        return parts

    def boxes(self, place: Tensor) -> Tensor:
        """(B, S, S, 5) as boxes x, y, w, h in cells."""
        rows, columns = place.shape[1:3]
        x = torch.arange(columns, device=place.device) + 0.5 + place[..., 1]
        y = torch.arange(rows, device=place.device)[:, None] + 0.5 + place[..., 2]
        sides = (place[..., 3:].clamp(-4, 3)).exp() * 2
        return torch.stack([x, y, sides[..., 0], sides[..., 1]], -1)

    @torch.no_grad()
    def best(self, feature_map: Tensor, threshold: float = 0.5) -> list[list[tuple[str, float, tuple[float, ...]]]]:
        """For each picture (label, score, box x, y, w, h in cells) of the local maxima of objectness."""
        outputs = self(feature_map)
        score = outputs["place"][..., 0].sigmoid()
        peak = F.max_pool2d(score[:, None], 3, 1, 1)[:, 0] == score
        boxes, labels = self.boxes(outputs["place"]), outputs["label"].argmax(-1)
        out: list[list[tuple[str, float, tuple[float, ...]]]] = [[] for _ in score]
        for b, y, x in (peak & (score > threshold)).nonzero().tolist():
            name = self.vocabulary.labels[int(labels[b, y, x])]
            out[b].append((name, float(score[b, y, x]), tuple(boxes[b, y, x].tolist())))
        return out


def giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU (Rezatofighi et al., arXiv 1902.09630) of boxes x, y, w, h, pair by pair."""
    a1, a2 = a[:, :2] - a[:, 2:] / 2, a[:, :2] + a[:, 2:] / 2
    b1, b2 = b[:, :2] - b[:, 2:] / 2, b[:, :2] + b[:, 2:] / 2
    shared = (torch.minimum(a2, b2) - torch.maximum(a1, b1)).clamp(min=0).prod(-1)
    union = a[:, 2:].prod(-1) + b[:, 2:].prod(-1) - shared
    hull = (torch.maximum(a2, b2) - torch.minimum(a1, b1)).prod(-1)
    return shared / union - (hull - union) / hull


def save_head(head: DenseHead, folder: Path) -> None:
    """Write the head beside the weights, its vocabulary in the file's metadata."""
    names = {"labels": json.dumps(head.vocabulary.labels), "words": json.dumps(head.vocabulary.words)}
    tensors = {name: tensor.detach().contiguous() for name, tensor in head.state_dict().items()}
    with replacing(folder / FILE) as temp_path:
        save_ordered(tensors, temp_path, names)


def open_head(folder: Path | None, dim: int, vocabulary: Vocabulary) -> DenseHead:
    """A head for this vocabulary; rows that a file beside the weights knows are taken from it."""
    if folder is None or not (folder / FILE).is_file():
        return DenseHead(dim, vocabulary)
    with safe_open(folder / FILE, "pt") as file:
        names = file.metadata()
        old = Vocabulary(tuple(json.loads(names["labels"])), tuple(json.loads(names["words"])))
        tensors = {name: file.get_tensor(name).float() for name in file.keys()}
    head = DenseHead(dim, old.joined(vocabulary))
    if tensors["norm.weight"].shape[0] != dim:
        return head
    with torch.no_grad():
        for name, parameter in head.named_parameters():
            parameter[: len(tensors[name])].copy_(tensors[name])
    return head


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """Summed over boxes, the mean over their two middles and two sides."""
    middle = F.smooth_l1_loss(a[:, :2], b[:, :2], reduction="sum")
    return (middle + F.smooth_l1_loss(a[:, 2:].log(), b[:, 2:].log(), reduction="sum")) / 2


def _cross_entropy(logits: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, targets, weight, reduction="sum")


def _write_letters(region: Region, box: Box, letters: np.ndarray, scale: np.ndarray, side: int) -> None:
    """Mark each letter in the cell where it lies, letters spread evenly along the line."""
    x1, y1, x2, y2 = box
    quad = np.asarray(region.quad or (x1, y1, x2, y1, x2, y2, x1, y2), np.float32).reshape(4, 2)
    start, end = (quad[0] + quad[3]) / 2, (quad[1] + quad[2]) / 2
    for i, letter in enumerate(region.label):
        if 33 <= ord(letter) < 127:
            x, y = (start + (end - start) * (i + 0.5) / len(region.label)) * scale
            letters[min(max(int(y), 0), side - 1), min(max(int(x), 0), side - 1), ord(letter) - 33] = 1


def _frequent(counts: dict[str, int], most: int) -> tuple[str, ...]:
    return tuple(sorted(sorted(counts, key=lambda name: (-counts[name], name))[:most]))
