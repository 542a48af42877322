"""Captions into words as the COCO caption evaluation does: Penn Treebank tokens, lower case, punctuation dropped.

The reference is Stanford's PTBTokenizer under Java, as pycocoevalcap calls it; this table of token kinds was found by
asking it, and is checked against its recorded output. Its quirks are kept: lower-cased brackets (-lrb-) survive the
dropping of punctuation, a pound sign becomes #, a telephone number with spaces is one word.
"""

from __future__ import annotations

import re

DROPPED = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";", '"'])

_PLAIN = re.compile(
    r"[A-Za-z][A-Za-z0-9]*(?=\s|$)"
)  # nearly every word of a caption; no longer token can begin with one
_SPLIT = {"cannot": 3, "gonna": 3, "wanna": 3, "gotta": 3, "gimme": 3, "lemme": 3}  # place of the cut
_ABBREVIATIONS = """jan feb mar apr jun jul aug sept? oct nov dec mon tues? wed thu thurs fri
ala ariz calif colo conn ct dak fla ga ind kans? ky md mich minn mo mont neb nev okla penn tenn va vt wisc? wyo
assn bancorp bhd bros corp cos? dept inc intl ltd plc sys univ
adm attys? brig capt col comdr cpl det drs? esq gen govs? hon jr lieut lt maj messrs mrs? ms pfc pres profs? pvt reps?
rev sens? sgt spc sr supts? (?:ed|ph)\\.d
al ave blvd cf est etc ext ft hwy mt p\\.o ph rd seq ste? tel vs [ei]\\.[eg]"""
_CAPITAL_ABBREVIATIONS = "Ark Az Del Ill La Mass Miss Ore Pa Tex Wash"  # in small letters these are words
_BEFORE_NUMBER = "nos? prop arts? figs? bldg pp op ca"
_WITH_APOSTROPHE = """ol' dunkin' somethin' 'em 'til 'till 'cause c'mon cont'd nor'easter e'er s'mores ev'ry li'l nat'l
ma'am ne'er o'er f'ers"""
# a single letter with its period is an abbreviation, unless a sentence begins after it with one of these
_STARTERS = """the a we if it they this in you he but there what as when so she that after at one these an our now some
then here many since their once while according last however more other her yet such"""


def _any(words: str) -> str:
    return "(?:" + "|".join(words.split()) + ")"


_LETTER = r"[^\W\d_]"
_WORD = rf"{_LETTER}[^\W_]*(?:[.!?]{_LETTER}[^\W_]*)*"
_THING = r"(?:[dol]'(?=[^\W_]))?[^\W_]+(?:[-_](?:[dol]'(?=[^\W_]))?[^\W_]+)*"
_ENDED = r"(?![^\W\d_])"  # no letter follows
_INSIDE = r"(?=[,;:])"  # the sentence goes on
_LINK = r"[^\s<>|(){},.!?\"-]"
_TAG = r"""<(?:[!?][A-Za-z-][^>]*|/?[A-Za-z][\w:.-]*(?:\s+[A-Za-z][\w:.-]*
           (?:\s*=\s*(?:'[^']*'|"[^"]*"|[A-Za-z0-9]+))?)*\s*/?\s*)>"""

