"""Four views of a picture: boxes come back to their places, and what several views see is one object, surer."""

import dataclasses

import numpy as np
import pytest

from florence2 import scenes
from florence2.engine.specialists.student import StudentSpecialist
from florence2.engine.specialists.views import fused, views_of
from florence2.records import Region

WIDTH, HEIGHT = 200, 100


def picture_with(box):
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    x1, y1, x2, y2 = box
    image[y1:y2, x1:x2] = 255
    return image


def seen(view):
    """The box of what is white in a view."""
    rows, columns = np.where(view.pixels[:, :, 0] > 200)
    return (float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1))


def test_a_box_of_each_view_lies_where_it_is_in_the_picture():
    box = (60, 30, 100, 60)
    views = views_of(picture_with(box))
    assert len(views) == 4 and views[0].pixels.shape == (HEIGHT, WIDTH, 3)
    assert len({seen(view) for view in views}) == 4  # four different looks
    for view in views:
        assert view.to_picture(seen(view)) == pytest.approx(box, abs=1.5)


def found(views, box, labels, scores):
    """One object found in the views, in each one's own pixels."""
    return [
        [Region("r", box=seen(view), label=label, score=score)] if label else []
        for view, label, score in zip(views, labels, scores)
    ]


CENTRE, CORNER = (80, 40, 120, 60), (2, 2, 30, 20)


@pytest.mark.parametrize(
    "box, labels, scores, expected",
    [
        (CENTRE, "aaaa", (0.8, 0.8, 0.8, 0.8), [("a", 0.8)]),
        (CENTRE, ("a", "a", "", ""), (0.8, 0.6, 0, 0), [("a", 0.35)]),  # half of the views agree
        (CENTRE, "aaab", (0.8, 0.8, 0.8, 0.4), [("a", 0.6), ("b", 0.1)]),  # names are not mixed
        (CORNER, ("a", "a", "a", ""), (0.9, 0.9, 0.9, 0), [("a", 0.9)]),  # the window does not show it: no vote
    ],
)
def test_what_views_agree_on_is_surer(box, labels, scores, expected):
    views = views_of(picture_with(box))
    got = fused(views, found(views, box, labels, scores))
    assert [(r.label, pytest.approx(r.score)) for r in got] == expected
    assert all(r.box == pytest.approx(box, abs=1.5) for r in got)


def test_what_a_window_cuts_is_no_object_of_it():
    views = views_of(picture_with((0, 40, 60, 60)))
    got = fused(views, [[], [], [], [Region("r", box=(0.0, 30.0, 40.0, 50.0), label="a", score=0.9)]])
    assert got == []


def test_the_boxes_are_averaged_by_score():
    views = views_of(picture_with(CENTRE))
    one, other = (
        Region("r", box=box, label="a", score=s) for box, s in (((80, 40, 120, 60), 0.9), ((80, 40, 126, 60), 0.3))
    )
    mirrored = dataclasses.replace(other, box=(WIDTH - 126, 40, WIDTH - 80, 60))
    (got,) = fused(views, [[one], [mirrored], [], []])
    assert got.box == pytest.approx((80, 40, (120 * 0.9 + 126 * 0.3) / 1.2, 60)) and got.score == pytest.approx(0.3)


def test_a_student_asked_in_views_finds_what_it_finds_in_one_and_scores_agreement():
    image, truth = scenes.draw(2**31 + 8, objects=(3, 3), signs=0)
    answers = {}
    for views in (False, True):
        student = StudentSpecialist("nano", ["OD", "CAPTION"], views=views)
        student.setup("cpu")
        (answers[views],) = student.annotate([truth], [image])
    plain, many = answers[False], answers[True]
    assert {r.label for r in plain.regions} <= {r.label for r in many.regions}
    assert [t.text for t in plain.texts] == [t.text for t in many.texts]  # texts are those of the picture as it is
    assert StudentSpecialist("nano", views=True).config != StudentSpecialist("nano").config
