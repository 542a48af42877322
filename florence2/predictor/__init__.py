"""A picture and an ask in, an Answer out: the public heart."""

from __future__ import annotations

from florence2.predictor.answer import Answer, parse, render
from florence2.predictor.batch import EncodedImage
from florence2.predictor.florence2 import Florence2, load

__all__ = ["Answer", "EncodedImage", "Florence2", "load", "parse", "render"]
