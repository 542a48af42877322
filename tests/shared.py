"""Where the optional test data lies: ../shared beside the checkout, or FLORENCE2_SHARED."""

import os
from pathlib import Path

import pytest


def shared(path: str = "") -> Path:
    """A path below the optional test data; the test skips where it is absent."""
    checkout = Path(__file__).resolve().parents[1]
    roots = [os.environ.get("FLORENCE2_SHARED", ""), checkout.parent / "shared", checkout.parent.parent / "shared"]
    for root in roots:
        if root and (Path(root) / path).exists():
            return Path(root) / path
    pytest.skip("no ../shared")
