"""When two strings are the same: the foldings that all share; a plural; a foreign text as one line of a message."""

from __future__ import annotations

IRREGULAR = {
    "person": "people", "man": "men", "woman": "women", "child": "children", "mouse": "mice", "sheep": "sheep",
    "knife": "knives", "goose": "geese", "tooth": "teeth", "foot": "feet", "leaf": "leaves", "scissors": "scissors",
    "skis": "skis", "deer": "deer", "fish": "fish", "cactus": "cacti", "snowman": "snowmen",
}  # fmt: skip


def fold_spaces(text: str) -> str:
    """White space at the ends dropped, inside folded to one space; case kept."""
    return " ".join(text.split())


def fold_label(text: str) -> str:
    """A label as a category: case folded, white space folded."""
    return fold_spaces(text).casefold()


def is_visible(text: str) -> bool:
    """Whether a text has a character that can be seen: white space and joiners of zero width have none."""
    return any(character.isprintable() and not character.isspace() for character in text)


def is_unicode(text: str) -> bool:
    """Whether a text can be encoded: it holds no half of a surrogate pair, as escapes in a JSON file may."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def one_line(text: object, most: int = 200) -> str:
    """An error or a foreign text as one line of valid Unicode, cut after `most` letters; an empty error's type."""
    line = fold_spaces(str(text)) or (type(text).__name__ if isinstance(text, BaseException) else "")
    return line.encode("utf-8", "replace").decode()[:most]


def plural(label: str) -> str:
    """The plural of a phrase by its last word."""
    head, _, word = label.rpartition(" ")
    if word in IRREGULAR:
        word = IRREGULAR[word]
    elif word.endswith(("s", "x", "z", "ch", "sh")):
        word += "es"
    elif word.endswith("y") and word[-2:-1] not in tuple("aeiou"):
        word = word[:-1] + "ies"
    else:
        word += "s"
    return f"{head} {word}".strip()
