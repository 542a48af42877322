"""Annotations in and out: people's and other sets' beside what specialists say, and a store's view for other tools.

Items keep the source that their file names; what names none comes from the format, kind `import`. Labels of a picture
that is missing or rejected are stored with it, and come into view when the picture does.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import itertools
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from florence2 import sources
from florence2.engine.commands import Execution, Progress
from florence2.engine.curation.judging import supersede_replaced
from florence2.engine.execution.annotation import attach_provenance
from florence2.engine.execution.worker import WorkerContext
from florence2.engine.ingest import ingestion
from florence2.engine.ingest.inspection import ImageCandidate, ImageRules
from florence2.engine.operator import digest, run_id, unit_id
from florence2.engine.planning.dependencies import stale_dependents
from florence2.engine.session import Session, fragment_path
from florence2.formats import validation
from florence2.pixels import BadImage
from florence2.records import Failure, Grounding, Parsed, Region, Sample, Source, Text, to_json
from florence2.sources import file_types, files
from florence2.store import Store, import_metadata, schema
from florence2.store.import_metadata import ImportMetadata
from florence2.store.snapshots import Operator

VERSION = "1"
WRITERS = ("coco", "voc", "yolo", "jsonl", "labelstudio")

AnyItem = TypeVar("AnyItem", Region, Text, Grounding)


def import_labels(
    src: str | Path,
    out: str | Path,
    format: str | None = None,
    *,
    images: str | Path | None = None,
    split: str | None = None,
    unit: int | None = None,
    workers: int | None = None,
    rules: ImageRules | None = None,
    skip_bad: bool = False,
    progress: Progress | None = None,
    on_message: Callable[[str], None] | None = None,
) -> Store:
    """Bring a data set into a store; the same again adds nothing, and labels that changed replace what they were.

    A record that cannot be read refuses the set; with `skip_bad` it is left out and said, and the rest comes in.
    """
    refused: list[str] = []
    given = LabelledDataset.open(src, format, split, images, refused if skip_bad else None)
    if refused and on_message:
        on_message(f"{len(refused)} records cannot be read and are left out, such as {refused[0]}")
    listing = given.listing
    missing = [found.uri for found in listing if not os.path.exists(files.path_of(found.uri))]
    if len(missing) == len(listing):
        raise ValueError(
            f"{src}: none of its {len(missing)} pictures is there, such as {missing[0]}; name --images DIR"
        )
    store = Store(out, create=True)
    session = Session(store)
    execution = Execution(workers, progress=progress, on_message=on_message)
    unit = ingestion.unit_for(len(listing)) if unit is None else unit
    with execution.pool(WorkerContext(store.root), len(listing), unit) as pool:
        ingestion.ingest(
            session, given.root, listing, pool.run, unit, rules or ImageRules(), progress, given.by_name,
            origin=given.origin,
        )  # fmt: skip
    operator = given.operator()
    session.start(operator, {"format": given.origin["format"]}, given.origin)
    write_import(session, operator, given)
    made = [(operator, _Named(frozenset(given.place)))]
    _, left = stale_dependents(session, made, "an import runs no specialist")
    supersede_replaced(session, made)
    session.finish({"phase": "import", "round": 0})
    for line in left if on_message else ():
        on_message(line)  # type: ignore[misc]
    if missing and on_message:
        on_message(
            f"{len(missing)} of {len(listing)} pictures are missing, such as {missing[0]}; their labels wait for them"
        )
    return store


def export_labels(
    store: str | Path | Store, to: str, out: str | Path, snapshot: int | None = None, view: str = "current"
) -> tuple[int, Counter[str]]:
    """Write a store's view in a format; returns how many samples were written, and counts of what it cannot hold."""
    if to not in WRITERS:
        raise ValueError(f"export: format {to!r}: expected one of {', '.join(WRITERS)}")
    store = store if isinstance(store, Store) else Store(store)
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out}: exists and is not empty; name a new or empty folder")
    written = 0

    aside = out / ".pictures"

    def counted() -> Iterator[Sample]:
        nonlocal written
        for sample in store.samples(snapshot, view):
            written += 1
            yield sample if to == "jsonl" else _with_file(sample, aside)

    try:
        lost = importlib.import_module(f"florence2.formats.{to}").write(counted(), out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return written, +lost


def _with_file(sample: Sample, aside: Path) -> Sample:
    """The sample with a plain file for its picture: one inside an archive, or of an odd name, is copied `aside`."""
    ref = sample.image
    if files.plain_path(ref) == ref.uri and file_types.has_picture_suffix(ref.uri):
        return sample
    try:
        data = files.read_bytes(ref)
    except BadImage:
        return sample  # the writer counts it
    name = PurePosixPath(ref.member or ref.uri).name
    suffix = "" if file_types.has_picture_suffix(name) else f".{file_types.format_of(data[:16]) or 'img'}"
    target = aside / ref.id / f"{name}{suffix}"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)
    placed = dataclasses.replace(ref, uri=str(target), member="", offset=-1, length=-1)
    return dataclasses.replace(sample, image=placed)


