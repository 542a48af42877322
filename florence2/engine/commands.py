"""The engine's commands: annotate by specialists, judge by filters, import labels. Each ends with one snapshot.

Knows which units lack whose work, not how processes do it, nor who reads whom (`engine/planning/dependencies.py`).
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from florence2 import arguments, sources
from florence2.engine import trust
from florence2.engine.curation.filters.rules import open_chain
from florence2.engine.curation.judging import judge
from florence2.engine.curation.merging import MergeConfig, corrected_before, merge, merged_otherwise
from florence2.engine.curation.reviewing import review
from florence2.engine.execution.annotation_phase import AnnotationReport, run_steps
from florence2.engine.execution.context import resolve_specialist
from florence2.engine.execution.jobs import ATTEMPTS
from florence2.engine.execution.options import Execution, Progress
from florence2.engine.ingest import ingestion, picture_life, url_lists
from florence2.engine.ingest.discovery import discover
from florence2.engine.ingest.inspection import ImageCandidate, ImageRules
from florence2.engine.ingest.labelled_datasets import LabelledDataset, write_import
from florence2.engine.operator import Filter, Specialist
from florence2.engine.planning.dependencies import Step, plan_steps, refuse_twins, stale_dependents, with_their_inputs
from florence2.engine.planning.superseding import supersede_replaced
from florence2.engine.run_records import begin_run, recorded
from florence2.engine.selectors import FolderSelector
from florence2.engine.session import Session, retry_when_stale
from florence2.engine.user_code import load_function
from florence2.formats import reviews
from florence2.formats.problems import ReadProblems
from florence2.monitoring.run_journal import RunJournal
from florence2.object_store import is_object_url, root_of
from florence2.records import Sample
from florence2.sources import file_types, files, hub_datasets
from florence2.sources.fetching import Fetching
from florence2.store import Store, is_store
from florence2.structuring import brief

DEFAULT_WITH = ("rapidocr", "opencv")


@recorded
@retry_when_stale
def annotate(
    src: str | Path | Sequence[Sample],
    out: str | Path | None = None,
    with_: Sequence[str | Specialist] = DEFAULT_WITH,
    *,
    unit: int | None = None,
    workers: int | None = None,
    rules: ImageRules | None = None,
    lease_s: float | None = None,
    attempts: int = ATTEMPTS,
    device: str = "auto",
    runner: str = "local",
    ray_address: str | None = None,
    fetching: Fetching | None = None,
    dependents: bool = True,
    retry_failed: bool = False,
    progress: Progress | None = None,
    on_message: Callable[[str], None] | None = None,
    reports: dict[str, AnnotationReport] | None = None,
    journal: RunJournal | None = None,
) -> Store:
    """Run specialists over the pictures of a folder, a tar, a table, a list of samples, or over a store's own.

    `hf:OWNER/NAME` is a data set of the hub; of a list of addresses, what `fetching` allows is fetched. Specialists are
    named as on the command line, or are objects. Run again, it finds what is done and goes on; what failed in passing
    is asked again, in three runs in all, then only with `retry_failed`. What had read what they replace is run again,
    too, or named to `on_message` where it cannot be (`dependents`). `reports` is filled with what came of each
    specialist's pictures in this run, by its name; `journal` takes down the run as it goes on. With `runner` "ray" the
    work is done by actors, of the cluster at `ray_address`, or of a Ray that is started for it.
    """
    execution = Execution(workers, lease_s, attempts, device, progress, on_message, runner, ray_address)
    wanted = [with_] if isinstance(with_, str) else with_
    names = arguments.items("with_", wanted, "specialists", lambda s: isinstance(s, str) or hasattr(s, "annotate"))
    rules, own_code = _image_rules(rules), dict[str, Path]()
    with trust.noting(own_code):
        names, specialists = _opened(names)
        if rules.accept:
            load_function(rules.accept)
    store, source, listing, samples = _source(src, out, execution, fetching or Fetching())
    trust.remember(store.root, own_code, on_message)
    journal = begin_run(journal, store, "annotate")
    execution, session = dataclasses.replace(execution, journal=journal), Session(store, journal=journal)
    unit = ingestion.unit_for(len(listing)) if unit is None else unit
    with execution.runner(store.root) as runs:
        times = ingestion.ingest_source(
            session, runs, source, listing, unit, rules, execution, samples, complete=not samples
        )
        selector = FolderSelector(files.absolute_of(source)) if listing and not samples else None
        asked: Sequence[tuple[str | Specialist, Specialist]] = list(zip(names, specialists))
        if dependents:
            asked = with_their_inputs(session, asked, selector)
        planned = plan_steps(session, asked, selectors=[selector] * len(asked))

        def run(steps: Sequence[Step]) -> list[Step]:
            return run_steps(session, steps, runs, rules.max_pixels, execution, reports, retry_failed)

        planned = run(planned)
        made = [(step.operator, step.selector) for step in planned]
        more, left = stale_dependents(session, made, "" if dependents else "as asked for")
        given = [specialist.spec.name for specialist in specialists]
        again = [step.operator.name for step in (*planned, *more) if step.operator.name not in given]
        left += [f"run again, as what they read has changed: {', '.join(again)}"] if again else []
        for line in left:
            execution.message(line)
        more = run(more)
        supersede_replaced(session, runs, [*made, *((step.operator, step.selector) for step in more)])
    session.finish({"phase": "annotate", "round": 0})
    times.save()
    return store


@retry_when_stale
def relocate(
    store: str | Path | Store,
    old: str | Path,
    new: str | Path,
    *,
    on_message: Callable[[str], None] | None = None,
) -> int:
    """Record that the store's pictures below one folder lie below another now; returns how many they are.

    ValueError where none lies below it; those that are not at their new place are named to `on_message`. Their bytes
    are compared when they are annotated next.
    """
    store = store if isinstance(store, Store) else Store(store)
    session = Session(store)
    old, new = arguments.path("old", old), arguments.path("new", new)
    count, absent = picture_life.relocate(session, old, new)
    if not count:
        raise ValueError(f"{store.root}: none of its pictures lies below {files.absolute_of(old)}; see its images' uri")
    if absent and on_message:
        on_message(f"{len(absent)} of these {count} pictures are not there, such as {absent[0]}")
    session.finish({"phase": "relocate", "round": 0})
    return count


@recorded
@retry_when_stale
def filter(
    store: str | Path | Store,
    rules: str | Path | Mapping[str, Any] | Sequence[Filter] | None = None,
    *,
    merging: MergeConfig | None = None,
    workers: int | None = None,
    runner: str = "local",
    ray_address: str | None = None,
    progress: Progress | None = None,
    on_message: Callable[[str], None] | None = None,
    journal: RunJournal | None = None,
) -> Store:
    """Judge a store's annotations by the shipped rules, by those of a YAML file or mapping, or by filters given.

    With `merging`, sources that agree are then merged. The same rules over the same annotations add nothing. Of
    `workers` there is one a core; none (0) unless named where there is but one unit, or where rules are objects of
    one's own, which other processes may not be able to import.
    """
    store = store if isinstance(store, Store) else Store(store)
    chain = chain_of(rules)
    journal = begin_run(journal, store, "filter")
    session = Session(store, journal=journal)
    execution = Execution(
        workers, progress=progress, on_message=on_message, kind=runner, ray_address=ray_address, journal=journal
    )
    with execution.for_rules(chain, session.base).runner(store.root) as runs:
        round = judge(session, runs, chain, progress)
        if merging is not None:
            if merged_otherwise(session, merging, round):
                round = judge(session, runs, chain, progress, again=True)
        if merging is not None or corrected_before(session, round):
            merge(session, runs, merging, round, progress)
    session.finish({"phase": "filter" if merging is None else "merge", "round": round})
    return store


@recorded
@retry_when_stale
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
    reviewed: bool = False,
    progress: Progress | None = None,
    on_message: Callable[[str], None] | None = None,
    journal: RunJournal | None = None,
) -> Store:
    """Bring a data set into a store; the same again adds nothing, and labels that changed replace what they were.

    A record that cannot be read refuses the set; with `skip_bad` it is left out with a message, and the rest comes in.
    `reviewed`: an export of the store that a person has gone over; what it lacks was deleted.
    """
    if reviewed:
        return _import_review(src, out, format, images, skip_bad, on_message)
    src = arguments.path("src", src)
    rules = _image_rules(rules)
    images = None if images is None else arguments.path("images", images)
    problems = ReadProblems(skip_bad)
    given = LabelledDataset.open(src, format, split, images, problems)
    for line in problems.summary() if on_message else ():
        on_message(line)  # type: ignore[misc]
    listing = given.listing
    missing = [found.uri for found in listing if not files.is_there(files.path_of(found.uri))]
    if len(missing) == len(listing):
        raise ValueError(
            f"{src}: none of its {len(missing)} pictures is there, such as {missing[0]}; name --images DIR"
        )
    store = Store(out, create=True)
    journal = begin_run(journal, store, "import")
    session = Session(store, journal=journal)
    execution = Execution(workers, progress=progress, on_message=on_message, journal=journal)
    unit = ingestion.unit_for(len(listing)) if unit is None else unit
    operator = given.operator()
    with execution.runner(store.root) as runner:
        times = ingestion.ingest_source(
            session, runner, given.root, listing, unit, rules, execution, given.by_name, given.origin
        )
        categories = {"categories": given.categories} if given.categories else {}
        session.start(operator, {"format": given.origin["format"], **categories}, given.origin)
        made = [(operator, write_import(session, runner, operator, given))]
        _, left = stale_dependents(session, made, "an import runs no specialist")
        supersede_replaced(session, runner, made)
    session.finish({"phase": "import", "round": 0})
    times.save()
    for line in left if on_message else ():
        on_message(line)  # type: ignore[misc]
    if missing and on_message:
        on_message(
            f"{len(missing)} of {len(listing)} pictures are missing, such as {missing[0]}; their labels wait for them"
        )
    return store


def _import_review(
    src: str | Path,
    out: str | Path,
    format: str | None,
    images: str | Path | None,
    skip_bad: bool,
    on_message: Callable[[str], None] | None,
) -> Store:
    """Enter a reviewer's file into the store that it was exported from."""
    problems = ReadProblems(skip_bad)
    format = format or sources.format_of(src)
    given = reviews.read(Path(src), format, images, problems)
    if not given.pictures:
        raise ValueError(f"{src}: holds no picture that a person went over; in Label Studio a task is to be submitted")
    session = Session(Store(out))
    report = review(session, given, format, {"reviewed": os.path.abspath(src)}, skip_bad)
    if report.counts["pictures"]:
        session.finish({"phase": "review", "round": 0, "counts": dict(report.counts)})
    for line in (*problems.summary(), *report.lines()) if on_message else ():
        on_message(line)  # type: ignore[misc]
    return session.store


