"""The command line: a module a command, each with `main(argv) -> int`, opened by name in `entry`."""

from florence2.cli.entry import COMMANDS, main, script

__all__ = ["COMMANDS", "main", "script"]
