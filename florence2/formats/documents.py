"""Label files opened: text, JSON, XML and YAML, each refused in one line where it is damaged. Knows no labels."""

from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import yaml

from florence2.structuring import brief

_DECLARED = re.compile(rb"""^\s*<\?xml[^>]*?encoding\s*=\s*["']([\w.:-]+)["'][^>]*\?>""")
_UTF16 = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16", b"<\0": "utf-16-le", b"\0<": "utf-16-be"}
_WHOLE = "check that the file is whole"
MERGE = "tag:yaml.org,2002:merge"  # <<
TAGS = (MERGE, *(f"tag:yaml.org,2002:{kind}" for kind in "bool int float null str timestamp value seq map".split()))
MAX_DEPTH = 200  # levels of a file's nesting; label files have ten


def read_bytes(path: Path) -> bytes:
    """A label file's bytes; a pipe or a device is none."""
    try:
        if not os.path.isfile(path):
            raise ValueError(f"{path}: is no file; expected a label file")
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error}); check its permissions") from None


def read_text(path: Path) -> str:
    """The file's text in UTF-8, or in UTF-16 where its byte order mark says so; the mark is dropped."""
    data = read_bytes(path)
    try:
        return data.decode(_encoding(data))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 at byte {error.start}; save the file as UTF-8") from None


def _encoding(data: bytes) -> str:
    return "utf-16" if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"


def beginning(path: Path, size: int = 4096) -> bytes:
    """How a label file begins, in UTF-8 without its mark and the white space before it; for telling its format."""
    if not os.path.isfile(path):  # to open a pipe would wait for ever
        return b""
    try:
        with open(path, "rb") as file:
            data = file.read(size)
    except OSError:
        return b""
    encoding = _encoding(data)
    text = data.decode(encoding, "ignore") if encoding == "utf-16" else data.removeprefix(codecs.BOM_UTF8)
    return (text.encode("utf-8", "ignore") if isinstance(text, str) else text).lstrip(b" \r\n\t")


def read_json(path: Path) -> Any:
    """The file's content; ValueError names the file and the line."""
    return parse_json(read_text(path), str(path), lines=True)


def read_object(path: Path, *keys: str) -> dict[str, Any]:
    """A JSON file that holds an object with these keys, as this program wrote it; ValueError names the file."""
    found = read_json(path)
    if not isinstance(found, dict) or not found.keys() >= set(keys):
        wanted = f"an object with {', '.join(keys)}" if keys else "an object"
        raise ValueError(f"{path}: expected {wanted}, got {brief(found)}; {_WHOLE}")
    return found


def parse_json(text: str, where: str, lines: bool = False) -> Any:
    """What a JSON text holds; with `lines` a refusal names the line."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = f":{error.lineno}" if lines else ""
        raise ValueError(f"{where}{line}: not JSON ({error.msg}); {_WHOLE}") from None
    except RecursionError:
        raise ValueError(f"{where}: is nested too deeply to be labels") from None
    except ValueError:  # int()'s own limit
        raise ValueError(f"{where}: holds a number of thousands of digits") from None


def read_xml(path: Path) -> ElementTree.Element:
    """The root of an XML file, namespaces dropped from its tags; any encoding that Python knows is read."""
    data = _xml_as_utf8(read_bytes(path), path)
    if b"<!ENTITY" in data:
        raise ValueError(f"{path}: defines entities of its own, which are not read; write its text out")
    try:
        root = ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        raise ValueError(f"{path}:{error.position[0]}: not XML ({error}); {_WHOLE}") from None
    for node in root.iter():
        if isinstance(node.tag, str) and "}" in node.tag:
            node.tag = node.tag.rpartition("}")[2]
    return root


def _xml_as_utf8(data: bytes, path: Path) -> bytes:
    """An XML file's bytes in UTF-8, which the parser takes for nothing else."""
    declared = _DECLARED.match(data)
    encoding = declared[1].decode("ascii") if declared else "utf-8"
    if data[:2] in _UTF16:
        encoding = _UTF16[data[:2]]
    elif encoding.lower() in ("utf-8", "utf8"):
        return data
    try:
        text = data.decode(encoding)
    except (LookupError, UnicodeError):
        raise ValueError(f"{path}: is not text in {encoding}; save the file as UTF-8") from None
    return re.sub(r"^\s*<\?xml.*?\?>", "", text, flags=re.DOTALL).encode("utf-8", "xmlcharrefreplace")


