"""Flips and crops: drawing the truth and then moving it equals moving the truth and then drawing it."""

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from florence2 import geometry, scenes
from florence2.codec.locations import quantize
from florence2.codec.tasks import QUESTIONS, TASKS
from florence2.pixels import resize
from florence2.records import Coverage, Grounding, ImageRef, Region, Sample, Text
from florence2.scenes.scene_files import write
from florence2.training import train
from florence2.training.config_files import from_mapping
from florence2.training.examples import TaskMixture
from florence2.training.moves import Move, MoveSettings, allowed, clipped, drawn_move, mirrored, moved
from florence2.training.setup import prepare
from tests.training.tiny import tiny_run

SIDE = 128
TABLE = {**TASKS, **QUESTIONS}


def inside(polygon, size_wh):
    """(H, W) bool: pixels whose middle lies within a ring, even-odd."""
    xs, ys = np.meshgrid(np.arange(size_wh[0]) + 0.5, np.arange(size_wh[1]) + 0.5)
    points = np.reshape(polygon, (-1, 2))
    found = np.zeros(xs.shape, bool)
    for (x1, y1), (x2, y2) in zip(points, np.roll(points, -1, axis=0)):
        if y1 != y2:
            crosses = (y1 > ys) != (y2 > ys)
            found ^= crosses & (xs < (x2 - x1) * (ys - y1) / (y2 - y1) + x1)
    return found


def drawn(region, size_wh):
    """What a region covers, drawn from its outline, else from its box."""
    if not region.polygons:
        x1, y1, x2, y2 = region.box
        return inside((x1, y1, x2, y1, x2, y2, x1, y2), size_wh)
    return np.logical_or.reduce([inside(part, size_wh) for part in region.polygons])


def nudged(sample):
    """The sample with every place a little to the side, so that no pixel's middle lies on an outline."""

    def places(values):
        return tuple(value + 0.013 for value in values)

    regions = [
        replace(r, box=places(r.box), polygons=tuple(map(places, r.polygons)), quad=places(r.quad))
        for r in sample.regions
    ]
    return replace(sample, regions=tuple(regions))


@st.composite
def moves(draw):
    width, height = draw(st.integers(40, 180)), draw(st.integers(40, 180))
    x, y = (draw(st.integers(min(0, SIDE - side), max(0, SIDE - side))) for side in (width, height))
    return Move((SIDE, SIDE), (x, y, x + width, y + height), draw(st.booleans()))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), moves(), st.sampled_from(["outline", "box", "mask"]))
def test_draw_then_move_equals_move_then_draw(seed, move, kind):
    sample = nudged(scenes.draw(seed, objects=(1, 5))[1])
    if kind == "box":
        sample = replace(sample, regions=tuple(replace(r, polygons=(), quad=()) for r in sample.regions))
    if kind == "mask":
        masks = [geometry.encode_rle(drawn(region, (SIDE, SIDE))) for region in sample.regions]
        sample = replace(
            sample, regions=tuple(replace(r, polygons=(), mask=m) for r, m in zip(sample.regions, masks, strict=True))
        )
    there = moved(sample, move, 0.3)
    assert there.image.size_wh == move.moved_wh
    before = {region.id: region for region in sample.regions}
    for region in there.regions:
        expected = move.pixels(drawn(before[region.id], (SIDE, SIDE)))
        found = geometry.decode_rle(region.mask) if kind == "mask" else drawn(region, move.moved_wh)
        if kind == "mask":
            expected = move.pixels(geometry.decode_rle(before[region.id].mask))
            assert (found == expected).all()
        elif region.kind == "object":
            assert (found == expected).all()
        rows, columns = np.nonzero(expected)
        x1, y1, x2, y2 = region.box
        assert x1 <= columns.min() + 1 and x2 >= columns.max() and y1 <= rows.min() + 1 and y2 >= rows.max()
        assert 0 <= x1 < x2 <= move.moved_wh[0] and 0 <= y1 < y2 <= move.moved_wh[1]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), moves(), st.floats(0.05, 0.95))
def test_exactly_the_objects_that_a_window_cuts_away_are_dropped(seed, move, keep):
    _, sample = scenes.draw(seed, objects=(1, 5), signs=0.5)
    there = moved(sample, move, keep)
    x1, y1, x2, y2 = move.window
    kept = set()
    for region in sample.regions:
        a, b, c, d = region.box
        left = max(0, min(c, x2) - max(a, x1)) * max(0, min(d, y2) - max(b, y1)) / ((c - a) * (d - b))
        outline = not region.polygons or any(clipped(part, move.window) for part in region.polygons)
        if left >= (1 if region.kind == "text" else keep) and outline:
            kept.add(region.id)
    assert {region.id for region in there.regions} == kept
    assert all(set(g.region_ids) <= kept for g in there.groundings)
    whole = {g.id for g in sample.groundings if set(g.region_ids) <= kept}
    assert {g.id for g in there.groundings} == whole


