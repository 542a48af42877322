"""Annotations that people made and that other sets bring, beside those of specialists.

Items keep the source that their file names; what names none comes from the format, kind `import`. Labels of a picture
that is missing or rejected are stored with it, and come into view when the picture does.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from florence2 import sources
from florence2.engine import originals
from florence2.engine.execution.context import WorkerContext
from florence2.engine.execution.jobs import Job, JobOutcome, Resources, Runner
from florence2.engine.execution.phase import Count, complete
from florence2.engine.execution.provenance import attach_provenance
from florence2.engine.ingest import ingestion
from florence2.engine.ingest.inspection import ImageCandidate
from florence2.engine.operator import digest, run_id, unit_id
from florence2.engine.selectors import ImportSelector
from florence2.engine.session import Session
from florence2.formats.lookup import pictures_in
from florence2.formats.problems import ReadProblems
from florence2.records import Decision, Failure, Grounding, Parsed, Region, Sample, Source, Text, to_json
from florence2.sources import files
from florence2.store import ImportMetadata, Operator, Store, pending

VERSION = "1"

AnyItem = TypeVar("AnyItem", Region, Text, Grounding)


@dataclasses.dataclass(frozen=True)
class LabelledDataset:
    """A data set as it was found: where its pictures lie and what it says of each, by their names below `root`."""

    origin: Mapping[str, str]  # source, format, split, images: what opens it again
    root: Path
    listing: Sequence[ImageCandidate]
    by_name: Mapping[str, Sample]
    produces: tuple[str, ...]
    categories: Sequence[Mapping[str, Any]] = ()

    @classmethod
    def open(
        cls,
        src: str | Path,
        format: str | None,
        split: str | None,
        images: str | Path | None,
        problems: ReadProblems | None = None,
    ) -> LabelledDataset:
        """Read a data set; `problems` may collect the records that cannot be read."""
        problems = problems or ReadProblems()
        format = format or sources.format_of(src)
        if format in ("store", "scenes"):
            raise ValueError(f"{src}: is a {format}, not a data set in a foreign format; annotate takes it as it is")
        samples = list(sources.open(src, split, format, images=images, problems=problems))
        if not samples:
            raise ValueError(
                f"{src}: holds no sample; expected labelled pictures in the format {format}{problems.first()}"
            )
        samples = _that_can_stand(samples, problems)
        origin = {"source": os.path.abspath(src), "format": format, "split": split or ""}
        origin["images"] = os.path.abspath(images) if images else ""
        origin |= {"skip_bad": "yes"} if problems.skip else {}
        root = _root(samples, Path(src))
        categories = originals.categories_of(src, format)
        listing = ingestion.references(samples, root)
        if split is None:
            _note_unlabelled(listing, problems)
        return cls(origin, root, listing, _by_name(samples, root), _produces(samples), categories)

    @property
    def place(self) -> dict[tuple[str, str], str]:
        """Where each picture lies, and its name."""
        return {(found.uri, found.member): found.relative for found in self.listing}

    def operator(self) -> Operator:
        """The operator that an import of all this is."""
        name = self.origin["format"]
        more = [self.categories] if self.categories else []
        made_by = digest(["import", name, VERSION, _digest(self.by_name.values()), *more])
        return Operator(run_id(made_by, 0), name, VERSION, made_by, 0, "import", produces=self.produces)


@dataclasses.dataclass(frozen=True)
class ImportTask:
    """What a data set says of the pictures of a unit, to be stored: (picture, sample), by the picture's own id."""

    unit: str  # of the images table
    pairs: tuple[tuple[Sample, Sample], ...]
    operator: Operator
    uid: str

    def do(self, store: Store, context: WorkerContext) -> JobOutcome:
        """Commit failures, decisions, then annotations: these say that the unit is done."""
        failures: list[Failure] = []
        decisions: list[tuple[str, Decision]] = []
        signed: list[Sample] = []
        metadata = {}
        for picture, sample in self.pairs:
            try:
                signed.append(_attached(picture, sample, self.operator))
            except ValueError as error:
                failures.append(Failure(id=picture.image.id, reason="invalid", detail=str(error)))
            else:
                decisions += _moved_decisions(sample, signed[-1])
            if sample.coverage or sample.split:
                metadata[picture.image.id] = ImportMetadata(sample.split, sample.coverage)
        operator, uid, unit = self.operator, self.uid, self.unit
        found = [pending.failures_of(operator, uid, unit, failures)] if failures else []
        found += [pending.decisions_of(operator, uid, unit, decisions)] if decisions else []
        about, attributes = {}, list[list[tuple[str, str]]]()
        if operator.name in originals.FORMATS:
            about[originals.KEY] = originals.encode({picture.image.id: sample for picture, sample in self.pairs})
            failed = {failure.id for failure in failures}
            good = [sample for picture, sample in self.pairs if picture.image.id not in failed]
            attributes = originals.attributes(item for sample in good for item in sample.items())
        found.append(
            pending.annotations_of(operator, uid, unit, signed, about=about, metadata=metadata, attributes=attributes)
        )
        return JobOutcome(tuple(fragment for each in found for fragment in store.put_all([each])))


