"""Every path and name in a store. Knows strings; nothing else in the project puts a path of a store together.

Paths are relative to the store's root, with forward slashes, whatever lies behind the storage interface.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

IMAGES, ANNOTATIONS, DECISIONS, FAILURES = TABLES = ("images", "annotations", "decisions", "failures")
SNAPSHOTS, RUNS, CHAIN, ATTEMPTS, COMPACT, STUDENTS, TEMPORARY = (
    "snapshots", "runs", "chain", "attempts", "compact", "students", "tmp",
)  # fmt: skip

PICTURE_TIMES = "times.json"  # a cache beside the data: the one file that is written over

REVISED = "pictures-"


def snapshot(number: int) -> str:
    """The path of a snapshot."""
    return f"{SNAPSHOTS}/{number:06d}.json"


def chain(number: int) -> str:
    """The path of a link in the chain of hashes."""
    return f"{CHAIN}/{number:06d}.json"


def run(run_id: str) -> str:
    """The path of what a run is: its operator, its settings, what it read."""
    return f"{RUNS}/{run_id}.json"


def run_starts(run_id: str) -> str:
    """The folder of the starts of a run: numbered records."""
    return f"{RUNS}/{run_id}"


def run_of(path: str) -> str:
    """The run that a record under runs/ is of."""
    return path.split("/")[1].removesuffix(".json")


def attempts(key: str) -> str:
    """The folder of the journal of a unit of work: numbered records."""
    return f"{ATTEMPTS}/{key}"


PIECES = f"{TEMPORARY}/pieces"


def pieces(uid: str) -> str:
    """The folder of the parts of a unit of work that are done while the whole is not."""
    return f"{PIECES}/{uid}"


def piece(uid: str, start: int, stop: int) -> str:
    """The path of one of them: of the pictures from `start` up to `stop`."""
    return f"{PIECES}/{uid}/{start:06d}-{stop:06d}.json"


RUN_STATES = f"{TEMPORARY}/commands"


def run_state(run: str) -> str:
    """The path of how a run of a command stood when it last said so."""
    return f"{RUN_STATES}/{safe(run)}.json"


def beacon(name: str) -> str:
    """A file that shows which store this is."""
    return f"{TEMPORARY}/beacon-{name}"


def numbered(folder: str, number: int, suffix: str = "") -> str:
    """The path of the `number`-th record in a folder of numbered records, counted from 1."""
    return f"{folder}/{number:06d}{suffix}"


def number_of(path: str) -> int:
    """The number in the name of a snapshot, a link of the chain or a numbered record; 0 where it has none."""
    stem = path.rsplit("/", 1)[-1].split(".")[0]
    return int(stem) if stem.isdecimal() else 0


def up_to(numbers: Iterable[int]) -> list[int]:
    """Numbers, and those that there must have been before each; of a gap the last 1,000, as a stranger's may be any."""
    out: list[int] = []
    last = 0
    for number in sorted(numbers):
        out.extend(range(max(last + 1, number - 1000), number + 1))
        last = max(last, number)
    return out


def images(unit: str) -> str:
    """The path of the fragment that holds the pictures of a unit."""
    return f"{IMAGES}/unit-{unit}.parquet"


def fragment(table: str, round: int, name: str, version: str, uid: str) -> str:
    """The path of a fragment; `uid` names the unit's work by this operator in this round."""
    return f"{table}/round-{round}/{safe(name)}@{safe(version)}/unit-{uid}.parquet"


def compacted(snapshot_number: int, table: str, part: int, sha256: str) -> str:
    """The path of a large file that holds rows of many fragments of a snapshot; other bytes have another name."""
    return f"{COMPACT}/{snapshot_number:06d}/{table}/part-{part:05d}-{sha256[:12]}.parquet"


def revised(key: str) -> str:
    """The path of rows of `images` written once more, which take the place of others (`snapshots.extended`)."""
    return f"{COMPACT}/{REVISED}{key}/{IMAGES}/part-00000.parquet"


def is_revised(path: str) -> bool:
    """Whether a path is that of rows written once more."""
    return path.startswith(f"{COMPACT}/{REVISED}")


def is_compacted(path: str) -> bool:
    """Whether a path is that of a large file."""
    return path.startswith(f"{COMPACT}/")


def is_fragment(path: str) -> bool:
    """Whether a path can be that of a fragment or a large file: below its table, and nowhere else."""
    parts = path.split("/")
    below = len(parts) > (3 if parts[0] == COMPACT else 1) and all(part not in ("", ".", "..") for part in parts)
    return below and "\0" not in path and table_of(path) in TABLES


def is_name(name: str) -> bool:
    """Whether a name is one component of a path."""
    return name not in ("", ".", "..") and "/" not in name and "\0" not in name


def table_of(path: str) -> str:
    """Which of the four tables a fragment or a large file is part of."""
    parts = path.split("/")
    return parts[2] if parts[0] == COMPACT else parts[0]


def round_of(path: str) -> int:
    """The round in a fragment's path, -1 where it has none."""
    found = re.search(r"/round-(\d+)/", path)
    return int(found[1]) if found else -1


def student(key: str) -> str:
    """The path of the folder of a trained student."""
    return f"{STUDENTS}/{key}"


def safe(name: str) -> str:
    """A name that can be a folder's: no slash, no equals sign."""
    return re.sub(r"[^A-Za-z0-9._+-]", "-", name) or "-"
