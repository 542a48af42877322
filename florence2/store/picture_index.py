"""A snapshot's pictures and annotations as columns in memory: filtered, counted and paged without making records.

A picture is a position, in the order in which pictures came in; an annotation is a row. Texts (labels, sources,
reasons) are codes. A later snapshot that only adds is taken over by reading what it added.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from florence2.labels import is_unicode
from florence2.store import import_metadata, parquet, scan
from florence2.store.parquet import Fragment
from florence2.store.picture_reader import PictureReader, PictureState
from florence2.store.snapshots import Snapshot
from florence2.store.storage import Storage

STATUSES = ("kept", "rejected", "superseded")
FACETS = ("label", "source", "status", "reason", "round")  # of annotations
PICTURE_FACETS = ("split", "picture", "review")
REVIEW = ("open", "touched", "complete")
"""A person has not judged the picture; has; or its labels are stated in full (by a person, or the set it came with)."""

_IMAGE_COLUMNS = ("id", "width", "height", "sha256", "split", "status", "reason", "label_coverage")
_ANNOTATION_COLUMNS = (
    "ann_id",
    "image_id",
    "kind",
    "family",
    "text",
    "label_space",
    "source",
    "source_kind",
    "round",
    "score",
)
_DECISION_COLUMNS = ("ann_id", "image_id", "round", "seq", "status", "rule", "reason")
_HUMAN = "human"
READERS = 4  # threads
FEW = 20_000  # rows that are looked up one by one, not through all others


class Codes:
    """Texts by number, in the order in which they were met."""

    def __init__(self, texts: Sequence[str] = ()) -> None:
        self.texts: list[str] = list(texts)
        self._numbers = {text: n for n, text in enumerate(self.texts)}

    def number(self, text: str) -> int:
        """The number of a text, a new one where it has none."""
        if text not in self._numbers:
            self._numbers[text] = len(self.texts)
            self.texts.append(text)
        return self._numbers[text]

    def find(self, text: str) -> int:
        """The number of a text, -1 where it has none."""
        return self._numbers.get(text, -1)

    def of(self, column: pa.ChunkedArray) -> np.ndarray:
        """The numbers of a column's texts; -1 for null and the empty text."""
        encoded = column.combine_chunks().dictionary_encode()
        table = np.array([self.number(text) if text else -1 for text in encoded.dictionary.to_pylist()] or [-1])
        codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        return np.where(codes < 0, -1, table[codes]).astype(np.int32)


@dataclass(frozen=True)
class Wanted:
    """A filter; what is empty lets all through. One annotation of a picture must fit all that is asked of annotations.

    `review`, `split` and `picture` (the picture's status, with its reason behind a space) are asked of pictures.
    """

    label: tuple[str, ...] = ()
    source: tuple[str, ...] = ()
    status: tuple[str, ...] = ()
    reason: tuple[str, ...] = ()
    round: tuple[str, ...] = ()
    least: float | None = None
    """Scores from here; an annotation without a score fits no bound."""
    most: float | None = None
    split: tuple[str, ...] = ()
    picture: tuple[str, ...] = ()
    review: tuple[str, ...] = ()

    @property
    def of_annotations(self) -> bool:
        """Whether anything is asked of annotations."""
        return any(getattr(self, name) for name in FACETS) or self.least is not None or self.most is not None

    @property
    def needs_annotations(self) -> bool:
        """Whether it can be told of an index that is whole alone."""
        return self.of_annotations or bool(self.review)


