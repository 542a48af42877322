"""When two strings are the same: the foldings that metrics, merging, tuning and drawing share."""

from __future__ import annotations


def fold_spaces(text: str) -> str:
    """White space at the ends dropped, inside folded to one space; case kept."""
    return " ".join(text.split())


def fold_label(text: str) -> str:
    """A label as a category: case folded, white space folded."""
    return fold_spaces(text).casefold()
