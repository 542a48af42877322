"""The file between a model and its scores: JSON Lines, one ask a line, written as it goes, resumed where it stopped.

Reading is strict: every line that cannot be meant is refused with the file and the line.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from florence2.evaluation.eval_items import EvalItem, ItemKey, ask_key
from florence2.formats import documents
from florence2.formats.jsonl import check_sample
from florence2.records import Ask, Failure, ImageRef, Parsed, Result, Sample, from_json, to_json
from florence2.structuring import parse_json

FLUSH_EVERY = 8


class Predictions:
    """An open predictions file: what it holds already, and where the next line goes."""

    def __init__(self, file: Path):
        self.file = file
        self.keys = _kept_keys(file)
        self.count = len(self.keys)
        self._out: IO[str] | None = None

    def __enter__(self) -> Predictions:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self._out = open(self.file, "a", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        if self._out is not None:
            self._out.close()

    def write(self, item: EvalItem, result: Result) -> None:
        """Append one answer or failure; flushed every few lines."""
        assert self._out is not None
        self._out.write(json.dumps(line_of(item, result, self.count), ensure_ascii=False) + "\n")
        self.count += 1
        if self.count % FLUSH_EVERY == 0:
            self._out.flush()


def line_of(item: EvalItem, result: Result, number: int) -> dict[str, Any]:
    """One line of the file."""
    line: dict[str, Any] = {
        "id": f"{number}:{item.sample.id}",
        "image": item.image,
        "size_wh": list(item.sample.image.size_wh),
        "ask": to_json(item.ask),
    }
    if isinstance(result, Failure):
        return {**line, "failure": {"reason": result.reason or "failed", "detail": result.detail}}
    answer = {name: [to_json(item) for item in getattr(result, name)] for name in ("texts", "regions", "groundings")}
    return {**line, "answer": {**answer, "truncated": result.truncated}}


def _kept_keys(file: Path) -> set[ItemKey]:
    """The keys of the whole lines of an interrupted run; a torn last line is cut off."""
    if not file.exists():
        return set()
    data = file.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    last = data[len(whole) :]
    if last:
        with open(file, "r+b") as out:
            out.seek(len(whole))
            if _is_json(last):  # whole but for its line break
                whole = data + b"\n"
                out.write(last + b"\n")
            out.truncate()
    keys = set()
    for number, text in enumerate(whole.decode("utf-8").split("\n"), 1):
        if text.strip():
            line = _object(text, f"{file}:{number}")
            keys.add((_text(line, "image", f"{file}:{number}"), ask_key(_ask(line, f"{file}:{number}"))))
    return keys


def _is_json(line: bytes) -> bool:
    try:
        return isinstance(parse_json(line), dict)
    except ValueError:
        return False


def read(file: str | Path, items: Sequence[EvalItem], images: Iterable[Sample] = ()) -> dict[ItemKey, Result]:
    """Item key -> what the file answers. `images` are further pictures that may be named (another split's).

    Refused, naming the line: an ask twice, a picture that the data does not have, an id twice, a number that is none.
    Lines about another task, or asks that the data has no truth for, are not in the result.
    """
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"{file}: does not exist; expected predictions as florence2 evaluate writes them")
    samples = [*(q.sample for q in items), *images]
    spellings = _spellings(samples)
    sizes = {sample.image.id or sample.id: sample.image.size_wh for sample in samples}
    wanted = {item.key for item in items}
    found: dict[ItemKey, Result] = {}
    ids: dict[str, str] = {}
    asked: dict[ItemKey, str] = {}
    for number, text in enumerate(documents.read_text(file).split("\n"), 1):
        where = f"{file}:{number}"
        if not text.strip():
            continue
        line = _object(text, where)
        if "id" in line:
            _once(ids, str(line["id"]), where, f"id {line['id']!r}")
        name = _text(line, "image", where)
        picture = spellings.get(name) or spellings.get("/".join(Path(name).parts[-2:]))
        if picture is None:
            raise ValueError(f"{where}: image {name!r} is not in the data")
        _check_size(line, sizes[picture], where)
        ask = _ask(line, where)
        key = (picture, ask_key(ask))
        _once(asked, key, where, f"the ask {ask.task} {ask.text!r:.60} about {name!r}")
        result = _result(line, where)
        if key in wanted:
            found[key] = result
    return found


def _check_size(line: dict[str, Any], size_wh: tuple[int, int], where: str) -> None:
    """Refuse places that were predicted for a picture of another size, where both are known."""
    stated = line.get("size_wh")
    if isinstance(stated, list) and len(stated) == 2 and all(stated) and all(size_wh) and tuple(stated) != size_wh:
        raise ValueError(
            f"{where}: size_wh: {stated[0]} x {stated[1]}, but {line['image']!r} is {size_wh[0]} x {size_wh[1]}; "
            "its places are not this picture's"
        )


def _spellings(samples: Iterable[Sample]) -> dict[str, str]:
    """Every unambiguous way to name a picture -> its name as the truth spells it; the truth's own spelling wins."""
    loose: dict[str, set[str]] = {}
    exact: dict[str, str] = {}
    for sample in samples:
        name = sample.image.id or sample.id
        exact[name] = name
        parts = Path(sample.image.uri).parts
        endings = ["/".join(parts[-n:]) for n in range(1, min(len(parts), 5) + 1)]
        for other in (sample.image.uri, os.path.basename(name), *endings, sample.id):
            if other:
                loose.setdefault(other, set()).add(name)
    return {**{other: next(iter(names)) for other, names in loose.items() if len(names) == 1}, **exact}


def _object(text: str, where: str) -> dict[str, Any]:
    try:
        line = parse_json(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON ({error.msg}); a line is one prediction") from None
    if not isinstance(line, dict):
        raise ValueError(f"{where}: expected an object, got {text.strip()[:60]}")
    return line


def _text(line: dict[str, Any], key: str, where: str) -> str:
    value = line.get(key)
    if not isinstance(value, str):
        raise ValueError(f"{where}: {key}: expected a text, got {value!r:.60}")
    return value


def _ask(line: dict[str, Any], where: str) -> Ask:
    ask = line.get("ask")
    if isinstance(ask, dict):
        ask = {key: value for key, value in ask.items() if value is not None}
    try:
        return from_json(Ask, {"task": ask} if isinstance(ask, str) else ask)  # type: ignore[arg-type]
    except ValueError as error:
        raise ValueError(f"{where}: ask: {error}") from None


def _result(line: dict[str, Any], where: str) -> Result:
    if "failure" in line:
        failure = line["failure"]
        reason = failure.get("reason", "failed") if isinstance(failure, dict) else "failed"
        detail = failure.get("detail", "") if isinstance(failure, dict) else ""
        return Failure(image=str(line["image"]), reason=str(reason), detail=str(detail))
    answer = line.get("answer")
    if not isinstance(answer, dict):
        raise ValueError(f"{where}: expected an 'answer' or a 'failure', got {answer!r:.60}")
    try:
        parsed = from_json(Parsed, answer)
        own = tuple(replace(g, text_id="", spans=()) for g in parsed.groundings)  # its text may be the data's
        check_sample(Sample("", ImageRef(""), parsed.texts, parsed.regions, own), "answer")
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return parsed


def _once(seen: dict[Any, str], key: Any, where: str, what: str) -> None:
    if key in seen:
        raise ValueError(f"{where}: {what} is already at {seen[key].rpartition(':')[2]}; each may be given once")
    seen[key] = where
