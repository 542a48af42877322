"""Several sources of one picture become one current view: by verdicts, and a fused row only where no parent is right.

Human outranks import, import the rest. Sources that agree on a label and, by IoU, on a place are one object; agreement
raises its score. What a labelled set states to be absent is rejected. Nothing is removed: a superseded item names its
winner.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from florence2.engine.curation import text_lines
from florence2.engine.curation.human_verdicts import PEOPLES_SPACES
from florence2.engine.curation.judging import dependents, with_confirmed_as_human
from florence2.engine.curation.taken_away import Refusal, contradicted, refusals, said_again
from florence2.engine.execution.context import WorkerContext
from florence2.engine.execution.jobs import Job, JobOutcome, Resources, Runner
from florence2.engine.execution.options import Progress
from florence2.engine.execution.phase import Count, complete
from florence2.engine.inputs import UnitInputs
from florence2.engine.operator import OperatorInput, annotation_id, digest, run_id
from florence2.engine.session import HUMAN, Session, inputs_of
from florence2.formats import documents
from florence2.geometry import as_boxes, iou
from florence2.labels import fold_label
from florence2.records import Decision, Region, Sample, Source, Text
from florence2.store import Operator, Store, pending
from florence2.structuring import structure

NAME, VERSION = "merge", "4"
RANKS = {"human": 0, "import": 1}


@dataclass(frozen=True)
class MergeConfig:
    """When sources agree, and what follows where they do not."""

    iou: float = 0.55
    """Boxes of one label from different sources that overlap this much are one object."""
    conflict_iou: float = 0.6
    """Boxes of different labels that overlap this much are in conflict; the better ranked or scored one is kept."""
    unconfirmed_below: float | None = 0.5
    """An object of another source that no model found in a picture that one annotated is rejected below this score."""
    synonyms: tuple[tuple[str, ...], ...] = ()
    """Groups of labels that mean the same; the first of a group represents it."""
    contradicted: bool = True
    """An object that no person drew is rejected where a labelled set says that there is none: its label was searched
    for in vain (verified_absent), or all of that label are listed and this is none of them (not_listed)."""


def settings(path: str | Path) -> MergeConfig:
    """The settings of a YAML file: MergeConfig's fields, those left out at their defaults."""
    data = documents.read_settings(Path(path), words=lambda keys: len(keys) > 1 and keys[0] == "synonyms")
    found = structure(MergeConfig, data, str(path), settings=True)
    return dataclasses.replace(found, synonyms=tuple(tuple(map(fold_label, group)) for group in found.synonyms))


@dataclass
class Merged:
    """The result of merging one sample: verdicts, and rows of its own."""

    decisions: list[Decision] = field(default_factory=list)
    regions: list[Region] = field(default_factory=list)


def merge(
    session: Session, runner: Runner, merging: MergeConfig | None, round: int, progress: Progress | None = None
) -> None:
    """Merge the kept annotations of every unit; the verdicts belong to `round` and come after its filters'.

    Without `merging` sources stay side by side: what people took away and a student says again is rejected, no more.
    """
    operator, live, seq = _planned(session, merging, round)
    facts = {"config": merging and asdict(merging), "reads": [o.run_id for o in live], "seq": seq}
    session.start(operator, facts, {})
    merge_units(session, runner, merging, operator, live, seq, progress)


def merged_otherwise(session: Session, merging: MergeConfig, round: int) -> bool:
    """Whether that round was merged before by other settings: its verdicts remain, and a new round is needed."""
    operator, _, _ = _planned(session, merging, round)
    return any(o.kind == "merge" and o.round == round and o.run_id != operator.run_id for o in session.base.operators)


def corrected_before(session: Session, round: int) -> bool:
    """Whether a student may say again what a person took away, and no merging of that round has seen to it."""
    kinds = {(o.kind, o.round) for o in session.base.operators}
    students = any(o.kind == "model" and o.round for o in session.live())
    return students and any(kind == HUMAN for kind, _ in kinds) and ("merge", round) not in kinds