# kinds of token, in no order that matters but among equals: the longest wins, then the first. What is in a group
# is the token; a context behind it counts in the length, as in the reference's lexer.
_KINDS = [
    re.compile(pattern, re.VERBOSE | re.IGNORECASE)
    for pattern in (
        _TAG,
        rf"({_WORD})(?:'(?:[msd]|re|ve|ll)){_ENDED}",  # it|'s
        r"([a-z]*[a-mo-z])n't",  # do|n't
        r"('t)(?:is|was)\b",
        r"d'ye\b",
        r"(y')[a-z]",
        _WORD,
        rf"{_any(_WITH_APOSTROPHE)}{_ENDED}",
        rf"'n'|'n{_ENDED}",
        rf"{_LETTER}+[aeiouy]'(?:[aeiou]|(?-i:[A-Z])){_LETTER}*",  # ba'athist
        rf"a'(?=n){_LETTER}+",
        r"'[2-9]0s(?!\w)",
        r"('\d\d)(?:\s|$)",
        rf"(?:'(?:[msd]|re|ve|ll)|n't){_ENDED}",
        rf"https?://[^\s\"<>|(){{}}]+{_LINK}",
        rf"(?:www\.(?:{_LINK}+\.)+[a-z]{{2,4}}|(?:[^\s\"`'<>|.!?(){{}},\-_$]+\.)+(?:com|net|org|edu))"
        rf"(?:/[^\s\"<>|()]+{_LINK})?",
        r"<?[a-z0-9][^\s\"<>|(){}]*@(?:[^\s\"<>|().{}]+\.)*[^\s\"<>|().{}]+>?",
        rf"@[a-z_]\w* | \#{_LETTER}+",
        r"\d\d?[-/]\d\d?[-/]\d{2,4}",
        r"[-+]?(?:\d*(?:[.:,]\d+)+|\d+)",
        r"(?:\d{1,4}[-\s])?\d{1,4}/\d{1,4}",
        r"[a-z0-9]+(?:-[a-z]+){0,2}(?:/[a-z0-9]+(?:-[a-z]+){0,2}){1,2}",
        r"[A-Z]+(?:[+&][A-Z]+)+".replace("[A-Z]", "(?-i:[A-Z])"),
        r"(?-i:[A-Z])*\$",
        rf"(?:{_any(_ABBREVIATIONS)}|(?-i:{_any(_CAPITAL_ABBREVIATIONS)}))\.",
        rf"({_any(_BEFORE_NUMBER)}\.)\s*\d",
        rf"{_LETTER}(?:\.{_LETTER})+\.",
        rf"{_LETTER}\.(?!\s+(?=(?-i:[A-Z])){_any(_STARTERS)}(?![\w']))",
        rf"({_THING}\.){_INSIDE}",
        r"[a-z0-9][a-z0-9.,]*(?:-[a-z0-9]+)+",
        r"(?:\(\d{2,3}\)\s?|(?:\+\+?)?(?:\d{2,4}[-\s])?\d{2,4}[-\s])\d{3,4}[-\s]?\d{3,5}",
        r"(?:(?:\+\+?)?\d{2,4}\.)?\d{2,4}\.\d{3,4}\.\d{3,5}",
        rf"[<>]?[:;=][-o*']?[()dpo\\{{@|\[\]]{_ENDED}",
        r"[-^x=~<>']_[-^x=~<>']",
        _THING,
        r"\.\.\.+ | --+ | [!?]+ | \*\*+ | __+ | \#\#+ | << | >> | ['`]{2}",
        r"\S",
    )
]
_SPELLED = {
    "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-", "\u00a3": "#", "\u20ac": "$", "\u00a2": "cents",
}  # fmt: skip
_FOLDED = str.maketrans({
    "\n": " ", "\u2019": "'", "\u2018": "`", "\u201c": "``", "\u201d": "''", "\u00ab": "``", "\u00bb": "''",
    "\u2013": " -- ", "\u2014": " -- ", "\u2026": " ... ", "\u00ad": None,
    "\u00bc": " 1/4 ", "\u00bd": " 1/2 ", "\u00be": " 3/4 ",
})  # fmt: skip


def words(text: str) -> list[str]:
    """The words of a caption, lower case, without punctuation."""
    text = text.translate(_FOLDED).rstrip()
    out, place = [], 0
    while place < len(text):
        plain = _PLAIN.match(text, place)
        if plain and plain[0].lower() not in _SPLIT:
            out.append(plain[0].lower())
            place = plain.end()
        elif text[place].isspace():
            place += 1
        else:
            token = _next(text, place)
            place += len(token)
            out.append(_written(token))
    return [word for word in out if word not in DROPPED]


def _next(text: str, place: int) -> str:
    """The token at `place`."""
    longest, token = -1, ""
    for kind in _KINDS:
        found = kind.match(text, place)
        if found and found.end() > longest:
            longest = found.end()
            token = (found[1] if kind.groups else None) or found[0]
    cut = _SPLIT.get(token.lower())
    return token[:cut] if cut else token


def _written(token: str) -> str:
    """The token as the reference writes it."""
    token = re.sub(r"\s", "\u00a0", token.lower())
    if set(token) == {"."} and len(token) > 2:
        return "..."
    if set(token) == {"-"} and 2 <= len(token) <= 4:
        return "--"
    return _SPELLED.get(token) or token.replace("(", "-lrb-").replace(")", "-rrb-")
