"""A closed set of labels as a trie of token ids, compiled once for a set and a tokenizer. Knows no task."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from florence2.codec.answer_parser import BLANKS
from florence2.codec.segments import TOKENS
from florence2.codec.tokenizer import Tokenizer


def label_names(labels: Iterable[object]) -> tuple[str, ...]:
    """The labels as answers spell them: white space at the ends dropped; ValueError for what is no set of names.

    An answer names its label by letters, so a special token's (<loc_5>, <and>) cannot be part of one; the places in the
    set are class ids, so a name comes once.
    """
    given = tuple(labels)
    for place, label in enumerate(given):
        if not isinstance(label, str) or not label.strip():
            raise ValueError(f"labels: expected a list of names, got {label!r:.80} at place {place}; drop it")
    if not given:
        raise ValueError("labels: expected a list of at least one name, got an empty one; leave it out for any name")
    return _label_names(given)


@lru_cache(maxsize=16)
def _label_names(labels: tuple[str, ...]) -> tuple[str, ...]:
    names: dict[str, int] = {}
    for place, label in enumerate(labels):
        name = str(label).strip(BLANKS)  # numpy's strings are strings, and show as something else
        try:
            name.encode()
        except UnicodeEncodeError:
            raise ValueError(f"labels: {name!r:.80}: holds a lone surrogate; expected Unicode") from None
        token = TOKENS.search(name)
        if token:
            raise ValueError(f"labels: {name!r:.80}: holds the special token {token.group()}; spell it otherwise")
        if name in names:
            raise ValueError(
                f"labels: {name!r:.80}: is there twice, at places {names[name]} and {place}; "
                "class ids are places, so give each name once"
            )
        names[name] = place
    return tuple(names)


class LabelTrie:
    """Node 0 is the root; `ends[node]` says whether a label is whole there, `next[node]` which ids go on.

    `needs[node]` is the least number of ids to the end of a label, `deepest[node]` the most that one of the node's
    children needs.
    """

    def __init__(self, labels: Iterable[object], tokenizer: Tokenizer) -> None:
        self.labels = label_names(labels)
        self.next: list[dict[int, int]] = [{}]
        self.ends: list[bool] = [False]
        for label in self.labels:
            node = 0
            for index in _ids(label, tokenizer):
                if index not in self.next[node]:
                    self.next[node][index] = len(self.next)
                    self.next.append({})
                    self.ends.append(False)
                node = self.next[node][index]
            self.ends[node] = True
        self.needs = [0] * len(self.next)
        for node in range(len(self.next) - 1, -1, -1):  # a child's number is above its parent's
            if not self.ends[node]:
                self.needs[node] = 1 + min(self.needs[child] for child in self.next[node].values())
        self._all = [tuple(children) for children in self.next]
        self._deepest = [max((self.needs[child] for child in children.values()), default=0) for children in self.next]

    def within(self, node: int, slack: int) -> tuple[int, ...]:
        """The ids after which a label can still end within `slack` more."""
        if slack >= self._deepest[node]:
            return self._all[node]  # the same tuple each time: equal keys are found by identity
        return tuple(index for index, child in self.next[node].items() if self.needs[child] <= slack)


@lru_cache(maxsize=8)
def label_trie(labels: tuple[str, ...], tokenizer: Tokenizer) -> LabelTrie:
    """The trie of a set, made once and kept for the sets last used."""
    return LabelTrie(labels, tokenizer)


def _ids(label: str, tokenizer: Tokenizer) -> list[int]:
    ids = tokenizer.encode(label, specials=False)
    back = tokenizer.decode(ids)
    if back != label or tokenizer.special_ids & set(ids):
        raise ValueError(
            f"labels: {label!r:.80}: the tokenizer cannot write it (it reads back as {back!r:.80}); rename it"
        )
    return ids