def _planned(session: Session, merging: MergeConfig | None, round: int) -> tuple[Operator, list[Operator], int]:
    """The merge of a round, the operators whose annotations it reads, and its place among the round's verdicts."""
    live = [o for o in session.live() if o.kind != "merge" or o.round < round]
    filters = [o for o in session.operators.values() if o.kind == "filter" and o.round == round]
    reads = [*inputs_of(live), *(OperatorInput(o.fingerprint, round) for o in filters)]
    made_by = digest([NAME, VERSION, merging and asdict(merging), sorted((r.fingerprint, r.round) for r in reads)])
    operator = Operator(run_id(made_by, round), NAME, VERSION, made_by, round, "merge", ("region_text/object",))
    return operator, live, 1 + len(filters)


@dataclass(frozen=True)
class MergeTask:
    """A unit in which sources are to be merged; `models` are the runs of models that annotated every picture."""

    inputs: UnitInputs
    config: MergeConfig | None
    operator: Operator
    models: frozenset[str]
    seq: int
    since: Mapping[str, int] = field(default_factory=dict)
    """The round of verdicts in which each student's run came."""

    def do(self, store: Store, context: WorkerContext) -> JobOutcome:
        """Merge, and commit the fused regions and the verdicts."""
        fused, verdicts = [], []
        for sample in self.inputs.load(store):
            kept, refused = with_confirmed_as_human(sample), refusals(sample)
            if self.config is None:
                found = side_by_side(kept, refused, self.since)
            else:
                found = merge_sample(kept, self.config, self.operator, self.models, refused, self.since)
            fused.append(dataclasses.replace(sample, regions=tuple(found.regions), texts=(), groundings=()))
            round = self.operator.round
            signed = [dataclasses.replace(each, rule=NAME, round=round, seq=self.seq) for each in found.decisions]
            verdicts += [(sample.image.id, decision) for decision in signed]
        unit, uid = self.inputs.unit.uid, self.inputs.uid(self.operator)
        annotations = pending.annotations_of(self.operator, uid, unit, fused)
        decisions = pending.decisions_of(self.operator, uid, unit, verdicts)
        return JobOutcome(tuple(store.put_all([annotations, decisions])))


def merge_units(
    session: Session,
    runner: Runner,
    config: MergeConfig | None,
    operator: Operator,
    reads: Sequence[Operator],
    seq: int,
    progress: Progress | None = None,
) -> None:
    """Merge the kept ones of these operators' annotations in every unit that lacks this work."""
    latest = max((o.round for o in reads if o.kind == "model"), default=-1)
    models = frozenset(o.run_id for o in reads if o.kind == "model" and o.round == latest)
    runs, since = [o.run_id for o in reads], _since(session, reads)

    def jobs(count: Count) -> Iterator[Job]:
        for unit in session.units():
            inputs = session.inputs(unit, runs, operator, seq)
            paths = [pending.path(table, operator, inputs.uid(operator)) for table in ("annotations", "decisions")]
            if session.all_done([(path, operator) for path in paths], unit):
                count.skip(len(unit.samples))
                continue
            yield Job(inputs.uid(operator), len(unit.samples), MergeTask(inputs, config, operator, models, seq, since))

    complete(session, runner, jobs, Resources(NAME), Count("merging", session.count(), progress))


def _since(session: Session, reads: Sequence[Operator]) -> dict[str, int]:
    """The round of verdicts in which each student's annotations came: people have seen none of them before."""
    students = {o.run_id for o in reads if o.kind == "model" and o.round}
    first: dict[str, int] = {}
    for judge in (o for o in session.operators.values() if o.kind in ("filter", "merge")):
        for run in students & set((session.store.run(judge.run_id) or {}).get("reads") or ()):
            first[run] = min(judge.round, first.get(run, judge.round))
    return first


