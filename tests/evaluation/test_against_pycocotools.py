"""The whole way from a predictions file to scores.json, against pycocotools fed with the same set's own file."""

import contextlib
import io
import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from florence2.cli import main
from florence2.metrics.coco_ap import KEYS
from tests.drawn_sets import coco_open, nuts
from tests.shared import shared

SETS = {  # folder, as in the optional test data -> its file, and the maker of a drawn set in its layout (with crowds)
    "nuts": ("trainval.json", nuts),
    "coco_open/dev": ("instances_val2017.json", coco_open),
}


def made_up(data, seed, scores):
    """Detections near the truth, some missing, some invented: as pycocotools wants them, and as lines of ours."""
    rng = np.random.default_rng(seed)
    names = {row["id"]: row["name"] for row in data["categories"]}
    results, lines = [], []
    for image in data["images"]:
        regions = []
        for truth in (a for a in data["annotations"] if a["image_id"] == image["id"]):
            for _ in range(int(rng.integers(0, 3))):
                x, y, w, h = np.array(truth["bbox"]) * rng.normal(1, 0.06, 4)
                category = truth["category_id"] if rng.random() < 0.8 else int(rng.choice(list(names)))
                score = {"given": float(rng.random()), "tied": float(rng.choice([0.3, 0.7])), "absent": None}[scores]
                box = [float(x), float(y), float(x + w), float(y + h)]
                region = {"box": box, "label": names[category].upper().replace(" ", "  ")}
                regions.append(region if score is None else {**region, "score": score})
                xywh = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
                given = {"image_id": image["id"], "category_id": category, "bbox": xywh}
                results.append({**given, "score": 1.0 if score is None else score})
        ask = {"task": "OD"}
        lines.append({"id": str(image["id"]), "image": image["file_name"], "ask": ask, "answer": {"regions": regions}})
    return results, lines


def equal_to_pycocotools(file, folder, scores):
    """Ours of a predictions file against theirs of the same detections on the same annotations; the metrics."""
    data = json.loads(file.read_text())
    results, lines = made_up(data, 1, scores)
    folder.mkdir()
    (folder / "theirs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = ["evaluate", "--predictions", str(folder / "theirs.jsonl"), "--data", str(file), "--task", "OD"]
    assert main([*command, "--out", str(folder / "out"), "--resamples", "3"]) == 0
    ours = json.loads((folder / "out" / "scores.json").read_text())["metrics"]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(file))
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert {key: ours[key] for key in KEYS} == pytest.approx(dict(zip(KEYS, evaluation.stats)), abs=1e-9)
    assert 0.1 < ours["AP"] < 0.9 and ours["AP50"] < 1
    return ours


@pytest.mark.parametrize("scores", ["given", "tied", "absent"])
@pytest.mark.parametrize("name", SETS)
def test_scores_equal_pycocotools_on_the_sets_own_file(tmp_path, capsys, name, scores):
    file, make = SETS[name]
    make(tmp_path / "set")
    equal_to_pycocotools(tmp_path / "set" / file, tmp_path / "run", scores)
    assert "AP *" in capsys.readouterr().out


def test_scores_equal_pycocotools_on_real_sets(tmp_path):
    for name, (file, _) in SETS.items():
        for scores in ("given", "tied", "absent"):
            equal_to_pycocotools(shared(f"data/{name}") / file, tmp_path / f"{file}-{scores}", scores)


def test_wrong_use_and_bad_files_exit_with_their_codes(tmp_path, capsys):
    assert main(["evaluate", "--model", "nano"]) == 2
    assert capsys.readouterr().err.startswith("florence2 evaluate: expected --data, --out, --task; see")
    nuts(tmp_path / "set")
    file = tmp_path / "set" / "trainval.json"
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"id": "1", "image": "0.jpg", "ask": {"task": "OD"}, "answer": {"regions": [{"score": NaN}]}}\n')
    command = ["evaluate", "--predictions", str(bad), "--data", str(file), "--task", "OD", "--out", str(tmp_path / "o")]
    assert main(command) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"{bad}:1" in error and "nan" in error
    assert main(["evaluate", "--protocol", "list"]) == 0
