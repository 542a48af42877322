"""florence2 view STORE: look through a store in the browser, and correct it; `serve --store STORE` without a model."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from florence2.cli import serve

EPILOG = """\
examples:
  florence2 view my_store                        # then open http://127.0.0.1:8000
  florence2 serve my_model --store my_store      # the same with a model that helps to draw

Corrections stand in the store at once, under your name; docs/correcting.md has the keys. Ctrl-C ends it.
"""


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    out = argparse.ArgumentParser(
        "florence2 view", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    out.add_argument("store", metavar="STORE", help="the store's folder")
    out.add_argument("--host", metavar="H", help="the address to listen on (default: 127.0.0.1, this machine only)")
    out.add_argument("--port", type=int, metavar="P", help="the port (default: 8000; 0: any free one)")
    out.add_argument("--api-key", action="append", metavar="KEY", help=f"asked of every client; also from {serve.KEY}")
    return out


def main(argv: Sequence[str]) -> int:
    """Run the command."""
    args = parser().parse_args(argv)
    given = [("--host", args.host), ("--port", args.port), *(("--api-key", key) for key in args.api_key or ())]
    return serve.main([f"--store={args.store}", *(f"{name}={value}" for name, value in given if value is not None)])
