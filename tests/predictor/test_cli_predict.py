"""The command line of predict: readable, one JSON object a line, drawings, and an exit code that means something."""

import json

import pytest

from florence2.cli import main
from florence2.pixels import encode, load


@pytest.fixture
def files(pictures, tmp_path):
    """Three pictures, two of them of one name, and a broken one between."""
    (tmp_path / "sub").mkdir()
    paths = [tmp_path / "a.png", tmp_path / "broken.jpg", tmp_path / "sub" / "a.png", tmp_path / "b.png"]
    for path, picture in zip(paths, pictures):
        path.write_bytes(b"\xff\xd8 no" if path.stem == "broken" else encode(picture))
    return [str(path) for path in paths]


def run(folder, *args):
    return main(["predict", "--model", str(folder), "--max-new-tokens", "12", *args])


def test_a_bad_picture_is_reported_and_the_rest_goes_on(folder, files, capsys):
    assert run(folder, *files, "--task", "OD", "--task", "CAPTION") == 1
    out, err = capsys.readouterr()
    assert err.count("\n") == 1 and "broken.jpg" in err
    for path in (files[0], files[2], files[3]):
        assert f"{path}  <OD>" in out and f"{path}  <CAPTION>" in out


def test_json_is_one_object_a_line(folder, files, capsys):
    assert run(folder, *files, "--task", "OD", "--json") == 1
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["image"] for row in rows] == files
    assert rows[1]["failure"]["reason"] == "not_an_image"
    assert rows[0]["task"] == "<OD>" and rows[0]["regions"] and rows[0]["size_wh"] == [60, 40]


def test_one_picture_is_drawn_to_a_file_and_several_to_a_folder(folder, files, tmp_path, capsys):
    assert run(folder, files[0], "--task", "OD", "--draw", str(tmp_path / "new" / "out.jpg")) == 0
    assert load(tmp_path / "new" / "out.jpg").shape[1] >= 60
    drawn = tmp_path / "drawn"
    assert run(folder, files[0], *files[2:], "--task", "OD", "--draw", str(drawn)) == 0
    assert sorted(path.name for path in drawn.iterdir()) == ["a-1-OD.png", "a-2-OD.png", "b-OD.png"]


def test_asks_with_input(folder, files, tmp_path, capsys):
    assert run(folder, files[0], "--task", "REGION_TO_OCR", "--region", "1", "2", "30", "20", "--json") == 0
    assert json.loads(capsys.readouterr().out)["prompt"].startswith("What text is in the region <loc_")
    assert run(folder, files[0], "--prompt", "<DocVQA>Who?", "--json", "--official", "--num-beams", "2") == 0
    assert json.loads(capsys.readouterr().out)["prompt"] == "<DocVQA>Who?"
    assert run(folder, files[0], "--task", "OD", "--labels", "red car, sofa", "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert {r["label"] for r in listed["regions"]} <= {"red car", "sofa"}
    names = tmp_path / "names.txt"
    names.write_text("red car\nsofa\n")
    assert run(folder, files[0], "--task", "OD", "--labels", str(names), "--json") == 0
    assert json.loads(capsys.readouterr().out) == listed
    assert run(folder, files[0], "--task", "OD", "--labels", "") == 1  # an empty set is no set
    assert "--labels" in capsys.readouterr().err


def test_tiles_and_filters(folder, files, capsys):
    how = ("--task", "OD", "--max-new-tokens", "120", "--json")
    assert run(folder, files[0], *how, "--tiles", "2x1", "--filters", "nms, nms_all") == 0
    judged = json.loads(capsys.readouterr().out)
    assert judged["token_ids"] == [] and judged["regions"]
    assert {d["rule"] for d in judged.get("decisions", [])} <= {"nms", "nms_all"}
    for wrong, words in (("--tiles", "2by1"), "tiles: expected"), (("--filters", "blur"), "expected some of invalid"):
        assert run(folder, files[0], *how, *wrong) == 1
        assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    "args",
    [
        [],  # neither task nor prompt
        ["--task", "OD", "--prompt", "x"],  # both
        ["--prompt", "x", "--text", "y"],  # a prompt takes nothing
        ["--task", "OD", "--task", "OCR", "--draw", "one.png"],  # two drawings, one file
        ["--task", "OD", "--official", "--grammar"],
    ],
)
def test_wrong_use_exits_with_2(folder, files, args):
    with pytest.raises(SystemExit) as caught:
        run(folder, files[0], *args)
    assert caught.value.code == 2


def test_an_unknown_task_is_refused_with_the_tasks_there_are(folder, files, capsys):
    assert run(folder, files[0], "--task", "DETECT") == 1
    assert "DETECT" in (err := capsys.readouterr().err) and "CAPTION" in err and err.count("\n") == 1


def test_only_what_is_sure_enough_is_printed(folder, files, capsys):
    assert run(folder, files[0], "--task", "OD", "--grammar", "--json") == 0
    every = json.loads(capsys.readouterr().out)["regions"]
    floor = max(region["score"] for region in every)
    assert run(folder, files[0], "--task", "OD", "--grammar", "--json", "--min-score", str(floor), "--margin", "1") == 0
    assert [r["score"] for r in json.loads(capsys.readouterr().out)["regions"]] == [floor]


@pytest.mark.parametrize(
    "option, value", [("--min-score", "1.5"), ("--min-score", "nan"), ("--margin", "-1"), ("--margin", "nan")]
)
def test_a_threshold_out_of_range_is_refused_in_a_line(folder, files, capsys, option, value):
    assert run(folder, files[0], "--task", "OD", option, value) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and option.strip("-").replace("-", "_") in err and "expected a number from 0" in err
