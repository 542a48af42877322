"""`--trust`, of every command that may run a Python file which a store names."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Give a command the option."""
    parser.add_argument(
        "--trust", action="store_true",
        help="allow the Python files that this store names, now and later (else those you named for it yourself)",
    )  # fmt: skip


def trusted(args: argparse.Namespace, store: str, on_message: Callable[[str], None]) -> None:
    """Remember the store as trusted, where the option was given."""
    if args.trust:
        from florence2.engine import trust

        trust.allow(store, on_message)
