"""The table of tasks, prompts, and where a Sample keeps the truth of each task."""

import dataclasses

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from florence2.codec import answers
from florence2.codec import tasks as table
from florence2.codec.places import reading_order
from florence2.codec.tasks import QUESTIONS, TASKS, ask_of, prompt_text, task_of
from florence2.records import Ask, Coverage, Decision, Grounding, ImageRef, Parsed, Region, Sample, Source, Text

SOURCE = Source("specialist", "someone", "1")
SIZE = (640, 480)
BARE = Sample("s", ImageRef("i", width=640, height=480))
SQUARE = (10.0, 10.0, 60.0, 10.0, 60.0, 60.0)


def sample(**fields):
    return dataclasses.replace(BARE, **fields)


def said(name, given):
    """(text or labels or region asked, what is said) of each truth."""
    task = task_of(name)
    rows = []
    for ask, parsed in task.truths(given):
        asked = ask.text or ask.labels or ask.region or ""
        rows.append((asked, answers.render(parsed, task, SIZE, ask).split("<loc")[0] or len(parsed.regions)))
    return rows


SCENE = sample(
    texts=(
        Text("t1", "a dog and a cat", "brief"),
        Text("t2", "two animals", "brief"),
        Text("t3", "a dog on grass", "detailed"),
        Text("t4", "12", "answer", question="How many?"),
    ),
    regions=(
        Region("r1", box=(0, 0, 20, 20), label="dog"),
        Region("r2", box=(0, 0, 50, 50), label="dog", polygons=(SQUARE,)),
        Region("r3", box=(100, 100, 150, 150), label="cat", description="a grey cat"),
        Region("r4", box=(100, 100, 150, 150), description="a cat that sleeps", refines="r3"),
        Region("r5", box=(0, 0, 9, 9), label="ghost", ignore=True),
        Region("r6", box=(0, 0, 9, 9), label="wolf"),
        Region("w2", kind="text", label="world", quad=(50, 1, 90, 1, 90, 11, 50, 11)),
        Region("w1", kind="text", label="hello", quad=(0, 0, 40, 0, 40, 10, 0, 10)),
        Region("w3", kind="text", label="below", box=(0, 20, 40, 30)),
        Region("w4", kind="text", label="###", box=(0, 40, 40, 50), ignore=True),
    ),
    groundings=(
        Grounding("g2", "t1", "a cat", ((10, 15),), ("r3",)),
        Grounding("g1", "t1", "a dog", ((0, 5),), ("r1", "r2")),
        Grounding("g3", "", "the big dog", (), ("r2",)),
    ),
    decisions=(
        Decision("r6", "rejected", "score"),
        Decision("t2", "rejected", "x"),
        Decision("t2", "kept", "y", seq=1),
    ),
)

TRUTHS = [
    ("CAPTION", [("", "a dog and a cat"), ("", "two animals")]),
    ("DETAILED_CAPTION", [("", "a dog on grass")]),
    ("MORE_DETAILED_CAPTION", []),
    ("VQA", [("How many?", "12")]),
    ("OCR", [("", "hello\nworld\nbelow")]),
    ("REGION_PROPOSAL", [("", 3)]),
    ("REGION_TO_CATEGORY", [((0, 0, 20, 20), "dog"), ((0, 0, 50, 50), "dog"), ((100, 100, 150, 150), "cat")]),
    ("REGION_TO_DESCRIPTION", [((100, 100, 150, 150), "a grey cat"), ((100, 100, 150, 150), "a cat that sleeps")]),
    ("REGION_TO_OCR", [((50, 1, 90, 11), "world"), ((0, 0, 40, 10), "hello"), ((0, 20, 40, 30), "below")]),
    ("REGION_TO_SEGMENTATION", [((0, 0, 50, 50), 1)]),
    ("REFERRING_EXPRESSION_SEGMENTATION", [("the big dog", 1)]),
    ("OPEN_VOCABULARY_DETECTION", [("cat", "cat"), ("dog", "dog"), ("the big dog",) * 2, (("cat", "dog"), "cat")]),
]


@pytest.mark.parametrize("name, expected", TRUTHS)
def test_truths(name, expected):
    assert said(name, SCENE) == expected


