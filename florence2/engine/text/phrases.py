"""What is read off a parsed text: noun chunks, expressions, and the counts and degrees that filters judge by.

Works on plain words with Universal Dependencies labels, or the ClearNLP labels of `en_core_web_*`; knows no parser.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Word:
    """One token of a text: its place in code points, its part of speech and its edge to `head` (itself at a root)."""

    text: str
    start: int
    end: int
    pos: str  # UPOS
    label: str  # dependency label, lower case, "root" at a root
    head: int
    tag: str = ""  # Penn Treebank tag, where the parser gives one


@dataclass(frozen=True)
class NounChunk:
    """A noun phrase: words [first, last] around the noun `head`, and its place in the text in code points."""

    first: int
    last: int
    head: int
    start: int
    end: int
    text: str


@dataclass(frozen=True)
class Measures:
    """The paper's semantic measures of one text; complexity is the degree of a word in the undirected tree."""

    words: int
    objects: int
    attributes: int
    actions: int
    proper_nouns: int
    object_complexity: int  # the highest degree of an object, 0 without one
    action_complexity: int
    mean_object_complexity: float
    mean_action_complexity: float
    longest_chunk: int  # words


# labels (without subtype) of the words to the left of a noun that belong to its chunk
MODIFIERS = {
    "det", "predet", "amod", "nummod", "compound", "flat", "nmod", "poss", "goeswith", "quantmod", "nn", "neg",
    "num", "possessive",
}  # fmt: skip
INNER = MODIFIERS | {
    "advmod", "case", "punct", "cc", "conj", "obl", "npadvmod", "hmod", "hyph", "fixed", "list",
}  # inside a modifier  # fmt: skip
TAIL = {"flat", "goeswith"}  # words to the right of a noun that belong to its name
SIDE = {"compound", "flat", "nn", "goeswith", "fixed"}  # nouns that are part of another noun's chunk
NOMINAL = {"NOUN", "PROPN", "PRON"}


def base(label: str) -> str:
    """A label without its subtype: nmod:poss -> nmod."""
    return label.partition(":")[0]


def children(words: Sequence[Word]) -> list[list[int]]:
    """The dependents of each word, from left to right."""
    found: list[list[int]] = [[] for _ in words]
    for i, word in enumerate(words):
        if word.head != i:
            found[word.head].append(i)
    return found


def agree(words: Sequence[Word]) -> list[Word]:
    """The words with one mistake of small parsers on captions undone: "a dog sits" read as one plural noun.

    An article in the singular has no plural noun: such a noun is the verb, and the noun before it the subject.
    """
    fixed = list(words)
    for i, word in enumerate(words):
        before = words[i - 1] if i else None
        if word.tag != "NNS" or before is None or before.head != i or base(before.label) != "compound":
            continue
        left = [k for k in range(i - 1) if words[k].head == i]
        if not any(words[k].text.lower() in ("a", "an") for k in left):
            continue
        fixed[i] = replace(word, pos="VERB", tag="VBZ")
        fixed[i - 1] = replace(before, label="nsubj")
        for k in left:
            fixed[k] = replace(words[k], head=i - 1)
    return fixed


def noun_chunks(words: Sequence[Word], text: str) -> list[NounChunk]:
    """The noun chunks of a text from left to right; none lies inside another."""
    below = children(words)
    chunks: list[NounChunk] = []
    for i, word in enumerate(words):
        if word.pos not in NOMINAL or base(word.label) == "expl" or _is_side(words, i):
            continue
        first, last = _left_edge(words, below, i), _right_edge(words, below, i)
        while first < i and words[first].pos in ("PUNCT", "CCONJ"):
            first += 1
        while chunks and first <= chunks[-1].first and chunks[-1].last < i:
            chunks.pop()  # "the man" inside "the man's dog"
        if chunks and first <= chunks[-1].last:
            if i <= chunks[-1].last:
                continue
            first = chunks[-1].last + 1
        chunks.append(_chunk(words, text, first, last, i))
    return chunks


def expressions(words: Sequence[Word], text: str) -> list[NounChunk]:
    """Noun chunks grown to referring expressions ("a dog in a field of flowers"), as Kosmos-2's GRIT does.

    A chunk takes in all that depends on its noun; one with a conjunct is not grown; of two, the outer one stays.
    """
    below = children(words)
    grown: list[NounChunk] = []
    for chunk in noun_chunks(words, text):
        reach = [chunk.head]
        for i in reach:
            reach += below[i]
        conjunct = any(base(words[i].label) == "conj" for i in below[chunk.head])
        outside = [i for i in reach if i > chunk.last and words[i].pos != "PUNCT"]
        contiguous = outside and sorted(outside)[-1] - chunk.last <= len([i for i in reach if i > chunk.last])
        last = max(outside) if outside and contiguous and not conjunct else chunk.last
        grown.append(_chunk(words, text, chunk.first, last, chunk.head))
    return [
        c for c in grown if not any(o is not c and o.first <= c.first and c.last <= o.last and o != c for o in grown)
    ]


