"""Letters for labels of any script: Pillow's own font, else one of this machine's; what none has is escaped.

Pillow brings the letters of English alone. No font is shipped: those of the system, of the user and of matplotlib are
looked through, once for each set of letters that comes up.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Union

from PIL import ImageFont

Font = Union[ImageFont.FreeTypeFont, ImageFont.ImageFont]
PREFERRED = ("dejavusans", "notosans", "liberationsans", "arial", "helvetica", "segoeui", "pingfang", "msyh", "malgun")
SUFFIXES = (".ttf", ".ttc", ".otf", ".otc")
STAND_INS = ("lastresort", "adobeblank")  # have a sign for every letter that shows none
MOST_FILES = 3000  # fonts looked at
NOTHING = "\uffff"  # no letter: it is drawn as what a font lacks is


@dataclass(frozen=True)
class Lettering:
    """A font's file ("" is Pillow's own) and the letters that it lacks."""

    file: str = ""
    lacking: frozenset[str] = frozenset()

    def font(self, size: int) -> Font:
        """The font with letters of `size` pixels."""
        return ImageFont.truetype(self.file, size) if self.file else ImageFont.load_default(size=size)

    def written(self, text: str) -> str:
        """The text as it can be drawn: a letter that the font lacks as its code."""
        if not self.lacking.intersection(text):
            return text
        return "".join(_code(letter) if letter in self.lacking else letter for letter in text)


def lettering(texts: Iterable[str]) -> Lettering:
    """What all these texts can be drawn with: the font that lacks the fewest of their letters."""
    return _lettering(frozenset(letter for text in texts for letter in text if not letter.isspace()))


def _code(letter: str) -> str:
    return f"\\u{ord(letter):04x}" if ord(letter) < 0x10000 else f"\\U{ord(letter):08x}"


@functools.lru_cache(maxsize=64)
def _lettering(letters: frozenset[str]) -> Lettering:
    best = Lettering("", _lacking("", letters))
    for file in _files() if best.lacking else ():
        lacking = _lacking(file, letters)
        if len(lacking) < len(best.lacking):
            best = Lettering(file, lacking)
        if not lacking:
            break
    return best


def _lacking(file: str, letters: frozenset[str]) -> frozenset[str]:
    """The letters that a font would draw as it draws what it does not have; all of them where it cannot be read."""
    try:
        font = ImageFont.truetype(file, 20) if file else ImageFont.load_default(20)
        none = bytes(font.getmask(NOTHING))
        return frozenset(letter for letter in letters if bytes(font.getmask(letter)) == none)
    except (OSError, ValueError):
        return letters


@functools.lru_cache(maxsize=1)
def _files() -> tuple[str, ...]:
    """The fonts of this machine: those of well-known families first, then by name."""
    found: list[Path] = []
    for folder in _folders():
        for place, _, names in os.walk(folder):
            found += [Path(place, name) for name in sorted(names) if _is_font(name.lower())]
            if len(found) > MOST_FILES:
                break

    def order(path: Path) -> tuple[int, int, str]:
        name = path.stem.lower().replace("-", "").replace(" ", "")
        family = next((n for n, known in enumerate(PREFERRED) if name.startswith(known)), len(PREFERRED))
        return family, len(name), str(path)

    return tuple(str(path) for path in sorted(found[:MOST_FILES], key=order))


def _is_font(name: str) -> bool:
    return name.endswith(SUFFIXES) and not name.startswith(STAND_INS)


def _folders() -> list[Path]:
    home = Path.home()
    if sys.platform == "darwin":
        folders = [Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library/Fonts"]
    elif sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA", "")
        folders = [Path(os.environ.get("WINDIR", "C:/Windows")) / "Fonts", Path(local) / "Microsoft/Windows/Fonts"]
    else:
        folders = [
            Path("/usr/share/fonts"),
            Path("/usr/local/share/fonts"),
            home / ".local/share/fonts",
            home / ".fonts",
        ]
    spec = importlib.util.find_spec("matplotlib")  # its folder, without importing it
    if spec is not None and spec.origin:
        folders.append(Path(spec.origin).parent / "mpl-data/fonts/ttf")
    return folders
