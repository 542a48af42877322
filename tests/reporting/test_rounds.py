"""The page that compares a store after two rounds: what went, what came, why, and the pictures that changed."""

import dataclasses

import pytest

import florence2
from florence2.cli.report import main
from florence2.records import Parsed
from florence2.refinement import refine
from florence2.refinement.stopping import stop_of
from florence2.reporting import report
from florence2.reporting.round_sections import difference, snapshot_of
from tests.engine.doubles import Boxes, Floor, folder_of
from tests.refinement.test_refine import FakeTraining, Learned
from tests.reporting.test_page import read


class Renaming(Learned):
    """A student that is surer of another name in the same place, and finds one thing more."""

    def one(self, sample, image):
        (region,) = super().one(sample, image).regions
        renamed = dataclasses.replace(region, label="ding", score=0.95)
        more = dataclasses.replace(region, id="more", label="thing", box=(30.0, 0.0, 39.0, 9.0))
        return Parsed(regions=(renamed, more))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rounds")
    store = florence2.annotate(folder_of(folder, 12), folder / "s", [Boxes()], workers=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("florence2.refinement.rounds.weights_of", lambda start: "weights")
        given = {"rules": [Floor(0.0)], "workers": 0, "train": FakeTraining(), "open_student": Renaming}
        refine(store, 2, tasks=["OD"], **given)
    return store


def test_what_went_and_came_is_counted_with_its_reason(store):
    before, after = (snapshot_of(store, number) for number in (0, 1))
    assert before.number < after.number and after.phase["round"] == 1
    found = difference(store, before, after, 5)
    assert (found.pictures, found.changed, len(found.shown)) == (12, 12, 5)
    (went,) = found.gone  # the specialist's name for the thing
    assert went == ("boxes, round 0", "superseded: outscored") and found.gone[went] == 12
    assert found.new == {("student, round 1", "found or kept anew"): 24}
    assert (found.changes.relabelled, found.changes.added, found.changes.removed) == (12, 12, 0)


def test_a_later_round_that_agrees_changes_little(store):
    first, second = (snapshot_of(store, number) for number in (1, 2))
    found = difference(store, first, second, 5)
    assert not found.gone and not found.new and found.changes.boxes == 24


def test_pictures_that_one_view_alone_has_are_counted_in_either_order(tmp_path, monkeypatch):
    """Taken in after the first round: from the second to the first they went."""
    monkeypatch.setattr("florence2.refinement.rounds.weights_of", lambda start: "weights")
    given = {"rules": [Floor(0.0)], "workers": 0, "train": FakeTraining(), "open_student": Learned, "tasks": ["OD"]}
    store = florence2.annotate(folder_of(tmp_path, 4), tmp_path / "s", [Boxes()], workers=0)
    refine(store, 1, **given)
    florence2.annotate(folder_of(tmp_path, 6, start=4), store.root, [Boxes()], workers=0)
    refine(store, 2, **given)
    first, second = (snapshot_of(store, number) for number in (1, 2))
    there, back = difference(store, first, second, 9), difference(store, second, first, 9)
    assert there.pictures == back.pictures == 10
    assert there.changes.added == back.changes.removed == 6 and sum(back.gone.values()) >= 6


def test_the_page_draws_both_views_and_says_what_became_of_each(store, tmp_path):
    page = tmp_path / "page.html"
    assert main([str(store.root), "--out", str(page), "--rounds", "0", "1", "--pictures", "3"]) == 0
    document = page.read_text()
    assert document.count("data:image/jpeg;base64,") == document.count("<svg") == 6  # each picture twice
    assert "&lt;" not in document  # nothing of the page's own is shown as text
    text = read(document).text
    assert "before round 1" in text and "after round 1" in text
    assert "- thing" in text and "superseded: outscored (merge" in text and "+ ding 0.95: student, round 1" in text


def test_the_table_of_rounds_says_of_when_its_values_are_and_why_the_last_was_the_last(tmp_path, monkeypatch):
    monkeypatch.setattr("florence2.refinement.rounds.weights_of", lambda start: "weights")
    given = {"rules": [Floor(0.0)], "workers": 0, "train": FakeTraining(), "open_student": Learned, "tasks": ["OD"]}
    store = florence2.annotate(folder_of(tmp_path, 40), tmp_path / "s", [Boxes()], workers=0)
    refine(store, 2, holdout=0.4, **given)  # the second is as good as the first: the last
    assert stop_of(store.snapshot())
    page = read(report(store.root, tmp_path / "page.html", rounds=(0, 2)).read_text()).text
    assert page.count("is not above") == 1 and "as both were when it ended" in page
    assert "held-out pictures" in page
    florence2.annotate(store.root, None, [Boxes("more")], workers=0)
    refine(store, 3, holdout=0.0, **given)
    assert "is not above" not in read(report(store.root, tmp_path / "page.html", rounds=(0, 3)).read_text()).text


@pytest.mark.parametrize(
    "rounds, match", [((0, 3), "has no round 3; expected two of 0 .before the first. to 2"), ((1, 1), "two different")]
)
def test_rounds_that_are_not_there_are_refused(store, tmp_path, rounds, match):
    with pytest.raises(ValueError, match=match):
        report(store.root, tmp_path / "page.html", rounds=rounds)


def test_a_run_has_no_rounds(tmp_path):
    with pytest.raises(ValueError, match="is no store; only a store has rounds"):
        report(tmp_path, tmp_path / "page.html", rounds=(0, 1))
