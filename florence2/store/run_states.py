"""How the runs of commands stood when they last said so: small files that are written over, no part of the data.

They lie in tmp/, since all that a store promises holds without them; the newest are kept, for `florence2 status` and
for the rates that were measured.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from florence2.store import layout
from florence2.store.storage import Storage
from florence2.structuring import parse_json

KEPT = 20


def keep(storage: Storage, run: str, state: Mapping[str, Any]) -> None:
    """Write how a run stands, over what it wrote before."""
    storage.replace(layout.run_state(run), json.dumps(state).encode())


def read(storage: Storage) -> list[Any]:
    """What the newest runs wrote, oldest first; one that cannot be read says nothing."""
    out: list[Any] = []
    for path in storage.list(layout.RUN_STATES)[-KEPT:]:
        try:
            out.append(parse_json(storage.read(path)))
        except (OSError, ValueError):
            pass
    return out


def forget_old(storage: Storage) -> None:
    """Delete all but the newest."""
    storage.delete([path for path in storage.list(layout.RUN_STATES) if path.endswith(".json")][:-KEPT])
