"""Captions into words as the COCO caption evaluation does: Penn Treebank tokens, lower case, punctuation dropped.

The reference is Stanford's PTBTokenizer under Java; this is the part of its rules that captions meet, checked against
its recorded output. Its quirk that lower-cased brackets (-lrb-) survive the dropping of punctuation is kept.
"""

from __future__ import annotations

import re

DROPPED = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}

_DASHES_AND_QUOTES = frozenset('.-\u2013\u2014\u2026"\u201c\u201d')

_ABBREVIATION = r"""(?:mr|mrs|ms|dr|prof|st|ave|blvd|rd|jr|sr|inc|co|corp|ltd|vs|etc|mt|ft|gen|col|capt|lt|sgt|gov|sen
 |rep|rev|hon|jan|feb|aug|sept?|oct|nov|dec|bros|assn|dept|est|fig|al|ed|cf|ph\.d|e\.g|i\.e)\."""
_TOKEN = re.compile(
    rf"""
      (?:https?://|www\.)[^\s<>"()]+[^\s<>"().,;:!?']        # addresses
    | [\w.+-]+@[\w-]+(?:\.[\w-]+)+
    | </?[a-z][^<>]*>
    | {_ABBREVIATION}(?=\s|$|[,;:)])
    | no\.(?=\s*\d)
    | (?:[^\W\d_]\.){{2,}}                                   # u.s.a.
    | (?-i:[A-Z])\.(?=\s+\S)                                 # an initial
    | [@#][^\W\d_]\w*
    | [!?]{{2,}} | ([*_~<>])\1+
    | \d+(?:[.,]\d+)+(?:-[^\W_]+)+
    | \d+/\d+(?:/\d+)*(?!\w) | \d+(?:[.,:]\d+)*(?:st|nd|rd|th|s|am|pm)?(?![\w/-])
    | '(?:\d\d)s?(?!\w) | 'n'
    | can(?=not\b) | (?:gon|wan)(?=na\b) | got(?=ta\b) | (?:gim|lem)(?=me\b) | 't(?=is\b|was\b) | d'(?=ye\b)
    | n't(?!\w) | '(?:s|m|d|ll|re|ve)(?!\w)
    | [^\W_](?:[\w/&]|[-.](?=\w)|(?<=\bo)'(?=\w))*?(?=n't(?!\w))
    | [^\W_](?:[\w/&]|[-.](?=[^\W_])|(?<=\b[odl])'(?=[^\W_]{{2,}}))*
    | \.\.+ | --+ | \S
    """,
    re.VERBOSE | re.IGNORECASE,
)


def words(text: str) -> list[str]:
    """The words of a caption, lower case, without punctuation."""
    text = text.replace("\n", " ").replace("\u2019", "'").replace("\u2018", "'")
    tokens = (_BRACKETS.get(match[0], match[0].lower()) for match in _TOKEN.finditer(text))
    return [token for token in tokens if token not in DROPPED and not set(token) <= _DASHES_AND_QUOTES]
