"""The command table: every command opens, helps, and fails in one line with the right exit code."""

import pytest

import florence2
from florence2.cli import COMMANDS, LATER, main


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
        (["plan"], 2, "not built yet"),
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


@pytest.mark.parametrize("name", LATER)
def test_planned_commands_are_refused_in_one_line(name, capsys):
    assert main([name]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("name", [n for n in dir(florence2) if not n.startswith("_")])
def test_every_public_name_opens(name):
    assert getattr(florence2, name) is not None