class PictureIndex:
    """The columns of one snapshot; frozen once made. `follow` gives the index of a later one.

    `whole`: with the annotations; without them it is there in a fraction of the time, and can page and give states.
    """

    def __init__(self, storage: Storage, snapshot: Snapshot, whole: bool = True) -> None:
        self.storage, self.snapshot, self.whole = storage, snapshot, whole
        self.reader = PictureReader(storage)
        self.codes = {name: Codes() for name in ("label", "space", "source", "reason", "round", "split", "picture")}
        self.codes["status"], self.codes["review"] = Codes(STATUSES), Codes(REVIEW)
        self._paths: set[str] = set()
        self._whole: dict[int, set[str]] = {}  # picture -> the label spaces of which imports state all
        self._take_images(snapshot)
        self._take_annotations(snapshot.of("annotations") if whole else [], snapshot)
        self._take_decisions(snapshot.of("decisions") if whole else [])
        self._paths = {fragment.path for fragment in snapshot.fragments}

    # making

    def follow(self, snapshot: Snapshot) -> PictureIndex:
        """The index of a later snapshot: this one, with what was added, where nothing else changed."""
        if snapshot.number == self.snapshot.number:
            return self
        paths = {fragment.path for fragment in snapshot.fragments}
        added = [fragment for fragment in snapshot.fragments if fragment.path not in self._paths]
        replaced = {o.run_id for o in self.snapshot.operators if o.replaced}
        same = replaced == {o.run_id for o in snapshot.operators if o.replaced}
        if not self._paths <= paths or any(f.table == "images" for f in added) or not same:
            out = PictureIndex(self.storage, snapshot)
            out.reader = self.reader
            return out
        out = object.__new__(PictureIndex)
        out.__dict__.update(self.__dict__)
        out.snapshot, out._paths = snapshot, paths
        out._whole = {place: set(spaces) for place, spaces in self._whole.items()}
        out.columns = dict(self.columns)
        out.review, out.judged = self.review.copy(), self.judged.copy()
        out.groups = scan.unit_groups(snapshot)
        out._take_annotations([f for f in added if f.table == "annotations"], snapshot, first=False)
        out._take_decisions([f for f in added if f.table == "decisions"], first=False)
        return out

    def _take_images(self, snapshot: Snapshot) -> None:
        self.groups = scan.unit_groups(snapshot)
        fragments = snapshot.of("images")
        table = _read(self.storage, "images", fragments, _IMAGE_COLUMNS)
        self.ids: list[str] = table["id"].to_pylist()
        self._id_column = table["id"].combine_chunks()
        self.place = {name: n for n, name in enumerate(self.ids)}
        self._group_ends = np.cumsum([fragment.rows for fragment in fragments])
        self.size_wh = np.stack([_numbers(table[name], np.int32) for name in ("width", "height")], axis=1)
        self.sha256 = table["sha256"].combine_chunks()
        self.split = self.codes["split"].of(table["split"])
        verdict = pc.binary_join_element_wise(table["status"], pc.fill_null(table["reason"], ""), " ")
        self.picture = self.codes["picture"].of(pc.utf8_trim_whitespace(verdict))
        self.judged = np.zeros(len(self.ids), bool)
        self.review = np.zeros(len(self.ids), np.int32)
        coverage = table["label_coverage"].combine_chunks()
        parents = pc.list_parent_indices(coverage).to_numpy()
        whole = pc.equal(pc.struct_field(pc.list_flatten(coverage), "state"), "exhaustive").to_numpy(False)
        self.review[parents[whole]] = REVIEW.index("complete")
        self._whole = {int(place): {""} for place in np.unique(parents[whole])}

    def _take_annotations(self, fragments: Sequence[Fragment], snapshot: Snapshot, first: bool = True) -> None:
        table = _read(self.storage, "annotations", [f for f in fragments if f.rows], _ANNOTATION_COLUMNS)
        places = self._places(table["image_id"])
        objects = pc.and_(pc.equal(table["family"], "region_text"), pc.equal(table["kind"], "object"))
        labels = self.codes["label"].of(pc.if_else(objects, table["text"], None))
        new = {
            "place": places,
            "label": labels,
            "space": self.codes["space"].of(table["label_space"]),
            "source": self.codes["source"].of(table["source"]),
            "round": self.codes["round"].of(pc.cast(table["round"], pa.string())),
            "score": _numbers(table["score"], np.float32, np.nan),
            "status": np.zeros(len(places), np.int32),
            "reason": np.full(len(places), -1, np.int32),
            "last": np.full(len(places), -1, np.int64),
        }
        people = pc.equal(table["source_kind"], _HUMAN).to_numpy()
        self.judged[places[people & (places >= 0)]] = True
        ids = table["ann_id"]
        if first:
            self.columns, self.ann_ids = new, ids
        else:
            self.columns = {name: np.concatenate([self.columns[name], new[name]]) for name in new}
            self.ann_ids = pa.chunked_array([*self.ann_ids.chunks, *ids.chunks], pa.string())
        self._note_rows(places, first)
        self._take_statements(fragments, snapshot)

    def _places(self, ids: pa.ChunkedArray) -> np.ndarray:
        """The positions of pictures by id, -1 where there is none."""
        if len(ids) < FEW:
            return np.array([self.place.get(name, -1) for name in ids.to_pylist()], np.int32)
        found: np.ndarray = pc.index_in(ids, value_set=self._id_column).fill_null(-1).to_numpy().astype(np.int32)
        return found

    def _note_rows(self, places: np.ndarray, first: bool) -> None:
        """Where the rows of each picture are: sorted, and beside that those of the last additions."""
        later = {} if first else {place: list(rows) for place, rows in self._later.items()}
        if first or sum(map(len, later.values())) + len(places) > FEW:
            self._order = np.argsort(self.columns["place"], kind="stable")
            self._starts = np.searchsorted(self.columns["place"][self._order], np.arange(len(self.ids) + 1))
            self._later: dict[int, list[int]] = {}
            return
        begin = len(self.columns["place"]) - len(places)
        for row, place in enumerate(places.tolist(), begin):
            later.setdefault(place, []).append(row)
        self._later = later

    def _take_statements(self, fragments: Sequence[Fragment], snapshot: Snapshot) -> None:
        """Whose labels imports and people state in full."""
        runs = {o.run_id for o in snapshot.operators if o.kind in ("import", _HUMAN) and not o.replaced}
        for fragment in fragments:
            if fragment.run_id not in runs:
                continue
            stated = import_metadata.decode(parquet.open_file(self.storage, fragment).schema_arrow.metadata)
            for name, metadata in stated.items():
                place = self.place.get(name)
                if place is None:
                    continue
                spaces = self._whole.setdefault(place, set())
                for space, states in metadata.coverage.items():
                    whole = any(one.state == "exhaustive" for one in states)
                    (spaces.add if whole else spaces.discard if metadata.correction else lambda _: None)(space)
        self._note_review()

    def _note_review(self) -> None:
        self.review = np.where(self.judged, REVIEW.index("touched"), REVIEW.index("open")).astype(np.int32)
        whole = [place for place, spaces in self._whole.items() if spaces]
        self.review[whole] = REVIEW.index("complete")

    def _take_decisions(self, fragments: Sequence[Fragment], first: bool = True) -> None:
        found = [fragment for fragment in fragments if fragment.rows]
        if not found:
            return
        table = _read(self.storage, "decisions", found, _DECISION_COLUMNS)
        if first:
            rows, ids = np.arange(len(self.ann_ids)), self.ann_ids
        else:  # among the annotations of the pictures that were judged
            places = np.unique(self._places(table["image_id"]))
            rows = np.concatenate(
                [self.rows_of(int(place)) for place in places if place >= 0] or [np.zeros(0, np.int64)]
            )
            ids = self.ann_ids.take(pa.array(rows))
        at = pc.index_in(table["ann_id"], value_set=ids.combine_chunks()).fill_null(-1).to_numpy()
        order = _numbers(table["round"], np.int64) << 32 | _numbers(table["seq"], np.int64)
        people = pc.equal(table["rule"], _HUMAN).to_numpy()
        status = self.codes["status"].of(table["status"])
        reason = self.codes["reason"].of(pc.coalesce(table["reason"], table["rule"]))
        known = np.flatnonzero(at >= 0)
        known = known[
            np.argsort(order[known], kind="stable")
        ]  # of several verdicts on an item the last is written last
        target = rows[at[known]]
        later = order[known] >= self.columns["last"][target]
        known, target = known[later], target[later]
        self.columns = {**self.columns, **{name: self.columns[name].copy() for name in ("status", "reason", "last")}}
        self.columns["status"][target], self.columns["reason"][target] = status[known], reason[known]
        self.columns["last"][target] = order[known]
        judged = self._places(table["image_id"].filter(pa.array(people)))
        self.judged[judged[judged >= 0]] = True
        self._note_review()

    # asking

    def __len__(self) -> int:
        return len(self.ids)

    def rows_of(self, place: int) -> np.ndarray:
        """The rows of a picture's annotations."""
        found: np.ndarray = self._order[self._starts[place] : self._starts[place + 1]]
        later = self._later.get(place)
        return np.concatenate([found, later]) if later else found

    def state(self, image_id: str) -> PictureState | None:
        """All that the snapshot holds of a picture; None where it is none of the store's."""
        place = self.place.get(image_id)
        if place is None:
            return None
        return self.reader.read(self.groups[int(np.searchsorted(self._group_ends, place, side="right"))], image_id)

    def space_of(self, label: str) -> str:
        """The label space that most objects of a label have, of a new label that of most objects; "" without any."""
        for chosen in (self.columns["label"] == self.codes["label"].find(label), self.columns["label"] >= 0):
            spaces = self.columns["space"][chosen]
            counts = np.bincount(spaces[spaces >= 0])
            if counts.size:
                return self.text("space", int(counts.argmax()))
        return ""

    def picture_of(self, ann_id: str) -> int:
        """The picture of an annotation, -1 where there is no such annotation."""
        row = pc.index(self.ann_ids, ann_id).as_py() if is_unicode(ann_id) else -1
        return -1 if row < 0 else int(self.columns["place"][row])

    def text(self, name: str, code: int) -> str:
        """The text of a code of a column."""
        return "" if code < 0 else self.codes[name].texts[code]

    def find(self, wanted: Wanted) -> np.ndarray:
        """The positions of the pictures that fit, ascending."""
        fits = self._pictures(wanted)
        if wanted.of_annotations:
            holds = np.zeros(len(self), bool)
            places = self.columns["place"][self._annotations(wanted)]
            holds[places[places >= 0]] = True
            fits = fits & holds
        return np.flatnonzero(fits)

    def facets(self, wanted: Wanted) -> dict[str, dict[str, int]]:
        """For each facet its values with how many annotations (or pictures) they would leave, the others as wanted."""
        out: dict[str, dict[str, int]] = {}
        found = self._pictures(wanted)
        of_found = np.append(found, False)[self.columns["place"]]
        for name in FACETS:
            out[name] = self._counted(name, self.columns[name][self._annotations(wanted, name) & of_found])
        holds = np.ones(len(self), bool)
        if wanted.of_annotations:
            holds = np.zeros(len(self) + 1, bool)
            holds[self.columns["place"][self._annotations(wanted)]] = True
            holds = holds[:-1]
        for name in PICTURE_FACETS:
            out[name] = self._counted(name, getattr(self, name)[self._pictures(wanted, name) & holds])
        return out

    def _counted(self, name: str, codes: np.ndarray) -> dict[str, int]:
        texts = self.codes[name].texts
        counts = np.bincount(codes[codes >= 0], minlength=len(texts))
        order = np.argsort(-counts, kind="stable") if name in ("label", "reason") else np.arange(len(texts))
        return {texts[n]: int(counts[n]) for n in order if counts[n]}

    def _pictures(self, wanted: Wanted, but: str = "") -> np.ndarray:
        fits = np.ones(len(self), bool)
        for name in PICTURE_FACETS:
            if name != but and getattr(wanted, name):
                fits &= np.isin(getattr(self, name), [self.codes[name].find(text) for text in getattr(wanted, name)])
        return fits

    def _annotations(self, wanted: Wanted, but: str = "") -> np.ndarray:
        fits = np.ones(len(self.columns["place"]), bool)
        for name in FACETS:
            if name != but and getattr(wanted, name):
                codes = [code for code in map(self.codes[name].find, getattr(wanted, name)) if code >= 0]
                fits &= np.isin(self.columns[name], codes)
        with np.errstate(invalid="ignore"):
            if wanted.least is not None:
                fits &= self.columns["score"] >= np.float32(wanted.least)
            if wanted.most is not None:
                fits &= self.columns["score"] <= np.float32(wanted.most)
        return fits


def _read(storage: Storage, name: str, fragments: Sequence[Fragment], columns: Sequence[str]) -> pa.Table:
    """`parquet.read_table`, several files at a time: they are read and hashed without Python's lock."""
    if len(fragments) < 2 * READERS:
        return parquet.read_table(storage, name, fragments, list(columns))
    cuts = [fragments[n * len(fragments) // READERS : (n + 1) * len(fragments) // READERS] for n in range(READERS)]
    with ThreadPoolExecutor(READERS) as pool:
        parts = pool.map(lambda some: parquet.read_table(storage, name, some, list(columns)), cuts)
        return pa.concat_tables(list(parts), promote_options="default")


def _numbers(column: pa.ChunkedArray, kind: Any, null: float = 0) -> np.ndarray:
    filled = pc.fill_null(pc.cast(column, pa.float64() if kind is np.float32 else pa.int64()), null)
    numbers: np.ndarray = filled.to_numpy().astype(kind)
    return numbers
