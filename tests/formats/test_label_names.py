"""Names of labels: from a list on the command line, a file's lines, a COCO file."""

import json

import pytest

from florence2.formats import label_names


def test_they_come_from_a_list_from_lines_and_from_a_coco_file(tmp_path):
    lines, coco = tmp_path / "a.txt", tmp_path / "b.json"
    lines.write_text("\ufeffhard hat\n\n vest, red \n汽车\n", encoding="utf-8")
    coco.write_text(json.dumps({"categories": [{"id": 2, "name": "vest"}, {"id": 1, "name": "hat"}]}))
    assert label_names.of_option("a, b c") == ("a", "b c") and label_names.of_option("tv/monitor") == ("tv/monitor",)
    assert label_names.of_option(str(lines)) == ("hard hat", "vest, red", "汽车")
    assert label_names.of_option(str(coco)) == label_names.read(coco) == ("vest", "hat")


@pytest.mark.parametrize(
    "name, content, wanted",
    [
        ("a.json", "[]", "a.json: no names of labels"),
        ("a.json", '{"categories": {}}', "a.json: no names of labels"),
        ("a.json", '{"categories": [{"name": "cat"}, {"id": 2}]}', r"a.json: categories\[1\]: name: expected a name"),
        ("a.json", '{"categories": [{"name": " "}]}', r"a.json: categories\[0\]: name"),
        ("a.json", "{", "a.json:1: not JSON"),
        ("a.txt", "\n \n", "a.txt: no names of labels"),
    ],
)
def test_a_file_without_names_is_refused(tmp_path, name, content, wanted):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=wanted):
        label_names.read(tmp_path / name)


@pytest.mark.parametrize("given", ["a,,b", "", ",", "missing.txt", "lost/labels.json", "."])
def test_an_option_that_is_neither_names_nor_a_file_is_refused(given):
    with pytest.raises(ValueError, match="--labels"):
        label_names.of_option(given)