def test_a_label_of_which_a_sliver_is_left_is_no_longer_listed_wholly():
    regions = (Region("a", box=(0, 0, 50, 50), label="cup"), Region("b", box=(60, 60, 90, 90), label="pen"))
    sample = Sample(
        "s", ImageRef("s", width=100, height=100), regions=regions, coverage={"": (Coverage("exhaustive"),)}
    )
    sliver = moved(sample, Move((100, 100), (45, 45, 100, 100)), 0.4)
    assert [r.label for r in sliver.regions] == ["pen"] and sliver.regions[0].box == (15, 15, 45, 45)
    assert sliver.coverage[""] == (Coverage("exhaustive", ("pen",)), Coverage("partial", ("cup",)))
    gone = moved(sample, Move((100, 100), (55, 55, 100, 100)), 0.4)
    assert gone.coverage == sample.coverage


PIECES = ["left", "right", "Left", "RIGHT", "most", "hand", "upright", "bright", "-", ",", " "]


@given(st.lists(st.sampled_from(PIECES), max_size=12))
def test_two_mirrors_are_none(pieces):
    text = "".join(pieces)
    assert mirrored(mirrored(text)[0])[0] == text


@pytest.mark.parametrize("text, expected", [
    ("a dog on the left of the tree", "a dog on the right of the tree"),
    ("The Left one, top-right", "The Right one, top-left"),
    ("the leftmost and the rightmost, left-hand side", "the rightmost and the leftmost, right-hand side"),
    ("upright, bright, copyright, delft", "upright, bright, copyright, delft"),
    ("LEFT", "RIGHT"),
])  # fmt: skip
def test_words_change_sides(text, expected):
    assert mirrored(text)[0] == expected


@given(st.lists(st.sampled_from(["left", "right", "a cup", "leftmost", "x"]), min_size=1, max_size=12))
def test_spans_go_on_naming_their_phrases(words):
    text = " ".join(words)
    starts = [sum(len(word) + 1 for word in words[:i]) for i in range(len(words))]
    groundings = tuple(
        Grounding(f"g{i}", "t", word, ((start, start + len(word)),), ("r",))
        for i, (word, start) in enumerate(zip(words, starts))
    )
    image = ImageRef("s", width=10, height=10)
    sample = Sample("s", image, (Text("t", text),), (Region("r", box=(0, 0, 5, 5), label="cup"),), groundings)
    there = moved(sample, Move((10, 10), (0, 0, 10, 10), True), 0.5)
    for grounding in there.groundings:
        ((a, b),) = grounding.spans
        assert there.texts[0].text[a:b] == grounding.phrase


def test_a_quad_begins_at_its_new_top_left():
    region = Region("r", "text", (1, 2, 7, 4), "abc", quad=(1, 2, 7, 2, 7, 4, 1, 4))
    there = moved(
        Sample("s", ImageRef("s", width=10, height=10), regions=(region,)), Move((10, 10), (0, 0, 10, 10), True), 1
    )
    assert there.regions[0].quad == (3, 2, 9, 2, 9, 4, 3, 4) and there.regions[0].label == "abc"


def test_clipping_a_ring_that_is_not_convex():
    ring = (0, 0, 10, 0, 10, 10, 6, 10, 6, 4, 4, 4, 4, 10, 0, 10)  # an arch; its feet are cut apart
    found = clipped(ring, (-5, 6, 20, 20))
    assert geometry.polygon_area(found) == pytest.approx(4 * 4 * 2)
    assert clipped(ring, (20, 20, 30, 30)) == ()


def one(texts=(), regions=(), groundings=()):
    return Sample("s", ImageRef("s", width=100, height=100), tuple(texts), tuple(regions), tuple(groundings))


CUP = Region("a", box=(10, 10, 50, 50), label="cup")
LINE = Region("b", "text", (60, 60, 90, 70), "EXIT", quad=(60, 60, 90, 60, 90, 70, 60, 70))


