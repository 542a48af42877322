"""Sets whose labels are large files, as a file of records: made once, in a process of its own, then read by position.

A COCO or Label Studio file is parsed whole, which takes minutes and gigabytes where a set is large. Its samples are
kept in the cache folder, one JSON record a line, and found again while the label files hold the same bytes and the
folders of the pictures list the same names. Knows no format.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from florence2 import __version__
from florence2.atomic_files import replacing, write_atomic
from florence2.cache_folder import cache_folder
from florence2.codec.tasks import Task
from florence2.formats import documents
from florence2.formats.lookup import is_litter
from florence2.formats.problems import ReadProblems
from florence2.records import Sample, from_json, to_json
from florence2.sources import opening
from florence2.store import sha256_of
from florence2.structuring import parse_json

LOG = logging.getLogger(__name__)
LARGE = 16 << 20  # bytes of label files above which a set is kept as records
CHUNK = 1 << 24  # bytes of a file scanned at a time
FORM = 3  # of what is kept; another one is made anew
BY_POSITION = ("jsonl", "store", "scenes", "parquet")  # formats that are read a record at a time as they are
_CODE = "import sys; sys.path[:] = {path!r}; from florence2.sources.record_files import serve; serve()"


class RecordFile(Sequence[Sample]):
    """The samples of a file of records; it stays open, so that another one may take its name."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._opened = open(file, "rb")  # noqa: SIM115
        self._spans = line_spans(file)

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        start, end, line = self._spans[index].tolist()
        data = os.pread(self._opened.fileno(), end - start, start)
        return from_json(Sample, documents.parse_json(data.decode(), f"{self.file}:{line}"))


def is_large(path: str | Path, format: str) -> bool:
    """Whether a set's labels are so large that reading them whole for every run would be felt."""
    return format not in BY_POSITION and sum(file.stat().st_size for file in label_files(Path(path))) > LARGE


def record_file(
    path: str | Path,
    format: str,
    images: str | None,
    problems: ReadProblems,
    tasks: Mapping[str, Task] | None = None,
) -> RecordFile:
    """The samples of a set by position, what its reader refused in `problems`; it is read where it is not kept yet.

    ValueError, or what the reader raises: a bad record where `problems` does not skip. OSError: no room for it.
    """
    path = Path(os.path.abspath(path))
    tasks = tasks if format in opening.PROMPTS else None
    call = {"path": str(path), "format": format, "images": images and os.path.abspath(images), "skip": problems.skip}
    place = _digest([FORM, __version__, *call.values(), pickle.dumps(tasks)])
    folder = cache_folder() / "sets"
    folder.mkdir(parents=True, exist_ok=True)
    facts_file = folder / f"{place}.json"
    labels = {str(file): sha256_of(file) for file in label_files(path)}
    with _alone(folder / f"{place}.lock"):
        facts = _kept(facts_file, labels)
        if facts is None:
            file = folder / f"{place}-{_digest(labels)}.jsonl"
            size = sum(os.stat(label).st_size for label in labels)
            LOG.warning("%s: %d MB of labels, read once and kept as records in %s", path, size >> 20, file)
            answer = _read_apart({**call, "tasks": tasks, "file": str(file)})
            facts = {**answer, "labels": labels, "file": file.name, "bytes": file.stat().st_size}
            write_atomic(facts_file, json.dumps(facts))
            for old in folder.glob(f"{place}-*.jsonl"):
                if old != file:
                    old.unlink(missing_ok=True)
        problems.restore(facts["problems"])
        return RecordFile(folder / facts["file"])


def label_files(path: Path) -> list[Path]:
    """The label files of a set: the file itself, or those below a folder."""
    if not path.is_dir():
        return [path]
    found = (Path(top) / name for top, _, names in os.walk(path) for name in names if not is_litter(name))
    return sorted(file for file in found if file.suffix.lower() in (*opening.LABEL_FILES, ".p") and file.is_file())


def line_spans(file: Path) -> np.ndarray:
    """(lines, 3) int64 of a file's lines that hold something: first byte, byte after the last, number from 1."""
    ends: list[np.ndarray] = []
    size = 0
    with open(file, "rb") as opened:
        while chunk := opened.read(CHUNK):
            ends.append(np.flatnonzero(np.frombuffer(chunk, np.uint8) == 10) + size)
            size += len(chunk)
    all_ends = np.concatenate([*ends, [size]]).astype(np.int64)  # the last line may lack its line break
    starts = np.concatenate([[0], all_ends[:-1] + 1])
    kept = all_ends - starts > 1  # not an empty line, nor a carriage return alone
    return np.stack([starts[kept], all_ends[kept], np.flatnonzero(kept) + 1], 1)


def _kept(facts_file: Path, labels: Mapping[str, str]) -> dict[str, Any] | None:
    """What was written of a set's records; None where they are not there or of what is no more."""
    try:
        facts = documents.read_object(facts_file, "labels", "file", "bytes", "folders", "problems")
        whole = (facts_file.parent / facts["file"]).stat().st_size == facts["bytes"]
        same = facts["labels"] == labels and facts["folders"] == {f: _listed_at(f) for f in facts["folders"]}
        return facts if whole and same else None
    except (ValueError, OSError, TypeError):
        return None


def _listed_at(folder: str) -> int:
    """When a folder's list of names changed, -1 where it is not there."""
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:
        return -1


def _read_apart(call: Mapping[str, Any]) -> dict[str, Any]:
    """What `serve` answers in a process of its own, whose memory is given back; its error is raised here."""
    code = _CODE.format(path=sys.path)
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        try:
            out, _ = child.communicate(pickle.dumps(call))
        except BaseException:
            child.kill()
            raise
    if child.returncode:
        ended = f"signal {-child.returncode}" if child.returncode < 0 else f"status {child.returncode}"
        raise ValueError(f"{call['path']}: the process that read its labels ended by {ended}; give it more memory")
    answer: dict[str, Any] = parse_json(out.splitlines()[-1])
    if "error" in answer:
        raise OSError(answer["error"]) if answer["os"] else ValueError(answer["error"])
    return answer


def serve() -> None:
    """What the child does: read the set that stdin names, write its records, answer with what was refused."""
    call = pickle.load(sys.stdin.buffer)
    problems = ReadProblems(call["skip"])
    try:
        read = opening.open(call["path"], None, call["format"], None, call["images"], problems, call["tasks"])
        folders = _write(Path(call["file"]), read)
        answer: dict[str, Any] = {"folders": folders, "problems": problems.state()}
    except (ValueError, OSError) as error:
        answer = {"error": str(error), "os": isinstance(error, OSError)}
    except KeyboardInterrupt:
        sys.exit(130)
    sys.stdout.write(json.dumps(answer) + "\n")


def _write(file: Path, samples: Iterator[Sample]) -> dict[str, int]:
    """Write the records; returns the folders of their pictures, each with when its list of names changed."""
    folders: dict[str, int] = {}
    with replacing(file, sole=True) as temp_path, open(temp_path, "w", encoding="utf-8") as out:
        for sample in samples:
            folder = os.path.dirname(sample.image.uri)
            if folder not in folders:
                folders[folder] = _listed_at(folder)
            out.write(json.dumps(to_json(sample), separators=(",", ":")) + "\n")
    return folders


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Wait until no other process makes the same; one that was killed is not waited for."""
    import fcntl

    with open(file, "w", encoding="utf-8") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield


def _digest(value: Any) -> str:
    return hashlib.sha256(repr(value).encode("utf-8", "surrogatepass")).hexdigest()[:32]
