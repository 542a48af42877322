"""The demo's quick form, from its command to its page: every phase is there, and nothing in it lacks a source."""

import contextlib
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from florence2 import demo
from florence2.cli import main
from florence2.cli.demo import _print
from florence2.records import Decision, ImageRef, Region, Sample, Source
from florence2.store import Store

PHASES = {  # the rows of its table, and the phase that each is compared with
    "nano, not trained further": "",
    "specialists": "",
    "filtered": "specialists",
    "student alone": "nano, not trained further",
    "merged": "filtered",
    "no filter: student alone": "nano, not trained further",
    "no filter: merged": "specialists",
}
FOUND_BY = {"simulated", "composer", "rapidocr", "opencv", "student", "merge"}


class Headings(HTMLParser):
    """The second-level headings of a page."""

    def __init__(self, page):
        super().__init__()
        self.found, self._inside = [], False
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self._inside = tag == "h2"

    def handle_data(self, data):
        if self._inside:
            self.found.append(data)

    def handle_endtag(self, tag):
        self._inside = False


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """The folder that `florence2 demo --quick` filled."""
    return tmp_path_factory.mktemp("demo") / "out"


@pytest.fixture(scope="module")
def outcome(quick):
    """What the command printed as JSON."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main(["demo", "--quick", "--json", "--out", str(quick)]) == 0
    return json.loads(printed.getvalue())


def test_every_phase_is_in_the_table(outcome):
    rows = {row["name"]: row for row in outcome["rows"]}
    assert {name: row["beside"] for name, row in rows.items()} == PHASES
    for name, row in rows.items():
        scores = row["scores"]
        assert all(0 <= scores[group][m] <= 1 for group in demo.GROUPS for m in ("precision", "recall", "F1")), name
        if row["beside"]:
            assert row["gain"] == pytest.approx(scores["all"]["F1"] - rows[row["beside"]]["scores"]["all"]["F1"])
    # simulated specialists err as they were told to; filters reject wrong boxes; RapidOCR reads the pages
    specialists, filtered, merged = rows["specialists"], rows["filtered"], rows["merged"]
    assert specialists["scores"]["known"]["F1"] > 0.5 and specialists["not_kept"] == {}
    assert filtered["kept"] + sum(filtered["not_kept"].values()) == specialists["kept"] > filtered["kept"]
    assert filtered["scores"]["all"]["precision"] > specialists["scores"]["all"]["precision"]
    assert filtered["text_accuracy"] > 0.9
    assert merged["kept"] > 0 and merged["not_kept"]["fused"] > 0
    assert rows["nano, not trained further"]["scores"]["withheld"]["F1"] == 0  # kinds it was never shown


def test_students_were_trained_and_said_what_changed(outcome):
    trained = [line for line in outcome["rounds"] if "student" in line]
    assert len(trained) == 4 and len(outcome["rounds"]) == 6  # so few pictures that none is held out
    assert len({line.rpartition("weights ")[2] for line in trained}) == 4  # no two have the same weights
    for line in trained:  # those of the control as long as the others
        before, after = (float(loss) for loss in line.partition("loss ")[2].partition(",")[0].split(" -> "))
        assert f" {demo.QUICK.steps} steps on " in line and after < before, line
    assert not any("no effect" in line for line in outcome["rounds"])


def test_every_picture_is_there_and_every_annotation_has_a_source(quick, outcome):
    store = Store(quick / "store")
    assert store.verify() == []
    samples = list(store.samples(view="all"))
    assert len(samples) == demo.QUICK.scenes + demo.QUICK.pages + len(demo.QUICK.photos)
    sources = [item.source for s in samples for item in (*s.regions, *s.texts, *s.groundings)]
    assert all(source and source.name and source.version and source.run_id for source in sources)
    assert {source.name for source in sources} == FOUND_BY
    assert {source.round for source in sources if source.name == "student"} == {1}
    assert {source.kind for source in sources if source.name == "simulated"} == {"simulated"}


def test_the_page_is_written(quick, outcome):
    assert outcome["report"] == str(quick / "report.html")
    page = (quick / "report.html").read_text(encoding="utf-8")
    headings = Headings(page).found
    assert headings[0] == "What got better, and what did not" and {"By phase", "Rounds", "Every task"} < set(headings)
    assert all(name in page for name in PHASES)
    heads = re.findall("<th[^>]*>([^<]*)</th>", page)
    assert heads[heads.index("phase") :][:3] == [
        "phase",
        "kept",
        "not kept",
    ]  # not "rejected": fused boxes are among them


def test_the_printed_table_names_what_was_fused_as_not_kept(capsys):
    scores = {group: {"precision": 1.0, "recall": 1.0, "F1": 1.0} for group in demo.GROUPS}
    row = demo.PhaseScores("merged", scores, kept=2, not_kept={"fused": 4})
    _print(demo.DemoResult([row], [], [], Path("page"), Path("store"), 0.0), demo.GROUPS)
    printed = capsys.readouterr().out
    assert "not kept" in printed and "fused 4" in printed and "rejected" not in printed


def test_each_claim_is_what_the_rows_and_their_pictures_support(outcome):
    rows = {row["name"]: row for row in outcome["rows"]}
    assert [one["text"] for one in outcome["claims"]] == list(demo.CLAIMS)
    for one in outcome["claims"]:
        better, than = (rows[name] for name in demo.CLAIMS[one["text"]])
        assert len(better["pictures"]) == len(than["pictures"]) == demo.QUICK.scenes
        difference = better["scores"]["all"]["F1"] - than["scores"]["all"]["F1"]
        assert one["difference"] == pytest.approx(difference) and one["low"] <= one["high"]
        expected = "yes" if one["low"] > 0 else "no, worse" if one["high"] < 0 else "no difference seen"
        assert one["verdict"] == expected


def test_a_folder_that_no_demo_wrote_is_left_alone(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("all of it")
    assert main(["demo", "--quick", "--out", str(tmp_path)]) == 1
    assert "holds files that no demo wrote" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_students_answers_are_counted_as_it_gave_them():
    """As nano and the control are: what a rule rejected or merging replaced counts here too."""
    by, box = Source("model", "student"), (0.0, 0.0, 9.0, 9.0)
    regions = [Region(name, "object", box, "fish", source=by) for name in ("low", "fused", "kept")]
    regions.append(Region("taught", "object", box, "fish", source=Source("specialist", "simulated")))
    verdicts = (Decision("low", "rejected", "score", "low_score"), Decision("fused", "superseded", "merge", "fused"))
    sample = Sample("a", ImageRef("a", "a.png", width=10, height=10), regions=tuple(regions), decisions=verdicts)
    assert [region.id for region in demo.students_own(sample).regions] == ["low", "fused", "kept"]
