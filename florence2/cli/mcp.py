"""florence2 mcp MODEL: the model's tasks as tools of the Model Context Protocol, over standard input and output."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

EXAMPLES = """a client starts it, for instance by

  {"mcpServers": {"florence2": {"command": "florence2", "args": ["mcp", "nano", "--root", "/home/me/pictures"]}}}

A tool a task: caption, od, ocr_with_region, open_vocabulary_detection ... Each takes `image`, the path of a file or a
data URL; answers are short JSON.
"""


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    out = argparse.ArgumentParser(
        prog="florence2 mcp",
        description="Serve a model to language models: an MCP server over standard input and output.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    out.add_argument("model", metavar="MODEL", help="what florence2.load takes: nano, a folder, a hub id")
    out.add_argument("--root", action="append", default=[], metavar="FOLDER", help="only pictures below it")
    out.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 (default: auto, a GPU if there is one)")
    out.add_argument("--threads", type=int, metavar="N", help="of the model (default: torch's own)")
    return out


def main(argv: Sequence[str]) -> int:
    """Run the command."""
    args = parser().parse_args(argv)
    from florence2.predictor import load
    from florence2.serving.mcp_server import serve

    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(name)s: %(message)s")
    return serve(load(args.model, device=args.device, threads=args.threads), args.root)
