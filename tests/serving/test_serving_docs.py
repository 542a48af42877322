"""docs/serving.md: its commands parse, the tests it names are there, its examples use what there is."""

import ast
import json
import re
import shlex
from pathlib import Path

import pytest

import florence2
from florence2.cli import mcp, serve
from florence2.serving.settings import Settings

HERE = Path(__file__).parent
TEXT = (HERE.parent.parent / "docs" / "serving.md").read_text(encoding="utf-8")


def blocks(kind):
    return re.findall(rf"```{kind}\n(.*?)```", TEXT, re.S)


def test_the_promises_name_tests_that_are_there():
    named = set(re.findall(r"`(test_\w+)`", TEXT))
    there = set(re.findall(r"^def (test_\w+)", "\n".join(p.read_text() for p in HERE.glob("test_*.py")), re.M))
    assert len(named) > 20 and named <= there, named - there


def test_commands_and_options_are_there():
    for line in re.findall(r"^florence2 serve (.*)$", "\n".join(blocks("sh")), re.M):
        serve.parser().parse_args(shlex.split(line.partition("#")[0]))
    options = re.search(r"^\* `(--queue.*?)`", TEXT, re.M)[1]
    given = vars(serve.parser().parse_args(["nano", *shlex.split(options)]))
    shown = {name: given[name] for name in ("queue", "max_bytes", "max_pixels", "max_asks", "max_tokens", "max_beams")}
    defaults = Settings(model="nano")
    assert shown == {name: getattr(defaults, name) for name in shown} and given["timeout"] == defaults.timeout_s
    known = serve.parser().format_help()
    assert all(option in known or option in mcp.parser().format_help() for option in OPTIONS), OPTIONS


OPTIONS = sorted(set(re.findall(r"`(--[a-z-]+)", TEXT)) - {"--init"})


def test_the_container_starts_a_command_that_parses():
    (text,) = blocks("dockerfile")
    entry, command = (json.loads(re.search(rf"^{word} (\[.*\])$", text, re.M)[1]) for word in ("ENTRYPOINT", "CMD"))
    assert entry == ["florence2", "serve"]
    args = serve.parser().parse_args(command)
    assert (args.model, args.host) == ("nano", "0.0.0.0")
    pyproject = (HERE.parent.parent / "pyproject.toml").read_text()
    for extra in re.findall(r"\[(\w+)\]\"", text):
        assert f"\n{extra} = [" in pyproject
    torch = re.search(r'"(torch[^"]*)"', text)[1]
    assert torch in pyproject


def test_the_ray_example_uses_what_there_is():
    (code,) = [block for block in blocks("python") if "ray" in block]
    tree = ast.parse(code)
    attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    used = {node.attr for node in attributes if ast.unparse(node.value) == "self.model"}
    assert used == {"answer", "request"} and all(hasattr(florence2.Florence2, name) for name in used)
    assert hasattr(florence2, "Failure")
    (batched,) = [node for node in ast.walk(tree) if getattr(node, "name", "") == "answer"]
    assert "self.model.request" not in ast.unparse(batched)  # one bad ask there would end the whole batch


def test_a_bad_ask_of_the_ray_example_is_refused_before_its_batch(nano, scene):
    for task in ("NO_SUCH", "VQA", "REGION_TO_CATEGORY"):
        with pytest.raises(ValueError):
            nano.request(scene, [f"<{task}>"])
    found, none = nano.answer([nano.request(scene, ["<OD>"]), nano.request(b"no picture", ["<OD>"])])
    assert found[0].regions and isinstance(none[0], florence2.Failure)


def test_the_mcp_example_is_json():
    (text,) = blocks("json")
    args = json.loads(text)["mcpServers"]["florence2"]["args"]
    assert mcp.parser().parse_args(args[1:]).model == "nano"


@pytest.mark.parametrize(
    "path", ["/v1/predict", "/v1/chat/completions", "/v1/models", "/v1/tasks", "/readyz", "/metrics"]
)
def test_the_routes_are_there(server, path):
    import httpx

    assert path in TEXT and path in httpx.get(server.url + "/openapi.json").json()["paths"]
