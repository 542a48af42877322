"""Pictures from a list of addresses: fetched once into a folder beside the list, which then is a source like any other.

A list is one address a line (.txt), or a .csv, .tsv or .jsonl with `url` and, where it is known, `licence`. The folder
LIST.pictures holds what came, and fetched.jsonl: a line an address, in the list's order, with its file or its problem.
"""

from __future__ import annotations

import csv
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path, PurePosixPath
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

from florence2.atomic_files import write_atomic
from florence2.engine.execution.options import Progress
from florence2.engine.ingest.inspection import ImageCandidate
from florence2.pixels import BadImage
from florence2.sources import file_types, files
from florence2.sources.fetching import Fetching, fetch
from florence2.structuring import parse_json

SUFFIXES = (".txt", ".csv", ".tsv", ".jsonl")
INDEX = "fetched.jsonl"
THREADS = 8
TRIES = 3
PASSING = re.compile(
    "timeout|unreachable|truncated|http_(429|500|502|503|504)"
)  # problems that another try may not meet
COLUMNS = ("url", "image_url", "URL")


@dataclass(frozen=True)
class UrlEntry:
    """A line of a list."""

    url: str
    licence: str = ""


def is_list(path: Path) -> bool:
    """By its suffix."""
    return path.suffix.lower() in SUFFIXES and path.is_file()


def folder_of(path: Path) -> Path:
    """Where a list's pictures go."""
    return path.with_name(f"{path.name}.pictures")


