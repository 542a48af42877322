"""A store in the paper's own numbers: tables 2 and 3, and where its boxes are."""

import json

import pytest

from florence2.cli import main
from florence2.engine.curation import paper_statistics as numbers
from florence2.engine.curation.paper_statistics import ASPECTS, BINS, FLD5B, Row, Spatial, paper_statistics
from florence2.engine.curation.statistics import of_samples
from florence2.engine.text.parser import Parser
from florence2.formats import jsonl
from florence2.records import Grounding, ImageRef, Region, Sample, Text

SIZE = {"width": 100, "height": 100}


def picture(name, **parts):
    return Sample(name, ImageRef(name, **SIZE), **parts)


def boxed(name, box, label="cat", **more):
    return Region(name, box=box, label=label, **more)


SAMPLES = [
    picture(
        "a",
        texts=(Text("t", "Two black cats , sleeping .", "brief"), Text("q", "blue", "answer", "what colour?")),
        regions=(
            boxed("r", (0, 0, 50, 50), "black cat", description="a black cat that sleeps"),
            boxed("s", (50, 50, 100, 75)),
            boxed("part", (0, 0, 10, 10), "ear", refines="r"),
        ),
        groundings=(Grounding("g", "t", "black cats", ((4, 14),), ("r", "s")),),
    ),
    picture("b", texts=(Text("t", "A dog runs.", "brief"), Text("u", "A dog runs fast.", "more_detailed"))),
    picture("c", regions=(boxed("r", (0, 0, 100, 100)), Region("line", "text", (0, 0, 9, 9), "SALE"))),
]


def test_the_table_counts_as_the_paper_does():
    found = paper_statistics(SAMPLES).rows
    assert found == {
        ("text", "brief"): Row(2, 3.5),  # four words and three
        ("text", "more detailed"): Row(1, 4.0),
        ("region-text", "phrase"): Row(2, None, 3, 1.5, pytest.approx(4 / 3)),  # 2 + 1 words, and 1
        ("region-text", "brief"): Row(1, None, 1, 1.0, 5.0),
        ("text-phrase-region", "brief"): Row(1, 4.0, 2, 2.0, 2.0),
    }


def test_semantic_coverage_is_the_parsers_mean():
    found = paper_statistics(SAMPLES)
    assert found.measured == {"brief": 2, "more detailed": 1} and not found.unparsed
    measures = [Parser().measure(text) for text in ("Two black cats , sleeping .", "A dog runs.")]
    brief = dict(zip(numbers.SEMANTIC, found.semantic["brief"]))
    assert brief["objects"] == sum(one.objects for one in measures) / 2 >= 1
    assert brief["actions"] == sum(one.actions for one in measures) / 2 > 0
    assert brief["object_complexity"] == pytest.approx(
        sum(one.mean_object_complexity for one in measures) / 2, abs=0.005
    )


def test_without_spacy_it_is_said(monkeypatch):
    monkeypatch.setattr(numbers.importlib.util, "find_spec", lambda name: None)
    found = paper_statistics(SAMPLES)
    assert found.rows and not found.semantic and found.unparsed.startswith("needs spaCy")


def test_places_of_boxes():
    found = paper_statistics(SAMPLES).spatial
    grounded, others = found["text-phrase-region"], found["region-text"]
    assert sum(grounded.sides) == 2 and grounded.sides[BINS // 2] == 1  # half of the picture's side
    assert grounded.centres[2][2] == 1 and grounded.centres[5][6] == 1
    assert grounded.aspects[BINS // 2] == 1 and others.sides[-1] == 1
    told = paper_statistics(SAMPLES).rows["region-text", "phrase"].regions
    assert sum(others.sides) == told == 3  # objects with a text, whether a phrase names them or not; no lines of text
    wide = Spatial()
    wide.add((0, 40, 100, 90), (100, 100))
    assert wide.aspects[int((1 / ASPECTS + 1) / 2 * BINS)] == 1  # log2 of 2 is 1
    wide.add((5, 5, 5, 9), (100, 100))
    wide.add((0, 0, 5, 5), (0, 0))
    assert sum(wide.sides) == 1


def test_texts_are_bounded_and_do_not_depend_on_their_order(monkeypatch):
    monkeypatch.setattr(numbers, "MEASURED", 3)
    many = [picture(f"{n}", texts=(Text("t", "a dog " * (n + 1), "brief"),)) for n in range(20)]
    found = paper_statistics(many)
    assert found.measured == {"brief": 3} and found.semantic == paper_statistics(many[::-1]).semantic


def test_the_command_prints_both_columns(tmp_path, capsys):
    jsonl.write(SAMPLES, tmp_path / "set")
    assert main(["data", "stats", str(tmp_path / "set")]) == 0
    out = capsys.readouterr().out
    assert "text brief" in out and "(235M)" in out and "3.50 (7.95)" in out
    assert main(["data", "stats", str(tmp_path / "set"), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["paper"]["table"]
    assert rows[0]["fld5b"]["tokens"] == FLD5B["text", "brief"].tokens == 7.95


def test_an_outline_of_a_box_and_what_a_reference_alone_names_are_no_further_places():
    box, outline = Region("r", box=(0, 0, 50, 50), label="cat"), Region("m", box=(0, 0, 50, 50), refines="r")
    referred = Grounding("g", "", "the cat", (), ("r",))
    image = ImageRef("i", width=100, height=100)
    found = paper_statistics([Sample("i", image, regions=(box, outline), groundings=(referred,))])
    assert set(found.spatial) == {"region-text"} and sum(found.spatial["region-text"].sides) == 1


def test_what_refines_a_region_is_a_text_of_it_and_no_further_object():
    """As `crops` describes regions, and as masks come."""
    regions = (
        boxed("r", (0, 0, 10, 10)),
        boxed("s", (50, 50, 100, 100), "dog", description="a dog"),
        Region("line", "text", (0, 0, 9, 9), "SALE"),
    )
    bare = [picture("i", regions=regions)]
    more = (
        boxed("r1", (0, 0, 10, 10), refines="r", description="a small black cat"),
        boxed("r2", (0, 0, 10, 10), refines="r", description="another text"),
        boxed("s1", (50, 50, 100, 100), "dog", refines="s", polygons=((50, 50, 100, 50, 100, 100),)),
        Region("line1", "text", (0, 0, 9, 9), "SALE", refines="line", description="a sign in a window"),
    )
    full = [picture("i", regions=regions + more)]
    plain, found = of_samples(bare), of_samples(full)
    assert (found.labels, found.box_shares) == (plain.labels, plain.box_shares)
    assert [(row.kind, row.annotations, row.regions, row.words) for row in found.rows] == [
        ("object", 2, 2, 6),  # four words of the text that came first, and two of its own
        ("text", 1, 1, 5),
    ]
    paper, before = paper_statistics(full), paper_statistics(bare)
    assert paper.rows == before.rows | {("region-text", "brief"): Row(1, None, 2, 2.0, 3.0)}
    assert paper.spatial == before.spatial and sum(paper.spatial["region-text"].sides) == 2
