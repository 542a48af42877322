"""Which items count as right, and `florence2 calibrate` from answers to the file."""

import json

import numpy as np
import pytest

from florence2.cli import main
from florence2.codec.answers import ItemSpan
from florence2.codec.tasks import TASKS
from florence2.decoding.measures import END, MASS, RADII
from florence2.evaluation.calibrate import LEAST, calibrate
from florence2.evaluation.eval_items import EvalItem
from florence2.evaluation.presence import Asked, Presence, presence
from florence2.evaluation.rightness import right_items
from florence2.predictor import Answer, load
from florence2.predictor.calibration import ScoreMap
from florence2.records import Ask, Grounding, ImageRef, Parsed, Region, Sample, Text

BOX, FAR = (10.0, 10.0, 50.0, 50.0), (55.0, 55.0, 95.0, 95.0)
SHIFTED = (14.0, 10.0, 54.0, 50.0)


def judged(task, truth, found, ask=None):
    row = TASKS[task]
    sample = Sample("s", ImageRef("i", width=100, height=100))
    return right_items(row, EvalItem(sample, ask or Ask(task), (truth,)), found)


def regions(*rows):
    return Parsed(regions=tuple(Region(f"r{n}", box=box, label=label, score=score, ignore=ignore)
                                for n, (box, label, score, ignore) in enumerate(rows)))  # fmt: skip


def test_a_box_is_right_by_name_and_place_once():
    truth = regions((BOX, "cat", None, False), (FAR, "dog", None, False))
    found = regions((SHIFTED, "Cat", 0.5, False), (BOX, "cat", 0.9, False), (FAR, "cat", 1.0, False))
    assert judged("<OD>", truth, found) == {"r0": False, "r1": True, "r2": False}  # the surer one takes the truth
    assert judged("<REGION_PROPOSAL>", truth, found) == {"r0": False, "r1": True, "r2": True}


def test_what_lies_on_ignored_truth_is_not_judged():
    assert judged("<OD>", regions((BOX, "cat", None, True)), regions((BOX, "cat", 0.9, False))) == {}


def test_a_line_is_right_where_it_is_read_to_the_letter():
    truth = regions((BOX, "Total  12", None, False))
    assert judged("<OCR_WITH_REGION>", truth, regions((BOX, "Total 12", 1.0, False))) == {"r0": True}
    assert judged("<OCR_WITH_REGION>", truth, regions((BOX, "total 12", 1.0, False))) == {"r0": False}


def test_a_query_s_boxes_bear_the_name_asked_for():
    ask = Ask("<OPEN_VOCABULARY_DETECTION>", text="cat")
    assert judged(ask.task, regions((BOX, "cat", None, False)), regions((BOX, "cat", 1.0, False)), ask) == {"r0": True}
    assert judged(ask.task, Parsed(), regions((BOX, "cat", 1.0, False)), ask) == {"r0": False}


def test_a_phrase_is_right_by_any_of_its_boxes():
    truth = Parsed(
        regions=(Region("a", box=BOX), Region("b", box=FAR)), groundings=(Grounding("g", "", "A cat", (), ("a", "b")),)
    )
    found = Parsed(
        regions=(Region("r0", box=FAR), Region("r1", box=BOX)),
        groundings=(Grounding("g0", "", "a cat", (), ("r0",)), Grounding("g1", "", "a dog", (), ("r1",))),
    )
    assert judged("<CAPTION_TO_PHRASE_GROUNDING>", truth, found) == {"r0": True, "g0": True, "r1": False, "g1": False}


def test_an_outline_is_right_by_its_mask():
    def outline(box):
        x1, y1, x2, y2 = box
        return Parsed(regions=(Region("r0", polygons=((x1, y1, x2, y1, x2, y2, x1, y2),)),))

    assert judged("<REGION_TO_SEGMENTATION>", outline(BOX), outline(SHIFTED)) == {"r0": True}
    assert judged("<REGION_TO_SEGMENTATION>", outline(BOX), outline(FAR)) == {"r0": False}


@pytest.mark.parametrize(
    "task, true, said, right",
    [
        ("<OCR>", "A b\nc", "A b c", True),
        ("<OCR>", "A b", "a b", False),
        ("<CAPTION>", "Two cats on a red ground.", "two cats on a red ground", True),
        ("<CAPTION>", "Two cats on a red ground.", "Two dogs on a red ground.", False),  # a fact that is not so
    ],
)
def test_texts(task, true, said, right):
    assert judged(task, Parsed(texts=(Text("t", true),)), Parsed(texts=(Text("t0", said),))) == {"t0": right}


