"""The MCP server: a tool a task over standard input and output, answers small enough for a language model to read.

The tools' schemas are those of `task_schemas`, with the picture beside them. Pictures are files of this machine, or
data URLs; addresses are not fetched. Answers are whole numbers of pixels and short scores, and bounded: what is left
out is counted. Nothing but the protocol is written to standard output.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
from mcp import types
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server

from florence2 import __version__, geometry, pixels
from florence2.codec.tasks import Task
from florence2.pixels import BadImage
from florence2.predictor import Answer, Florence2
from florence2.predictor.batch import EncodedImage
from florence2.records import Region
from florence2.serving.refusals import ServiceError
from florence2.serving.task_schemas import ask_schema, checked_ask
from florence2.serving.worker import EncodedImageCache

MAX_ITEMS = 50  # boxes, lines of text or outlines in one answer
MAX_POINTS = 40  # of one outline
SHOWN = 200  # letters of a path in an error
MAX_LETTERS = 4_000  # of one text
MAX_BYTES = 64 << 20
CACHE_BYTES = 64 << 20
IMAGE = "The picture: the path of a file on this machine, or a data URL (data:image/png;base64,...)."
ABOUT = (
    "Florence-2 looks at pictures: captions, objects, text, regions, outlines. Boxes are x1, y1, x2, y2 in pixels of "
    "the upright picture from its top left corner; scores lie in 0 to 1."
)


@dataclass(frozen=True)
class Tools:
    """The tasks of a model as tools."""

    model: Florence2
    cache: EncodedImageCache
    roots: tuple[Path, ...] = ()
    """Where pictures may lie; anywhere if there are none."""

    def listed(self) -> list[types.Tool]:
        """One tool a task."""
        return [self._tool(task) for task in self.model.tasks.values()]

    def call(self, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """A tool's answer; ValueError says in one line what was wrong with the call."""
        tasks = {tool_name(task): task for task in self.model.tasks.values()}
        if name not in tasks:
            raise ValueError(f"tool {name!r:.60}: unknown; expected one of {', '.join(tasks)}")
        given = {key: value for key, value in arguments.items() if value is not None}
        schema = self._tool(tasks[name]).input_schema
        _check(given, schema)
        fields = {key: given[key] for key in ("text", "labels", "region") if key in given}
        try:
            ask = checked_ask(self.model.tasks, tasks[name].token, **fields)
        except ServiceError as error:
            raise ValueError(error.message) from None
        answer = self.model.predict(self._encoded(given["image"]), ask, min_score=given.get("min_score", 0.0))
        return compact(answer, given.get("max_items", MAX_ITEMS))

    def _tool(self, task: Task) -> types.Tool:
        schema = ask_schema(task, bare=True)
        about = schema.pop("description")
        own = {
            "image": {"type": "string", "minLength": 1, "description": IMAGE},
            **schema["properties"],
            "min_score": {"type": "number", "minimum": 0, "maximum": 1, "description": "Leave out what scores lower."},
            "max_items": {"type": "integer", "minimum": 1, "maximum": 500, "description": f"Default {MAX_ITEMS}."},
        }
        schema |= {"properties": own, "required": ["image", *schema.get("required", [])]}
        hints = types.ToolAnnotations(read_only_hint=True, open_world_hint=False)
        return types.Tool(name=tool_name(task), description=about, input_schema=schema, annotations=hints)

    def _encoded(self, image: str) -> EncodedImage:
        """A picture's features; those of the last pictures are kept."""
        data = self._bytes(image)
        key = hashlib.blake2b(data, digest_size=16).hexdigest()
        known = self.cache.get(key)
        if known is None:
            if pixels.holds_more(data, "image"):
                raise ValueError("image: holds several frames or pages; give one of them")
            known = self.model.encode_image(data)
            self.cache.put(key, known)
        return known

    def _bytes(self, image: str) -> bytes:
        if image.startswith("data:"):
            try:
                return base64.b64decode(image.partition(",")[2], validate=True)
            except (binascii.Error, ValueError):
                raise ValueError("image: the data URL holds no base64; expected data:image/png;base64,...") from None
        if "://" in image:
            raise ValueError("image: addresses are not fetched; give the path of a file, or a data URL")
        shown = image if len(image) <= SHOWN else f"{image[:SHOWN]}..."
        try:
            real = Path(image).expanduser().resolve()
            is_file = real.is_file()
        except (OSError, ValueError, RuntimeError):  # too long, a zero byte, an unknown user's home
            raise ValueError(f"image: is no path ({shown!r}); expected one, or data:image/png;base64,...") from None
        if self.roots and not any(real.is_relative_to(root) for root in self.roots):
            raise ValueError(f"image: {shown} lies outside of {', '.join(map(str, self.roots))}")
        if not is_file:
            raise ValueError(f"image: {shown} is no file; expected the path of a picture")
        if real.stat().st_size > MAX_BYTES:
            raise ValueError(f"image: {shown} is larger than {MAX_BYTES >> 20} MiB")
        return real.read_bytes()


