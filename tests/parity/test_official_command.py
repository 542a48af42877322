"""`make official`, run dry: every layout is opened, compared and written down; a difference or no network is said."""

import json

import pytest

from benchmarks.official import __main__ as command
from benchmarks.official import compare, dry


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """A small vocabulary; shorter answers."""
    monkeypatch.setattr(dry, "official_tokenizer", lambda: None)
    monkeypatch.setattr(dry, "TOKENS", 10)


def last_line(capsys):
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_dry_it_opens_every_layout_and_finds_all_equal(tmp_path, capsys):
    assert command.main(["--dry", "--tasks", "REGION_TO_CATEGORY", "--out", str(tmp_path / "page.md")]) == 0
    counts = last_line(capsys)
    assert counts["opened"] == counts["checkpoints"] == 9 and counts["answers"] == counts["equal"] == 18
    assert counts["vectors"] == counts["vectors_equal"] == 2 and counts["tensors_different"] == 0
    page = (tmp_path / "page.md").read_text()
    for words in (
        "microsoft, an adapter merged",
        "pytorch_model.bin",
        "4096",
        "1024 tokens appended",
        "none different",
    ):
        assert words in page


def test_a_difference_is_counted_and_shown(tmp_path, capsys, monkeypatch):
    answer = compare.Reference.answer

    def other(self, picture, ours, beams, budget):
        prompt, ids, dictionary = answer(self, picture, ours, beams, budget)
        return prompt, (*ids[:3], 7, *ids[4:]), dictionary

    monkeypatch.setattr(compare.Reference, "answer", other)
    monkeypatch.setattr(dry, "write_all", lambda folder, write_all=dry.write_all: write_all(folder)[:3])
    assert command.main(["--dry", "--tasks", "OD", "--out", str(tmp_path / "page.md")]) == 1
    assert last_line(capsys)["equal"] == 0
    assert "`<OD>`, 3 beams: ids from token 3 of 11 and 11, log-probability -" in (tmp_path / "page.md").read_text()


def test_the_page_of_a_run_that_was_cut_short_holds_what_was_found(tmp_path, monkeypatch):
    real, seen = command.examined, []

    def second_stops(source, *rest):
        seen.append(source)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return real(source, *rest)

    monkeypatch.setattr(command, "examined", second_stops)
    monkeypatch.setattr(dry, "write_all", lambda folder, write_all=dry.write_all: write_all(folder)[:3])
    with pytest.raises(KeyboardInterrupt):
        command.main(["--dry", "--tasks", "OD", "--out", str(tmp_path / "page.md")])
    page = (tmp_path / "page.md").read_text()
    assert page.count("not reached: the run was cut short") == 2 and "| `<OD>` | " in page


def test_without_a_network_it_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert command.main(["--out", str(tmp_path / "page.md")]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "network" in error and "DRY=1" in error
    assert not (tmp_path / "page.md").exists()


def test_what_cannot_be_opened_is_written_down(tmp_path, capsys):
    assert command.main([str(tmp_path / "nothing"), "--out", str(tmp_path / "page.md")]) == 1
    assert "no such folder" in (tmp_path / "page.md").read_text() and "NOT OPENED" in capsys.readouterr().out
