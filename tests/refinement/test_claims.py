"""What the benchmark of the claims keeps: results that are found again, labels as they were before any round."""

import dataclasses
from pathlib import Path

import pytest

import florence2
from florence2.refinement import refine
from tests.engine.doubles import Boxes, Floor, folder_of
from tests.refinement.test_refine import FakeTraining, Learned


@pytest.fixture
def parts(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    from claims_parts import noise, setting

    return noise, setting


@pytest.fixture
def refined(tmp_path, monkeypatch):
    monkeypatch.setattr("florence2.refinement.rounds.weights_of", lambda start: "weights")
    store = florence2.annotate(folder_of(tmp_path, 12), tmp_path / "s", [Boxes()], workers=0)
    given = {"rules": [Floor(0.35)], "workers": 0, "train": FakeTraining(), "open_student": Learned, "tasks": ["OD"]}
    return store, refine(store, 1, **given)[0]


def test_labels_are_those_before_any_round(parts, refined):
    _, setting = parts
    store, done = refined
    makers = [
        {r.source.name for s in setting.kept(store, n).values() for r in s.regions} for n in (None, done.snapshot)
    ]
    assert makers[0] == {"boxes"} != makers[1]


def test_a_round_that_was_done_and_not_measured_is_measured(parts, refined, tmp_path, monkeypatch):
    """As after a kill between the two; only one that was not done has stopped."""
    noise, setting = parts
    store, done = refined
    monkeypatch.setattr(noise, "labelled", lambda *given: (store, tmp_path))
    monkeypatch.setattr(noise, "refine", lambda *given, **more: [])
    monkeypatch.setattr(noise, "tests_of", lambda *given: {})
    monkeypatch.setattr(noise.setting, "truth_of", lambda truth: {})
    asked = []
    monkeypatch.setattr(noise.students, "answers", lambda folder, tests, **how: asked.append(folder) or {})
    monkeypatch.setattr(noise.setting, "counts", lambda *given: [[1, 1, 2]])
    found = noise.after_round(({}, 0.0), "independent", None, tmp_path, setting.SIZES["quick"], 0, 1)
    assert found["counts"] == [[2, 2, 4]] and asked == [student.folder for student in done.students]
    assert noise.after_round(({}, 0.0), "independent", None, tmp_path, setting.SIZES["quick"], 0, 2)["counts"] is None


def test_a_line_that_was_cut_is_passed_over(parts, tmp_path):
    _, setting = parts
    results = setting.Results(tmp_path, dataclasses.replace(setting.SIZES["quick"]))
    results.once("noise", "a", 0, lambda: {"counts": [[1, 1, 1]]})
    file = tmp_path / "noise-quick.jsonl"
    file.write_text(file.read_text() + '{"arm": "b", "counts": [[1')
    results.once("noise", "b", 0, lambda: {"counts": [[0, 1, 1]]})
    assert [(line["arm"], line["counts"]) for line in results.of("noise")] == [("a", [[1, 1, 1]]), ("b", [[0, 1, 1]])]


def test_a_difference_of_metrics_is_of_the_same_resamples(parts, capsys):
    """Scores of two arms are unsure together, and one is better in every resample, over the seeds of both."""
    from claims_parts import tables

    wide = [0.2, 0.4, 0.6, 0.8] * 25
    lines = [
        {"arm": arm, "seed": seed, "metrics": {"OD": 0.5 + more}, "draws": {"OD": [value + more for value in wide]}}
        for arm, more, seeds in (("image", 0.0, (0, 1)), ("image+region", 0.05, (0, 1, 2)))
        for seed in seeds
    ]
    row = tables.show("pretraining", "pretraining", lines)["image+region"]["OD"]
    assert row["difference"] == 0.05 and row["difference_interval"] == [0.05, 0.05] and len(row["by_seed"]) == 3
    assert row["interval"] == pytest.approx([0.25, 0.85]) and "+0.050" in capsys.readouterr().out


@pytest.mark.parametrize(
    "asked, said",
    [
        (["--real", "bccd"], "--real bccd: expected NAME=PATH"),
        (["--plot", "x.png"], "--plot x.png: expected a file.svg"),
        (["--table", "--out", "/nowhere"], "--out /nowhere: no such folder"),
        (["--quick", "--size", "small"], "--quick is a size of its own"),
        (["--seeds", "0"], "expected --seeds of at least 1"),
        (["--limit", "-1"], "--limit of at least 0"),
    ],
)
def test_what_cannot_be_measured_is_said_in_one_line(parts, monkeypatch, capsys, asked, said):
    import claims

    monkeypatch.setattr("sys.argv", ["claims.py", *asked])
    with pytest.raises(SystemExit) as ended:
        claims.main()
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 1 and line.startswith("claims: ") and said in line


@pytest.mark.parametrize(
    "line",
    [
        "garbage}",
        '{"arm": "a", "seed": 0}',
        "[1, {}",
        '{"arm": "a", "seed": "1", "counts": [[1, 1, 1]]}',
        '{"arm": ["a"], "seed": 1, "counts": [[1, 1, 1]]}',
        '{"arm": "a", "seed": 1, "counts": [["1", 1, 1]]}',
        '{"arm": "a", "seed": 1, "counts": [[1, 1]]}',
        '{"arm": "a", "seed": 1, "counts": []}',
        '{"arm": "a", "seed": 1, "counts": [[1, 1, 1]], "labels": 5}',
        '{"arm": "a", "seed": 1, "metrics": {"OD": 0.1}}',
        '{"arm": "a", "seed": 1, "metrics": {"OD": 0.1}, "draws": {"OD": ["a"]}}',
    ],
)
def test_a_line_that_is_no_result_is_named(parts, tmp_path, line):
    _, setting = parts
    (tmp_path / "noise-quick.jsonl").write_text('{"arm": "a", "seed": 0, "counts": [[1, 1, 1]]}\n' + line + "\n")
    with pytest.raises(ValueError, match="noise-quick.jsonl, line 2: no result of an arm"):
        setting.Results(tmp_path, setting.SIZES["quick"]).of("noise")


@pytest.mark.parametrize(
    "line, said",
    [
        ('{"arm": "a", "seed": 0, "counts": [[1, 1, 1], [1, 1, 1]]}', "line 2: arm 'a' of seed 0 is there already"),
        ('{"arm": "a", "seed": 1, "counts": [[1, 1, 1]]}', "line 2: counts of 1 pictures, another seed"),
    ],
)
def test_a_result_that_is_there_or_counted_on_other_pictures_is_named(parts, tmp_path, line, said):
    """It is not averaged in as one more seed."""
    _, setting = parts
    (tmp_path / "noise-quick.jsonl").write_text(
        '{"arm": "a", "seed": 0, "counts": [[1, 1, 1], [0, 1, 1]]}\n' + line + "\n"
    )
    with pytest.raises(ValueError, match=said):
        setting.Results(tmp_path, setting.SIZES["quick"]).of("noise")


def test_a_line_that_ends_in_a_blank_counts(parts, tmp_path):
    _, setting = parts
    (tmp_path / "noise-quick.jsonl").write_text('{"arm": "a", "seed": 0, "counts": [[1, 1, 1]]}  \r\n')
    assert len(setting.Results(tmp_path, setting.SIZES["quick"]).of("noise")) == 1


def test_arms_of_unlike_pictures_are_not_compared(parts):
    from claims_parts import tables

    lines = [
        {"arm": "a: labels", "seed": 0, "counts": [[1, 1, 1]] * 2}, {"arm": "a: x", "seed": 0, "counts": [[1, 1, 1]]},
    ]  # fmt: skip
    with pytest.raises(ValueError, match="'a: x' was counted on 1 pictures and 'a: labels' on 2"):
        tables.show("noise", "noise", lines)
    mixed = [{"arm": "a", "seed": 0, "metrics": {"OD": 0.1}, "draws": {"OD": [0.1]}}, *lines]
    with pytest.raises(ValueError, match="'a: labels' of seed 0: expected metrics of"):
        tables.show("pretraining", "pretraining", mixed)


@pytest.mark.parametrize("truth, shown", [([[9, 10, 10]] * 20, 0.5), ([[6, 10, 10], [4, 10, 10]] * 10, None)])
def test_a_share_of_a_gain_is_of_one_that_is_there(parts, truth, shown):
    """Where a student of the truth is not told from the labels, a share of its gain is nothing."""
    from claims_parts import tables

    counts = {"labels": [[5, 10, 10]] * 20, "a student of them": [[7, 10, 10]] * 20, "a student of the truth": truth}
    lines = [{"arm": f"a: {name}", "seed": 0, "counts": rows} for name, rows in counts.items()]
    assert tables.show("noise", "noise", lines)["a: a student of them"].get("recovered") == shown


def test_rounds_are_compared_with_what_they_began_from(parts, capsys):
    """The labels of the first with those that filters left, of the second with the first's; students likewise."""
    from claims_parts import tables

    def line(number, right, labels):
        filtered = [[4, 10, 10]] * 20
        arm = f"by size: students of round {number}, scores from 0.3"
        return {"arm": arm, "seed": 0, "counts": [[right, 10, 10]] * 20, "labels": labels, "filtered": filtered}

    tables.show("noise", "noise", [line(1, 5, [[7, 10, 10]] * 20), line(2, 6, [[6, 10, 10]] * 20)])
    rows = [row for row in capsys.readouterr().out.splitlines() if row.startswith("| by size | ")]
    assert rows == [
        "| by size | 1 | scores from 0.3 | 1 | 0.400 | 0.700 | +0.300 (+0.300 to +0.300) | 0.500 |  |",
        "| by size | 2 | scores from 0.3 | 1 | 0.700 | 0.600 | -0.100 (-0.100 to -0.100) | 0.600 "
        "| +0.100 (+0.100 to +0.100) |",
    ]