def tool_name(task: Task) -> str:
    """A task's name as tools are written."""
    return task.name.lower()


def compact(answer: Answer, max_items: int = MAX_ITEMS) -> dict[str, Any]:
    """An answer in few letters: the size of the picture, texts, and items with places in whole pixels, best first."""
    labels = dict(zip((region.id for region in answer.boxed), answer.labels.tolist()))
    regions = list(answer.regions)
    if answer.row is None or answer.row.output_kind != "quads":  # lines of text stay in reading order
        regions.sort(key=lambda region: -(region.score or 0.0))
    out: dict[str, Any] = {"size": list(answer.size_wh)}
    texts = [text.text for text in answer.texts]
    if texts:
        whole = "\n".join(texts)
        out["text"] = whole[:MAX_LETTERS] + (" ..." if len(whole) > MAX_LETTERS else "")
    if regions or not texts:
        out["items"] = [_item(region, labels.get(region.id, region.label)) for region in regions[:max_items]]
    if len(regions) > max_items:
        out["left_out"] = len(regions) - max_items
    if answer.truncated:
        out["cut"] = "the limit of tokens was reached"
    return out


def serve(model: Florence2, roots: Sequence[str] = ()) -> int:
    """Answer over standard input and output until it is closed."""
    tools = Tools(model, EncodedImageCache(CACHE_BYTES), tuple(Path(root).expanduser().resolve() for root in roots))
    with contextlib.suppress(KeyboardInterrupt):
        anyio.run(_run, tools)
    return 0


async def _run(tools: Tools) -> None:
    server = server_of(tools)
    async with stdio_server() as (reading, writing):
        with contextlib.redirect_stdout(sys.stderr):  # what a library prints is no protocol
            await server.run(reading, writing, server.create_initialization_options())


def server_of(tools: Tools) -> Server[Any]:
    """The protocol's side of the tools; the model answers one call at a time, in a thread."""
    one = anyio.CapacityLimiter(1)

    async def listed(context: Any, params: Any) -> types.ListToolsResult:
        return types.ListToolsResult(tools=tools.listed())

    async def called(context: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
        try:
            found = await anyio.to_thread.run_sync(tools.call, params.name, params.arguments or {}, limiter=one)
        except (ValueError, OSError) as error:
            detail = f"image: {error.detail}" if isinstance(error, BadImage) else " ".join(str(error).split())
            return types.CallToolResult(content=[types.TextContent(type="text", text=detail[:1000])], is_error=True)
        text = json.dumps(found, ensure_ascii=False, separators=(",", ":"))
        return types.CallToolResult(content=[types.TextContent(type="text", text=text)], structured_content=found)

    return Server("florence2", version=__version__, instructions=ABOUT, on_list_tools=listed, on_call_tool=called)


def _item(region: Region, label: str) -> dict[str, Any]:
    out: dict[str, Any] = {"label": label[:MAX_LETTERS]} if label else {}
    if region.polygons:
        out["outlines"] = [_points(polygon) for polygon in region.polygons]
    elif region.quad:
        out["quad"] = [round(value) for value in region.quad]
    box = geometry.region_box(region)
    if box is not None and not region.quad:
        out["box"] = [round(value) for value in box]
    if region.score is not None:
        out["score"] = round(region.score, 2)
    return out


def _points(polygon: Sequence[float]) -> list[int]:
    """An outline in whole pixels, evenly thinned to the most points that are given."""
    pairs = [(round(x), round(y)) for x, y in zip(polygon[::2], polygon[1::2])]
    if len(pairs) > MAX_POINTS:
        pairs = [pairs[place * len(pairs) // MAX_POINTS] for place in range(MAX_POINTS)]
    return [value for pair in pairs for value in pair]


_KINDS: dict[str, tuple[type, ...]] = {"string": (str,), "number": (int, float), "integer": (int,), "array": (list,)}


def _check(given: Mapping[str, Any], schema: Mapping[str, Any]) -> None:
    """Refuse unknown, missing and ill-typed arguments, by the tool's own schema."""
    known = schema["properties"]
    unknown = [name for name in given if name not in known]
    if unknown:
        raise ValueError(f"{unknown[0]:.60}: unknown argument; expected {', '.join(known)}")
    absent = [name for name in schema["required"] if name not in given]
    if absent:
        raise ValueError(f"{absent[0]}: is missing; {known[absent[0]]['description']}")
    for name, value in given.items():
        _check_value(name, value, known[name])


def _check_value(name: str, value: Any, schema: Mapping[str, Any]) -> None:
    kind = schema["type"]
    if isinstance(value, bool) or not isinstance(value, _KINDS[kind]):
        raise ValueError(f"{name}: expected {kind}, got {value!r:.60}")
    if isinstance(value, (int, float)) and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        raise ValueError(f"{name}: expected {schema['minimum']} to {schema['maximum']}, got {value}")
    if isinstance(value, list):
        for one in value:
            _check_value(name, one, schema["items"])