def write_import(session: Session, runner: Runner, operator: Operator, given: LabelledDataset) -> ImportSelector:
    """Commit each unit's imported rows where they are lacking; returns which pictures these are."""
    by_picture = _by_picture(session, given)

    def jobs(count: Count) -> Iterator[Job]:
        for unit in session.all_units():
            pictures = [*unit.samples, *unit.others]
            pairs = tuple((p, by_picture[p.image.id]) for p in pictures if p.image.id in by_picture)
            if not pairs:
                continue
            uid = unit_id([picture.image.id for picture, _ in pairs], operator.fingerprint, 0)
            if session.all_done([(pending.path("annotations", operator, uid), operator)], unit):
                for table in ("failures", "decisions"):
                    session.done(pending.path(table, operator, uid), [unit.uid], operator.run_id)
                count.skip(len(pairs))
                continue
            yield Job(uid, len(pairs), ImportTask(unit.uid, pairs, operator, uid))

    complete(session, runner, jobs, Resources("import"), Count("importing", len(by_picture)))
    return _selector(session, operator, given, by_picture)


def _selector(
    session: Session, operator: Operator, given: LabelledDataset, by_picture: Mapping[str, Sample]
) -> ImportSelector:
    """The pictures of which an import says something, and copies of these."""
    place = given.place
    found: dict[str, dict[str, bool]] = defaultdict(dict)  # of a unit's pictures, whether the import is about each
    for unit in session.all_units():
        for picture in (*unit.samples, *unit.others):
            listed = (picture.image.uri, picture.image.member) in place
            found[unit.uid][picture.image.id] = listed or picture.image.id in by_picture
    whole, some = list[str](), list[str]()
    for uid, pictures in found.items():
        whole += [uid] if all(pictures.values()) else []
        some += [] if all(pictures.values()) else [name for name, is_of in pictures.items() if is_of]
    images = frozenset(name for pictures in found.values() for name, is_of in pictures.items() if is_of)
    return ImportSelector(operator.run_id, images, tuple(whole), tuple(some))


def _by_picture(session: Session, given: LabelledDataset) -> dict[str, Sample]:
    """Picture's id -> what the set holds of it; what it holds of a copy belongs to the picture of those very bytes."""
    place, by_name = given.place, given.by_name
    good = (p for unit in session.all_units() for p in unit.samples if p.image.id not in unit.gone)
    by_content = {p.image.sha256: p.image.id for p in good if p.image.sha256}
    out: dict[str, Sample] = {}
    for unit in session.all_units():
        for picture in (*unit.samples, *unit.others):
            name = place.get((picture.image.uri, picture.image.member))
            if name is not None and name in by_name:
                own = picture.image.id
                key = by_content.get(picture.image.sha256, own)
                out[key] = _meeting(out[key], by_name[name]) if key in out else by_name[name]
    return out


