"""Labelled pictures drawn from a seed, their truth complete: for training, tests and the demo.

Training seeds stay below TRAINING_SEEDS; what is held out is drawn from seeds at or above it.
"""

from florence2.scenes.document_page import draw_page
from florence2.scenes.lettering import FONTS, MORE_FONTS, WITHHELD_FONTS
from florence2.scenes.scene import draw
from florence2.scenes.scene_files import write
from florence2.scenes.shapes import KINDS, WITHHELD_KINDS

TRAINING_SEEDS = 2**31

__all__ = [
    "FONTS",
    "KINDS",
    "MORE_FONTS",
    "TRAINING_SEEDS",
    "WITHHELD_FONTS",
    "WITHHELD_KINDS",
    "draw",
    "draw_page",
    "write",
]
