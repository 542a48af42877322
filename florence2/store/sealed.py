"""The store's JSON: each file says under its last key what the rest of it hashes to, and is read through that seal.

A file that is not there and one whose bytes have changed are two errors, Missing and Damaged, everywhere.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from florence2.object_store import NoAnswer
from florence2.store.storage import Storage
from florence2.structuring import parse_json

SEAL = "sha256"  # the key of a file's hash over all its other keys
_END, _EMPTY, _TAIL = b"\n}\n", b"{}\n", 100
_SEALED = re.compile(rb',\n "%s": "([0-9a-f]{64})"\n}\n\Z' % SEAL.encode())


class Missing(ValueError):
    """A file of the store that was written once and is not there."""


class Damaged(ValueError):
    """A file of the store that does not hold what was written."""


def seal(body: Mapping[str, Any]) -> bytes:
    """The bytes of a file that says, under its last key, what its other keys hash to."""
    text = json_bytes({key: value for key, value in body.items() if key != SEAL})
    before = text[: -len(_END)] + b"," if text != _EMPTY else b"{"
    return before + b'\n "%s": "%s"' % (SEAL.encode(), hashlib.sha256(text).hexdigest().encode()) + _END


def unseal(data: bytes, unsealed: bool = False) -> dict[str, Any]:
    """What `seal` wrote, without the seal; ValueError where a single bit of it has changed.

    With `unsealed`, a file without a seal is taken as it is: of a store that was written before there were any.
    """
    found = parse_json(data)
    if not isinstance(found, dict):
        raise ValueError(f"expected an object, got {type(found).__name__}")
    if unsealed and SEAL not in found:
        return found
    if not _says_what_was_sealed(data) and data != seal(found):
        raise ValueError("its content is not what its sha256 says")
    del found[SEAL]
    return found


def _says_what_was_sealed(data: bytes) -> bool:
    """Whether the text before the seal hashes to what it says: the same as to seal it again, in a part of the time."""
    sealed = _SEALED.search(data[-_TAIL:])
    if sealed is None:
        return False
    body = data[: len(data) - len(sealed[0])] + _END
    return hashlib.sha256(body).hexdigest().encode() == sealed[1]


def read(storage: Storage, path: str, remedy: str, open: Callable[[bytes], dict[str, Any]] = unseal) -> dict[str, Any]:
    """What the sealed file at a path says; Missing or Damaged name the file and the `remedy`."""
    try:
        return open(storage.read(path))
    except FileNotFoundError:
        raise Missing(f"{storage.location(path)}: missing; {remedy}") from None
    except NoAnswer:
        raise  # it says nothing of the file
    except (ValueError, RecursionError, OSError) as error:
        what = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise Damaged(f"{storage.location(path)}: damaged ({what}); {remedy}") from None


def json_bytes(data: Mapping[str, Any]) -> bytes:
    """A plain mapping as the store writes JSON; what JSON cannot hold becomes a string."""
    return (json.dumps(data, ensure_ascii=False, indent=1, default=str) + "\n").encode("utf-8", "replace")
