"""An answer: the model's output parsed into records, and conversions to the forms of other tools.

Knows no model. Coordinates are pixels of the upright picture; `text` and `token_ids` are as generated, the decoder's
start token first (transformers' `generate` returns the same).
"""

from __future__ import annotations

import dataclasses
import html
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Union

import numpy as np

from florence2 import arguments, geometry
from florence2.codec import answers, official
from florence2.codec.answers import ItemSpan
from florence2.codec.label_trie import label_names
from florence2.codec.tasks import Task, task_of
from florence2.drawing import html_figure, picture
from florence2.pixels import PilImage
from florence2.predictor import exchange, images
from florence2.predictor.confidence import Signals, all_signals
from florence2.predictor.images import ImageSource
from florence2.records import Ask, Decision, Parsed, Region, Text, to_json
from florence2.structuring import brief

if TYPE_CHECKING:
    import supervision

_NUMBERS: dict[str, int] = {}  # labels of answers that no set was asked for, in the order in which they came up
_NUMBERING = threading.Lock()


@dataclass(frozen=True)
class Answer(Parsed):
    """One answer to one ask about one picture: regions, texts, phrases, scores, and the tokens they were read from.

    `len` and iteration go over the regions, or over the texts of a task that answers in words.
    """

    task: str = ""
    prompt: str = ""
    size_wh: tuple[int, int] = (0, 0)
    text: str = ""
    token_ids: tuple[int, ...] = field(default=(), repr=False)
    token_logprobs: tuple[float, ...] = field(default=(), repr=False)
    token_spans: Mapping[str, ItemSpan] = field(default_factory=dict, repr=False, compare=False)
    """For each item's id the places in `token_ids` that name it and that place it; empty where parsed from text."""
    token_measures: np.ndarray | None = field(default=None, repr=False, compare=False)
    """(T, F) float32: what `florence2.decoding.measures` took of each token; None where parsed from text."""
    ask: Ask = field(default_factory=Ask, repr=False)
    row: Task | None = field(default=None, repr=False, compare=False)
    decisions: tuple[Decision, ...] = field(default=(), repr=False)
    """Why filters rejected regions that `text` holds and the answer does not."""
    image: ImageSource | None = field(default=None, repr=False, compare=False)
    """What the user gave as the picture, for drawing; of many pictures only the path is kept."""

    def signals(self) -> dict[str, Signals]:
        """Item id -> what its score is made of (`florence2.predictor.confidence`); empty where parsed from text."""
        if self.token_measures is None:
            return {}
        return all_signals(self, self.token_spans, self.token_measures, self.size_wh)

    # ---- as numpy ----

    @property
    def boxed(self) -> tuple[Region, ...]:
        """The regions that have a place, in the order of the arrays below."""
        return tuple(region for region in self.regions if geometry.region_box(region) is not None)

    @property
    def xyxy(self) -> np.ndarray:
        """(N, 4) float32 boxes; around the quad or the polygons where the answer has no box."""
        return np.array([geometry.region_box(region) for region in self.boxed], np.float32).reshape(-1, 4)

    @property
    def labels(self) -> np.ndarray:
        """(N,) strings, what each region was called: its label, its description, or the phrase it was found for."""
        phrases = {i: grounding.phrase for grounding in self.groundings for i in grounding.region_ids}
        return np.array([r.label or r.description or phrases.get(r.id, "") for r in self.boxed], str)

    @property
    def scores(self) -> np.ndarray:
        """(N,) float32 in [0, 1]; NaN where there is none, as in an answer parsed from text."""
        return np.array([np.nan if r.score is None else r.score for r in self.boxed], np.float32)

    @property
    def avg_loc_scores(self) -> np.ndarray:
        """(N,) float32: the official score of each box, exp of the mean log-probability of its location tokens; NaN
        where there is none. `scores` ranks better and is nearer to a probability (docs/confidence.md)."""
        signals = self.signals()
        return np.array([signals[r.id].located if r.id in signals else np.nan for r in self.boxed], np.float32)

    @property
    def classes(self) -> list[str]:
        """The set of labels that was asked for, else the labels in the order in which they come up."""
        return list(label_names(self.ask.labels)) if self.ask.labels else list(dict.fromkeys(self.labels.tolist()))

    @property
    def class_ids(self) -> np.ndarray:
        """(N,) int64: each label's place in `classes`; -1 for one outside the set asked for."""
        place = {label: index for index, label in enumerate(self.classes)}
        return np.array([place.get(label, -1) for label in self.labels.tolist()], np.int64)

    def by_label(self) -> dict[str, tuple[Region, ...]]:
        """The regions of each label of `classes`, in that order; none for a label of the set that was not found."""
        found: dict[str, list[Region]] = {label: [] for label in self.classes}
        for region, label in zip(self.boxed, self.labels.tolist()):
            found.setdefault(label, []).append(region)
        return {label: tuple(regions) for label, regions in found.items()}

    def masks(self) -> np.ndarray:
        """(N, H, W) bool: the inside of each region's mask, polygons, quad or box."""
        width, height = self.size_wh
        out = np.zeros((len(self.boxed), height, width), bool)
        for mask, region in zip(out, self.boxed):
            if region.mask is not None:
                mask[:] = geometry.decode_rle(region.mask)
            else:
                mask[:] = geometry.rasterize(exchange.outline(region), self.size_wh)
        return out

    # ---- as others have it ----

    def official(self, style: str = "microsoft") -> dict[str, Any]:
        """{task: ...} as the reference's post-processing returns it: "microsoft" (floats) or "transformers" (ints)."""
        return official.official(self.text, self._task(), self.size_wh, style)

    def to_json(self) -> dict[str, Any]:
        """The answer as plain JSON types: the ask, the parsed answer, and the tokens."""
        out: dict[str, Any] = {"task": self.task, "prompt": self.prompt, "size_wh": list(self.size_wh)}
        for name in ("texts", "regions", "groundings"):
            out[name] = [to_json(item) for item in getattr(self, name)]
        return {
            **out,
            "truncated": self.truncated,
            "text": self.text,
            "token_ids": list(self.token_ids),
            "token_logprobs": list(self.token_logprobs),
            **({"decisions": [to_json(decision) for decision in self.decisions]} if self.decisions else {}),
        }

    @property
    def stable_ids(self) -> np.ndarray:
        """(N,) int64: a label's number in all answers of this process: its place in the set asked for, else counted."""
        if self.ask.labels:
            return self.class_ids
        with _NUMBERING:
            return np.array([_NUMBERS.setdefault(label, len(_NUMBERS)) for label in self.labels.tolist()], np.int64)

    def to_supervision(self) -> supervision.Detections:
        """A `supervision.Detections`, its labels under `class_name`; needs that library.

        A label has one class id in all answers of a process; with `labels=` asked for it is its place among them.
        """
        return exchange.to_supervision(self)

    def to_coco(self, image_id: int = 1, categories: Mapping[str, int] | None = None) -> dict[str, Any]:
        """A COCO data set of this one picture; `categories` gives ids to labels (else 1, 2, ... in order).

        Its "annotations" carry scores, so they serve as results too.
        """
        return exchange.to_coco(self, image_id, categories)

    def to_label_studio(self) -> dict[str, Any]:
        """A Label Studio task with this answer as its prediction: rectangles, polygons and a text, in percent."""
        return exchange.to_label_studio(self)

    def to_fiftyone(self) -> dict[str, Any]:
        """A FiftyOne sample as plain types: `filepath`, `metadata`, and the labels as FiftyOne writes them.

        Boxes are `detections`, quads and polygons `polylines`, a text is `text`, places are shares of the picture;
        `fo.Sample(filepath, detections=fo.Detections.from_dict(...))` makes a sample of it.
        """
        return exchange.to_fiftyone(self)

    # ---- visualisation ----

    def draw(self, image: ImageSource | None = None) -> PilImage:
        """The picture with the answer drawn on it, a PIL image; `image` is needed where the answer holds none."""
        return picture.as_image(picture.draw(self._pixels(image), self))

    def _repr_html_(self) -> str:
        if self.image is None:
            return f"<pre>{html.escape(str(self))}</pre>"
        return html_figure.html_figure(self._pixels(None), self, self.task or self.prompt)

    def __len__(self) -> int:
        return len(self._items())

    def __iter__(self) -> Iterator[Union[Region, Text]]:
        return iter(self._items())

    def __str__(self) -> str:
        lines = [text.text for text in self.texts]
        for region, label in zip(self.boxed, self.labels.tolist()):
            box = ", ".join(f"{value:.0f}" for value in geometry.region_box(region) or ())
            score = "" if region.score is None else f"  {region.score:.2f}"
            lines.append(f"{label or 'region'}  ({box}){score}")
        if self.truncated:
            lines.append("... (cut: the token limit was reached)")
        return "\n".join(lines) or "(nothing found)"

    def _items(self) -> Sequence[Union[Region, Text]]:
        return self.regions or self.texts

    def _task(self) -> Task:
        return self.row or task_of(self.task)

    def _pixels(self, image: ImageSource | None) -> np.ndarray:
        image = self.image if image is None else image
        if image is None:
            raise ValueError("draw: the answer does not hold its picture; give it as draw(image)")
        array = images.load(image)
        if array.shape[1::-1] != tuple(self.size_wh):
            raise ValueError(
                f"draw: expected the picture of {self.size_wh[0]} x {self.size_wh[1]} pixels that the answer is about, "
                f"got one of {array.shape[1]} x {array.shape[0]}"
            )
        return array


def parse(task: str, text: str, size_wh: tuple[int, int], ask: Ask | None = None) -> Answer:
    """The answer that a generated text holds, special tokens in; `size_wh` is the upright picture's."""
    row = task_of(task)
    text = arguments.text("text", text)
    ask = ask or Ask(task=row.token)
    return answer_of(
        answers.parse(text, row, size_wh, ask), task=row.token, row=row, ask=ask, size_wh=size_wh, text=text
    )


def render(answer: Answer) -> str:
    """The target text of an answer, as a model would be trained to say it."""
    if not isinstance(answer, Answer):
        raise ValueError(f"answer: expected an Answer, got {brief(answer)}")
    return answers.render(answer, answer._task(), answer.size_wh, answer.ask)


def answer_of(parsed: Parsed, **fields: Any) -> Answer:
    """An Answer with the items of `parsed`."""
    items = {f.name: getattr(parsed, f.name) for f in dataclasses.fields(Parsed)}
    return replace(Answer(**items), **fields)