TWICE = [  # task, two regions that say the same to it, one that says something else
    ("REGION_TO_CATEGORY", {"description": "a cat"}, {"description": "a grey cat"}, {"label": "dog"}),
    ("REGION_TO_DESCRIPTION", {"description": "a"}, {"description": "a", "label": "dog"}, {"description": "b"}),
    (
        "REGION_TO_OCR",
        {"kind": "text"},
        {"kind": "text", "quad": (0, 1, 9, 1, 9, 8, 0, 8)},
        {"kind": "text", "label": "x"},
    ),
    (
        "REGION_TO_SEGMENTATION",
        {"polygons": (SQUARE,)},
        {"polygons": (SQUARE,), "label": "dog"},
        {"polygons": (SQUARE[:4] + (60.0, 50.0),)},
    ),
]


@pytest.mark.parametrize("name, first, same, other", TWICE)
def test_what_says_the_same_is_asked_once(name, first, same, other):
    rows = [{"kind": "object", "label": "cat", **row} for row in (first, same, other)]
    regions = tuple(Region(f"r{n}", box=(0, 0, 9, 9), **row) for n, row in enumerate(rows))
    found = [parsed.regions[0].id for _, parsed in task_of(name).truths(sample(regions=regions))]
    assert found == ["r0", "r2"]


def test_targets_are_in_order():
    def target(name):
        ((ask, parsed),) = task_of(name).truths(SCENE)
        return answers.render(parsed, name, (1000, 1000), ask)

    dog = "<loc_0><loc_0><loc_50><loc_50>", "<loc_0><loc_0><loc_20><loc_20>"
    cat = "<loc_100><loc_100><loc_150><loc_150>"
    assert target("OD") == f"cat{cat}dog{dog[0]}{dog[1]}"  # code points; larger first
    assert target("DENSE_REGION_CAPTION") == f"a cat that sleeps{cat}a grey cat{cat}"
    assert target("CAPTION_TO_PHRASE_GROUNDING") == f"a dog{dog[0]}{dog[1]}a cat{cat}"  # as the caption has them
    assert target("OCR_WITH_REGION").startswith(
        "hello<loc_0><loc_0><loc_40><loc_0><loc_40><loc_10><loc_0><loc_10>world<"
    )


LINES = [  # (label, x1, y1, x2, y2), in the order in which a person reads them
    [("left", 0, 10, 40, 30), ("right", 50, 4, 90, 24), ("below", 0, 40, 40, 60)],  # a row that is not quite level
    [
        ("a", 0, 0, 30, 10),
        ("b", 0, 12, 30, 22),
        ("tall", 40, 0, 60, 40),
        ("c", 0, 26, 30, 36),
    ],  # a tall one joins no row
    [("x", 0, 0, 10, 10), ("Xg", 12, -4, 30, 14), ("y", 0, 20, 10, 30)],  # letters of several heights
]


@pytest.mark.parametrize("lines", LINES)
def test_reading_order(lines):
    regions = [Region(label=label, kind="text", box=box) for label, *box in lines]
    for turned in (regions, regions[::-1]):
        assert [region.label for region in reading_order(turned)] == [line[0] for line in lines]


def test_a_mask_is_outlined_and_polygons_go_clockwise():
    from florence2.geometry import encode_rle

    inside = np.zeros((480, 640), dtype=bool)
    inside[100:200, 50:150] = True
    given = sample(
        regions=(
            Region("m", label="dog", mask=encode_rle(inside)),
            Region(
                "p", box=(0, 0, 9, 9), polygons=((0, 0, 0, 9, 9, 9, 9, 0), (1, 1, 2, 2))
            ),  # the second is no polygon
        )
    )
    truths = TASKS["<REGION_TO_SEGMENTATION>"].truths(given)
    assert [ask.region for ask, _ in truths] == [(50, 100, 150, 200), (0, 0, 9, 9)]
    ((corners,),) = [parsed.regions[0].polygons for ask, parsed in truths[:1]]
    assert sorted(zip(corners[0::2], corners[1::2])) == [(50, 100), (50, 200), (150, 100), (150, 200)]
    assert truths[1][1].regions[0].polygons == ((0, 0, 9, 0, 9, 9, 0, 9),)


def test_a_line_of_text_with_an_outline_alone_has_the_corners_of_its_box():
    line = Region("t", "text", label="EXIT", polygons=((10, 10, 50, 12, 48, 30, 12, 28),))
    ((_, truth),) = TASKS["<OCR_WITH_REGION>"].truths(sample(regions=(line,)))
    assert truth.regions[0].quad == (10, 10, 50, 10, 50, 30, 10, 30)