@pytest.mark.parametrize("tasks, sample, flip, cut, window", [
    (["OD"], one(regions=[CUP]), True, True, True),
    (["OD"], one(regions=[CUP, LINE]), True, True, True),  # nobody is asked to read
    (["OD", "OCR_WITH_REGION"], one(regions=[CUP, LINE]), False, True, True),
    (["OCR"], one(texts=[Text("t", "EXIT", "ocr")]), False, False, True),  # where it is written is not known
    (["CAPTION"], one(texts=[Text("t", "a cup")]), True, False, True),
    (["CAPTION"], one(texts=[Text("t", "a cup on the left")]), True, False, False),
    (["CAPTION"], one(texts=[Text("t", "a bus turns right at the lights")]), False, False, False),
    (["CAPTION"], one(texts=[Text("t", "nothing left over")]), False, False, False),
    # the caption is not asked for
    (["OD", "CAPTION"], one(texts=[Text("t", "the largest", "detailed")], regions=[CUP]), True, True, True),
    (["VQA"], one(texts=[Text("t", "two", "answer", "how many?")]), False, False, False),
    (["OD", "VQA"], one(texts=[Text("t", "two", "answer", "how many?")], regions=[CUP]), False, False, False),
    (["REGION_TO_DESCRIPTION"], one(regions=[replace(CUP, description="the larger cup")]), True, True, False),
    (["REFERRING_EXPRESSION_SEGMENTATION"],
     one(regions=[replace(CUP, polygons=((10, 10, 50, 10, 50, 50),))],
         groundings=[Grounding("g", "", "left cup", (), ("a",))]), True, True, False),
])  # fmt: skip
def test_what_is_asked_decides_what_may_be_done(tasks, sample, flip, cut, window):
    may = allowed(sample, TaskMixture({f"<{name}>": 1.0 for name in tasks}, TABLE))
    assert (may.flip, may.cut, may.window) == (flip, cut, window)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_drawn_moves_keep_what_they_must(seed):
    _, sample = scenes.draw(seed % 50, signs=0.7)
    tasks = TaskMixture({"<OD>": 1.0, "<OCR_WITH_REGION>": 1.0}, TABLE)
    may = allowed(sample, tasks)
    move = drawn_move(sample, may, MoveSettings(1, 1), random.Random(seed))
    if move is None:
        return
    there = moved(sample, move, 0.4)
    lines = [region.id for region in sample.regions if region.kind == "text"]
    assert [region.id for region in there.regions if region.kind == "text"] == lines
    assert not (lines and move.mirrored) and there.regions


def job_of(tmp_path, order=range(12), **changes):
    folder = tmp_path / f"toy{order[0]}"
    truth = folder / "truth.jsonl"
    if not truth.exists():
        write(folder, (scenes.draw(seed, signs=0) for seed in order))
    data = [{"path": str(truth), "tasks": ["OD"]}]
    return prepare(from_mapping(tiny_run(tmp_path, data=data, dense=0, flip=0.5, crop=0.7, **changes)))


def test_a_move_depends_on_seed_epoch_and_sample_alone(tmp_path):
    jobs = [job_of(tmp_path), job_of(tmp_path, range(11, -1, -1), batch_size=3)]

    def found(job, seed, epoch):
        planned = [job.order.sources[0].plan(number, epoch, seed) for number in range(12)]
        return {one.name: (one.move, one.sample.regions) for one in planned}

    first = found(jobs[0], 0, 0)
    assert first == found(jobs[1], 0, 0) and len(first) == 12
    assert first != found(jobs[0], 0, 1) and first != found(jobs[0], 1, 0)
    assert any(move and move.mirrored for move, _ in first.values())
    assert any(move and move.window != (0, 0, SIDE, SIDE) for move, _ in first.values())


def test_pictures_are_moved_as_their_targets_are(tmp_path):
    """The scene is drawn, moved and brought to the model's size, and so is each target's box."""
    job = job_of(tmp_path)
    source = job.order.sources[0]
    for number in range(12):
        planned = source.plan(number, 0, 0)
        array, sample, (example,) = source.load(planned, planned.asks, random.Random(0))
        assert array.shape == (32, 32, 3)
        whole, _ = scenes.draw(number, signs=0)
        if planned.move is None:
            continue
        expected = planned.move.pixels(whole)
        assert sample.image.size_wh == (expected.shape[1], expected.shape[0])
        assert np.abs(array.astype(int) - resize(expected, (32, 32)).astype(int)).mean() < 3  # small, then mirrored
        first = example.target_ids.index(next(i for i in example.target_ids if i >= job.tokenizer.loc0))
        box = [i - job.tokenizer.loc0 for i in example.target_ids[first : first + 4]]
        truth = [region.box for region in TASKS["<OD>"].truths(sample)[0][1].regions][0]
        assert box == list(quantize(truth, sample.image.size_wh))


def test_moved_scenes_and_sets_train(tmp_path):
    for data in ("scenes:count=16,objects=1-2", None):
        changes = {"data": [{"path": data, "tasks": ["OD", "CAPTION"], "pairs": 2}]} if data else {}
        config = tiny_run(
            tmp_path, flip=0.5, crop=0.5, crop_scale=[0.7, 1.2], steps=2, out=str(tmp_path / f"{data}"), **changes
        )
        assert train(config).steps == 2


@pytest.mark.parametrize("change, said", [
    ({"flip": 1.5}, "flip: expected 0 to 1"),
    ({"crop_scale": [1.2, 0.5]}, "crop_scale: expected"),
    ({"crop_keep": -1}, "crop_keep: expected 0 to 1"),
])  # fmt: skip
def test_wrong_numbers_are_refused(tmp_path, change, said):
    with pytest.raises(ValueError, match=said):
        train(tiny_run(tmp_path, **change))
