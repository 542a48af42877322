"""`florence2 mcp` asked by the official client: over standard input and output, and in this process."""

import asyncio
import base64
import json
import os
import sys

import numpy as np
import pytest
from mcp import Client, StdioServerParameters
from PIL import Image

import florence2
from florence2 import cli
from florence2.cli import extras
from florence2.codec.tasks import known_tasks
from florence2.pixels import encode
from florence2.predictor.answer import answer_of
from florence2.records import Ask, Parsed, Region, Text
from florence2.serving.mcp_server import Tools, compact, server_of
from florence2.serving.worker import EncodedImageCache
from tests.serving.running import ROOT
from tests.test_extras import requirements


@pytest.fixture(scope="module")
def picture(tmp_path_factory, scene):
    path = tmp_path_factory.mktemp("pictures") / "scene.png"
    path.write_bytes(scene)
    return str(path)


@pytest.fixture
def tools(nano):
    return Tools(nano, EncodedImageCache(1 << 20))


def call(tools, name, **arguments):
    async def main():
        async with Client(server_of(tools)) as client:
            return await client.call_tool(name, arguments)

    return asyncio.run(main())


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_over_standard_input_and_output(picture, nano, mode):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = ["-m", "florence2", "mcp", "nano", "--root", os.path.dirname(picture)]

    async def main():
        server = StdioServerParameters(command=sys.executable, args=command, env=env, cwd=str(ROOT))
        async with Client(server, mode=mode, read_timeout_seconds=90) as client:
            listed = (await client.list_tools()).tools
            found = await client.call_tool("od", {"image": picture})
            outside = await client.call_tool("od", {"image": __file__})
        return listed, found, outside

    listed, found, outside = asyncio.run(main())
    assert [tool.name for tool in listed] == [task.name.lower() for task in known_tasks().values()]
    assert not found.is_error and json.loads(found.content[0].text) == found.structured_content
    alone = nano.predict(picture, "<OD>")
    items = found.structured_content["items"]
    assert sorted(item["label"] for item in items) == sorted(alone.labels.tolist())
    assert [item["score"] for item in items] == sorted((item["score"] for item in items), reverse=True)
    assert outside.is_error and "outside of" in outside.content[0].text


def test_each_tool_has_the_schema_of_its_task(tools):
    listed = {tool.name: tool for tool in tools.listed()}
    for task in known_tasks().values():
        schema = listed[task.name.lower()].input_schema
        assert schema["type"] == "object" and schema["required"][0] == "image" and not schema["additionalProperties"]
        assert ("region" in schema["required"]) == (task.input_kind == "region")
        assert "task" not in schema["properties"] and listed[task.name.lower()].description
    assert len(json.dumps([tool.model_dump(mode="json") for tool in listed.values()])) < 20_000


@pytest.mark.parametrize("task", [task for task in known_tasks().values()], ids=lambda task: task.name)
def test_every_task_answers_in_few_letters(tools, nano, picture, task):
    given = {"text": {"text": "a fish"}, "region": {"region": [233, 14, 329, 104]}, "": {}}[task.input_kind]
    found = call(tools, task.name.lower(), image=picture, **given)
    assert not found.is_error, found.content[0].text
    assert len(found.content[0].text) < 3000 and found.structured_content["size"] == [384, 384]
    alone = nano.predict(picture, Ask(task.token, **{k: tuple(v) if k == "region" else v for k, v in given.items()}))
    if alone.texts:
        assert found.structured_content["text"] == "\n".join(text.text for text in alone.texts)
    else:
        assert len(found.structured_content["items"]) == len(alone.regions)


def test_a_data_url_and_labels_and_a_score(tools, scene, nano):
    url = "data:image/png;base64," + base64.b64encode(scene).decode()
    found = call(tools, "od", image=url, labels=["fish"]).structured_content
    assert [item["label"] for item in found["items"]] == nano.predict(scene, "<OD>", labels=["fish"]).labels.tolist()
    every = call(tools, "od", image=url).structured_content["items"]
    assert call(tools, "od", image=url, max_items=1).structured_content == {
        "size": [384, 384],
        "items": every[:1],
        "left_out": len(every) - 1,
    }
    assert call(tools, "od", image=url, min_score=1.0).structured_content["items"] == []


