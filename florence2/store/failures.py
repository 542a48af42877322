"""Which failures count: of a picture that was retried, only the last attempt, be it an answer or a failure.

A further attempt writes fragments of its own, for the pictures that had failed; its number and these pictures are in
the metadata of its files: of annotations too, a file that is written even where it holds no row. A compacted file of
failures holds in its metadata which of its rows an attempt before the compaction superseded.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa

from florence2.store import parquet
from florence2.store.parquet import Fragment
from florence2.store.snapshots import Snapshot
from florence2.store.storage import Storage
from florence2.structuring import parse_json

ATTEMPT, IMAGES, SUPERSEDED = "attempt", "images", "superseded"  # keys of a fragment's facts

Attempts = Mapping[tuple[str, str], Sequence[Fragment]]  # (run, unit) -> the annotations of each attempt


def attempt_facts(number: int, image_ids: Sequence[str]) -> dict[str, str]:
    """What goes into the metadata of the fragments of an attempt; nothing for the first."""
    return {ATTEMPT: str(number), IMAGES: json.dumps(list(image_ids))} if number > 1 else {}


def is_further(facts: Mapping[str, str]) -> bool:
    """Whether a fragment with these facts is of a further attempt."""
    return attempt_number(facts) > 1


def attempt_number(facts: Mapping[str, str]) -> int:
    """The number of the attempt that a fragment with these facts is of."""
    return int(facts.get(ATTEMPT, 1))


def attempted_images(facts: Mapping[str, str]) -> list[str]:
    """The pictures that a further attempt was at."""
    return list(parse_json(facts.get(IMAGES, "[]")))


def superseded_facts(rows: Sequence[int]) -> dict[str, str]:
    """What goes into the metadata of a compacted file: the rows that do not count, by position."""
    return {f"florence2.{SUPERSEDED}": json.dumps(list(rows))} if rows else {}


def current(storage: Storage, snapshot: Snapshot) -> pa.Table:
    """The rows of `failures` that count."""
    found = each_counted(storage, snapshot.of("failures"), snapshot.of("annotations"))
    tables = [table.filter(pa.array(counts, pa.bool_())) for table, counts in found]
    tables = tables or [parquet.read_table(storage, "failures", ())]
    return pa.concat_tables(tables, promote_options="default")


def each_counted(
    storage: Storage, failures: Sequence[Fragment], annotations: Sequence[Fragment]
) -> Iterator[tuple[pa.Table, list[bool]]]:
    """The rows of each fragment of failures, and which of them count, given all annotations of the same units."""
    attempts: dict[tuple[str, str], list[Fragment]] = defaultdict(list)
    for fragment in annotations:
        if not fragment.is_compacted:
            attempts[fragment.run_id, fragment.units[0]].append(fragment)
    for fragment in failures:
        table = parquet.read(storage, fragment).replace_schema_metadata(None)
        of = _of_compacted if fragment.is_compacted else _of_attempt
        yield table, of(storage, fragment, table, attempts)


def _of_attempt(storage: Storage, fragment: Fragment, table: pa.Table, attempts: Attempts) -> list[bool]:
    tried = attempts.get((fragment.run_id, fragment.units[0]), ())
    if len(tried) < 2:
        return [True] * table.num_rows
    answered = _last_attempts(storage, tried)
    attempt = attempt_number(parquet.facts(storage, fragment))
    return [answered.get(name, 1) == attempt for name in table["image_id"].to_pylist()]


def _of_compacted(storage: Storage, fragment: Fragment, table: pa.Table, attempts: Attempts) -> list[bool]:
    before = set(parse_json(parquet.facts(storage, fragment).get(SUPERSEDED, "[]")))
    rows = list(zip(table["run_id"].to_pylist(), table["image_id"].to_pylist()))
    later = {
        (run, image)
        for run in {run for run, _ in rows}
        for unit in fragment.units
        for image in _last_attempts(storage, attempts.get((run, unit), ()))
    }
    return [number not in before and row not in later for number, row in enumerate(rows)]


def _last_attempts(storage: Storage, fragments: Sequence[Fragment]) -> dict[str, int]:
    """The number of the last attempt at each picture that was tried more than once."""
    last: dict[str, int] = {}
    for facts in (parquet.facts(storage, fragment) for fragment in fragments):
        number = attempt_number(facts)
        last.update({name: max(number, last.get(name, 1)) for name in attempted_images(facts)})
    return last