def _opened(names: Sequence[str | Specialist]) -> tuple[list[str | Specialist], list[Specialist]]:
    """Specialists as they were named, and as objects; no two of one name."""
    specialists = [resolve_specialist(name) for name in names]
    refuse_twins([specialist.spec.name for specialist in specialists])
    return [name if isinstance(name, str) else found for name, found in zip(names, specialists)], specialists


def _image_rules(rules: ImageRules | None) -> ImageRules:
    if rules is not None and not isinstance(rules, ImageRules):
        raise ValueError(f"rules: expected ImageRules, got {brief(rules)}")
    return rules or ImageRules()


def chain_of(rules: str | Path | Mapping[str, Any] | Sequence[Filter] | None) -> list[Filter]:
    """Filters as given, or the chain that a YAML file or a mapping describes."""
    if rules is None or isinstance(rules, (str, Path, Mapping)):
        return list(open_chain(rules))
    return arguments.items("rules", rules, "a file, a mapping or filters", lambda one: hasattr(one, "judge"))


def _source(
    src: str | Path | Sequence[Sample], out: str | Path | None, execution: Execution, fetching: Fetching
) -> tuple[Store, Path, list[ImageCandidate], dict[str, Sample]]:
    """The store to write, and the pictures to take in: none where the store's own are meant."""
    out = None if out is None else arguments.path("out", out)
    if not isinstance(src, (str, os.PathLike)):
        samples = arguments.items("src", src, "a folder, a store or samples", lambda one: isinstance(one, Sample))
        if out is None:
            raise ValueError("annotate: samples need `out`, the folder of the store")
        if not samples:
            raise ValueError("annotate: got an empty list of samples; expected at least one")
        places = [files.absolute_of(files.path_of(sample.image.uri)) for sample in samples]
        root = root_of(os.path.commonpath([os.path.dirname(place) for place in places]))
        by_name = {ingestion.relative_name(sample.image, root): sample for sample in samples}
        return Store(out, create=True), root, ingestion.references(samples, root), by_name
    src = arguments.path("src", src)
    path = hub_datasets.download(str(src)) if hub_datasets.is_hub(src) else root_of(src)
    if is_store(path):
        if out is not None and files.absolute_of(out) != files.absolute_of(path):
            raise ValueError(f"{path}: is a store and is annotated in place; leave out {str(out)!r}")
        return Store(path), path, [], {}
    if out is None:
        raise ValueError(f"{path}: is not a store; name the store to write (out=, --out)")
    if not is_object_url(path) and url_lists.is_list(path):
        path = url_lists.fetch_list(path, fetching, execution.progress)
    listing, skipped = discover(path, leave_out=root_of(out))
    if not listing:
        more = f"; {len(skipped)} other files, such as {skipped[0]}" if skipped else ""
        raise ValueError(f"{path}: no pictures found{more}; expected files such as .jpg or .png, in subfolders too")
    left = [name.removesuffix(file_types.LEFT_BEHIND) for name in skipped if name.endswith(file_types.LEFT_BEHIND)]
    skipped = [name for name in skipped if not name.endswith(file_types.LEFT_BEHIND)]
    for names, what in ((skipped, "files that hold no pictures"), (left, "files and folders that systems leave")):
        if names:
            execution.message(f"skipped {len(names)} {what}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}")
    failed = [found for found in listing if found.reason]
    if failed and execution.on_message:
        execution.on_message(f"{len(failed)} of {len(listing)} cannot be read, such as {failed[0].detail}")
    return Store(out, create=True), path, listing, {}
