"""The command table: every command opens, helps, and fails in one line with the right exit code."""

import importlib
import inspect
from pathlib import Path

import pytest

import florence2
from florence2.cli import COMMANDS, main

PROJECT = Path(__file__).parent.parent / "pyproject.toml"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name, capsys):
    try:
        code = main([name, "--help"])
    except SystemExit as stop:
        code = stop.code
    assert code == 0
    assert "usage" in capsys.readouterr().out.lower()


@pytest.mark.parametrize(
    ("argv", "code", "word"),
    [
        ([], 2, ""),
        (["--help"], 0, ""),
        (["nonsense"], 2, "nonsense"),
        (["plan", "--images", "0.5"], 1, "--images 0.5"),
        (["serve"], 1, "MODEL"),
        (["verify", "/nowhere/at/all"], 1, "/nowhere/at/all"),  # a missing store is named
        (["predict", "/nowhere.jpg", "--task", "OD"], 1, "/nowhere.jpg"),
        (["predict", "x.jpg", "--task", "NO_SUCH_TASK"], 1, "NO_SUCH_TASK"),
    ],
)
def test_exit_codes(argv, code, word, capsys):
    assert main(argv) == code
    err = capsys.readouterr().err
    assert word in err
    assert err.count("\n") <= 1


def test_the_command_is_named_once(capsys):
    assert main(["serve"]) == 1
    assert capsys.readouterr().err.startswith("florence2 serve: expected a MODEL")


CLASSES = {
    "Answer", "Ask", "BadImage", "Coverage", "Decision", "Failure", "Florence2", "Grounding", "ImageRef", "Parsed",
    "Region", "Rle", "Sample", "Source", "Store", "Text",
}  # fmt: skip
FUNCTIONS = {"annotate", "evaluate", "filter", "load", "parse", "refine", "register", "render", "train"}


def test_public_names_are_those_of_the_contract():
    assert set(florence2.__all__) == {*CLASSES, *FUNCTIONS, "TASKS", "__version__"}
    assert set(florence2.__all__) | set(florence2._ROOMS) == set(dir(florence2))
    assert f'\nversion = "{florence2.__version__}"\n' in PROJECT.read_text(encoding="utf-8")
    with pytest.raises(AttributeError, match="no attribute 'predict_all'"):
        florence2.predict_all()


@pytest.mark.parametrize("name", sorted(CLASSES | FUNCTIONS))
def test_a_public_name_opens_what_has_that_name_and_says_what_it_is(name):
    value = getattr(florence2, name)
    assert inspect.isclass(value) == (name in CLASSES) and inspect.isfunction(value) == (name in FUNCTIONS)
    assert value.__name__ == name and value.__module__.startswith("florence2")
    assert value.__doc__ and not value.__doc__.startswith(f"{name}(")  # a dataclass without a docstring has that


@pytest.mark.parametrize("name", florence2._ROOMS)
def test_a_room_is_reached_as_an_attribute(name):
    assert getattr(florence2, name) is importlib.import_module(f"florence2.{name}")
