"""Targets and answers: the published examples, the laws by hypothesis for every task."""

import dataclasses

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from florence2.codec import answers
from florence2.codec.tasks import QUESTIONS, TASKS, Task, task_of
from florence2.codec.tokenizer import Tokenizer
from florence2.records import Ask, Grounding, Parsed, Region, Text

SIZES = [(640, 480), (1, 1), (1000, 1000), (576, 4096), (333, 77)]
ROWS = [*TASKS.values(), *QUESTIONS.values()]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["a green car parked in front of a yellow building", "wheel door handle 汽车"] * 3, 320)


# ---- any answer of any task

hard = st.text(
    alphabet=st.one_of(st.sampled_from("ab <>/_\n　é汽🚗\t0"), st.characters(exclude_categories=["Cs"])), max_size=12
)
special = st.sampled_from(["<loc_5>", "</s>", "<poly>", "a<sep>b", "<s>", "<loc_1000>", "<OD>", "loc_3>cat", "<"])
words = st.one_of(hard, special, st.sampled_from(["car", "cat", "a cat"])).filter(lambda t: t.strip(" \t\n\r\f\v"))
number = st.one_of(st.floats(-50, 5000, width=32), st.sampled_from([0.0, 639.99, 640.0, 1e30, -1e30]))
box = st.tuples(number, number, number, number)
polygon = st.lists(st.tuples(number, number), min_size=3, max_size=7).map(lambda ps: tuple(v for p in ps for v in p))
region_of = {
    "quads": st.builds(Region, kind=st.just("text"), label=words, quad=st.tuples(*[number] * 8)),
    "labelled_boxes": st.builds(Region, label=words, description=words, box=box),
    "boxes": st.builds(Region, box=box),
    "polygons": st.builds(Region, polygons=st.lists(polygon, min_size=1, max_size=3).map(tuple)),
    "open_boxes": st.one_of(
        st.builds(Region, label=words, box=box),
        st.builds(Region, label=words, polygons=st.lists(polygon, min_size=1, max_size=3).map(tuple)),
    ),
    "region_text": st.builds(Region, label=words, description=words, box=box),
}


@st.composite
def answered(draw, task: Task):
    """(ask, answer, size) of a task, ids unordered, labels repeated and interleaved."""
    size_wh = draw(st.sampled_from(SIZES))
    ask = Ask(task.token)
    if task.input_kind == "text":
        ask = dataclasses.replace(ask, text=draw(words), text_id=draw(st.sampled_from(["", "t9"])))
    if task.input_kind == "region":
        ask = dataclasses.replace(ask, region=draw(box))
    if task.output_kind == "text":
        return ask, Parsed(texts=tuple(draw(st.lists(st.builds(Text, text=hard), max_size=1)))), size_wh
    if task.output_kind == "phrases":
        groundings, regions = [], []
        for phrase in draw(st.lists(words, max_size=4)):
            ids = []
            for place in draw(st.lists(box, min_size=1, max_size=3)):
                ids.append(f"x{len(regions)}")
                regions.append(Region(id=ids[-1], box=place))
            groundings.append(Grounding(id=f"y{len(groundings)}", phrase=phrase, region_ids=tuple(ids)))
        return ask, Parsed(regions=tuple(regions[::-1]), groundings=tuple(groundings)), size_wh
    many = 1 if task.output_kind == "region_text" else 5
    regions = draw(st.lists(region_of[task.output_kind], max_size=many))
    return ask, Parsed(regions=tuple(dataclasses.replace(r, id=f"x{i}") for i, r in enumerate(regions))), size_wh


@pytest.mark.parametrize("task", ROWS, ids=lambda t: t.name)
def test_parse_of_render_is_canonical(task, tokenizer):
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(answered(task))
    def law(case):
        ask, parsed, size_wh = case
        said = answers.canonical(parsed, task, size_wh, ask)
        assert answers.canonical(said, task, size_wh, ask) == said
        ids = answers.encode(parsed, task, tokenizer, size_wh, ask)
        read, spans = answers.parse_ids(ids, tokenizer, task, size_wh, ask)
        assert read == said
        assert set(spans) == {item.id for item in (*read.texts, *read.regions, *read.groundings)}
        assert answers.unused_positions(ids, tokenizer, task) == []
        generated = [tokenizer.eos, tokenizer.bos, *ids, tokenizer.eos, tokenizer.pad]
        assert answers.parse_ids(generated, tokenizer, task, size_wh, ask)[0] == said
        try:
            text = answers.render(parsed, task, size_wh, ask)
        except ValueError as error:
            assert "read back as a token" in str(error)
        else:
            assert answers.parse(text, task, size_wh, ask) == said
            assert tokenizer.decode(ids) == text

    law()


@pytest.mark.parametrize("task", ROWS, ids=lambda t: t.name)
def test_anything_parses_and_what_was_read_renders(task, tokenizer):
    token = st.one_of(
        st.integers(0, 5), st.integers(250, 330), st.integers(tokenizer.loc0 - 8, tokenizer.vocab_size - 1)
    )

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(token, max_size=40))
    def law(ids):
        ask = Ask(
            task.token,
            text="a" if task.input_kind == "text" else "",
            region=(0, 0, 9, 9) if task.input_kind == "region" else (),
        )
        read, spans = answers.parse_ids(ids, tokenizer, task, (640, 480), ask)
        again = answers.canonical(read, task, (640, 480), ask)
        assert len(again.regions) == len(read.regions) and len(again.texts) == len(read.texts)
        positions = {p for span in spans.values() for p in (*span.text_tokens, *span.location_tokens)}
        assert positions <= set(range(len(ids)))

    law()


