"""A file is the old one or the new one, whole; nothing is left beside it."""

import ast
import json
import os
from pathlib import Path

import pytest
from PIL import Image

import florence2
from florence2 import cli
from florence2.atomic_files import check_replaceable, replacing, write_atomic


@pytest.mark.parametrize("sole", [True, False])
def test_a_failed_write_leaves_what_was_there(tmp_path, sole):
    file = tmp_path / "x.json"
    write_atomic(file, "old\r\n")
    with pytest.raises(KeyboardInterrupt), replacing(file, sole=sole) as temp_path:
        temp_path.write_text("half")
        raise KeyboardInterrupt
    assert file.read_bytes() == b"old\r\n" and os.listdir(tmp_path) == ["x.json"]


def test_what_a_killed_writer_left_is_written_over_where_there_is_but_one(tmp_path):
    (tmp_path / ".x.part").write_text("half")
    write_atomic(tmp_path / "x", "new", sole=True)
    assert os.listdir(tmp_path) == ["x"]


def test_two_writers_at_once_do_not_meet(tmp_path):
    with replacing(tmp_path / "x") as one, replacing(tmp_path / "x") as other:
        one.write_text("one")
        other.write_text("other")
    assert (tmp_path / "x").read_text() == "one"  # who ends last


def test_broken_unicode_is_an_escape(tmp_path):
    write_atomic(tmp_path / "x", '"\udc80é"', durable=True)
    assert (tmp_path / "x").read_bytes() == b'"\\udc80\xc3\xa9"'


def test_nobody_else_moves_a_written_file_into_place():
    """os.replace stands in few other places, which move what is there already."""
    package, found = Path(florence2.__file__).parent, set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr == "replace" and getattr(node.value, "id", "") == "os":
                found.add(path.relative_to(package).as_posix())
    assert found == {
        "atomic_files.py",
        "onnx/exporting.py",  # a whole folder, once all of it is compared
        "predictor/convert.py",  # files of a whole conversion, one by one
        "store/storage/local.py",  # a damaged file into quarantine
    }


def test_only_an_earlier_file_of_the_same_kind_is_written_over(tmp_path):
    page, photo = tmp_path / "page.html", tmp_path / "photo.jpg"
    check_replaceable(page, b"<!doctype html>", "a page")
    page.write_text("<!DOCTYPE HTML><html>")
    check_replaceable(page, b"<!doctype html>", "a page")
    photo.write_bytes(b"\xff\xd8\xff")
    with pytest.raises(FileExistsError, match="photo.jpg: exists and is not a page; name another file"):
        check_replaceable(photo, b"<!doctype html>", "a page")
    with pytest.raises(FileExistsError, match="is a folder; expected the name of a file for a page"):
        check_replaceable(tmp_path, b"<!doctype html>", "a page")


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["report", "STORE", "--out", "FILE"], id="report"),
        pytest.param(["filter", "STORE", "--tune", "STORE", "--write", "FILE"], id="filter"),
        pytest.param(["predict", "FILE", "--task", "OD", "--draw", "FILE"], id="predict"),
        pytest.param(["export", "STORE", "--to", "coco", "--out", "FILE"], id="export"),
        pytest.param(["import", "FILE", "--out", "FILE"], id="import"),
        pytest.param(["annotate", "STORE", "--out", "FILE"], id="annotate"),
    ],
)
def test_no_command_writes_over_a_users_picture(tmp_path, command, capsys):
    photo = tmp_path / "photo.png"
    Image.linear_gradient("L").resize((40, 30)).convert("RGB").save(photo)
    before = photo.read_bytes()
    truth = {
        "image": {"id": "1", "uri": str(photo), "width": 40, "height": 30},
        "regions": [{"id": "r", "box": [1, 2, 30, 20]}],
    }
    (tmp_path / "truth.jsonl").write_text(json.dumps({"id": "1", **truth}))
    assert cli.main(["import", str(tmp_path / "truth.jsonl"), "--out", str(tmp_path / "store")]) == 0
    capsys.readouterr()
    assert cli.main([{"FILE": str(photo), "STORE": str(tmp_path / "store")}.get(word, word) for word in command]) == 1
    assert photo.read_bytes() == before and capsys.readouterr().err.count("\n") == 1