place = st.tuples(*[st.integers(0, 400)] * 2, *[st.integers(401, 470)] * 2).map(lambda box: tuple(map(float, box)))
words = st.sampled_from(["dog", "cat", "a dog", "Zug", "é<loc_1>", "two\nlines", ""])
names = st.sampled_from([f"i{n}" for n in range(5)])
text_names = st.sampled_from(["a", "b", "c"])
regions = st.builds(
    Region, names, st.sampled_from(["object", "text"]), st.none() | place, words, description=words,
    polygons=st.lists(st.tuples(*[st.floats(0, 480)] * 6), max_size=2).map(tuple),
    quad=st.just(()) | st.tuples(*[st.floats(0, 480)] * 8),
    ignore=st.sampled_from([False, False, True]), refines=st.sampled_from(["", "", "", "i1", "i8"]),
)  # fmt: skip
texts = st.builds(
    Text, text_names, words, st.sampled_from(["brief", "detailed", "more_detailed", "ocr", "answer"]), words
)
said_of = st.just("") | text_names
groundings = st.builds(Grounding, names, said_of, words, st.just(()), st.tuples(names, names))
decisions = st.builds(
    Decision, names | text_names, st.sampled_from(["kept", "rejected", "superseded"]), st.just("rule")
)


@pytest.mark.parametrize("task", [*TASKS.values(), *QUESTIONS.values()], ids=lambda task: task.name)
def test_whatever_a_sample_holds_its_truths_can_be_asked_and_rendered(task):
    held = 0

    @settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(*[st.lists(kind, max_size=6, unique_by=lambda item: item.id) for kind in (texts, regions, groundings)],
           st.lists(decisions, max_size=3))  # fmt: skip
    @example([*SCENE.texts, Text("t9", "much", "more_detailed")], SCENE.regions, SCENE.groundings, SCENE.decisions)
    def law(some_texts, some_regions, some_groundings, some_decisions):
        given_sample = sample(
            texts=tuple(some_texts), regions=tuple(some_regions), groundings=tuple(some_groundings),
            decisions=tuple(some_decisions),
        )  # fmt: skip
        nonlocal held
        current = given_sample.current()
        there = {
            item.id
            for item in (*current.texts, *current.regions, *current.groundings)
            if not getattr(item, "ignore", 0)
        }
        for ask, parsed in task.truths(given_sample):
            assert prompt_text(ask, SIZE)
            said = answers.canonical(parsed, task, SIZE, ask)
            assert said.regions or said.texts
            items = (*parsed.texts, *parsed.regions, *parsed.groundings)
            assert {item.id for item in items} <= there | {"t0"}
            if task.output_kind == "labelled_boxes":
                labels = [region.label or region.description for region in said.regions]
                assert labels == sorted(labels)
        added, pairs = given_sample, task.truths(given_sample)
        held += bool(pairs)
        for ask, parsed in pairs:
            added = task.add(added, ask, parsed, SOURCE)
        old = len(given_sample.regions)
        assert added.regions[:old] == given_sample.regions and added.decisions == given_sample.decisions
        assert len(added.regions) == old + sum(len(parsed.regions) for _, parsed in pairs)
        new = added.regions[old:]
        assert len({region.id for region in new}) == len(new) and all(region.source == SOURCE for region in new)

    law()
    assert held


def test_nothing_is_a_truth_only_where_it_was_looked_for():
    assert TASKS["<OD>"].truths(BARE) == []
    looked = sample(coverage={"coco": (Coverage("exhaustive"), Coverage("negatives", ("zebra",)))})
    assert TASKS["<OD>"].truths(looked) == [(Ask("<OD>"), Parsed())]
    assert TASKS["<OCR_WITH_REGION>"].truths(looked) == []
    (pair,) = TASKS["<OPEN_VOCABULARY_DETECTION>"].truths(looked)
    assert pair == (Ask("<OPEN_VOCABULARY_DETECTION>", text="zebra"), Parsed())


