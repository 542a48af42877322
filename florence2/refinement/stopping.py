"""When refinement is over: the agreement that a round ends with, kept in its snapshot, beside that of earlier rounds.

What one command measured, the next reads: the same command on a store that stopped does nothing. Where it measures, it
holds earlier rounds' answers against the same labels of the same pictures, whatever was asked or judged since then:
those that both rounds' students were asked about.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from florence2.engine.inputs import UnitInputs
from florence2.engine.session import Session
from florence2.records import Sample
from florence2.refinement.agreement import Agreement, agreements, holdout_of
from florence2.sources.splits import held_out
from florence2.store import Snapshot, Store

TENTH = 0.1


@dataclass(frozen=True)
class Holdout:
    """The share of pictures that is held out, and the storage rules of what is compared there."""

    share: float
    asked: frozenset[str]


def checked_share(holdout: float | None) -> float:
    """A share as given, else a tenth; ValueError where it would leave too little to learn from."""
    if holdout is None:
        return TENTH
    if isinstance(holdout, bool) or not isinstance(holdout, (int, float)) or not 0 <= holdout <= 0.5:
        raise ValueError(f"holdout: expected a share of 0 to 0.5, got {holdout!r}")
    return float(holdout)


def share_of(samples: Iterable[Sample], holdout: float) -> float:
    """The share of these samples that is held out; 0 where too few would be."""
    return holdout_of((sample.image.id for sample in samples), holdout)


def agreement_of(snapshot: Snapshot) -> Agreement | None:
    """The agreement that a round of refinement ended with; None where the snapshot ends none, or none was measured."""
    facts = snapshot.phase.get("holdout") or {}
    if not facts:
        return None
    return Agreement(facts["pictures"], facts["agreement"], facts.get("labels") or dict.fromkeys(facts["agreement"], 1))


def stop_of(snapshot: Snapshot) -> str:
    """Why refinement stopped with this snapshot; empty where it did not."""
    return str(snapshot.phase.get("stopped", ""))


def measured(session: Session, number: int, holdout: Holdout, newest: tuple[int, int]) -> dict[str, Any]:
    """The facts of a round's agreement, for the snapshot that is about to end it."""
    live, last = [o.run_id for o in session.live()], (max(newest) + 1, 0)
    samples = (
        sample
        for unit in session.units()
        for sample in UnitInputs.of(unit, live, list(session.operators), last).load(session.store)
    )
    earlier = [n for n in range(1, number) if share_at(session.store, session.base, n) >= holdout.share]
    students = [o for o in session.live() if o.kind == "model"]
    runs = {n: {o.run_id for o in students if o.round == n} for n in (number, *earlier)}
    unasked = _unasked(session, holdout.share, {n: runs[n] for n in earlier})
    # each earlier round's answers and this one's, of the pictures that both were asked about; and all of this one's
    pairs = [(number, number), *((whose, n) for n in earlier for whose in (number, n))]
    found = agreements(
        samples,
        holdout.share,
        {pair: runs[pair[0]] for pair in pairs},
        holdout.asked,
        {pair: unasked.get(pair[1], set()) for pair in pairs},
    )
    now = found[number, number]
    facts: dict[str, Any] = {
        "holdout": {
            "share": holdout.share,
            "pictures": now.pictures,
            "agreement": dict(now.by_kind),
            "labels": dict(now.labels),
        }
    }
    best: tuple[float, float, int] | None = None  # how much better an earlier round was, its value and number
    for n in earlier:
        kinds = _measured_kinds(session, n)
        mine, theirs = found[number, n].over(kinds), found[n, n].over(kinds)
        if mine is not None and theirs is not None and found[n, n].is_measure:
            best = max(best or (theirs - mine, theirs, -n), (theirs - mine, theirs, -n))
    if best is not None and best[0] >= 0:
        lead, value, n = best[0], best[1], -best[2]
        both = f", of the {found[n, n].pictures} pictures that both were asked about" if unasked[n] else ""
        facts["stopped"] = (
            f"agreement with held-out labels, {value - lead:.3f}, is not above the {value:.3f} of round {n}{both}"
        )
    return facts


def _unasked(session: Session, share: float, runs: Mapping[int, Collection[str]]) -> dict[int, set[str]]:
    """The held-out pictures that a round's students were never asked about, since they came later; by round."""
    asked = {n: {unit for run in of_round for unit in session.of_run(run)} for n, of_round in runs.items()}
    out: dict[int, set[str]] = {n: set() for n in runs}
    for unit in session.units() if runs else ():
        for n in runs:
            if unit.uid not in asked[n]:
                out[n].update(s.image.id for s in unit.samples if held_out(s.image.id, share))
    return out


def share_at(store: Store, snapshot: Snapshot, number: int) -> float:
    """The share of pictures that a round's students were not trained on."""
    ended = ending(store, snapshot, number)
    return float((ended.phase.get("holdout") or {}).get("share", 0.0)) if ended is not None else 0.0


def _measured_kinds(session: Session, number: int) -> set[str]:
    """The kinds of labels that a round's students were asked for."""
    ended = ending(session.store, session.base, number)
    then = agreement_of(ended) if ended is not None else None
    return set(then.by_kind) if then is not None else set()


def ending(store: Store, snapshot: Snapshot, number: int) -> Snapshot | None:
    """The snapshot that ended a round of which this one holds the annotations."""
    runs = _runs(snapshot, number)
    for earlier in reversed([n for n in store.snapshots() if n <= snapshot.number]):
        ended = store.snapshot(earlier)
        if ended.phase.get("phase") == "refine" and ended.phase.get("round") == number and _runs(ended, number) == runs:
            return ended
    return None


def _runs(snapshot: Snapshot, number: int) -> set[str]:
    return {o.run_id for o in snapshot.operators if o.kind == "model" and o.round == number}
