"""Two runs on the same pictures compared: each difference with its interval, from the resamples that both runs kept.

Reads the folders that `evaluate` wrote; opens no data and asks no model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from florence2.evaluation.score import ABSENT, difference
from florence2.structuring import parse_json


def pictures_key(task: str, pictures: Sequence[str], seed: int) -> str:
    """Equal for runs whose resamples are the same."""
    return hashlib.blake2b(json.dumps([task, seed, *pictures]).encode("utf-8"), digest_size=16).hexdigest()


def compare(folder: str | Path, beside: str | Path) -> dict[str, dict[str, Any]]:
    """Metric -> {value, interval, verdict}: by how much the run in `folder` is better than the one in `beside`.

    The verdict is "better" or "worse" where the interval of the paired difference excludes zero, else "no difference
    seen". Runs on other pictures, or of another task, have no paired difference: ValueError.
    """
    run, other = _read(Path(folder)), _read(Path(beside))
    if run["key"] != other["key"]:
        raise ValueError(
            f"{beside}: its pictures, task or seed are not those of {folder}; only equal ones can be paired"
        )
    out = {}
    for key, value in run["metrics"].items():
        theirs = other["metrics"].get(key, ABSENT)
        if ABSENT in (value, theirs):
            continue
        found = difference(value, theirs, run["scores"].get(key, ()), other["scores"].get(key, ()), key)
        low, high = found["interval"] or (0.0, 0.0)
        out[key] = {**found, "verdict": "better" if low > 0 else "worse" if high < 0 else "no difference seen"}
    return out


def _read(folder: Path) -> dict[str, Any]:
    """The run's resamples and metrics; ValueError naming the file where one is missing or spoilt."""
    out: dict[str, Any] = {}
    for name, keys in (("scores.json", ("metrics",)), ("resamples.json", ("key", "scores"))):
        file = folder / name
        try:
            data = parse_json(file.read_text(encoding="utf-8"))
            out.update((key, data[key]) for key in keys)
        except FileNotFoundError:
            raise ValueError(f"{file}: does not exist; evaluate again with the same command") from None
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file}: not what florence2 evaluate writes ({error!r}); evaluate again") from None
    return out