L = "".join
CAR = "car<loc_53><loc_333><loc_933><loc_774>"
BOX = "<loc_1><loc_2><loc_3><loc_4>"
EXAMPLES = [  # task, generated text, what the regions (or texts) say
    ("OD", f"</s><s>{CAR}wheel{BOX}{BOX}</s>", ["car", "wheel", "wheel"]),
    ("OD", "dog<loc_1><loc_2><loc_3>cat" + BOX, ["cat"]),  # three locations are no box; the label stays whole
    ("OD", f"café\nau lait{BOX}汽车{BOX}a < b{BOX}", ["café\nau lait", "汽车", "a < b"]),
    ("REGION_PROPOSAL", BOX * 3 + "<loc_1>", ["", "", ""]),
    ("OCR_WITH_REGION", f"</s><s>CUDA{BOX}{BOX}FOR\nENGINEERS{BOX}{BOX}</s>", ["CUDA", "FOR\nENGINEERS"]),
    ("OPEN_VOCABULARY_DETECTION", f"cat{BOX}dog<poly>{BOX}{BOX}<sep>{BOX}{BOX}</poly>cat{BOX}", ["cat", "dog", "cat"]),
    ("REGION_TO_CATEGORY", "car<loc_52><loc_332><loc_932><loc_774>", ["car"]),
    ("REFERRING_EXPRESSION_SEGMENTATION", f"<poly>{BOX}{BOX}</poly><poly>{BOX}{BOX}</poly>", ["", ""]),
    ("REFERRING_EXPRESSION_SEGMENTATION", f"{BOX}{BOX}<sep>{BOX}{BOX}", [""]),
]


@pytest.mark.parametrize("name, text, labels", EXAMPLES)
def test_examples(name, text, labels):
    assert [region.label for region in answers.parse(text, name, (640, 480)).regions] == labels


def test_locations_are_bin_centres_and_spans_point_at_them(tokenizer):
    ids = tokenizer.encode(CAR)
    parsed, spans = answers.parse_ids(ids, tokenizer, "OD", (640, 480))
    assert [round(v, 2) for v in parsed.regions[0].box] == [34.24, 160.08, 597.44, 371.76]
    assert [ids[p] - tokenizer.loc0 for p in spans["r0"].location_tokens] == [53, 333, 933, 774]
    assert tokenizer.decode([ids[p] for p in spans["r0"].text_tokens]) == "car"


def test_phrases_are_found_in_the_caption_one_after_the_other():
    ask = Ask("<CAPTION_TO_PHRASE_GROUNDING>", text="a dog and a dog, a cat", text_id="t3")
    parsed = answers.parse(f"a dog{BOX}a dog{BOX}{BOX}a cow{BOX}", ask.task, (10, 10), ask)
    assert [(g.text_id, g.spans, len(g.region_ids)) for g in parsed.groundings] == [
        ("t3", ((0, 5),), 1),
        ("t3", ((10, 15),), 2),
        ("t3", (), 1),
    ]


@pytest.mark.parametrize(
    "name, text, cut",
    [
        ("OD", f"</s><s>{CAR}</s>", False),
        ("OD", f"</s><s>{CAR}", True),  # generated, and never ended
        ("OD", CAR, False),  # a target
        ("OD", f"{CAR}door<loc_1>", True),
        ("CAPTION", "</s><s>a car", True),
        ("OD", "</s><s></s>", False),
        ("OPEN_VOCABULARY_DETECTION", f"cat<poly>{BOX}{BOX}", True),
        ("REGION_TO_SEGMENTATION", f"{BOX}{BOX}<loc_1>", True),
    ],
)
def test_a_cut_answer_says_so(name, text, cut):
    assert answers.parse(text, name, (10, 10)).truncated is cut


@pytest.mark.parametrize(
    "name, parsed, word",
    [
        ("OD", Parsed(regions=(Region(box=(0, 0, 1, 1)),)), "label"),
        ("OD", Parsed(regions=(Region(label="car"),)), "place"),
        ("OD", Parsed(regions=(Region(label="car", box=(0, 0, float("nan"), 1)),)), "finite"),
        ("OD", Parsed(regions=(Region(label="\ud800", box=(0, 0, 1, 1)),)), "surrogate"),
        ("CAPTION", Parsed(texts=(Text(text="a"), Text(text="b"))), "one text"),
        ("OCR_WITH_REGION", Parsed(regions=(Region(label="a", quad=(1, 2, 3)),)), "8 numbers"),
        ("REGION_TO_SEGMENTATION", Parsed(regions=(Region(polygons=((1, 2, 3, 4),)),)), "three or more"),
        ("CAPTION_TO_PHRASE_GROUNDING", Parsed(groundings=(Grounding(phrase="a"),)), "ids of regions"),
    ],
)
def test_what_cannot_be_rendered_is_refused(name, parsed, word):
    with pytest.raises(ValueError, match=word):
        answers.render(parsed, name, (640, 480))


def test_a_size_without_pixels_is_refused():
    with pytest.raises(ValueError, match="size_wh"):
        answers.parse("", task_of("OD"), (0, 480))
