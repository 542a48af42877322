"""Pictures that are kept out of training: which they are, what agreement on them is, that refinement stops by it."""

import dataclasses

import pytest

import florence2
from florence2.cli import main
from florence2.records import Decision, ImageRef, Parsed, Region, Sample, Source, Text
from florence2.refinement import refine
from florence2.refinement.agreement import agreement, holdout_of, labels_of
from florence2.refinement.stopping import agreement_of, stop_of
from florence2.sources.splits import fold_of, held_out
from florence2.training.config import DataSource, TrainConfig
from tests.engine.doubles import Boxes, Floor, folder_of
from tests.refinement.test_refine import FakeTraining, Learned

NAMES = [f"picture-{n}" for n in range(4000)]
HELD = next(name for name in NAMES if held_out(name, 0.1))
TRAINED = next(name for name in NAMES if not held_out(name, 0.5))


def test_a_share_by_hash_is_held_out_whatever_the_fold():
    held = [name for name in NAMES if held_out(name, 0.1)]
    assert 0.08 < len(held) / len(NAMES) < 0.12
    assert 0.4 < sum(fold_of(name, 2) for name in held) / len(held) < 0.6
    assert set(held) < {name for name in NAMES if held_out(name, 0.2)}  # a larger share holds the smaller one
    assert not any(held_out(name, 0.0) for name in NAMES)


def test_fewer_than_ten_pictures_are_no_measure_and_all_are_trained_on():
    held = [name for name in NAMES if held_out(name, 0.1)]
    assert holdout_of(held[:10], 0.1) == 0.1 and holdout_of([*held[:9], TRAINED], 0.1) == 0.0


def region(name, box, label, source, kind="object"):
    return Region(name, kind, box=box, label=label, source=source)


def text(name, words, source, detail="brief"):
    return Text(name, words, detail, source=source)


SPECIALIST, STUDENT = Source("specialist", "s", run_id="s"), Source("model", "student", round=1, run_id="m1")
EARLIER, FUSED = Source("model", "student", round=0, run_id="m0"), Source("specialist", "merge", run_id="g")
CAT, DOG, FAR = (0, 0, 10, 10), (20, 20, 40, 40), (60, 60, 80, 80)


def sample(*regions, texts=(), decisions=(), name=HELD):
    return Sample(name, ImageRef(name, width=100, height=100), texts, regions, decisions=decisions)


LABELS = (region("a", CAT, "cat", SPECIALIST), region("b", DOG, "dog", SPECIALIST))


@pytest.mark.parametrize(
    "samples, expected",
    [
        ([sample(*LABELS, region("c", CAT, "cat", STUDENT))], {"objects": 2 / 3}),
        ([sample(*LABELS, region("c", CAT, "dog", STUDENT))], {"objects": 0.0}),  # the place is not enough
        ([sample(*LABELS, region("c", CAT, "cat", EARLIER))], {"objects": 0.0}),  # another round's
        ([sample(*LABELS, region("c", CAT, "cat", STUDENT), region("d", FAR, "cow", FUSED))], {"objects": 2 / 3}),
        # what merging replaced is still the label that it was; what a filter rejected is none
        (
            [sample(*LABELS, region("c", CAT, "cat", STUDENT), decisions=(Decision("a", "superseded", "merge"),))],
            {"objects": 2 / 3},
        ),
        (
            [sample(*LABELS, region("c", CAT, "cat", STUDENT), decisions=(Decision("b", "rejected", "low"),))],
            {"objects": 1.0},
        ),
        ([sample(*LABELS, region("c", CAT, "cat", STUDENT), name=TRAINED)], {}),  # not held out
        ([sample(region("c", CAT, "cat", STUDENT))], {}),  # nothing to agree with
        (
            [sample(texts=(text("t", "a red cat", SPECIALIST), text("u", "a cat", STUDENT)))],
            {"texts": 0.8},
        ),
        (
            [sample(texts=(text("t", "a red cat", SPECIALIST, "detailed"),))],  # of a kind that is not asked
            {},
        ),
    ],
)  # fmt: skip
def test_agreement_is_f1_beside_the_labels_that_no_model_made(samples, expected):
    found = agreement(samples, 0.1, ["m1"], {"label", "brief"})
    assert found.by_kind == pytest.approx(expected) and found.pictures == sum(s.id == HELD for s in samples)
    assert set(found.labels) == set(expected) and (found.value is None) == (not expected)


