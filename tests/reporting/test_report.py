"""Reports of a store and of runs: numbers are the store's, what was rejected says why, and the page stays bounded."""

import json
import re
import shutil
import subprocess
from collections import Counter

import numpy as np
import pytest

from florence2 import sources
from florence2.cli.report import main
from florence2.records import Decision, ImageRef, Parsed, Region, Sample
from florence2.reporting import answer_card, report, store_sections, stores, surveys
from florence2.reporting.picture_cards import PER_PAGE, sample_card, verdict_words
from tests.reporting.making import EVIL, make_store
from tests.reporting.test_page import read


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("report"), count=10)


@pytest.fixture(scope="module")
def document(store):
    return report(store.root, store.root.parent / "page.html", pictures=4).read_text()


def test_overview_gives_the_stores_counts(store, document):
    counts = store.counts()
    text = read(document).text
    for name in ("kept", "rejected", "superseded"):
        assert f"{name}{counts['annotations'][name]:,}" in text
    assert counts["annotations"]["rejected"] > 5 and counts["annotations"]["superseded"] > 2
    assert "pictures10" in text and "1 failed" in text


def test_table_says_what_fell_and_why(store, document):
    row = re.search(r"<tr><td[^>]*>0</td><td>simulated 1.0</td><td>object regions</td>(.*?)</tr>", document)[1]
    fallen = Counter()
    for line in store.tally():
        if (line["source"], line["kind"], line["round"]) == ("simulated", "object", 0):
            fallen[line["reason"] or "kept"] += line["count"]
    assert f"low_score {fallen['low_score']}" in row and f"outranked {fallen['outranked']}" in row
    assert f">{fallen['kept']}</td>" in row


def test_pictures_are_drawn_with_kept_and_fallen_and_their_stories(document):
    assert document.count("data:image/jpeg;base64,") == 4
    assert "6 of 10 pictures are not shown" in document
    for status in ("kept", "rejected", "superseded"):
        assert f'<g class="{status}" data-f=' in document
    story = next(s for s in re.findall(r"<title>([^<]*)</title>", document) if "rejected: low_score" in s)
    assert re.search(r"score 0\.\d\d · (simulated|student) 1\.0, round [01] · .*confidence 0\.\d+, limit 0\.45", story)
    assert "<mark" in document and "truncated" in document


def test_no_text_of_a_picture_becomes_markup(store, document):
    reader = read(document)
    assert reader.tags.count("script") == 1 and "img" not in reader.tags
    assert "\x07" in EVIL and not [letter for letter in document if letter < " " and letter not in "\t\n"]
    assert EVIL[:40] in reader.text
    assert not [name for name, _ in reader.attributes if name.startswith("on")]


def test_examples_of_each_reason_come_first(store):
    sections = store_sections(store, sources.pixels, pictures=2)
    shown = next(s.body for s in sections if s.title == "Pictures")
    assert "rejected: low_score" in shown
    assert [s.title for s in sections] == [
        "Overview",
        "What was kept",
        "Why not kept",
        "Labels",
        "Scores and sizes",
        "Where sources disagree",
        "Statistics",
        "Semantic coverage",
        "Spatial coverage",
        "Failures",
        "Pictures",
    ]


def test_a_lost_picture_is_named_and_the_rest_goes_on(tmp_path):
    store = make_store(tmp_path, count=3)
    (tmp_path / "set" / "images" / "scene-1.png").unlink()
    text = report(store.root, tmp_path / "page.html").read_text()
    assert text.count("data:image/jpeg") == 2 and "The picture cannot be shown" in text


def test_an_empty_store_has_a_page(tmp_path):
    from florence2.store import Store

    Store(tmp_path / "empty", create=True)
    assert "holds no annotations yet" in report(tmp_path / "empty", tmp_path / "page.html").read_text()


def test_command_writes_a_page_and_prints_its_path(store, tmp_path, capsys):
    out = tmp_path / "page.html"
    assert main([str(store.root), "--out", str(out), "--pictures", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"page": str(out)}
    assert out.stat().st_size > 10_000


def test_a_run_shows_its_scores_and_its_curve(tmp_path):
    (tmp_path / "scores.json").write_text(json.dumps({"metrics": {"AP50": 0.913, "CIDEr": 1.25}, "missing": 3}))
    lines = [json.dumps({"step": i, "loss": 4 / i, "tokens": 90}) for i in range(1, 900)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    text = read(report(tmp_path, tmp_path / "page.html").read_text()).text
    assert "AP500.913" in text and "missing3" in text and "steps899" in text


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "neither a store nor a run"),
        ({"scores.json": "[]"}, "scores.json"),
        ({"metrics.jsonl": '{"step": 1}\n{torn\n'}, "metrics.jsonl:2"),
    ],
)
def test_what_is_no_run_is_refused_by_name(tmp_path, files, says):
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=says):
        report(tmp_path, tmp_path / "page.html")
    with pytest.raises(ValueError, match="no such folder"):
        report(tmp_path / "absent", tmp_path / "page.html")


