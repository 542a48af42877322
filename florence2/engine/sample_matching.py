"""By what a picture is known in two places: a store and a file of truth, or a store and a labelled set."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from florence2.records import Sample


def keys_of(sample: Sample) -> list[str]:
    """What a picture may be known by, the surest first: ids, content, path, name."""
    image = sample.image
    keys = [f"id:{image.id}", f"sample:{sample.id}", f"sha256:{image.sha256}" if image.sha256 else ""]
    if image.uri:
        path = Path(image.uri)
        keys += [
            f"path:{path.resolve()}",
            f"member:{path.name}/{image.member}" if image.member else f"name:{path.name}",
        ]
    return [key for key in keys if key]


class SampleIndex:
    """Samples to be found again by any key that only one of them has."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        found: dict[str, list[Sample]] = {}
        for sample in samples:
            for key in keys_of(sample):
                found.setdefault(key, []).append(sample)
        self._by_key = {key: same[0] for key, same in found.items() if len(same) == 1}

    def find(self, sample: Sample) -> Sample | None:
        """The sample of the same picture, None where there is none."""
        return next((self._by_key[key] for key in keys_of(sample) if key in self._by_key), None)
