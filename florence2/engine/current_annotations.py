"""The annotations that are kept when a specialist runs: it reads those that the verdicts so far leave.

Verdicts are no part of its fingerprint. Each of its fragments states up to which verdict (round, seq) it has read, so
that what is kept by a later one, and was not before, is found and annotated; and which further attempts of those it
reads at pictures that had failed, so that what a later attempt brings is annotated as well.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence

from florence2.engine.inputs import UnitInputs
from florence2.engine.operator import Spec
from florence2.engine.session import Session
from florence2.store import Fragment, Operator, Unit
from florence2.structuring import parse_json

Mark = tuple[int, int]  # the last verdict's round and seq
Fresh = Mapping[str, frozenset[str]]  # image id -> ids of items

KEY, RETRIED = "verdicts", "retried"  # in a fragment's metadata
BY_ITEM = frozenset({"region_text/mask", "region_text/description"})  # annotations of each region by itself


def mark_metadata(mark: Mark | None) -> dict[str, str]:
    """A mark as a fragment's metadata hold it; none where nothing was judged."""
    return {KEY: f"{mark[0]} {mark[1]}"} if mark else {}


def mark_of(session: Session, fragment: Fragment) -> Mark | None:
    """Up to which verdict a fragment was made; None where it was made before there were any."""
    found = session.store.fragment_facts(fragment).get(KEY)
    if found is None:
        return None
    round, _, seq = found.partition(" ")
    return int(round), int(seq)


def retried_metadata(paths: Collection[str]) -> dict[str, str]:
    """The further attempts that were read as a fragment's metadata hold them; none where there were none."""
    return {RETRIED: json.dumps(sorted(paths))} if paths else {}


def retried_of(session: Session, fragment: Fragment) -> frozenset[str]:
    """The paths of the further attempts that were read for a fragment."""
    return frozenset(parse_json(session.store.fragment_facts(fragment).get(RETRIED, "[]")))


def of_attempts(
    session: Session, unit: Unit, runs: Sequence[str], attempts: Sequence[Fragment], now: Mark | None
) -> dict[str, frozenset[str]]:
    """The ids of items of further attempts that are kept now, of pictures that have such items and are good."""
    brought: dict[str, set[str]] = {}
    for fragment in attempts:
        for image, ids in annotation_ids_of(session, unit, session.operators[fragment.run_id], [fragment]).items():
            brought.setdefault(image, set()).update(ids)
    kept_now = kept(session, unit, runs, now) if brought else {}
    found = {image: kept_now[image] & ids for image, ids in brought.items() if image not in unit.gone}
    return {image: ids for image, ids in found.items() if ids}


def read_by(session: Session, unit: Unit, runs: Sequence[str], mark: Mark | None) -> UnitInputs:
    """A unit with the annotations of `runs`, and the verdicts up to a mark."""
    if mark is None:
        return UnitInputs.of(unit, runs)
    return UnitInputs.of(unit, runs, list(session.operators), (mark[0], mark[1] + 1))


def kept(session: Session, unit: Unit, runs: Sequence[str], mark: Mark | None) -> dict[str, frozenset[str]]:
    """The ids of each picture's annotations that were kept at a mark."""
    samples = read_by(session, unit, runs, mark).load(session.store)
    return {s.image.id: frozenset(item.id for item in s.current().items()) for s in samples}


def newly_kept(
    session: Session, unit: Unit, runs: Sequence[str], marks: Sequence[Mark | None], now: Mark | None
) -> Fresh:
    """The ids of items kept now and at none of the marks, of pictures that have such items and are good."""
    if None in marks or now in marks:
        return {}
    read = [kept(session, unit, runs, mark) for mark in marks]
    out = {}
    for image, kept_ids in kept(session, unit, runs, now).items():
        new = kept_ids.difference(*(each[image] for each in read))
        if new and image not in unit.gone:
            out[image] = new
    return out


def annotation_ids_of(
    session: Session, unit: Unit, operator: Operator, before: Sequence[Fragment]
) -> dict[str, list[str]]:
    """Picture id -> the ids of an operator's annotations of it, for the pictures of a unit."""
    group = dataclasses.replace(unit.group, fragments={"annotations": tuple(before)})
    samples = session.store.annotations(dataclasses.replace(unit, group=group), {operator.run_id})
    return {s.image.id: [item.id for item in s.items()] for s in samples}


def asks_by_item(spec: Spec) -> bool:
    """Whether a specialist can be asked about some items of a picture alone."""
    return bool(spec.requires) and not spec.reads_all and spec.produces <= BY_ITEM