def is_object(words: Sequence[Word], i: int) -> bool:
    """A noun that names an object of its own, not a modifier of another noun."""
    return words[i].pos == "NOUN" and not _is_side(words, i)


def is_attribute(words: Sequence[Word], i: int) -> bool:
    """An adjective, a number, a participle before a noun, or a noun that modifies another."""
    word = words[i]
    if word.pos in ("ADJ", "NUM"):
        return True
    return (word.pos == "VERB" and base(word.label) == "amod" and i < word.head) or (
        word.pos == "NOUN" and _is_side(words, i)
    )


def is_action(words: Sequence[Word], i: int) -> bool:
    """A verb that is neither an auxiliary, a copula nor an attribute."""
    return (
        words[i].pos == "VERB" and base(words[i].label) not in ("aux", "cop", "auxpass") and not is_attribute(words, i)
    )


def degree(words: Sequence[Word], below: Sequence[Sequence[int]], i: int) -> int:
    """Edges of a word in the undirected dependency tree, punctuation left out."""
    return (words[i].head != i) + sum(words[c].pos != "PUNCT" for c in below[i])


def measure(words: Sequence[Word], text: str) -> Measures:
    """The measures of one parsed text."""
    below = children(words)
    objects = [i for i in range(len(words)) if is_object(words, i)]
    actions = [i for i in range(len(words)) if is_action(words, i)]
    object_degrees = [degree(words, below, i) for i in objects]
    action_degrees = [degree(words, below, i) for i in actions]
    return Measures(
        words=sum(w.pos != "PUNCT" for w in words),
        objects=len(objects),
        attributes=sum(is_attribute(words, i) for i in range(len(words))),
        actions=len(actions),
        proper_nouns=sum(w.pos == "PROPN" for w in words),
        object_complexity=max(object_degrees, default=0),
        action_complexity=max(action_degrees, default=0),
        mean_object_complexity=sum(object_degrees) / max(len(object_degrees), 1),
        mean_action_complexity=sum(action_degrees) / max(len(action_degrees), 1),
        longest_chunk=max((c.last - c.first + 1 for c in noun_chunks(words, text)), default=0),
    )


def _is_side(words: Sequence[Word], i: int) -> bool:
    return words[i].head != i and base(words[i].label) in SIDE


def _left_edge(words: Sequence[Word], below: Sequence[Sequence[int]], head: int) -> int:
    """The leftmost word that modifies `head`, through nothing but modifiers, with no gap up to it."""
    inside = {head, *_modifiers(words, below, head, MODIFIERS)}
    first = head
    while first - 1 in inside or (first > 1 and words[first - 1].text == "-" and first - 2 in inside):
        first -= 1
    return first


def _modifiers(words: Sequence[Word], below: Sequence[Sequence[int]], head: int, allowed: set[str]) -> Iterator[int]:
    for i in below[head]:
        if i < head and base(words[i].label) in allowed and not _clause(words, below, i):
            yield i
            yield from _inner(words, below, i)


def _inner(words: Sequence[Word], below: Sequence[Sequence[int]], i: int) -> Iterator[int]:
    for child in below[i]:
        if base(words[child].label) in INNER:
            yield child
            yield from _inner(words, below, child)


def _clause(words: Sequence[Word], below: Sequence[Sequence[int]], i: int) -> bool:
    """A modifier with a subject or object of its own is a clause, not part of the chunk."""
    return any(base(words[c].label) in ("nsubj", "nsubjpass", "obj", "dobj", "mark") for c in below[i])


def _right_edge(words: Sequence[Word], below: Sequence[Sequence[int]], head: int) -> int:
    last = head
    for i in below[head]:
        if i == last + 1 and (
            base(words[i].label) in TAIL or (base(words[i].label) == "nummod" and words[i].pos == "NUM")
        ):
            last = i
    return last


def _chunk(words: Sequence[Word], text: str, first: int, last: int, head: int) -> NounChunk:
    start, end = words[first].start, words[last].end
    return NounChunk(first, last, head, start, end, text[start:end])