def side_by_side(sample: Sample, refused: Sequence[Refusal], since: Mapping[str, int]) -> Merged:
    """Nothing merged: rejections of what people took away or left no room for, and of what depends on it."""
    least, spaces = MergeConfig.iou, {s: c for s, c in sample.coverage.items() if s in PEOPLES_SPACES}
    out = said_again(sample, refused, since, least, fold_label)
    ids = {d.item_id for d in out}
    boxed = [r for r in sample.regions if r.box is not None and not (r.refines or r.ignore or r.id in ids)]
    out += contradicted(dataclasses.replace(sample, coverage=spaces), boxed, refused, least, fold_label)
    return Merged(out + dependents(sample, {d.item_id for d in out}))


def merge_sample(
    sample: Sample,
    merging: MergeConfig,
    operator: Operator,
    models: Iterable[str] = (),
    refused: Sequence[Refusal] = (),
    since: Mapping[str, int] = MappingProxyType({}),
) -> Merged:
    """Merge the kept items of one sample. `models` are the runs of models that annotated every picture.

    `refused` is what a person took away, `since` the round of verdicts in which each student's run came.
    """
    models = set(models)
    ordinal = 0
    named = functools.partial(_label, synonyms=merging.synonyms)
    out = Merged(said_again(sample, refused, since, merging.iou, named))
    again = {d.item_id for d in out.decisions}
    boxed = [r for r in sample.regions if r.box is not None and not (r.refines or r.ignore or r.id in again)]
    if merging.contradicted:
        out.decisions += contradicted(sample, boxed, refused, merging.iou, named)
        absent = {d.item_id for d in out.decisions}
        boxed = [region for region in boxed if region.id not in absent]
    label_of = {r.id: named(r.label) for r in boxed}
    replaced, _ = text_lines.settle([r for r in boxed if r.kind == "text"], _source, _rank)
    places = {r.id: r for r in boxed}
    for loser, winner_id in replaced.items():
        line, better = places[loser], places[winner_id]
        reason = "outranked" if _rank(better) < _rank(line) else "other_reader"
        out.decisions.append(
            Decision(loser, "superseded", NAME, reason, _overlap(line, better), text_lines.OVER, winner_id)
        )
    alone: list[Region] = []
    winners: list[Region] = []
    for cluster in clusters([r for r in boxed if r.kind == "object"], merging.iou, label_of):
        if len(cluster) == 1:
            alone.append(cluster[0])
            continue
        winner, reason = _fused(cluster, sample.image.id, operator, ordinal)
        if winner not in cluster:
            out.regions.append(winner)
            ordinal += 1
        winners.append(winner)
        out.decisions += [
            Decision(r.id, "superseded", NAME, why, _overlap(winner, r), merging.iou, winner.id)
            for r in cluster
            if r is not winner
            for why in ["outranked" if _rank(r) > _rank(winner) and _rank(winner) < 2 else reason]
        ]
    out.decisions += _conflicts(alone, winners, merging, label_of)
    out.decisions += _outranked(winners, alone, merging, label_of)
    judged = {d.item_id for d in out.decisions}
    out.decisions += _repeated(sample, [r for r in alone if r.id not in judged], merging, label_of)
    if merging.unconfirmed_below is not None and models:
        out.decisions += _unconfirmed(alone, models, merging.unconfirmed_below, {d.item_id for d in out.decisions})
    out.decisions += _texts([text for text in sample.texts if text.id not in again])
    # items that refer to a superseded region follow its winner; those of any other rejected item are rejected
    moved = {d.item_id for d in out.decisions if d.status == "superseded"} & {r.id for r in sample.regions}
    gone = {d.item_id for d in out.decisions if d.status != "kept"} - moved
    out.decisions += dependents(sample, gone, moved)
    return out