@pytest.mark.parametrize("name, kind", [("OD", "object"), ("REGION_PROPOSAL", "object"), ("OCR_WITH_REGION", "text")])
def test_where_all_is_ignored_nothing_is_not_the_truth(name, kind):
    looked = {"text" if kind == "text" else "set": (Coverage("exhaustive"),)}
    task, crowd = TASKS[f"<{name}>"], Region("r0", kind, (0, 0, 90, 90), "cat", ignore=True)
    assert task.truths(sample(coverage=looked)) == [(Ask(task.token), Parsed())]
    assert task.truths(sample(coverage=looked, regions=(crowd,))) == []
    other = Region("r1", kind, (1, 2, 30, 40), "dog")
    ((_, parsed),) = task.truths(sample(coverage=looked, regions=(crowd, other)))
    assert len(parsed.regions) == 1


ADDED = [  # what a specialist may say of a bare sample comes back as the truth
    ("CAPTION", Ask(), Parsed(texts=(Text("t0", "a dog"),))),
    ("OCR", Ask(), Parsed(texts=(Text("t0", "a\nb"),))),
    ("VQA", Ask(text="How many?"), Parsed(texts=(Text("t0", "12"),))),
    ("OD", Ask(), Parsed(regions=(Region("r0", box=(1, 2, 30, 40), label="dog"),))),
    ("DENSE_REGION_CAPTION", Ask(), Parsed(regions=(Region("r0", box=(1, 2, 30, 40), description="a dog"),))),
    ("REGION_PROPOSAL", Ask(), Parsed(regions=(Region("r0", box=(1, 2, 30, 40)),))),
    ("OCR_WITH_REGION", Ask(), Parsed(regions=(Region("r0", kind="text", label="a", quad=(1, 2, 9, 2, 9, 9, 1, 9)),))),
    (
        "CAPTION_TO_PHRASE_GROUNDING",
        Ask(text="a dog runs"),
        Parsed(regions=(Region("r0", box=(1, 2, 30, 40)),), groundings=(Grounding("g0", "", "a dog", (), ("r0",)),)),
    ),
    ("REFERRING_EXPRESSION_SEGMENTATION", Ask(text="a dog"), Parsed(regions=(Region("r0", polygons=(SQUARE,)),))),
    ("REGION_TO_SEGMENTATION", Ask(region=(10, 10, 60, 60)), Parsed(regions=(Region("r0", polygons=(SQUARE,)),))),
    ("OPEN_VOCABULARY_DETECTION", Ask(text="dog"), Parsed(regions=(Region("r0", box=(1, 2, 30, 40), label="dog"),))),
    ("REGION_TO_CATEGORY", Ask(region=(1, 2, 30, 40)), Parsed(regions=(Region("r0", label="dog"),))),
    ("REGION_TO_DESCRIPTION", Ask(region=(1, 2, 30, 40)), Parsed(regions=(Region("r0", description="a dog"),))),
    ("REGION_TO_OCR", Ask(region=(1, 2, 30, 40)), Parsed(regions=(Region("r0", label="abc"),))),
]


@pytest.mark.parametrize("name, ask, parsed", ADDED, ids=[row[0] for row in ADDED])
def test_what_is_added_to_a_bare_sample_is_its_truth(name, ask, parsed):
    task = task_of(name)
    ask = dataclasses.replace(ask, task=task.token)
    once = task.add(BARE, ask, parsed, SOURCE)
    ((true_ask, truth),) = task.truths(once)
    assert dataclasses.replace(true_ask, text_id="") == ask
    plain = [answers.canonical(p, task, SIZE, ask) for p in (truth, parsed)]
    assert plain[0] == plain[1]
    twice = task.add(once, ask, parsed, SOURCE)
    ids = [item.id for items in (twice.texts, twice.regions, twice.groundings) for item in items]
    assert len(ids) == len(set(ids)) and all(item.source == SOURCE for item in (*twice.regions, *twice.groundings))
    assert len(task.truths(twice)) == 1  # said twice, true once


def test_an_answer_about_a_known_region_refines_it():
    base = sample(regions=(Region("b", box=(1, 2, 30, 40), label="dog"),))
    task = TASKS["<REGION_TO_SEGMENTATION>"]
    ask = Ask(task.token, region=(1, 2, 30, 40))
    after = task.add(base, ask, Parsed(regions=(Region("r0", polygons=(SQUARE,)),)), SOURCE)
    assert after.regions[1].refines == "b" and after.regions[1].box == (1, 2, 30, 40)
    assert [ask.region for ask, _ in task.truths(after)] == [(1, 2, 30, 40)]
    assert len(TASKS["<REGION_PROPOSAL>"].truths(after)[0][1].regions) == 1


