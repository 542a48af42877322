"""Labelled pictures drawn from a seed, their truth complete: for training, tests and the demo."""

from florence2.scenes.kinds import KINDS, WITHHELD_KINDS
from florence2.scenes.lettering import FONTS, WITHHELD_FONTS
from florence2.scenes.scene import draw

__all__ = ["FONTS", "KINDS", "WITHHELD_FONTS", "WITHHELD_KINDS", "draw"]
