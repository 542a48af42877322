"""What a metric keeps of its updates, a row each, and the part of them that a score is computed over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def table(rows: Sequence[Any], picked: Sequence[int] | None, columns: int, dtype: type = np.int64) -> np.ndarray:
    """(N, columns): all rows, or those picked, each as often as it is named."""
    chosen = rows if picked is None else [rows[i] for i in picked]
    return np.array(chosen, dtype=dtype).reshape(-1, columns)
