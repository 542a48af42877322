"""What tars and tables share: a folder with a damaged file of pictures beside a good one, listed and inspected.

Every file becomes a row or is named as skipped: the good picture is always ok, and nothing raises.
"""

import os
from pathlib import Path

from florence2.engine.ingest.discovery import _discover
from florence2.engine.ingest.inspection import ImageRules, inspect
from tests.fuzz.attempts import limited

RULES = ImageRules(max_pixels=1_000_000)
CHILD_DIED = "ends who reads it"


def fault_of(folder, file, size, lister, apart=False):
    """What is wrong with how a folder with the damaged `file` of so many bytes is taken in; "" for nothing.

    `apart`: inspected in a process of its own, whose death by a signal is a worker's: a row, and no fault here.
    """
    faults = []
    with limited(size, faults):
        try:
            found, skipped = _discover(Path(folder), None, lister)
        except Exception as error:
            return f"listing: {type(error).__name__}: {str(error)[:200]}"
    faults += [f"a listing of {len(f.detail)} letters or several lines: {f.detail[:100]!r}" for f in found
               if len(f.detail) > 1500 or len(f.detail.splitlines()) > 1]  # fmt: skip
    if not any(f.relative.startswith(file) for f in found) and not any(file in name for name in skipped):
        faults.append(f"{file} is no row and not named as skipped")
    if len({f.relative for f in found}) < len(found):
        faults.append("two rows of one name")
    faults += _apart(found, size) if apart else _inspected(found, size)
    return "; ".join(faults)


def _inspected(found, size):
    faults = []
    for candidate in found[:40]:
        with limited(size + 24_000_000, faults, 3):
            try:
                facts = inspect(candidate, RULES)
                if candidate.relative == "z.png" and facts.status != "ok":
                    faults.append(f"the good picture beside it: {facts}")
            except Exception as error:
                faults.append(f"{candidate.relative[:60]!r}: {type(error).__name__}: {str(error)[:200]}")
    return faults


def _apart(found, size):
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writing, "; ".join(_inspected(found, size))[:4000].encode("utf-8", "replace"))
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    return [said] if said else []