DRAWN = region("h", DOG, "cow", Source("human", "ada"))
OF_SET = region("i", CAT, "cat", Source("import", "coco"))
MERGED = region("m", CAT, "cat", FUSED)


@pytest.mark.parametrize(
    "regions, decisions, expected",
    [
        # the merged box was deleted, or given another name: what it was made of is no label any more
        ([LABELS[0], MERGED], [("a", "superseded", "merge", "m"), ("m", "rejected", "human", "")], set()),
        (
            [LABELS[0], MERGED, DRAWN],
            [("a", "superseded", "merge", "m"), ("m", "superseded", "human", "h"), ("h", "kept", "human", "")],
            {"h"},
        ),
        # it was confirmed: one label, not two; so is a student's that a person confirmed
        ([LABELS[0], MERGED], [("a", "superseded", "merge", "m"), ("m", "kept", "human", "")], {"m"}),
        ([region("c", CAT, "cat", STUDENT)], [("c", "kept", "human", "")], {"c"}),
        # what a person's or a set's box stands in place of; what a student's stands in place of
        ([LABELS[1], DRAWN], [("b", "superseded", "merge", "h")], {"h"}),
        ([LABELS[0], OF_SET], [("a", "superseded", "merge", "i")], {"i"}),
        ([LABELS[0], region("c", CAT, "cat", STUDENT)], [("a", "superseded", "merge", "c")], {"a"}),
    ],
)  # fmt: skip
def test_a_persons_word_on_what_was_merged_counts(regions, decisions, expected):
    decisions = tuple(Decision(i, status, rule, by_id=by) for i, status, rule, by in decisions)
    assert {r.id for r in labels_of(sample(*regions, decisions=decisions)).regions} == expected


@pytest.mark.parametrize(
    "decisions, expected",
    [
        ([], 2 / 4),  # one of two answers is right, of two labels
        ([("d", "rejected", "human", "")], 2 / 4),  # a person deleted it: it was said all the same
        ([("d", "rejected", "low", ""), ("d", "kept", "human", "")], 2 / 4),  # of three labels; it was not said
        ([("c", "superseded", "human", "h"), ("h", "kept", "human", "")], 2 / 5),  # changed: one more label, not found
        ([("d", "rejected", "low", "")], 2 / 3),  # a filter's verdict is on the answers of every round
    ],
)
def test_what_a_student_said_counts_as_said_whatever_a_person_made_of_it(decisions, expected):
    """Else an earlier round gets better by corrections, and the next one, which nobody has corrected, stops."""
    answers = region("c", CAT, "cat", STUDENT), region("d", FAR, "cow", STUDENT)
    drawn = [DRAWN] if any(i == "h" for i, *_ in decisions) else []
    verdicts = tuple(Decision(i, status, rule, by_id=by) for i, status, rule, by in decisions)
    found = agreement([sample(*LABELS, *answers, *drawn, decisions=verdicts)], 0.1, ["m1"], {"label"})
    assert found.by_kind == {"objects": pytest.approx(expected)}


def test_what_is_known_to_be_absent_is_no_label():
    verdict = Decision("a", "rejected", "merge", "not_listed")
    assert not labels_of(sample(LABELS[0], decisions=(verdict,))).regions
    assert labels_of(sample(LABELS[0], decisions=(dataclasses.replace(verdict, reason="unconfirmed"),))).regions


def test_kinds_are_weighed_by_their_labels():
    """Two lines of text do not outweigh hundreds of objects."""
    line = region("l", FAR, "EXIT", SPECIALIST, "text")
    answers = region("c", CAT, "cat", STUDENT), region("d", DOG, "dog", STUDENT)
    found = agreement([sample(*LABELS, line, *answers)], 0.1, ["m1"], {"label", "text"})
    assert found.by_kind == {"objects": 1.0, "lines": 0.0} and found.labels == {"objects": 2, "lines": 1}
    assert found.value == pytest.approx(2 / 3)