PROMPTS = [
    (Ask("OD"), "Locate the objects with category name in the image."),
    (Ask("<OPEN_VOCABULARY_DETECTION>", text=" cat "), "Locate cat in the image."),
    (Ask("<OPEN_VOCABULARY_DETECTION>", labels=("a b", "c")), "Locate a b<and>c in the image."),
    (Ask("<REGION_TO_CATEGORY>", region=(0, 0, 640, 480)), "What is the region <loc_0><loc_0><loc_999><loc_999>?"),
    (Ask("<REGION_TO_OCR>", region=(640, 480, 0, 0)), "What text is in the region <loc_0><loc_0><loc_999><loc_999>?"),
    (Ask("<REGION_TO_SEGMENTATION>", text="<loc_1><loc_2><loc_3><loc_4>"),
     "What is the polygon mask of region <loc_1><loc_2><loc_3><loc_4>"),
    (Ask("<DocVQA>", text="What {is} it?"), "<DocVQA>What {is} it?"),
    (Ask(prompt="<DocVQA>  as written"), "<DocVQA>  as written"),
    (Ask("<OD>", labels=("cat",)), "Locate the objects with category name in the image."),
]  # fmt: skip


@pytest.mark.parametrize("ask, prompt", PROMPTS)
def test_prompts(ask, prompt):
    assert prompt_text(ask, SIZE) == prompt


@pytest.mark.parametrize(
    "ask, word",
    [
        (Ask("<OD>", text="cat"), "no text"),
        (Ask("<CAPTION>", labels=("cat",)), "no labels"),
        (Ask("<OD>", region=(0, 0, 1, 1)), "no region"),
        (Ask("<OPEN_VOCABULARY_DETECTION>"), "a text"),
        (Ask("<REGION_TO_OCR>"), "a region"),
        (Ask("<REGION_TO_OCR>", region=(1, 2, 3)), "flat polygon"),
        (Ask("<FOO>"), "unknown"),
    ],
)
def test_an_ask_that_does_not_fit_its_task_is_refused(ask, word):
    with pytest.raises(ValueError, match=word):
        prompt_text(ask, SIZE)


def test_a_raw_prompt_finds_its_task():
    assert ask_of("<OD>").task == "<OD>"
    assert ask_of("<OPEN_VOCABULARY_DETECTION> a cat").prompt == "Locate a cat in the image."
    assert ask_of("<VQA>why?") == Ask("<VQA>", text="why?", prompt="<VQA>why?")
    assert ask_of("anything") == Ask(prompt="anything")
    with pytest.raises(ValueError, match="alone"):
        ask_of("<OD> cat")


def test_own_tasks_are_rows_of_strings(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "REGISTERED", {})
    task = table.register("<COUNT>", "Count the {input} in the image.", "text", "answer")
    assert task_of("COUNT") == task and prompt_text(Ask("<COUNT>", text="dogs"), SIZE) == "Count the dogs in the image."
    assert table.register("<COUNT>", "Count the {input} in the image.", "text", "answer") == task
    table.save_tasks({**TASKS, **QUESTIONS, "<COUNT>": task}, tmp_path)
    assert table.load_tasks(tmp_path) == {**TASKS, **QUESTIONS, "<COUNT>": task}
    (tmp_path / "tasks.json").write_text('[{"token": "<X>", "prompt": "x", "gives": "boxen", "keeps": "box"}]')
    with pytest.raises(ValueError, match="tasks.json.*boxen"):
        table.load_tasks(tmp_path)


@pytest.mark.parametrize(
    "row, word",
    [
        (("COUNT", "x", "text", "answer"), "brackets"),
        (("<C>", "x", "letters", "answer"), "gives"),
        (("<C>", "x", "text", "label"), "keeps"),
        (("<C>", "x {input}", "labelled_boxes", "label"), "prompt"),
        (("<C>", "x", "region_text", "label"), "prompt"),
        (("<OD>", "x", "text", "answer"), "already"),
    ],
)
def test_a_row_that_cannot_work_is_refused(row, word):
    with pytest.raises(ValueError, match=word):
        table.register(*row)


def test_the_table_is_the_official_one():
    assert len(TASKS) == 15 and list(QUESTIONS) == ["<DocVQA>", "<VQA>"]
    for token, task in {**TASKS, **QUESTIONS}.items():
        assert table.checked(task) == task and task.token == token
    assert task_of(TASKS["<OD>"]) is TASKS["<OD>"] is task_of("OD") is task_of("<OD>")