def _meeting(a: Sample, b: Sample) -> Sample:
    """The annotations of two copies of a picture; those that are equal are kept once."""
    ours: tuple[Region | Text, ...] = (*a.regions, *a.texts)
    theirs: tuple[Region | Text, ...] = (*b.regions, *b.texts)
    known = set(map(_content, ours))
    same = {item.id for item in theirs if _content(item) in known}
    if len(same) == len(b.regions) + len(b.texts) and not b.groundings:
        return dataclasses.replace(a, split=a.split or b.split, coverage={**b.coverage, **a.coverage})
    used = {i for g in b.groundings for i in (g.text_id, *g.region_ids)} | {r.refines for r in b.regions}
    kept = dataclasses.replace(
        b,
        regions=tuple(r for r in b.regions if r.id not in same or r.id in used),
        texts=tuple(t for t in b.texts if t.id not in same or t.id in used),
        decisions=tuple(d for d in b.decisions if d.item_id not in same or d.item_id in used),
    )
    return _together(a, kept)


def _content(item: Region | Text) -> tuple[Any, ...]:
    """What an item says, its name, maker and score aside."""
    if isinstance(item, Text):
        return item.detail, item.question, item.text
    return item.kind, item.label, item.box, item.quad, item.polygons, item.mask, item.description, item.ignore


def _attached(picture: Sample, sample: Sample, operator: Operator) -> Sample:
    """The picture with a data set's items, each with the maker that its file names; ValueError where one is wrong."""
    default = Source("import", operator.name, VERSION, 0, operator.run_id)
    items = Parsed(sample.texts, sample.regions, sample.groundings)
    signed = attach_provenance(items, picture, default, operator.fingerprint)
    return dataclasses.replace(
        signed,
        regions=tuple(_signed(*pair) for pair in zip(signed.regions, sample.regions)),
        texts=tuple(_signed(*pair) for pair in zip(signed.texts, sample.texts)),
        groundings=tuple(_signed(*pair) for pair in zip(signed.groundings, sample.groundings)),
    )


def _moved_decisions(sample: Sample, signed: Sample) -> list[tuple[str, Decision]]:
    """The data set's own verdicts, on the ids that its items have in the store."""
    ids = {old.id: new.id for old, new in zip(sample.items(), signed.items())}
    return [
        (signed.image.id, dataclasses.replace(d, item_id=ids[d.item_id], by_id=ids.get(d.by_id, "")))
        for d in sample.decisions
        if d.item_id in ids
    ]


def _signed(item: AnyItem, given: AnyItem) -> AnyItem:
    """The stamped item with the maker that its file names, in the import's run and round."""
    ours, theirs = item.source, given.source
    if ours is None or theirs is None:
        return item
    return dataclasses.replace(item, source=Source(theirs.kind, theirs.name, theirs.version, ours.round, ours.run_id))


def _that_can_stand(samples: Iterable[Sample], problems: ReadProblems) -> list[Sample]:
    """The samples, those whose items the store cannot hold without them: refused here, before anything is written."""
    out = []
    for sample in samples:
        bare = Sample(sample.id, sample.image)
        try:
            attach_provenance(Parsed(sample.texts, sample.regions, sample.groundings), bare, Source("import", ""), "")
        except ValueError as error:
            problems.refuse(ValueError(f"{sample.image.id}: {error}; its annotations are left out"))
            sample = dataclasses.replace(bare, split=sample.split)
        out.append(sample)
    return out


def _note_unlabelled(listing: Sequence[ImageCandidate], problems: ReadProblems) -> None:
    """Count the pictures that lie among those of the set and of which it says nothing."""
    known = {os.path.abspath(files.path_of(found.uri)) for found in listing}
    for folder in sorted({os.path.dirname(place) for place in known}):
        for picture in pictures_in(Path(folder)):
            if str(picture) not in known:
                problems.note("is a picture of which the labels say nothing; it is left out", str(picture))


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
    b = _renamed(b, {item.id for item in a.items()} - {""})
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
    own = {item.id for item in sample.items()}
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
        record = to_json(dataclasses.replace(sample, image=dataclasses.replace(sample.image, uri="")))
        total.update(json.dumps(record, sort_keys=True).encode("utf-8", "surrogatepass"))
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