@dataclasses.dataclass(frozen=True)
class LabelledDataset:
    """A data set as it was found: where its pictures lie and what it says of each, by their names below `root`."""

    origin: Mapping[str, str]  # source, format, split, images: what opens it again
    root: Path
    listing: Sequence[ImageCandidate]
    by_name: Mapping[str, Sample]
    produces: tuple[str, ...]

    @classmethod
    def open(
        cls,
        src: str | Path,
        format: str | None,
        split: str | None,
        images: str | Path | None,
        refused: list[str] | None = None,
    ) -> LabelledDataset:
        """Read a data set; where a list `refused` is given, records that cannot be read are told there."""
        format = format or sources.format_of(src)
        if format in ("store", "scenes"):
            raise ValueError(f"{src}: is a {format}, not a data set in a foreign format; annotate takes it as it is")
        with nullcontext() if refused is None else validation.collecting(refused):
            samples = list(sources.open(src, split, format, images=images))
        if not samples:
            raise ValueError(f"{src}: holds no sample; expected labelled pictures in the format {format}")
        origin = {"source": os.path.abspath(src), "format": format, "split": split or ""}
        origin["images"] = os.path.abspath(images) if images else ""
        origin |= {} if refused is None else {"skip_bad": "yes"}
        root = _root(samples, Path(src))
        return cls(origin, root, ingestion.references(samples, root), _by_name(samples, root), _produces(samples))

    @property
    def place(self) -> dict[tuple[str, str], str]:
        """Where each picture lies, and its name."""
        return {(found.uri, found.member): found.relative for found in self.listing}

    def operator(self) -> Operator:
        """The operator that an import of all this is."""
        name = self.origin["format"]
        made_by = digest(["import", name, VERSION, _digest(self.by_name.values())])
        return Operator(run_id(made_by, 0), name, VERSION, made_by, 0, "import", produces=self.produces)


@dataclasses.dataclass(frozen=True)
class _Named:
    """The pictures of an import."""

    places: frozenset[tuple[str, str]]

    def __call__(self, sample: Sample) -> bool:
        return (sample.image.uri, sample.image.member) in self.places

    def to_json(self) -> dict[str, str]:
        return {"source": str(os.path.commonpath([uri for uri, _ in self.places]))}


def write_import(session: Session, operator: Operator, given: LabelledDataset) -> None:
    """Commit each unit's imported rows where they are lacking: failures, decisions, then annotations."""
    place, by_name = given.place, given.by_name
    for unit in list(session.all_units()):
        pictures = [*unit.samples, *unit.others]
        named = [(p, place.get((p.image.uri, p.image.member))) for p in pictures]
        said = [(picture, by_name[name]) for picture, name in named if name is not None and name in by_name]
        if not said:
            continue
        uid = unit_id([picture.image.id for picture, _ in said], operator.fingerprint, 0)
        paths = {t: fragment_path(t, 0, operator.name, VERSION, uid) for t in ("failures", "decisions", "annotations")}
        if session.done(paths["annotations"], [unit.uid], operator.run_id):
            for table in ("failures", "decisions"):
                session.done(paths[table], [unit.uid], operator.run_id)
            continue
        rows: dict[str, list[schema.Row]] = {table: [] for table in paths}
        metadata: dict[str, ImportMetadata] = {}
        for picture, sample in said:
            _rows_of(picture, sample, operator, rows)
            if sample.coverage or sample.split:
                metadata[picture.image.id] = ImportMetadata(sample.split, sample.coverage)
        for table, path in paths.items():
            if rows[table] or table == "annotations":
                more = (
                    {import_metadata.KEY: import_metadata.encode(metadata)}
                    if table == "annotations" and metadata
                    else {}
                )
                session.put([session.draft(path, operator, unit, rows[table], **more)])


