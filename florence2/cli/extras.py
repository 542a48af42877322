"""What to install when a module is missing, by the package's own requirements."""

from __future__ import annotations

import importlib.metadata
import re
from collections import Counter
from collections.abc import Sequence

# module -> the distribution that brings it, where the two are named apart
DISTRIBUTIONS = {"cv2": "opencv-python-headless", "PIL": "pillow", "skimage": "scikit-image", "yaml": "pyyaml"}


def remedy(module: str, requirements: Sequence[str] | None = None) -> str:
    """`install florence2[eval]` for pycocotools, and so on; the distribution itself where no extra names it.

    `requirements`: lines such as "scipy>=1.13; extra == 'specialists'"; default: the installed package's own.
    """
    top = module.partition(".")[0]
    wanted = DISTRIBUTIONS.get(top, top.replace("_", "-")).lower()
    bring: Counter[str] = Counter()
    found: list[str] = []
    for line in _own() if requirements is None else requirements:
        name, extra = re.match(r"[\w.-]+", line), re.search(r"extra == ['\"]([\w-]+)['\"]", line)
        bring[extra[1] if extra else ""] += 1
        if name and name[0].replace("_", "-").lower() == wanted:
            found.append(extra[1] if extra else "")
    if not found:
        return f"pip install {wanted}"
    least = "" if "" in found else min(found, key=lambda extra: bring[extra])  # extras hold one another, dev holds all
    return f"pip install 'florence2[{least}]'" if least else "pip install florence2"


def _own() -> Sequence[str]:
    try:
        return importlib.metadata.requires("florence2") or ()
    except importlib.metadata.PackageNotFoundError:  # run from a checkout
        return ()