def test_training_leaves_the_share_out(tmp_path):
    from florence2.codec.tasks import TASKS
    from florence2.training.datasets import SampleSource
    from florence2.training.examples import TaskMixture

    samples = [sample(*LABELS, name=name) for name in NAMES[:100]]
    source = SampleSource(DataSource("x", holdout=0.3), TaskMixture({"<OD>": 1.0}, TASKS), (32, 32), samples)
    trained = {s.id for s in samples if source.trained(s)}
    assert trained == {name for name in NAMES[:100] if not held_out(name, 0.3)} and 50 < len(trained) < 90
    with pytest.raises(ValueError, match="holdout: expected 0 to less than 1, got 1"):
        TrainConfig(str(tmp_path), [DataSource("x", holdout=1.0)])


class Forgetting(Learned):
    """A student of round 1 agrees with the labels; a later one finds its boxes elsewhere."""

    def one(self, sample, image):
        parsed = super().one(sample, image)
        if "students" not in self.weights_sha256:  # its start was no student
            return parsed
        away = tuple(dataclasses.replace(r, box=(0.0, 0.0, 3.0, 3.0)) for r in parsed.regions)
        return dataclasses.replace(parsed, regions=away)


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr("florence2.refinement.rounds.weights_of", lambda start: "weights")
    return florence2.annotate(folder_of(tmp_path, 40), tmp_path / "s", [Boxes()], workers=0)


def run(store, rounds, trainer, **more):
    given = {"rules": [Floor(0.0)], "workers": 0, "train": trainer, "open_student": Forgetting, "tasks": ["OD"]}
    return refine(store, rounds, **{"holdout": 0.4, **given, **more})


def test_students_are_not_shown_what_is_held_out_and_annotate_it(store):
    trainer = FakeTraining()
    (done,) = run(store, 1, trainer)
    held = [s for s in store.samples() if held_out(s.image.id, 0.4)]
    assert [call["data"][0]["holdout"] for call in trainer.calls] == [0.4, 0.4]
    assert sum(student.samples for student in done.students) == 40 - len(held)
    assert all(any(r.derived_from for r in s.regions) for s in held)  # merged of both
    assert done.agreement.pictures == len(held) >= 10 and done.agreement.by_kind == {"objects": 1.0}
    assert agreement_of(store.snapshot()) == done.agreement and not done.stopped
    assert "held-out pictures 1.000 (objects 1.000)" in done.lines()[-1]


def test_refinement_stops_where_agreement_no_longer_rises_and_says_so(store, capsys):
    trainer = FakeTraining()
    first, second = run(store, 5, trainer)
    assert (first.agreement.value, second.agreement.value) == (1.0, 0.0)
    assert "0.000, is not above the 1.000 of round 1" in second.stopped == stop_of(store.snapshot())
    assert second.lines()[-1].startswith("stopped after round 2: ")
    before = store.snapshots()
    assert run(store, 5, trainer) == [] and store.snapshots() == before and len(trainer.calls) == 4
    assert main(["refine", str(store.root), "--rounds", "5", "--quiet"]) == 0
    assert "stopped after round 2: agreement" in capsys.readouterr().out and store.snapshots() == before


def test_filter_sends_nobody_to_a_refinement_that_stopped(store, capsys):
    florence2.filter(store.root, workers=0)
    run(store, 5, FakeTraining(), rules=None)
    stopped = store.snapshot()
    assert main(["filter", str(store.root), "--workers", "0", "--quiet"]) == 0
    assert stop_of(stopped) and store.snapshot() == stopped
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"{store.root}: snapshot {stopped.number}; refinement stopped: {stop_of(stopped)}"
    run(store, 3, FakeTraining(), rules=None, holdout=0)
    assert main(["filter", str(store.root), "--workers", "0", "--quiet"]) == 0
    assert capsys.readouterr().out.endswith(f"; next: florence2 refine {store.root} --rounds 4\n")


def test_without_a_share_it_goes_on(store):
    trainer = FakeTraining()
    run(store, 5, trainer)
    (third,) = run(store, 3, trainer, holdout=0)
    assert third.number == 3 and third.agreement is None and "holdout" not in trainer.calls[-1]["data"][0]


def test_a_share_that_was_asked_for_and_is_too_few_pictures_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("florence2.refinement.rounds.weights_of", lambda start: "weights")
    few = florence2.annotate(folder_of(tmp_path, 12), tmp_path / "few", [Boxes()], workers=0)
    said = []
    run(few, 1, FakeTraining(), holdout=None, on_message=said.append)  # where nobody asked it is no news
    run(few, 2, FakeTraining(), holdout=0, on_message=said.append)
    assert not said
    (done,) = run(few, 3, FakeTraining(), holdout=0.5, on_message=said.append)
    assert not done.stopped and done.agreement is None
    assert said == [
        "a share of 0.5 of the pictures, by hash, is fewer than the 10 that a measure takes: none is held out, and "
        "nothing stops"
    ]