def read_yaml(path: Path, words: Callable[[tuple[str, ...]], bool] | None = None) -> Any:
    """A YAML file's content. Where `words` holds for a place (its keys from the top) everything is text as written.

    Without `words` all scalars are text: to YAML no, 007 and null are a truth value, a number and nothing, to whoever
    writes them as labels they are words.
    """
    return parse_yaml(read_text(path), path, words)


def read_settings(path: Path, words: Callable[[tuple[str, ...]], bool] = lambda keys: False) -> dict[str, Any]:
    """The keys and values of a YAML of settings, typed as YAML does where `words` does not hold; {} of an empty file.

    FileNotFoundError or ValueError in one line: no such file, no YAML, a key twice, something else than keys.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; expected a YAML of settings")
    found = parse_yaml(read_text(path), path, words)
    if found is not None and not isinstance(found, dict):
        raise ValueError(f"{path}: expected keys and values, got {brief(found)}")
    return found or {}


def parse_setting(text: str, where: str) -> Any:
    """One value of a command line, KEY=VALUE, typed as YAML does."""
    return parse_yaml(text, where, words=lambda keys: False)


def parse_yaml(text: str, path: Path | str, words: Callable[[tuple[str, ...]], bool] | None = None) -> Any:
    """What a YAML text holds; aliases may repeat a part, but not so that the whole grows beyond the file's own size."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        budget = [10 * len(text) + 1000]
        return None if node is None else _built(node, (), words or (lambda keys: True), budget, yaml.SafeLoader(""))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise ValueError(f"{path}{line}: not YAML ({' '.join(str(error).split())[:100]})") from None
    except RecursionError:
        raise ValueError(f"{path}: is nested too deeply to be labels") from None
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{path}: not YAML ({' '.join(str(error).split())[:100]})") from None


def _built(
    node: yaml.Node, keys: tuple[str, ...], words: Callable[[tuple[str, ...]], bool], budget: list[int], loader: Any
) -> Any:
    budget[0] -= 1
    if budget[0] < 0:
        raise ValueError("its aliases repeat more than the file holds")
    if len(keys) > MAX_DEPTH:
        raise ValueError("is nested too deeply")
    if node.tag not in TAGS:
        raise ValueError(f"line {node.start_mark.line + 1}: the tag {node.tag!r:.100} is not read")
    if isinstance(node, yaml.ScalarNode):
        return node.value if words(keys) else loader.construct_object(node)
    if isinstance(node, yaml.SequenceNode):
        return [_built(value, (*keys, "-"), words, budget, loader) for value in node.value]
    merged: dict[Any, Any] = {}
    given: dict[Any, Any] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise ValueError(f"line {key.start_mark.line + 1}: a key that is no text")
        if key.tag == MERGE and not words((*keys, "*")):  # <<: *defaults; keys of its own win, wherever they are
            parts = _built(value, (*keys, "<<"), words, budget, loader)
            for part in parts if isinstance(parts, list) else [parts]:
                if not isinstance(part, dict):
                    raise ValueError(f"line {key.start_mark.line + 1}: << expects keys and values")
                merged = {**part, **merged}
            continue
        name = key.value if words((*keys, "*")) else loader.construct_object(key)
        if name in given:
            raise ValueError(f"line {key.start_mark.line + 1}: the key {key.value!r:.60} is there twice")
        given[name] = _built(value, (*keys, str(key.value)), words, budget, loader)
    return {**merged, **given}
