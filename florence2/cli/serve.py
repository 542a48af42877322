"""florence2 serve [MODEL] [--store STORE]: an HTTP server that can be put in front of others."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from florence2.serving.stop_signal import StopSignal

EXAMPLES = """examples:
  florence2 serve nano
  florence2 serve my_model --host 0.0.0.0 --port 80 --processes 2     # with FLORENCE2_API_KEY in the environment
  curl -F image=@photo.jpg -F task=OD http://127.0.0.1:8000/v1/predict

docs/serving.md says what is promised. SIGTERM or Ctrl-C answers what has come, then ends.
"""
KEY = "FLORENCE2_API_KEY"


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    out = argparse.ArgumentParser(
        prog="florence2 serve",
        description="Serve a model over HTTP: /v1/predict, the OpenAI chat form, metrics, and pages.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    out.add_argument("model", nargs="?", default="", metavar="MODEL", help="what florence2.load takes: nano, a folder")
    out.add_argument("--store", default="", metavar="STORE", help="a store to browse and correct")
    out.add_argument("--host", metavar="H", help="the address to listen on (default: 127.0.0.1, this machine only)")
    out.add_argument("--port", type=int, metavar="P", help="the port (default: 8000; 0: any free one)")
    out.add_argument("--api-key", action="append", metavar="KEY", help=f"asked of every client; also from {KEY}")
    out.add_argument("--allow-host", action="append", metavar="NAME", help="a name that the server is addressed by")
    out.add_argument("--allow-url", action="append", metavar="HOST", help="fetch pictures from this host (off)")
    limits = out.add_argument_group("limits")
    limits.add_argument("--queue", type=int, metavar="N", help="requests that may wait (default: 64); then 503")
    limits.add_argument("--timeout", type=float, metavar="S", help="seconds for a request (default: 60); then 504")
    limits.add_argument("--max-bytes", type=int, metavar="N", help="of a request (default: 32 MiB); then 413")
    limits.add_argument("--max-pixels", type=int, metavar="N", help="of a picture (default: 50,000,000)")
    limits.add_argument("--max-asks", type=int, metavar="N", help="tasks in a request (default: 16)")
    limits.add_argument("--max-tokens", type=int, metavar="N", help="of an answer (default: 1024)")
    limits.add_argument("--max-beams", type=int, metavar="N", help="of a search (default: 4)")
    speed = out.add_argument_group("speed")
    speed.add_argument("--batch-size", type=int, metavar="N", help="tasks decoded together (default: 8)")
    speed.add_argument("--cache-bytes", type=int, metavar="N", help="for pictures seen before (default: 256 MiB)")
    speed.add_argument("--processes", type=int, metavar="N", help="server processes behind the port (default: 1)")
    speed.add_argument(
        "--threads", type=int, metavar="N", help="of each model process (default: the processors shared)"
    )
    speed.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 (default: auto, a GPU if there is one)")
    speed.add_argument("--dtype", metavar="T", help="float32, float16 or bfloat16")
    speed.add_argument("--quantize", choices=("int8",), help="products in int8, on a CPU")
    speed.add_argument("--speed", choices=("exact", "fast"), default="exact", help="as florence2.load (default: exact)")
    return out


def main(argv: Sequence[str]) -> int:
    """Run the command."""
    args = parser().parse_args(argv)
    with StopSignal() as stop:
        return _serve(args, stop)


def _serve(args: argparse.Namespace, stop: StopSignal) -> int:
    keys = tuple(args.api_key or ()) or tuple(filter(None, [os.environ.get(KEY)]))
    from florence2.serving.server import serve, settings_of

    settings = settings_of(
        model=args.model,
        store=args.store,
        host=args.host,
        port=args.port,
        api_keys=keys,
        allowed_hosts=tuple(args.allow_host or ()),
        url_hosts=tuple(args.allow_url or ()),
        queue=args.queue,
        timeout_s=args.timeout,
        max_bytes=args.max_bytes,
        max_pixels=args.max_pixels,
        max_asks=args.max_asks,
        max_tokens=args.max_tokens,
        max_beams=args.max_beams,
        batch_size=args.batch_size,
        cache_bytes=args.cache_bytes,
        processes=args.processes,
        threads=args.threads,
        device=args.device,
        dtype=args.dtype,
        quantize=args.quantize,
        speed=args.speed,
    )
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(name)s: %(message)s")
    if not settings.is_local and not settings.api_keys:
        print(
            f"florence2 serve: {settings.host} is reachable by others and asks for no key; set {KEY}", file=sys.stderr
        )
    if stop.came:
        return 0
    return serve(
        settings, stop, lambda address: print(f"florence2 serve: listening on {address}", file=sys.stderr, flush=True)
    )