def test_new_labels_lift_a_stop(store):
    trainer = FakeTraining()
    run(store, 5, trainer)
    florence2.annotate(store.root, None, [Boxes("more")], workers=0)
    assert [done.number for done in run(store, 3, trainer)] == [3]


def test_a_larger_share_is_of_students_that_did_not_see_it(store):
    """Those of the round before were trained on it: they begin anew, and its agreement is no measure for them."""
    trainer, said = FakeTraining(), []
    run(store, 1, trainer)
    (second,) = run(store, 2, trainer, holdout=0.5, on_message=said.append)
    assert {call["model"] for call in trainer.calls} == {"nano"} and "begin from the start" in said[-1]
    assert second.agreement.value == 1.0 and not second.stopped  # 1.0 as the first: not compared
    (third,) = run(store, 3, trainer, holdout=0.4)  # a smaller share they have not seen either
    assert all("students" in call["model"] for call in trainer.calls[4:]) and "of round 1" in third.stopped


def test_rounds_are_compared_on_the_labels_as_they_are_now(store):
    """After the first round half of the labels are others: what it agreed on then is no measure for the second."""
    trainer = FakeTraining()
    run(store, 1, trainer)
    florence2.annotate(store.root, None, [Boxes("more", shift=15.0)], workers=0)
    (second,) = run(store, 2, trainer, open_student=Learned)
    assert second.agreement.value == pytest.approx(2 / 3)  # 1.0 in the first, of the labels there were
    assert "0.667, is not above the 0.667 of round 1" in second.stopped


def test_rounds_are_compared_on_the_pictures_that_both_were_asked_about(store, tmp_path):
    """Pictures that came after a round are none that it missed; those where it found nothing are."""
    trainer = FakeTraining()
    run(store, 1, trainer)
    florence2.annotate(folder_of(tmp_path / "more", 30, start=40), store.root, [Boxes()], workers=0)
    (second,) = run(store, 2, trainer, open_student=Learned)  # as good as the first, and no better
    held = [s.image.id for s in store.samples() if held_out(s.image.id, 0.4)]
    assert second.agreement.value == 1.0 and second.agreement.pictures == len(held)
    both = len([s for s in store.samples(snapshot=3) if held_out(s.image.id, 0.4)])
    assert f"1.000 of round 1, of the {both} pictures that both were asked about" in second.stopped


def test_pictures_on_which_a_round_found_nothing_are_compared(store):
    class Blind(Learned):
        def one(self, sample, image):
            return Parsed()

    trainer = FakeTraining()
    run(store, 1, trainer, open_student=Blind)
    (second,) = run(store, 2, trainer, open_student=Learned)
    (third,) = run(store, 3, trainer, open_student=Blind)
    assert not second.stopped and "0.000, is not above the 1.000 of round 2" in third.stopped


def test_kinds_that_an_earlier_round_was_not_asked_for_are_not_compared(store):
    trainer = FakeTraining()
    run(store, 1, trainer, open_student=Learned)
    (second,) = run(store, 2, trainer, tasks=["OD", "CAPTION"], open_student=Learned)
    assert set(second.agreement.by_kind) == {"objects", "texts"} and "1.000, is not above the 1.000" in second.stopped


@pytest.mark.parametrize("key", ["path", "fold", "holdout", "snapshot"])
def test_what_rounds_set_themselves_is_refused_in_a_recipe(store, key):
    with pytest.raises(ValueError, match=f"source.{key} is set by the rounds themselves"):
        run(store, 1, FakeTraining(), tasks=(), recipe={"source": {key: None}})
    with pytest.raises(ValueError, match="source: expected keys of a source"):
        run(store, 1, FakeTraining(), tasks=(), recipe={"source": 3})


@pytest.mark.parametrize("share", [-0.1, 0.6, "much"])
def test_a_share_that_leaves_little_is_refused(store, share):
    with pytest.raises(ValueError, match="holdout: expected a share of 0 to 0.5"):
        run(store, 1, FakeTraining(), holdout=share)
