"""A picture and an ask in, an Answer out: the public heart."""

from __future__ import annotations

from florence2.predictor.answer import Answer, parse, render
from florence2.predictor.florence2 import EncodedImage, Florence2, load

__all__ = ["Answer", "EncodedImage", "Florence2", "load", "parse", "render"]