def _rows_of(picture: Sample, sample: Sample, operator: Operator, rows: dict[str, list[schema.Row]]) -> None:
    default = Source("import", operator.name, VERSION, 0, operator.run_id)
    try:
        said = Parsed(sample.texts, sample.regions, sample.groundings)
        stamped = attach_provenance(said, picture, default, operator.fingerprint)
        signed = dataclasses.replace(
            stamped,
            regions=tuple(_signed(*pair) for pair in zip(stamped.regions, sample.regions)),
            texts=tuple(_signed(*pair) for pair in zip(stamped.texts, sample.texts)),
            groundings=tuple(_signed(*pair) for pair in zip(stamped.groundings, sample.groundings)),
        )
        rows["annotations"] += schema.annotation_rows(signed)
    except ValueError as error:
        failure = Failure(id=picture.image.id, reason="invalid", detail=str(error))
        rows["failures"].append(schema.failure_row(failure, operator.name, VERSION, operator.run_id, 0))
        return
    ids = {old.id: new.id for old, new in zip(schema.items_of(sample), schema.items_of(signed))}
    for decision in sample.decisions:
        if decision.item_id in ids:
            moved = dataclasses.replace(decision, item_id=ids[decision.item_id], by_id=ids.get(decision.by_id, ""))
            rows["decisions"].append(schema.decision_row(moved, picture.image.id, VERSION, operator.run_id))


def _signed(item: AnyItem, given: AnyItem) -> AnyItem:
    """The stamped item with the maker that its file names, in the import's run and round."""
    ours, theirs = item.source, given.source
    if ours is None or theirs is None:
        return item
    return dataclasses.replace(item, source=Source(theirs.kind, theirs.name, theirs.version, ours.round, ours.run_id))


def _root(samples: Sequence[Sample], src: Path) -> Path:
    """What pictures' names are relative to: the set's own folder, or else the folder that holds all pictures."""
    base = Path(os.path.abspath(src if src.is_dir() else src.parent))
    folders = {Path(os.path.abspath(files.path_of(sample.image.uri))).parent for sample in samples}
    if all(base == folder or base in folder.parents for folder in folders):
        return base
    return Path(os.path.commonpath(folders))


def _by_name(samples: Iterable[Sample], root: Path) -> dict[str, Sample]:
    """Samples by their picture's name; those of one picture are put together."""
    out: dict[str, Sample] = {}
    for sample in samples:
        name = ingestion.relative_name(sample.image, root)
        if name in out:
            sample = _together(out[name], sample)
        out[name] = sample
    return out


def _together(a: Sample, b: Sample) -> Sample:
    """What two samples say of one picture; items of the second that bear a name of the first get names of their own."""
    b = _renamed(b, {item.id for item in schema.items_of(a)} - {""})
    return dataclasses.replace(
        a,
        regions=a.regions + b.regions,
        texts=a.texts + b.texts,
        groundings=a.groundings + b.groundings,
        decisions=a.decisions + b.decisions,
        split=a.split or b.split,
        coverage={**b.coverage, **a.coverage},
    )


def _renamed(sample: Sample, taken: set[str]) -> Sample:
    """The sample without the names in `taken`; whatever refers to them follows."""
    own = {item.id for item in schema.items_of(sample)}
    new: dict[str, str] = {}
    for name in sorted(own & taken):
        number = next(n for n in itertools.count(2) if f"{name}~{n}" not in own | taken)
        new[name] = f"{name}~{number}"
    if not new:
        return sample

    def of(names: Iterable[str]) -> tuple[str, ...]:
        return tuple(new.get(name, name) for name in names)

    def moved(item: Any, **links: Any) -> Any:
        return dataclasses.replace(item, id=new.get(item.id, item.id), **links)

    return dataclasses.replace(
        sample,
        regions=tuple(
            moved(r, refines=new.get(r.refines, r.refines), derived_from=of(r.derived_from)) for r in sample.regions
        ),
        texts=tuple(moved(text) for text in sample.texts),
        groundings=tuple(
            moved(g, text_id=new.get(g.text_id, g.text_id), region_ids=of(g.region_ids)) for g in sample.groundings
        ),
        decisions=tuple(
            dataclasses.replace(d, item_id=new.get(d.item_id, d.item_id), by_id=new.get(d.by_id, d.by_id))
            for d in sample.decisions
        ),
    )


def _digest(samples: Iterable[Sample]) -> str:
    """A hash of all that the samples say, wherever their pictures lie."""
    total = hashlib.blake2b(digest_size=16)
    for sample in samples:
        said = to_json(dataclasses.replace(sample, image=dataclasses.replace(sample.image, uri="")))
        total.update(json.dumps(said, sort_keys=True).encode("utf-8", "surrogatepass"))
    return total.hexdigest()


def _produces(samples: Iterable[Sample]) -> tuple[str, ...]:
    out = set()
    for sample in samples:
        out |= {"region_text/ocr" if region.kind == "text" else "region_text/object" for region in sample.regions}
        out |= {f"text/{text.detail}" for text in sample.texts}
        out |= {"region_text/description" for region in sample.regions if region.description}
        out |= {"region_text/mask" for region in sample.regions if region.mask or region.polygons}
        out |= {"text_phrase_region"} if sample.groundings else set()
    return tuple(sorted(out))
