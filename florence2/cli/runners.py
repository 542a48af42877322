"""What the commands that run jobs share: on which workers."""

from __future__ import annotations

import argparse
from typing import Any


def add_runner(parser: argparse.ArgumentParser, workers: str) -> None:
    """The options that name the runner."""
    parser.add_argument("--workers", type=int, metavar="N", help=workers)
    parser.add_argument(
        "--runner",
        choices=("local", "ray"),
        default="local",
        help="processes of this machine, or actors of Ray (local)",
    )
    parser.add_argument(
        "--ray-address",
        metavar="A",
        help="with --runner ray: the cluster, HOST:PORT or auto; else RAY_ADDRESS, else a Ray of the command's own",
    )


def runner_of(args: argparse.Namespace) -> dict[str, Any]:
    """These options as the commands' twins take them."""
    return {"workers": args.workers, "runner": args.runner, "ray_address": args.ray_address}
