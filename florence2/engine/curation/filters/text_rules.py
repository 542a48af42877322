"""Rules for texts: by their letters, by their words, and by what a parser sees in them.

Texts that were read off the picture or answer a question (detail ocr, answer) are judged by none of them.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from florence2.engine.curation.filters.verdicts import by_people, verdict
from florence2.engine.text.parser import Parser
from florence2.engine.text.phrases import Measures, Word
from florence2.records import CAPTION_DETAILS, Decision, Sample, Text

MARKS = re.compile(
    r"</?[a-z][^>]*>"  # tags, special tokens
    r"|&(?:[a-z]+|#\d+);"  # entities
    r"|https?://\S*|www\.\S+|\S+@\S+\.\w+"  # links, mail
    r"|\w+\.(?:jpe?g|png|gif|bmp|tiff?|webp|svg|pdf|mp4|mov|html?|php)\b"  # file names
    r"|\b(?:IMG|DSC|DSCN|DSCF|PXL|VID|P)_?\d{3,}\w*|\b\w+_\w+\b"  # cameras' names, identifiers
    r"|#\w+|\[\[|\]\]|\{\S*|\S*\}|\*\*|^\s*[-*#]+\s|\]\(|\\n|\|\s*\|",  # hash tags, wiki, JSON, Markdown
    re.IGNORECASE | re.MULTILINE,
)
_WORD = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)?")

ENGLISH = frozenset(
    "the of and with is are that which who on in at to for from by near next into over under up down out off it its "
    "his her their there this these those has have while through around behind above below between some several two "
    "three one a an be being been was were not but or as front standing sitting".split()
)
FOREIGN = (
    frozenset(  # function words that English does not know: Spanish, French, German, Italian, Portuguese, Dutch, ...
        "el la los las una unos unas de del con y que por su sus sobre está están para muy entre junto "
        "le les des du et dans avec sont qui au aux une est ses sur il elle près deux "
        "der das ein eine einen einem einer und mit auf im ist sind neben von vor zwei dem zum "
        "lo gli uno di della dello nel nella che è sono alla sul sulla due "
        "os um uma dos das em na com estão ao duas sob "
        "het een en met op zijn aan bij naar twee voor "
        "ett och på med av som bredvid är med på et er ved siden og "
        "na w z jest się obok dwa bir ve bir yanında üzerinde".split()
    )
)


def length(sample: Sample, settings: Mapping[str, Any]) -> Iterator[Decision]:
    """Words between white space."""
    yield from _at_most(sample, settings["max"], lambda text: len(text.split()))


def markup(sample: Sample, settings: Mapping[str, Any]) -> Iterator[Decision]:
    """Marks that no sentence about a picture has."""
    yield from _at_most(sample, settings["max"], lambda text: len(MARKS.findall(text)))


def language(sample: Sample, settings: Mapping[str, Any]) -> Iterator[Decision]:
    """Foreign function words and letters against English function words; a text with neither passes."""
    yield from _at_most(sample, settings["max"], foreign_share)


def repetition(sample: Sample, settings: Mapping[str, Any]) -> Iterator[Decision]:
    """Word triples that occurred before."""
    yield from _at_most(sample, settings["max"], repeated_share)


def word_list(sample: Sample, settings: Mapping[str, Any]) -> Iterator[Decision]:
    """Nouns and names among the words; a short text is not judged."""

    def share(words: tuple[Word, ...]) -> float:
        spoken = [w for w in words if w.pos not in ("PUNCT", "SYM")]
        if len(spoken) < settings["words"]:
            return 0.0
        return sum(w.pos in ("NOUN", "PROPN") for w in spoken) / len(spoken)

    parser = read([sample], settings)
    yield from _at_most(sample, settings["max"], lambda text: share(parser.parse(text)))


def max_objects(sample: Sample, settings: Mapping[str, Any]) -> Iterator[Decision]:
    """Nouns that name objects of their own."""
    yield from _at_most(sample, settings["max"], _measured(sample, settings, lambda m: m.objects))


def min_objects(sample: Sample, settings: Mapping[str, Any]) -> Iterator[Decision]:
    """Nouns and names."""
    yield from _at_least(sample, settings["min"], _measured(sample, settings, lambda m: m.objects + m.proper_nouns))


def min_actions(sample: Sample, settings: Mapping[str, Any]) -> Iterator[Decision]:
    """Verbs."""
    yield from _at_least(sample, settings["min"], _measured(sample, settings, lambda m: m.actions))


def object_complexity(sample: Sample, settings: Mapping[str, Any]) -> Iterator[Decision]:
    """The degree of the most connected object; a text of names alone is not judged by it."""

    def most(m: Measures) -> float:
        return m.object_complexity if m.objects else m.proper_nouns

    yield from _at_least(sample, settings["min"], _measured(sample, settings, most))


def action_complexity(sample: Sample, settings: Mapping[str, Any]) -> Iterator[Decision]:
    """The degree of the most connected action."""
    yield from _at_least(sample, settings["min"], _measured(sample, settings, lambda m: m.action_complexity))


def foreign_share(text: str) -> float:
    """The share of foreign ones among the words that identify a language."""
    english = foreign = 0
    for word in _WORD.findall(text):
        folded = word.casefold()
        if any(ord(letter) > 0x24F for letter in folded):
            foreign += 1  # another script
        elif folded in FOREIGN:
            foreign += 1
        elif folded in ENGLISH:
            english += 1
        elif not folded.isascii() and "\u2019" not in folded:
            foreign += 1  # accents; "cafe" alone does not outweigh an English sentence
    return foreign / (foreign + english) if foreign else 0.0


def repeated_share(text: str) -> float:
    """The share of word triples that are not new; of a text of fewer than four words, of its words."""
    words = [word.casefold() for word in _WORD.findall(text)]
    size = 3 if len(words) > 3 else 1
    grams = [tuple(words[i : i + size]) for i in range(len(words) - size + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


@functools.lru_cache(maxsize=4)
def parser_of(name: str) -> Parser:
    """The parser of a rule's settings, one for all rules."""
    return Parser(name)


def _judged(sample: Sample) -> list[Text]:
    return [text for text in sample.texts if text.detail in CAPTION_DETAILS and not by_people(text)]


def read(samples: Iterable[Sample], settings: Mapping[str, Any]) -> Parser:
    """The parser of a rule's settings, the texts of these samples parsed."""
    parser = parser_of(settings["parser"])
    parser.read(text.text for sample in samples for text in _judged(sample))
    return parser


def _measured(sample: Sample, settings: Mapping[str, Any], pick: Callable[[Measures], float]) -> Callable[[str], float]:
    parser = read([sample], settings)
    return lambda text: pick(parser.measure(text))


def _at_most(sample: Sample, limit: Any, value_of: Callable[[str], float]) -> Iterator[Decision]:
    for text in _judged(sample):
        threshold = limit[text.detail] if isinstance(limit, Mapping) else limit
        value = value_of(text.text)
        yield verdict(text, value <= threshold, float(value), float(threshold))


def _at_least(sample: Sample, limit: Any, value_of: Callable[[str], float]) -> Iterator[Decision]:
    for text in _judged(sample):
        threshold = limit[text.detail] if isinstance(limit, Mapping) else limit
        value = value_of(text.text)
        yield verdict(text, value >= threshold, float(value), float(threshold))
