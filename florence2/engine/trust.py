"""Whose code may run for which store, remembered outside of it: a store never runs a file that its user did not name.

`trusted.jsonl` in the user's configuration folder ($XDG_CONFIG_HOME/florence2, else ~/.config/florence2) holds, a line
each, a store's resolved path and the hash of a Python file that the user named for it, or `"all": true` for a store
that `--trust` allowed. It is only ever added to; what a store itself says about trust is never read.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from florence2.engine.user_code import gate
from florence2.object_store import is_object_url, url_of
from florence2.structuring import parse_json

EVERYTHING = "everything"  # in place of a hash
_now: dict[str, set[str]] = {}  # what this process was given, should the file not be writable


class UntrustedCode(ValueError):
    """A store names a Python file that the user has not named for it."""


@contextmanager
def noting(files: dict[str, Path]) -> Iterator[None]:
    """Inside, Python files that are run are noted, by their hash: those that the user's own names lead to."""
    with gate(lambda path, sha256: files.update({sha256: path})):
        yield


@contextmanager
def named_by(store: str | Path) -> Iterator[None]:
    """Inside, only Python files that the user named for the store run; UntrustedCode for any other."""

    def check(path: Path, sha256: str) -> None:
        if not _allowed(store) & {EVERYTHING, sha256}:
            raise UntrustedCode(
                f"{path}: the store {store} names this Python file, which you have not named for it (as it is now); "
                "read it, then name it yourself with --with, or allow what this store names with --trust"
            )

    with gate(check):
        yield


def allow(store: str | Path, on_message: Callable[[str], None] | None = None) -> None:
    """Let a store run whatever Python file it names, now and later."""
    _remember(store, [{"all": True}], on_message)


def remember(store: str | Path, files: Mapping[str, Path], on_message: Callable[[str], None] | None = None) -> None:
    """Note files, by their hash, as named by the user for a store."""
    _remember(store, [{"sha256": sha256, "file": str(path.resolve())} for sha256, path in files.items()], on_message)


def _remember(store: str | Path, facts: list[dict[str, Any]], on_message: Callable[[str], None] | None) -> None:
    known = _allowed(store)
    new = [fact for fact in facts if _word(fact) not in known]
    if not new:
        return
    _now.setdefault(_key(store), set()).update(map(_word, new))
    try:
        file = _file()
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(file, "a", encoding="utf-8") as opened:  # one write a command: two at once lose nothing
            opened.write("".join(json.dumps({"store": _key(store), **fact}) + "\n" for fact in new))
    except OSError as error:
        if on_message:
            on_message(f"{error}: what you named for this store holds for this command alone")


def _allowed(store: str | Path) -> set[str]:
    """The hashes of files that a store may run, and EVERYTHING where it may run all."""
    allowed = set(_now.get(_key(store), ()))
    try:
        lines = _file().read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not there, or not to be read: nothing more is allowed
        return allowed
    for line in lines:
        try:
            row = parse_json(line)
        except ValueError:  # cut by a kill: what it held is not allowed
            continue
        if isinstance(row, dict) and row.get("store") == _key(store):
            allowed.add(_word(row))
    return allowed


def _word(fact: Mapping[str, Any]) -> str:
    return EVERYTHING if fact.get("all") is True else str(fact.get("sha256"))


def _key(store: str | Path) -> str:
    return url_of(store) if is_object_url(store) else str(Path(store).resolve())


def _file() -> Path:
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    if home.startswith("~"):
        raise FileNotFoundError(errno.ENOENT, "no home folder is known; set XDG_CONFIG_HOME")
    return Path(home) / "florence2" / "trusted.jsonl"
