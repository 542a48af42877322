"""The texts about a scene: descriptions, three lengths of caption, groundings, referring expressions. Sees no pixels.

Every phrase knows what it names: a caption is a list of pieces, some of them (phrase, regions), so spans are exact by
construction. A referring expression is made from facts of its target and kept only if no other object shares them all.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Union

from florence2.labels import plural

_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_PLACES = (  # [row][column] by thirds of the picture
    ("at the top left", "at the top", "at the top right"),
    ("on the left", "in the center", "on the right"),
    ("at the bottom left", "at the bottom", "at the bottom right"),
)


@dataclass(frozen=True)
class Fact:
    """An object as words see it. `centre` and `side` are fractions of the picture (x of its width, y of its height)."""

    region_id: str
    kind: str
    colour: str
    texture: str
    centre: tuple[float, float]
    side: float

    @cached_property
    def description(self) -> str:
        """Such as "red striped star"."""
        return " ".join(word for word in (self.colour, _texture(self.texture), self.kind) if word)

    @cached_property
    def place(self) -> str:
        """Such as "at the top left": the third of the picture that holds its centre."""
        return _place(self.centre)

    @cached_property
    def size(self) -> str:
        """Either "small", "large" or nothing."""
        return "small" if self.side < 0.22 else "large" if self.side > 0.38 else ""


@dataclass(frozen=True)
class SignFact:
    """A sign as texts describe it: its words and the regions of its lines."""

    region_ids: tuple[str, ...]
    text: str
    centre: tuple[float, float]

    @property
    def place(self) -> str:
        """In words, like an object's."""
        return _place(self.centre)


Piece = Union[str, tuple[str, tuple[str, ...]]]  # plain words, or a phrase and the regions it names


@dataclass(frozen=True)
class Phrase:
    """A phrase of a text: where it is (code points) and which regions it names."""

    phrase: str
    span: tuple[int, int]
    region_ids: tuple[str, ...]


def join(pieces: Iterable[Piece]) -> tuple[str, tuple[Phrase, ...]]:
    """The text of the pieces and its phrases; the text's first letter becomes a capital."""
    text, phrases = "", []
    for piece in pieces:
        words, ids = (piece, ()) if isinstance(piece, str) else piece
        if not text or text.endswith(". "):
            words = words[:1].upper() + words[1:]
        if ids:
            phrases.append(Phrase(words, (len(text), len(text) + len(words)), ids))
        text += words
    return text, tuple(phrases)


def brief(facts: Sequence[Fact], sign: SignFact | None, ground: str) -> list[Piece]:
    """One sentence: kinds and their counts."""
    named: list[list[Piece]] = [[(_count(group, group[0].kind), _ids(group))] for group in _groups(facts, _kind)]
    if sign:
        named.append([(f'a sign that says "{sign.text}"', sign.region_ids)])
    return [*_series(named), f" on {article(ground)} background."]


def detailed(facts: Sequence[Fact], sign: SignFact | None, ground: str) -> list[Piece]:
    """One long sentence: colours, textures and places."""
    named: list[list[Piece]] = []
    for group in _groups(facts, lambda fact: fact.description):
        named.append([(_count(group, group[0].description), _ids(group)), f" {_places(group)}"])
    if sign:
        named.append([(f'a sign that says "{sign.text}"', sign.region_ids), f" {sign.place}"])
    return ["the image shows ", *_series(named), f", against {article(ground)} background."]


def more_detailed(rng: random.Random, facts: Sequence[Fact], sign: SignFact | None, ground: str) -> list[Piece]:
    """Several sentences: how many there are, each with its size and place, how they lie to each other, the ground."""
    one = len(facts) == 1
    out: list[Piece] = [f"there {'is' if one else 'are'} {number(len(facts))} object{'' if one else 's'}"]
    out.append(f" in the picture, on {article(ground)} background.")
    for group in _groups(facts, lambda fact: f"{fact.size} {fact.description}".strip()):
        phrase = (_count(group, f"{group[0].size} {group[0].description}".strip()), _ids(group))
        out += [" ", phrase, f" {'is' if len(group) == 1 else 'are'} {_places(group)}."]
    for first, other, relation in _relations(rng, facts):
        out += [" ", (_shortest(first, facts), (first.region_id,)), f" is {relation} "]
        out += [(_shortest(other, facts), (other.region_id,)), "."]
    if sign:
        out += [" ", ("a sign", sign.region_ids), f' {sign.place} says "{sign.text}".']
    return out


