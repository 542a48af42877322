"""What a terminal may be shown: text in which control characters are escapes that one can read.

Labels, captions and file names come from models and strangers; ESC, BEL and their like would be obeyed by a terminal.
Inside JSON such an escape names the same character.
"""

from __future__ import annotations

import re
from typing import Any

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but the tab and the line break


def printable(text: str) -> str:
    """The text with each control character as its escape: \\u001b for the one that begins a terminal's commands."""
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


class Printable:
    """A text stream that is written `printable` text; all else is the stream's own, which is `raw`."""

    def __init__(self, raw: Any) -> None:
        self.raw = raw

    def write(self, text: str) -> int:
        self.raw.write(printable(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)


def raw(stream: Any) -> Any:
    """The stream beneath, for whoever draws on the terminal."""
    return stream.raw if isinstance(stream, Printable) else stream
