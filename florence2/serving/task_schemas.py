"""What an ask of each task may hold: a JSON schema a task, and the check of one ask; from a table of tasks alone.

The same schemas describe `/v1/predict` in OpenAPI, `/v1/tasks`, and the tools of the MCP server.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from florence2.codec.tasks import CLOSED, Task, check_corners, prompt_text, task_of
from florence2.records import Ask
from florence2.serving.refusals import invalid

TEXT = {
    "answer": "The question.",
    "caption": "The caption whose phrases are to be found.",
    "expression": "What is meant, such as: the man in the red coat.",
    "query": "What is looked for.",
}
GIVES = {
    "text": "a text",
    "quads": "lines of text, each with the four corners of its place",
    "labelled_boxes": "boxes with labels",
    "boxes": "boxes",
    "phrases": "phrases of the text with the boxes of what they name",
    "polygons": "the outline of what is meant, as polygons",
    "open_boxes": "boxes or polygons of what was looked for",
    "region_text": "a text about the region",
}
REGION = "x1, y1, x2, y2 with x1 <= x2 and y1 <= y2, in pixels of the upright picture, from its top left corner."
MARGIN = "Nats by which the end must be likelier than what could follow; more is found, less surely."
EACH_CLASS = "Ask about each class of an open-vocabulary question alone that its answer does not name."
MORE_ABOVE = "An answer goes on exactly where anything but its end is more probable than this."
LABELS = "The only labels that the answer may use."
MAX_TEXT = 10_000
MAX_LABELS = 1_000
MAX_MARGIN = 100.0
MAX_FILTERS = 16


def ask_schema(task: Task, bare: bool = False) -> dict[str, Any]:
    """The JSON schema of an ask of this task; `bare`: without `task` itself, and nothing that may be left empty."""
    takes: dict[str, dict[str, Any]] = {}
    needs: list[str] = []
    open_labels = task.output_kind == "open_boxes" and task.input_kind == "text"
    if task.input_kind == "text":
        described = TEXT.get(task.storage_rule, "The text that the task takes.")
        text = {"type": "string", "minLength": 1, "maxLength": MAX_TEXT, "pattern": r"\S", "description": described}
        takes["text"] = text
        needs += [] if open_labels else ["text"]
    if task.input_kind == "region":
        number = {"type": "number", "minimum": -1e6, "maximum": 1e6}
        takes["region"] = {"type": "array", "items": number, "minItems": 4, "maxItems": 4, "description": REGION}
        needs.append("region")
    if task.output_kind in CLOSED:
        label = {"type": "string", "minLength": 1, "maxLength": 200, "pattern": r"\S"}
        bounds = {"minItems": int(bare), "maxItems": MAX_LABELS}
        kind = "array" if bare else ["array", "null"]
        takes["labels"] = {"type": kind, "items": label, **bounds, "description": LABELS}
    schema: dict[str, Any] = {
        "type": "object",
        "title": task.name,
        "description": f"{task.name} gives {GIVES[task.output_kind]}.",
        "properties": takes,
        "additionalProperties": False,
    }
    if not bare:
        empty = {"text": ["", None], "labels": [[], None], "region": [[], None]}
        unused = {name: {"enum": values} for name, values in empty.items() if name not in takes}
        schema["properties"] = {"task": {"enum": [task.name, task.token]}, **takes, **unused}
        needs.insert(0, "task")
    if needs:
        schema["required"] = needs
    if open_labels:
        schema["anyOf"] = [{"required": ["text"]}, {"required": ["labels"]}]
    return schema


def schemas(tasks: Mapping[str, Task], bare: bool = False) -> dict[str, dict[str, Any]]:
    """The schema of every task in a model's table, by its name."""
    return {task.name: ask_schema(task, bare) for task in tasks.values()}


def option_schemas(max_beams: int, max_tokens: int, filters: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The JSON schema of each option of decoding; `filters`: their names, each with what it leaves out."""
    names = [{"const": name, "description": says} for name, says in filters.items()]
    return {
        "min_score": {
            "type": "number",
            "minimum": 0,
            "maximum": 1,
            "default": 0,
            "description": "Items scored lower are left out.",
        },
        "num_beams": {
            "type": ["integer", "null"],
            "minimum": 1,
            "maximum": max_beams,
            "description": "Answers that the search follows at once.",
        },
        "max_new_tokens": {
            "type": ["integer", "null"],
            "minimum": 2,
            "maximum": max_tokens,
            "description": "The most tokens of an answer; then it is truncated.",
        },
        "margin": {
            "type": "number",
            "minimum": 0,
            "maximum": MAX_MARGIN,
            "default": 0,
            "description": MARGIN,
        },
        "filters": {
            "type": "array",
            "items": {"oneOf": names} if names else {"type": "string"},
            "maxItems": MAX_FILTERS,
            "default": [],
            "description": "Rules that leave regions out of the answer.",
        },
        "each_class": {"type": "boolean", "default": True, "description": EACH_CLASS},
        "more_above": {"type": ["number", "null"], "minimum": 0, "maximum": 1, "description": MORE_ABOVE},
    }


def checked_ask(
    tasks: Mapping[str, Task],
    task: str,
    text: str = "",
    labels: Sequence[str] = (),
    region: Sequence[float] = (),
    place: str = "",
) -> Ask:
    """The ask as a record; ServiceError 422 names the field, below `place` ("asks.0."), that is wrong."""
    names = ", ".join(one.name for one in tasks.values())
    for field, value in (("task", task), ("text", text), ("labels", "".join(labels))):
        if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
            raise invalid(place + field, f"{field}: holds half a character (a lone surrogate); send whole ones")
    if not task:
        raise invalid(f"{place}task", f"task: expected one of {names}; got none")
    try:
        row = task_of(task, tasks)
    except ValueError as error:
        raise invalid(f"{place}task", str(error)) from None
    if len(text) > MAX_TEXT:
        raise invalid(f"{place}text", f"text: expected at most {MAX_TEXT:,} letters, got {len(text):,}")
    if len(labels) > MAX_LABELS or any(not name.strip() or len(name) > 200 for name in labels):
        expected = f"labels: expected at most {MAX_LABELS:,} names of 1 to 200 letters"
        raise invalid(f"{place}labels", f"{expected}, got {list(labels)!r:.80}")
    if region and (len(region) != 4 or not all(math.isfinite(v) and abs(v) <= 1e6 for v in region)):
        raise invalid(f"{place}region", f"region: expected x1, y1, x2, y2 in pixels, got {list(region)!r:.80}")
    try:
        check_corners(region)
    except ValueError as error:
        raise invalid(f"{place}region", str(error)) from None
    ask = Ask(row.token, text=text, labels=tuple(labels), region=tuple(map(float, region)))
    if row.input_kind == "region" and not region:
        raise invalid(f"{place}region", f"{row.name}: expected region, x1, y1, x2, y2 in pixels, got none")
    if region and text:
        raise invalid(f"{place}text", f"{row.name}: takes a region and no text, got {text!r:.80}")
    try:
        prompt_text(ask, (1, 1), tasks)
    except ValueError as error:
        raise invalid(place + _field(row, ask), str(error)) from None
    return ask


def _field(task: Task, ask: Ask) -> str:
    """Which field `prompt_text` refuses."""
    if ask.labels and task.output_kind not in CLOSED:
        return "labels"
    return "region" if ask.region else "text"