def refer(rng: random.Random, target: Fact, facts: Sequence[Fact], count: int) -> list[str]:
    """Up to `count` expressions that fit `target` and no other object, the shortest first."""
    unique = [words for words, fits in _expressions(target, facts) if [t for t in facts if fits(t)] == [target]]
    if len(unique) <= count:
        return unique
    return unique[:1] + sorted(rng.sample(unique[1:], count - 1), key=unique.index)


def article(words: str) -> str:
    """The words after "a" or "an"."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


Fits = Callable[[Fact], bool]
_Attribute = tuple[str, Fits]  # a word and the test of the objects that it describes


def _expressions(target: Fact, facts: Sequence[Fact]) -> list[tuple[str, Fits]]:
    """Expressions for the target from short to long, each with the test that its words put to an object."""
    texture: _Attribute = (_texture(target.texture), lambda t: t.texture == target.texture)
    colour: _Attribute = (target.colour, lambda t: t.colour == target.colour)
    size: _Attribute = (target.size, lambda t: t.size == target.size)
    orders = ((), (colour,), (texture,), (size,), (size, colour), (colour, texture), (size, colour, texture))
    out: list[tuple[str, Fits]] = []
    for order in orders:
        if all(word for word, _ in order):
            out.append((" ".join(("the", *(word for word, _ in order), target.kind)), _all_of(target.kind, order)))
    place: _Attribute = (target.place, lambda t: t.place == target.place)
    out += [(f"{spoken} {target.place}", _all_of(target.kind, (place, ("", fits)))) for spoken, fits in out]
    same = [t for t in facts if t.kind == target.kind]
    for word, axis, sign in (("leftmost", 0, 1), ("rightmost", 0, -1), ("topmost", 1, 1), ("lowest", 1, -1)):
        ranked = sorted(sign * t.centre[axis] for t in same)
        if len(same) > 1 and sign * target.centre[axis] == ranked[0] and ranked[1] - ranked[0] > 0.06:
            out.append((f"the {word} {target.kind}", lambda t: t is target))
    return out


def _all_of(kind: str, attributes: tuple[_Attribute, ...]) -> Fits:
    return lambda t: t.kind == kind and all(fits(t) for _, fits in attributes)


def _shortest(target: Fact, facts: Sequence[Fact]) -> str:
    return refer(random.Random(0), target, facts, 1)[0]


def _relations(rng: random.Random, facts: Sequence[Fact]) -> list[tuple[Fact, Fact, str]]:
    """At most two pairs of objects, nothing twice, each with a relation that clearly holds between them."""
    nameable = [t for t in facts if refer(random.Random(0), t, facts, 1)]
    rng.shuffle(nameable)
    out = []
    for one, other in zip(nameable[0:4:2], nameable[1:4:2]):
        dx, dy = one.centre[0] - other.centre[0], one.centre[1] - other.centre[1]
        if max(abs(dx), abs(dy)) > 0.12:
            word = ("above", "below")[dy > 0] if abs(dy) > abs(dx) else ("to the left of", "to the right of")[dx > 0]
            out.append((one, other, word))
    return out


def _groups(facts: Sequence[Fact], key: Callable[[Fact], str]) -> list[list[Fact]]:
    groups: dict[str, list[Fact]] = {}
    for fact in facts:
        groups.setdefault(key(fact), []).append(fact)
    return list(groups.values())


def _kind(fact: Fact) -> str:
    return fact.kind


def _ids(group: Sequence[Fact]) -> tuple[str, ...]:
    return tuple(fact.region_id for fact in group)


def _count(group: Sequence[Fact], noun: str) -> str:
    """Such as "a star" or "two red stars"."""
    if len(group) == 1:
        return article(noun)
    head, _, kind = noun.rpartition(" ")
    return " ".join(word for word in (number(len(group)), head, plural(kind)) if word)


def number(n: int) -> str:
    """Such as "three"."""
    return _NUMBERS[n] if n < len(_NUMBERS) else str(n)


def _places(group: Sequence[Fact]) -> str:
    places = list(dict.fromkeys(fact.place for fact in group))
    if len(group) > 1 and len(places) == 1:
        return f"{'both' if len(group) == 2 else 'all'} {places[0]}"
    return places[0] if len(places) == 1 else f"{', '.join(places[:-1])} and {places[-1]}"


def _series(items: Sequence[list[Piece]]) -> list[Piece]:
    """The items as an English list."""
    out: list[Piece] = []
    for i, pieces in enumerate(items):
        if i:
            out.append(", " if i < len(items) - 1 else " and " if len(items) == 2 else ", and ")
        out += pieces
    return out or ["nothing"]


def _place(centre: tuple[float, float]) -> str:
    column, row = (min(2, int(3 * c)) for c in centre)
    return _PLACES[row][column]


def _texture(texture: str) -> str:
    return "" if texture == "plain" else texture