def query(label, sure, there, right, spread=0.5):
    """A question about a label, whether it is there, and an answer of one box that is begun with probability `sure`."""
    task = "<OPEN_VOCABULARY_DETECTION>"
    truth = Parsed(regions=(Region("t", box=BOX, label=label),) if there else ())
    box = BOX if right else FAR
    measures = np.zeros((7, MASS + len(RADII)), np.float32)
    measures[2, END] = 1 - sure
    measures[3:, MASS:] = spread
    answer = Answer(regions=(Region("r0", box=box, label=label),), size_wh=(100, 100), token_measures=measures,
                    token_spans={"r0": ItemSpan((2,), (3, 4, 5, 6))})  # fmt: skip
    name = f"{label}{sure}{spread}"
    item = EvalItem(Sample(name, ImageRef(name, width=100, height=100)), Ask(task, text=label), (truth,))
    return Asked(item, there, answer)


def test_what_is_absent_is_told_apart_where_it_can_be():
    task = TASKS["<OPEN_VOCABULARY_DETECTION>"]
    there = [query("cat", 0.5 + n / 200, True, True) for n in range(100)]  # right ones from 0.5 up
    unsure = [query("dog", n / 250, False, False) for n in range(100)]  # up to 0.4
    few = presence(task, there[:20] + unsure[:20])  # too few to fit a model to
    assert not few.weights and 0.04 < few.least < 0.5 and few.facts["absent_answered"] <= 0.05
    found = presence(task, there + unsure)
    assert found.facts["absent_answered"] <= 0.05 and found.facts["recall_kept"] == 1.0
    as_map = ScoreMap("platt", (1.0, 0.0), found.least, found.weights)
    kept = [as_map.there(one.answer.signals()["r0"]) >= found.least for one in there + unsure]
    assert sum(kept[:100]) >= 90 and sum(kept[100:]) <= 6  # what is written down decides as it was measured
    as_sure = [query("dog", 0.5 + n / 200, False, False) for n in range(100)]
    assert presence(task, there + as_sure).least == 0.0  # nothing to be gained
    assert presence(TASKS["<OD>"], there) == presence(task, there[:5] + unsure) == Presence()  # not asked; too few


def test_answers_that_differ_in_their_place_alone_are_told_apart():
    task = TASKS["<OPEN_VOCABULARY_DETECTION>"]
    there = [query("cat", 0.7, True, True, spread=0.9 + n / 1000) for n in range(60)]
    absent = [query("dog", 0.7, False, False, spread=0.3 + n / 1000) for n in range(60)]
    assert presence(task, there[:40] + absent[:40]).least == 0.0  # by what is begun nothing can be said
    found = presence(task, there + absent)
    assert found.weights and found.facts["absent_answered"] <= 0.05 and found.facts["recall_kept"] >= 0.9


def test_calibrate_writes_beside_the_weights_and_load_finds_it(tmp_path, capsys):
    load("nano", calibration=None).save(tmp_path / "own")
    data = "scenes:count=40,objects=2-6,min_side=0.1,seed=2147490000"
    assert main(["calibrate", str(tmp_path / "own"), "--data", data, "--task", "OD", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert set(said["tasks"]) == {"OD"} and said["tasks"]["OD"]["items"] >= LEAST
    assert (tmp_path / "own/calibration.svg").read_text().count("<circle") > 4
    assert set(load(tmp_path / "own").calibration.maps) == {"OD"}
    calibrate(tmp_path / "own", data, tasks=["REGION_TO_CATEGORY"])  # the other task stays
    assert set(load(tmp_path / "own").calibration.maps) == {"OD", "REGION_TO_CATEGORY"}
    file = tmp_path / "own/calibration.json"
    file.write_text(file.read_text().replace('"weights_sha256": "', '"weights_sha256": "0'))
    lines: list[str] = []
    calibrate(tmp_path / "own", data, tasks=["REGION_TO_CATEGORY"], report=lines.append)  # of other weights: anew
    assert set(load(tmp_path / "own").calibration.maps) == {"REGION_TO_CATEGORY"} and "begun anew" in lines[0]


def test_too_little_data_is_said(tmp_path, capsys):
    assert main(["calibrate", "nano", "--data", "scenes:3", "--task", "OD", "--out", str(tmp_path / "c.json")]) == 1
    assert "expected 50 with 10 of either kind; give more data; nothing was written" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_nano_needs_a_file_to_write_to(capsys):
    assert main(["calibrate", "nano", "--data", "scenes:3"]) == 1
    assert "name the file with --out" in capsys.readouterr().err
