"""florence2 data check without a task looks at every task that the data can train."""

import json

from florence2 import cli, pixels, scenes
from florence2.formats import jsonl
from florence2.records import ImageRef, Sample


def test_every_task_is_looked_at(tmp_path, capsys):
    image, sample = scenes.draw(7)
    (tmp_path / "a.png").write_bytes(pixels.encode(image))
    height, width = image.shape[:2]
    place = ImageRef(id="a", uri=str(tmp_path / "a.png"), width=width, height=height)
    bare = Sample(id="b", image=ImageRef(id="b", uri=str(tmp_path / "a.png"), width=width, height=height))
    whole = Sample(id="a", image=place, texts=sample.texts, regions=sample.regions, groundings=sample.groundings)
    jsonl.write([whole, bare], tmp_path / "set.jsonl")

    assert cli.main(["data", "check", str(tmp_path / "set.jsonl"), "--max-target", "9", "--json"]) == 1
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["detail"] for row in found if row["id"] == "b"} == {"holds nothing that any task could be trained on"}
    long = {row["detail"].partition(":")[0] for row in found if row["reason"] == "too_long"}
    assert {"OD", "CAPTION", "DENSE_REGION_CAPTION"} <= long and "REGION_TO_CATEGORY" not in long

    assert cli.main(["data", "check", str(tmp_path / "set.jsonl"), "--task", "CAPTION", "--max-target", "9"]) == 1
    assert "OD:" not in capsys.readouterr().out
    assert cli.main(["data", "check", str(tmp_path / "set.jsonl"), "--limit", "1"]) == 0
    assert capsys.readouterr().out == "no problem found\n"


def test_showing_pairs_that_are_not_there_is_told(tmp_path, capsys):
    image, sample = scenes.draw(7)
    (tmp_path / "a.png").write_bytes(pixels.encode(image))
    jsonl.write([Sample(id="a", image=ImageRef(id="a", uri=str(tmp_path / "a.png")))], tmp_path / "set.jsonl")
    assert cli.main(["data", "show", str(tmp_path / "set.jsonl"), "--task", "CAPTION"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and "no sample holds anything that CAPTION could be trained on" in err


def test_a_picture_that_two_records_name_is_no_duplicate_of_itself(tmp_path, capsys):
    image, _ = scenes.draw(7)
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(pixels.encode(image))
    rows = [Sample(id=str(n), image=ImageRef(id=name, uri=str(tmp_path / name)), split="train")
            for n, name in enumerate(("a.png", "a.png", "b.png"))]  # fmt: skip
    jsonl.write(rows, tmp_path / "set.jsonl")
    assert cli.main(["data", "duplicates", str(tmp_path / "set.jsonl"), "--quiet"]) == 0
    assert "1 exact, 0 near" in capsys.readouterr().out
