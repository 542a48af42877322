"""Captions of a folder: a text beside each picture or a metadata.jsonl; gone on with, nothing overwritten unasked."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from florence2.cli import captions, main
from florence2.cli.captions import JOURNAL
from florence2.pixels import encode
from florence2.predictor import florence2 as predictor


@pytest.fixture
def photos(pictures, tmp_path):
    """Four pictures, one in a folder below; and a broken one."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for name, picture in zip(("a.png", "b.png", "sub/c.png", "z.png"), pictures):
        (folder / name).write_bytes(encode(picture))
    (folder / "m.jpg").write_bytes(b"\xff\xd8 no")
    return folder


def run(folder, photos, *args):
    asked = () if "--task" in args else ("--task", "CAPTION")
    return main(["predict", "--model", str(folder), "--max-new-tokens", "8", str(photos), *asked, *args])


def texts(photos):
    return {path.relative_to(photos).as_posix(): path.read_text() for path in photos.rglob("*.txt")}


def test_a_text_beside_each_picture_and_the_bad_one_is_named(folder, photos, tiny, capsys):
    assert run(folder, photos, "--to", "txt", "--prefix", "sks, ") == 1
    out, err = capsys.readouterr()
    assert "m.jpg" in err and err.count("\n") == 1 and "4 captions written" in out
    found = texts(photos)
    assert set(found) == {"a.txt", "b.txt", "sub/c.txt", "z.txt"}
    said = tiny.predict(str(photos / "a.png"), "<CAPTION>", max_new_tokens=8).texts[0].text
    assert found["a.txt"] == f"sks, {' '.join(said.split())}\n"
    assert not (photos / JOURNAL).exists()


def test_existing_captions_stay_where_asked(folder, photos):
    (photos / "b.txt").write_text("by hand\n")
    (photos / "m.jpg").unlink()
    assert run(folder, photos, "--to", "txt", "--skip-existing") == 0
    assert texts(photos)["b.txt"] == "by hand\n" and len(texts(photos)) == 4
    assert run(folder, photos, "--to", "txt") == 0
    assert texts(photos)["b.txt"] != "by hand\n"


def test_labels_are_not_written_over_and_what_cannot_be_read_is_named(folder, photos, capsys):
    (photos / "a.txt").write_text("0 0.5 0.5 0.2 0.2\n1 .5 .5 1e-1 .2 0.9\n")
    (photos / "dead.png").symlink_to(photos / "nowhere.png")
    for litter in (".ipynb_checkpoints/a.png", "._b.png", "@eaDir/a.png"):
        (photos / litter).parent.mkdir(exist_ok=True)
        (photos / litter).write_bytes((photos / "a.png").read_bytes())
    assert run(folder, photos, "--to", "txt") == 1
    _, err = capsys.readouterr()
    assert "a.png: a.txt holds rows of numbers" in err and "dead.png" in err and "m.jpg" in err
    assert err.count("\n") == 3 and texts(photos)["a.txt"].startswith("0 0.5") and len(texts(photos)) == 4


def test_metadata_is_as_imagefolder_reads_it(folder, photos):
    (photos / "metadata.jsonl").write_text('{"file_name": "b.png", "text": "by hand", "licence": "CC0"}\n')
    assert run(folder, photos, "--to", "jsonl", "--skip-existing") == 1
    rows = [json.loads(line) for line in (photos / "metadata.jsonl").read_text().splitlines()]
    assert [row["file_name"] for row in rows] == ["a.png", "b.png", "sub/c.png", "z.png"]
    assert all(isinstance(row["text"], str) for row in rows)
    assert rows[1] == {"file_name": "b.png", "text": "by hand", "licence": "CC0"}
    assert run(folder, photos, "--to", "jsonl") == 1
    row = [json.loads(line) for line in (photos / "metadata.jsonl").read_text().splitlines()][1]
    assert row["text"] != "by hand" and row["licence"] == "CC0"


@pytest.mark.parametrize("form", ["txt", "jsonl"])
def test_an_interrupted_command_goes_on(folder, photos, form, monkeypatch):
    real, asked = predictor.Florence2.predict_many, []

    def until_two(self, images, *args, **more):
        for n, answer in enumerate(real(self, images, *args, **more)):
            if n == 2:
                raise KeyboardInterrupt
            yield answer

    def noted(self, images, *args, **more):
        asked.extend(images)
        return real(self, images, *args, **more)

    (photos / "m.jpg").unlink()
    monkeypatch.setattr(predictor.Florence2, "predict_many", until_two)
    assert run(folder, photos, "--to", form) == 130
    with open(photos / JOURNAL, "a") as journal:
        journal.write('{"file_name": "torn')
    monkeypatch.setattr(predictor.Florence2, "predict_many", noted)
    assert run(folder, photos, "--to", form) == 0
    assert [path.rpartition("/photos/")[2] for path in asked] == ["sub/c.png", "z.png"]
    if form == "txt":
        assert len(texts(photos)) == 4
    else:
        assert len((photos / "metadata.jsonl").read_text().splitlines()) == 4
    asked.clear()
    assert run(folder, photos, "--to", form) == 0 and len(asked) == 4  # a finished command begins anew


def test_two_pictures_of_one_stem_do_not_share_a_caption(folder, photos, pictures, capsys):
    (photos / "m.jpg").unlink()
    (photos / "a.webp").write_bytes(encode(pictures[5], "WEBP"))
    assert run(folder, photos, "--to", "txt") == 1
    assert "a.webp: its caption would be a.txt, which is a.png's" in capsys.readouterr().err


def test_a_task_of_ones_own_runs_from_a_table(folder, photos, tmp_path):
    row = {"token": "<GENERATE_TAGS>", "prompt": "<GENERATE_TAGS>", "gives": "text", "keeps": "brief"}
    (tmp_path / "tasks.json").write_text(json.dumps([row]))
    (photos / "m.jpg").unlink()
    args = ("--to", "txt", "--task", "GENERATE_TAGS")
    assert run(folder, photos, *args) == 1  # unknown
    assert run(folder, photos, *args, "--tasks", str(tmp_path / "tasks.json")) == 0
    assert len(texts(photos)) == 4
    assert run(folder, photos, *args, "--tasks", str(tmp_path)) == 0


@pytest.mark.parametrize("more", [["--json"], ["--draw", "x"], ["--task", "OD", "--task", "OCR"]])
def test_what_does_not_go_together_is_refused(folder, photos, more):
    with pytest.raises(SystemExit):
        run(folder, photos, "--to", "txt", *more)


def test_a_folder_is_all_its_pictures(folder, photos, capsys):
    (photos / "m.jpg").unlink()
    assert run(folder, photos, "--json") == 0
    names = [json.loads(line)["image"].rpartition("/photos/")[2] for line in capsys.readouterr().out.splitlines()]
    assert names == ["a.png", "b.png", "sub/c.png", "z.png"]


def test_an_empty_answer_is_no_caption(tmp_path):
    refused = []
    folder = captions.CaptionFolder(tmp_path, "txt", {}, False)
    answer = SimpleNamespace(texts=[SimpleNamespace(text=" ")], labels=np.array([], dtype=object))
    full = SimpleNamespace(texts=[SimpleNamespace(text="a cat\n")], labels=answer.labels)
    found = [(str(tmp_path / "a.png"), answer), (str(tmp_path / "b.png"), full)]
    assert captions.write_captions(found, folder, "mine, ", refused.append) == 1
    assert [path.name for path in tmp_path.glob("*.txt")] == ["b.txt"]
    assert refused == [f"{tmp_path / 'a.png'}: the model's answer is empty; no caption is written"]