def read(path: Path) -> list[UrlEntry]:
    """The addresses of a list, each once, in order."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 at byte {error.start}; save the list as UTF-8") from None
    rows = _rows(path, text.splitlines())
    out: dict[str, UrlEntry] = {}
    for address in rows:
        out.setdefault(address.url, address)
    if not out:
        raise ValueError(f"{path}: holds no address; expected one https://HOST/PATH a line, or a column url")
    return list(out.values())


def fetch_list(
    path: Path,
    rules: Fetching,
    progress: Progress | None = None,
    get: Callable[[str, Fetching], bytes] = fetch,
    pause: Callable[[float], Any] = time.sleep,
) -> Path:
    """Fetch what is not there yet; returns the folder. A failing address is a line of its index, the rest goes on."""
    listed = read(path)
    if not rules.hosts:
        raise ValueError(
            f"{path}: is a list of {len(listed)} addresses, and none is fetched unless its host is allowed; "
            f"--allow-urls {_host_of(listed[0].url) or 'HOST'}"
        )
    folder = folder_of(path)
    folder.mkdir(exist_ok=True)
    problems: dict[str, tuple[str, str]] = {}
    entries = [entry for entry in listed if not _is_left_behind(entry.url)]
    todo = [entry.url for entry in entries if not (folder / name_of(entry.url)).is_file()]
    done = len(listed) - len(todo)
    if progress:
        progress("fetching", done, len(listed))

    def one(url: str) -> tuple[str, tuple[str, str] | None]:
        return url, _into(folder, url, rules, get, pause)

    for url, problem in _some_at_once(one, todo):
        if problem:
            problems[url] = problem
        done += 1
        if progress:
            progress("fetching", done, len(listed))
    lines = (_line(folder, address, problems.get(address.url)) for address in listed)
    write_atomic(folder / INDEX, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return folder


def fetched_candidates(folder: Path) -> tuple[list[ImageCandidate], list[str]] | None:
    """The pictures of a folder that a list was fetched into, each under its address, and what is none by its name.

    None for any other folder.
    """
    index = folder / INDEX
    if not index.is_file():
        return None
    out: list[ImageCandidate] = []
    skipped: list[str] = []
    for number, line in enumerate(index.read_text(encoding="utf-8", errors="replace").split("\n"), 1):
        if not line:
            continue
        try:
            entry = parse_json(line)
            url, licence, name = str(entry["url"]), str(entry.get("licence", "")), entry.get("file")
            if name is not None and name != name_of(url):
                raise ValueError(name)
            about = {"bytes": int(entry["bytes"])} if name else {k: str(entry[k]) for k in ("reason", "detail")}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
            raise ValueError(f"{index}:{number}: damaged; delete the file and fetch the list again") from None
        if _is_left_behind(url):
            skipped.append(f"{url}{file_types.LEFT_BEHIND}")
        else:
            uri = files.uri_of(folder / name) if name else url
            out.append(ImageCandidate(url, uri, licence=licence, origin=url, **about))
    return out, skipped


def _is_left_behind(url: str) -> bool:
    return file_types.is_left_behind(_path_of(url))


def _host_of(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _path_of(url: str) -> str:
    try:
        return unquote(urlsplit(url).path)
    except ValueError:  # fetching says what is wrong with it
        return ""


def name_of(url: str) -> str:
    """The file of an address in its folder: the address's base name, made unique by a hash, in one of 256 folders."""
    key = blake2b(url.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    stem, suffix = os.path.splitext(PurePosixPath(_path_of(url)).name)
    stem, suffix = (re.sub(r"[^A-Za-z0-9._-]", "_", part)[:40] for part in (stem, suffix))
    return f"{key[:2]}/{stem or 'picture'}-{key}{suffix}"


def _into(
    folder: Path, url: str, rules: Fetching, get: Callable[[str, Fetching], bytes], pause: Callable[[float], Any]
) -> tuple[str, str] | None:
    """Fetch one address into its file; its problem, as a reason word and a detail, where there is one."""
    for number in range(1, TRIES + 1):
        try:
            data = get(url, rules)
        except BadImage as error:
            if number == TRIES or not PASSING.fullmatch(error.reason):
                return error.reason, str(error)
            pause(2.0 ** (number - 1))
            continue
        target = folder / name_of(url)
        target.parent.mkdir(exist_ok=True)
        write_atomic(target, data)
        return None
    raise AssertionError("unreachable")


def _some_at_once(one: Callable[[str], Any], urls: Sequence[str]) -> Iterator[Any]:
    """The results of `one`, as they come, a few threads at work; stopped where the caller stops.

    The threads are daemons: an interrupted command ends at once, not when the slowest server has answered.
    """
    todo: SimpleQueue[str] = SimpleQueue()
    ended: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
    for url in urls:
        todo.put(url)

    def work() -> None:
        while True:
            try:
                url = todo.get_nowait()
            except Empty:
                return
            try:
                ended.put((one(url), None))
            except BaseException as error:  # raised where the results are read
                ended.put((None, error))

    for _ in range(min(THREADS, len(urls))):
        Thread(target=work, name="florence2-fetch", daemon=True).start()
    try:
        for _ in urls:
            result, error = ended.get()
            if error is not None:
                raise error
            yield result
    finally:
        with suppress(Empty):
            while True:
                todo.get_nowait()


def _line(folder: Path, address: UrlEntry, problem: tuple[str, str] | None) -> dict[str, Any]:
    line: dict[str, Any] = {"url": address.url}
    if address.licence:
        line["licence"] = address.licence
    if problem:
        return {**line, "reason": problem[0], "detail": problem[1]}
    if _is_left_behind(address.url):
        return {**line, "reason": "left_behind", "detail": ""}
    name = name_of(address.url)
    return {**line, "file": name, "bytes": (folder / name).stat().st_size}


def _rows(path: Path, lines: Sequence[str]) -> Iterable[UrlEntry]:
    suffix = path.suffix.lower()
    if suffix == ".txt":
        kept = (line.strip() for line in lines)
        return [UrlEntry(line) for line in kept if line and not line.startswith("#")]
    if suffix == ".jsonl":
        return [_of(_parsed(line, f"{path}:{n}"), f"{path}:{n}") for n, line in enumerate(lines, 1) if line.strip()]
    table = csv.DictReader(lines, delimiter="\t" if suffix == ".tsv" else ",")
    try:
        return [_of(row, f"{path}:{n}") for n, row in enumerate(table, 2)]
    except csv.Error as error:
        raise ValueError(f"{path}:{table.line_num}: cannot be read ({error})") from None


def _parsed(line: str, where: str) -> Any:
    try:
        return parse_json(line)
    except ValueError:
        raise ValueError(f'{where}: not JSON; expected {{"url": "https://..."}}') from None


def _of(row: Any, where: str) -> UrlEntry:
    url = next((row[c] for c in COLUMNS if c in row), None) if isinstance(row, dict) else None
    if not isinstance(url, str) or not url.strip():
        raise ValueError(f"{where}: has no 'url'; a data set with labels comes in by florence2 import")
    url = url.strip().encode("utf-8", "replace").decode()
    return UrlEntry(url, str(row.get("licence") or row.get("license") or ""))