def clusters(regions: Sequence[Region], threshold: float, label_of: dict[str, str]) -> list[list[Region]]:
    """Boxes of one and the same object: each cluster is led by its best, with at most one of each other source."""
    order = sorted(regions, key=lambda r: (_rank(r), -(r.score if r.score is not None else 1.0), r.id))
    overlaps = iou([r.box for r in order], [r.box for r in order]) if order else np.zeros((0, 0))
    taken = [False] * len(order)
    out = []
    for i, leader in enumerate(order):
        if taken[i]:
            continue
        taken[i] = True
        cluster, sources = [leader], {_source(leader)}
        for j in sorted(range(i + 1, len(order)), key=lambda j: (-overlaps[i, j], j)):
            other = order[j]
            if overlaps[i, j] < threshold:
                break
            if not taken[j] and label_of[other.id] == label_of[leader.id] and _source(other) not in sources:
                taken[j] = True
                cluster.append(other)
                sources.add(_source(other))
        out.append(cluster)
    return out


def _fused(cluster: Sequence[Region], image_id: str, operator: Operator, ordinal: int) -> tuple[Region, str]:
    """The row that represents a cluster (its leader, or a fused box that equals no parent), and why the others go."""
    leader = cluster[0]
    if _rank(leader) < 2:
        return leader, "agrees"
    if any(r.polygons or r.quad or r.mask for r in cluster):
        return leader, "agrees"  # shapes are not averaged: the best one is kept
    weights = np.array([1.0 if r.score is None else max(r.score, 1e-3) for r in cluster])
    box = (as_boxes([r.box for r in cluster]) * weights[:, None]).sum(axis=0) / weights.sum()
    x1, y1, x2, y2 = np.round(box, 3)
    scores = [r.score for r in cluster if r.score is not None]
    score = 1 - float(np.prod([1 - min(max(s, 0.0), 1.0) for s in scores])) if scores else None
    fused = dataclasses.replace(
        leader,
        id=annotation_id(image_id, operator.fingerprint, operator.round, ordinal),
        box=(float(x1), float(y1), float(x2), float(y2)),
        score=score,
        description=next((r.description for r in cluster if r.description), ""),
        source=Source("specialist", NAME, VERSION, operator.round, operator.run_id),
        derived_from=tuple(r.id for r in cluster),
    )
    for parent in cluster:
        if np.allclose(parent.box or (), fused.box or (), atol=1e-3) and parent.score == fused.score:
            return parent, "agrees"
    return fused, "fused"


def _conflicts(
    alone: Sequence[Region], winners: Sequence[Region], merging: MergeConfig, label_of: dict[str, str]
) -> list[Decision]:
    """Verdicts on unconfirmed objects where another object lies: outranked, outscored, or kept as disputed."""
    out = []
    for region in alone:
        if region.kind != "object" or _rank(region) == 0:
            continue
        worst: tuple[float, Region] | None = None
        for other in (*winners, *alone):
            if other is region or other.kind != "object" or _source(other) == _source(region):
                continue
            same = label_of.get(other.id, _label(other.label, merging.synonyms)) == label_of[region.id]
            overlap = _overlap(region, other)
            if not same and overlap >= merging.conflict_iou and (worst is None or overlap > worst[0]):
                worst = overlap, other
        if worst is None:
            continue
        overlap, other = worst
        verdict = _against(region, other)
        status = "kept" if verdict == "disputed" else "superseded"
        out.append(Decision(region.id, status, NAME, verdict, overlap, merging.conflict_iou, other.id))
    return out


def _outranked(
    winners: Sequence[Region], alone: Sequence[Region], merging: MergeConfig, label_of: dict[str, str]
) -> list[Decision]:
    """Verdicts on what several sources agree on where a better ranked one, which none confirms, has another label."""
    out = []
    people = [region for region in alone if region.kind == "object" and _rank(region) < 2]
    for winner in (w for w in winners if w.kind == "object" and _rank(w) == 2):
        label = label_of.get(winner.id, _label(winner.label, merging.synonyms))
        overlaps = [(_overlap(winner, other), other) for other in people if label_of[other.id] != label]
        overlap, other = max(overlaps, key=lambda pair: pair[0], default=(0.0, None))
        if other is not None and overlap >= merging.conflict_iou:
            out.append(Decision(winner.id, "superseded", NAME, "outranked", overlap, merging.conflict_iou, other.id))
    return out


