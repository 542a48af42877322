"""Rules for texts."""

import pytest

from florence2.engine.curation.filters.rules import open_chain
from florence2.engine.curation.filters.text_rules import foreign_share, parser_of, repeated_share
from florence2.records import ImageRef, Sample, Source, Text

MACHINE = Source("specialist", "a")


def reasons(text, detail="brief", chain=None):
    sample = Sample("s", ImageRef("s"), texts=(Text("t", text, detail, source=MACHINE),))
    return [d.reason for rule in chain or open_chain({}) for d in rule.judge(sample)]


PARSED = ("word_list", "max_objects", "min_objects", "min_actions", "object_complexity", "action_complexity")


@pytest.fixture(scope="module")
def chain():
    return open_chain({name: {"parser": "bundled"} for name in PARSED})


GOOD = [
    "A man riding a wave on top of a surfboard.",
    "Two dogs play in a field of flowers.",
    "a yellow rose in a clear vase filled with water",
    "The kitchen has a stove, a refrigerator and wooden cabinets.",
    "Los Angeles seen from a hill at night.",
    "A café with a red awning on a street corner.",
]


@pytest.mark.parametrize("text", GOOD)
def test_good_captions_pass_every_rule(chain, text):
    assert reasons(text, chain=chain) == []


@pytest.mark.parametrize(
    "text, reason",
    [
        ("IMG_2034.jpg", "markup"),
        ("<p>A dog on a sofa.</p>", "markup"),
        ("A dog on a sofa &amp; a cat", "markup"),
        ("See www.example.com for a dog in a field", "markup"),
        ("A #dog in a #field", "markup"),
        ("A dog on a sofa <loc_12><loc_13>", "markup"),
        ("Ein Hund liegt auf dem Sofa neben der Katze", "not_english"),
        ("Un perro en el sof\u00e1 con una pelota", "not_english"),
        ("Un chien dans un champ de fleurs", "not_english"),
        ("\u30bd\u30d5\u30a1\u306e\u4e0a\u306e\u72ac", "not_english"),
        ("\u0421\u043e\u0431\u0430\u043a\u0430 \u043d\u0430 \u0434\u0438\u0432\u0430\u043d\u0435", "not_english"),
        ("a dog on a sofa a dog on a sofa a dog on a sofa", "repetition"),
        ("dog dog dog", "repetition"),
        ("dog, sofa, pillow, cat, lamp, carpet", "word_list"),
        ("running quickly", "few_objects"),
        ("freedom", "simple_objects"),
        ("word " * 60, "too_long"),
        ("", "few_objects"),
    ],
)
def test_bad_captions_are_rejected_for_their_reason(chain, text, reason):
    assert reason in reasons(text, chain=chain)


def test_excessive_objects(chain):
    things = "dog door cat wall lamp stove chair table horse barn plate cup".split()
    text = "There is " + ", ".join(f"a {one} near the {two}" for one, two in zip(things[::2], things[1::2]))
    assert "excessive_objects" in reasons(text, chain=chain)
    assert "excessive_objects" not in reasons(text, "detailed", chain)


def test_a_detailed_text_needs_an_action_a_brief_one_does_not(chain):
    text = "A dog with a ball."
    assert reasons(text, chain=chain) == []
    assert set(reasons(text, "detailed", chain)) == {"few_actions", "simple_actions"}


@pytest.mark.parametrize("detail", ["ocr", "answer"])
def test_what_was_read_or_answered_is_not_judged(chain, detail):
    assert reasons("<b>dog dog dog", detail, chain) == []


def test_shares():
    assert foreign_share("red car") == 0  # nothing tells the language
    assert foreign_share("the car of the man") == 0
    assert foreign_share("das Auto von dem Mann") == 1
    assert repeated_share("a b c d") == 0
    assert repeated_share("a b c a b c") == pytest.approx(1 / 4)


def test_texts_parsed_together_are_judged_as_those_parsed_alone(chain):
    texts = [*GOOD, "", "dog", "beach sea sand sun sky", "He is. It was. They were, and so it goes on for ever."] * 3
    said = [f"{text} {n}" if n >= len(texts) // 3 else text for n, text in enumerate(texts)]
    samples = [
        Sample(f"s{n}", ImageRef("s"), texts=(Text("t", t, "brief", source=MACHINE),)) for n, t in enumerate(said)
    ]
    verdicts = {}
    for together in (True, False):
        parser_of.cache_clear()
        if together:
            chain[0].prepare(samples)
        verdicts[together] = [list(rule.verdicts(sample)) for rule in chain for sample in samples]
    assert verdicts[True] == verdicts[False] and any(d.status == "rejected" for each in verdicts[True] for d in each)