def test_verdicts_in_words():
    assert (
        verdict_words(Decision("a", "rejected", "nms", "overlap", 0.81, 0.5))
        == "rejected: overlap (nms 0.81, limit 0.5)"
    )
    assert verdict_words(Decision("a", "superseded", "merge")) == "superseded: merge (merge)"


def driven(document, tmp_path, script):
    """The page as a browser has it after a script of ours, for which its policy is taken out."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if not browser:
        pytest.skip("no browser")
    document = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", document)
    path = tmp_path / "driven.html"
    path.write_text(document.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    seen = subprocess.run([browser, *options, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=120)
    return seen.stdout


def set_to(name, value):
    event = 'new Event("input",{bubbles:true})'
    return f'{{const f=document.querySelector(".by-{name}");f.value={value};f.dispatchEvent({event})}}'


def test_a_card_counts_what_was_superseded_apart_from_what_was_rejected():
    regions = tuple(Region(name, box=(0, 0, 9, 9), label="cat") for name in "abcd")
    verdicts = [("a", "superseded", "fused"), ("b", "superseded", "fused"), ("c", "rejected", "low_score")]
    decisions = tuple(Decision(name, status, "rule", reason) for name, status, reason in verdicts)
    image = ImageRef("i", width=16, height=16)
    card = sample_card(
        Sample("i", image, (), regions, decisions=decisions), lambda ref: np.zeros((16, 16, 3), np.uint8)
    )
    assert "<summary>4 regions, 1 rejected, 2 superseded</summary>" in str(card)


def test_many_pictures_are_leafed_through_searched_and_filtered(tmp_path):
    store = make_store(tmp_path, count=60)
    document = report(store.root, tmp_path / "page.html", pictures=60).read_text()
    assert document.count('<figure class="card"') == PER_PAGE and "first 24 of 60 pictures are shown" in document
    seen = driven(document, tmp_path, 'document.querySelector(".next").click()')
    assert "page 2 of 3" in seen and seen.count('<figure class="card"') == PER_PAGE
    seen = driven(document, tmp_path, set_to("name", '"SCENE-1"'))
    names = re.findall(r'<figure class="card" data-name="([^"]*)"', seen)
    assert names and all(name.startswith("scene-1") for name in names) and "11 of 60 pictures" in seen
    option = "[...f.options].find(o=>o.text.startsWith('low_score')).value"
    seen = driven(document, tmp_path, set_to("reason", option))
    grid = seen[seen.index('<div class="cards">') : seen.index('<script type="application/json"')]
    shown = re.findall(r'<g class="(\w+)" data-f="([^"]*)"', grid)  # what is filtered out has the class off beside it
    assert shown and {status for status, _ in shown} == {"rejected"}
    assert re.findall(r'<g class="kept off"', grid)
    seen = driven(document, tmp_path, set_to("least", "0.99") + set_to("most", "1"))
    assert int(re.search(r'class="found">(\d+) of 60', seen)[1]) < 60


def test_a_page_holds_a_bounded_sample_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(stores, "MOST", 30)
    store = make_store(tmp_path, count=40)
    document = report(store.root, tmp_path / "page.html", pictures=5000).read_text()
    assert "10 of 40 pictures are not shown (a page holds 30, evenly spread)." in document
    assert len(json.loads(re.search(r'class="index">([^<]*)<', document)[1])["names"]) == 30


def test_labels_are_legible_at_the_size_that_is_shown(document):
    """Cards are 300 pixels wide at least: of a picture of 128 a letter is 12 of these high."""
    sizes = [float(size) for size in re.findall(r'<text x="[^"]*" y="[^"]*"[^>]*font-size="([\d.]+)"', document)]
    assert sizes and all(size * 300 / 128 == pytest.approx(12, abs=0.3) for size in sizes)


def test_labels_sizes_and_disagreements_are_counted(store, document):
    text = read(document).text
    labels = Counter()
    for sample in store.samples(view="all"):
        labels.update(r.label for r in sample.regions if r.kind == "object" and not r.refines)
    (label, count), *_ = labels.most_common(1)
    assert f"{label}{count}" in text
    found = surveys.survey(store)
    assert sum(map(sum, found.sides.values())) == labels.total()
    named = {(one, a, other, b): d.count for (one, a, other, b), d in found.disagreements.items()}
    assert named and all({one, other} == {"simulated", "student"} and a != b for one, a, other, b in named)
    assert "One object, two names" in text and "first in" in text
    assert found.shared["simulated", "student"] > 30


def test_failures_name_their_pictures(document):
    rows = re.findall(r"<tr><td>([^<]*)</td><td>x</td><td>truncated</td>", document)
    assert rows == ["gone.png"]


def test_boxes_without_names_are_counted(tmp_path):
    image = np.zeros((20, 30, 3), np.uint8)
    answer = Parsed(regions=tuple(Region(str(n), box=(n, 1.0, n + 5.0, 9.0)) for n in range(7)))
    text = read(answer_card(image, "Region proposal", "", answer)).text
    assert "7 boxes without a name" in text and "An empty answer" not in text