WRONG = [
    ("od", {}, "image: is missing"),
    ("no_such", {"image": "x"}, "unknown; expected one of"),
    ("od", {"image": "/nowhere/a.png"}, "is no file"),
    ("od", {"image": "https://example.org/a.png"}, "not fetched"),
    ("od", {"image": "data:image/png;base64,!"}, "no base64"),
    ("od", {"image": 7}, "image: expected string"),
    ("od", {"image": __file__}, "image: is not a picture"),
    ("od", {"image": "a\0b.png"}, "image: is no path"),
    ("od", {"image": "iVBORw0K" * 20_000}, "image: is no path"),  # base64 that is no data URL
    ("od", {"image": "iVBORw0K/" * 20_000}, "image: is no path"),
    ("od", {"image": "~nobody_here/a.png"}, "image: is no path"),
    ("od", {"image": "/nowhere/" + "a" * 240 + "/" + "b" * 240}, "is no file"),
    ("od", {"image": "{picture}", "text": "cat"}, "text: unknown argument"),
    ("vqa", {"image": "{picture}"}, "text: is missing"),
    ("vqa", {"image": "{picture}", "text": " "}, "expected a text"),
    ("region_to_ocr", {"image": "{picture}", "region": [1, 2, 3]}, "region: expected x1, y1, x2, y2"),
    ("region_to_ocr", {"image": "{picture}", "region": ["a", 2, 3, 4]}, "region: expected number"),
    ("region_to_ocr", {"image": "{picture}", "region": [90, 9, 9, 99]}, "x1 <= x2"),
    ("region_to_ocr", {"image": "{picture}", "region": [900, 900, 950, 950]}, "lies outside the picture"),
    ("od", {"image": "{picture}", "min_score": 2}, "min_score: expected 0 to 1"),
    ("od", {"image": "{picture}", "max_items": True}, "max_items: expected integer"),
]


@pytest.mark.parametrize(("name", "arguments", "word"), WRONG)
def test_a_wrong_call_is_said_in_one_line(tools, picture, name, arguments, word):
    arguments = {key: picture if value == "{picture}" else value for key, value in arguments.items()}
    found = call(tools, name, **arguments)
    text = found.content[0].text
    assert found.is_error and word in text and "\n" not in text and "Traceback" not in text
    assert len(text) < 500


def test_a_picture_of_several_frames_is_refused(tools, tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    found = call(tools, "od", image=str(tmp_path / "two.gif"))
    assert found.is_error and "image: holds several frames" in found.content[0].text


def test_a_link_out_of_the_root_is_refused(nano, picture, tmp_path):
    (tmp_path / "link.png").symlink_to(picture)
    tools = Tools(nano, EncodedImageCache(0), (tmp_path.resolve(),))
    assert call(tools, "od", image=str(tmp_path / "link.png")).is_error
    (tmp_path / "own.png").write_bytes(encode(np.zeros((8, 8, 3), np.uint8)))
    assert not call(tools, "od", image=str(tmp_path / "own.png")).is_error


def test_long_answers_are_bounded():
    outline = tuple(float(value) for value in range(600))
    regions = tuple(Region(f"r{n}", label=f"thing {n}", polygons=(outline,), score=n / 100) for n in range(99))
    found = compact(answer_of(Parsed(regions=regions, texts=(Text("t", "word " * 5000),)), size_wh=(640, 480)))
    assert len(found["items"]) == 50 and found["left_out"] == 49 and found["items"][0]["label"] == "thing 98"
    assert len(found["items"][0]["outlines"][0]) == 80 and len(found["text"]) <= 4004


@pytest.fixture
def not_imported():
    """florence2.serving as if nothing had imported it; afterwards all is as before, also what the package names."""

    def take():
        return {name: sys.modules.pop(name) for name in list(sys.modules) if name.startswith("florence2.serving")}

    before = take()
    yield
    take()
    sys.modules.update(before)
    florence2.serving = before["florence2.serving"]  # the import of a package names it in the one above


def test_a_missing_library_is_named(monkeypatch, capsys, not_imported):
    monkeypatch.setattr(extras, "_own", requirements)
    monkeypatch.setitem(sys.modules, "mcp", None)
    assert cli.main(["mcp", "nano"]) == 1
    assert "florence2[mcp]" in capsys.readouterr().err


def test_a_missing_web_library_is_named(monkeypatch, capsys, not_imported):
    monkeypatch.setattr(extras, "_own", requirements)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert cli.main(["serve", "nano"]) == 1
    assert "florence2[serve]" in capsys.readouterr().err
