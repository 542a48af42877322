"""Opens any data: a foreign format, a store, drawn scenes; and the pixels behind a reference.

`open(path)` detects the format by the files, `pixels(ref)` reads a picture wherever it is, `in_split` is the one rule
by which a set without lists of its own is divided.
"""

from florence2.sources.image_pixels import pixels
from florence2.sources.opening import FORMATS, format_of, located, open
from florence2.sources.splits import in_split, split_of

__all__ = ["FORMATS", "format_of", "in_split", "located", "open", "pixels", "split_of"]
