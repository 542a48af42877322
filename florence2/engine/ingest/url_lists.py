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
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from florence2.engine.ingest.inspection import ImageCandidate
from florence2.pixels import BadImage
from florence2.sources import files
from florence2.sources.fetching import Fetching, fetch

SUFFIXES = (".txt", ".csv", ".tsv", ".jsonl")
INDEX = "fetched.jsonl"
THREADS = 8
TRIES = 3
PASSING = re.compile(
    "timeout|unreachable|truncated|http_(429|500|502|503|504)"
)  # problems that another try may not meet
COLUMNS = ("url", "image_url", "URL")

Progress = Callable[[str, int, int], None]


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
    url_lists = read(path)
    if not rules.hosts:
        raise ValueError(
            f"{path}: is a list of {len(url_lists)} addresses, and none is fetched unless its host is allowed; "
            f"--allow-urls {urlsplit(url_lists[0].url).hostname or 'HOST'}"
        )
    folder = folder_of(path)
    folder.mkdir(exist_ok=True)
    problems: dict[str, tuple[str, str]] = {}
    todo = [a.url for a in url_lists if not (folder / name_of(a.url)).is_file()]
    done = len(url_lists) - len(todo)
    if progress:
        progress("fetching", done, len(url_lists))

    def one(url: str) -> tuple[str, tuple[str, str] | None]:
        return url, _into(folder, url, rules, get, pause)

    for url, problem in _some_at_once(one, todo):
        if problem:
            problems[url] = problem
        done += 1
        if progress:
            progress("fetching", done, len(url_lists))
    lines = (_line(folder, address, problems.get(address.url)) for address in url_lists)
    _replace(folder / INDEX, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode())
    return folder


def fetched_candidates(folder: Path) -> list[ImageCandidate] | None:
    """The pictures of a folder that a list was fetched into, each under its address; None for any other folder."""
    index = folder / INDEX
    if not index.is_file():
        return None
    out = []
    for number, line in enumerate(index.read_text(encoding="utf-8").splitlines(), 1):
        try:
            said = json.loads(line)
            url, licence = said["url"], said.get("licence", "")
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{index}:{number}: damaged; delete the file and fetch the list again") from None
        if "file" in said:
            uri = files.uri_of(folder / said["file"])
            out.append(ImageCandidate(url, uri, bytes=said["bytes"], licence=licence, origin=url))
        else:
            out.append(
                ImageCandidate(url, url, licence=licence, origin=url, reason=said["reason"], detail=said["detail"])
            )
    return out


def name_of(url: str) -> str:
    """The file of an address in its folder: the address's base name, told apart by a hash, in one of 256 folders."""
    key = blake2b(url.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    stem, suffix = os.path.splitext(PurePosixPath(unquote(urlsplit(url).path)).name)
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
        _replace(target, data)
        return None
    raise AssertionError("unreachable")


def _some_at_once(one: Callable[[str], Any], urls: Sequence[str]) -> Iterator[Any]:
    """The results of `one`, as they come, a few threads at work; stopped where the caller stops."""
    left = iter(urls)
    pool = ThreadPoolExecutor(THREADS, thread_name_prefix="florence2-fetch")
    try:
        running = {pool.submit(one, url) for url in islice(left, 2 * THREADS)}
        while running:
            ended, running = wait(running, return_when=FIRST_COMPLETED)
            running |= {pool.submit(one, url) for url in islice(left, len(ended))}
            yield from (future.result() for future in ended)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _line(folder: Path, address: UrlEntry, problem: tuple[str, str] | None) -> dict[str, Any]:
    line: dict[str, Any] = {"url": address.url}
    if address.licence:
        line["licence"] = address.licence
    if problem:
        return {**line, "reason": problem[0], "detail": problem[1]}
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
    return [_of(row, f"{path}:{n}") for n, row in enumerate(table, 2)]


def _parsed(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        raise ValueError(f'{where}: not JSON; expected {{"url": "https://..."}}') from None


def _of(row: Any, where: str) -> UrlEntry:
    url = next((row[c] for c in COLUMNS if c in row), None) if isinstance(row, dict) else None
    if not isinstance(url, str) or not url.strip():
        raise ValueError(f"{where}: has no 'url'; a data set with labels comes in by florence2 import")
    return UrlEntry(url.strip(), str(row.get("licence") or row.get("license") or ""))


def _replace(target: Path, data: bytes) -> None:
    """Write aside, then into place: what has its name is whole."""
    aside = target.with_name(f".{target.name}.{os.getpid()}.part")
    aside.write_bytes(data)
    os.replace(aside, target)