def _repeated(
    sample: Sample, alone: Sequence[Region], merging: MergeConfig, label_of: dict[str, str]
) -> list[Decision]:
    """Verdicts on second boxes of one source on an object that a set lists, where it lists all of that label."""
    whole = {
        _label(label, merging.synonyms)
        for found in sample.coverage.values()
        for c in found
        if c.state == "exhaustive"
        for label in c.labels
    }
    listed = [r for r in sample.regions if _rank(r) < 2 and r.box is not None and r.kind == "object" and not r.ignore]
    out = []
    for region in (r for r in alone if r.kind == "object" and _rank(r) == 2 and label_of[r.id] in whole):
        same = [r for r in listed if _label(r.label, merging.synonyms) == label_of[region.id]]
        best = max(same, key=lambda r: _overlap(region, r), default=None)
        if best is not None and _overlap(region, best) >= merging.iou:
            overlap = _overlap(region, best)
            out.append(Decision(region.id, "superseded", NAME, "repeated", overlap, merging.iou, best.id))
    return out


def _against(region: Region, other: Region) -> str:
    """The verdict on a region beside one of another label in its place: only a better one supersedes it."""
    if _rank(other) != _rank(region):
        return "outranked" if _rank(other) < _rank(region) else "disputed"
    a_model = any(r.source is not None and r.source.kind == "model" for r in (region, other)) or other.derived_from
    scored = region.score is not None and other.score is not None
    return "outscored" if a_model and scored and (other.score or 0) > (region.score or 0) else "disputed"


def _unconfirmed(alone: Sequence[Region], models: set[str], below: float, judged: set[str]) -> list[Decision]:
    """Rejections of low-scored objects that no model found in a picture that one annotated."""
    out = []
    for region in alone:
        source = region.source
        assert source is not None
        weak = region.score is not None and region.score < below
        if weak and region.kind == "object" and source.kind in ("specialist", "simulated") and region.id not in judged:
            out.append(Decision(region.id, "rejected", NAME, "unconfirmed", region.score, below))
    return out


def _texts(texts: Sequence[Text]) -> list[Decision]:
    """Of texts of one length: people's outrank the rest; of one model's rounds the better scored is kept.

    Scores of unlike sources do not compare (a composer's is that of its boxes, a model's that of its words): their
    texts are kept side by side.
    """
    out = []
    kinds: dict[tuple[str, str], list[Text]] = {}
    for text in texts:
        kinds.setdefault((text.detail, text.question), []).append(text)
    for group in kinds.values():
        first = min(group, key=lambda t: (_rank(t), t.id))
        if _rank(first) < 2:
            lower = [text for text in group if _rank(text) > _rank(first)]
            out += [Decision(t.id, "superseded", NAME, "outranked", t.score, first.score, first.id) for t in lower]
            continue
        makers: dict[str, list[Text]] = {}
        for text in group:
            if _kind(text) == "model" and text.source is not None:
                makers.setdefault(text.source.name, []).append(text)
        for rounds in makers.values():
            best = min(rounds, key=lambda t: (-(t.score if t.score is not None else 0.0), t.id))
            out += [
                Decision(t.id, "superseded", NAME, "outscored", t.score, best.score, best.id)
                for t in rounds
                if _source(t) != _source(best)
            ]
    return out


def _label(label: str, synonyms: Sequence[Sequence[str]]) -> str:
    folded = fold_label(label)
    return next((group[0] for group in synonyms if folded in group), folded)


def _overlap(a: Region, b: Region) -> float:
    return float(iou([a.box], [b.box])[0, 0])


def _kind(item: Any) -> str:
    return item.source.kind if item.source is not None else ""


def _rank(item: Any) -> int:
    return RANKS.get(_kind(item), 2)


def _source(item: Any) -> tuple[Any, ...]:
    source = item.source
    return (source.kind, source.name, source.round, source.run_id) if source is not None else ()
