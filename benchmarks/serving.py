"""The server under load: its rate beside `predict_many`, wrong answers, times under overload, memory over time.

python -m benchmarks.serving [--quick] [--only rate,right,overload,soak] [--model nano] [--threads 1]

rate: so many distinct pictures, each asked about once by `--clients` connections that never wait (features are not
kept); runs alternate with `predict_many` over the same pictures at the same batch and threads, and processor seconds of
the two processes that compute are beside them. The clients run in this process: give the machine a core for the model
and one for the rest. right: mixed tasks about mixed pictures, each answer compared with that of an unbatched call
(tokens and places equal, scores within 1e-4). overload: requests arrive at three times the measured rate; a request is
answered or refused at once. soak: memory of the server processes over time.
"""

import argparse
import asyncio
import base64
import json
import math
import os
import random
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

import florence2
from florence2.pixels import encode
from florence2.predictor import Answer
from florence2.records import Ask
from florence2.scenes import draw
from tests.serving.running import RunningServer

PARTS = ("rate", "right", "overload", "soak")
TASKS = ("OD", "CAPTION", "OCR", "REGION_PROPOSAL", "DENSE_REGION_CAPTION")
CLOSE = 1e-4
Response = tuple[int, bytes, float]  # status, body, seconds


class Connection:
    """One client that keeps its connection, opened again where the server closed it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.writer: asyncio.StreamWriter | None = None

    async def ask(self, request: bytes) -> Response:
        start = time.perf_counter()
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writer.write(request)
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = int(head.partition("content-length:")[2].partition("\r\n")[0])
        body = await self.reader.readexactly(length)
        if "connection: close" in head:
            self.close()
        return int(head.split(" ", 2)[1]), body, time.perf_counter() - start

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
            self.writer = None


def request(picture: bytes, asks: Sequence[dict]) -> bytes:
    """A whole HTTP request."""
    body = json.dumps({"image": base64.b64encode(picture).decode(), "asks": asks}).encode()
    return head_of(body) + body


def head_of(body: bytes) -> bytes:
    """The head of a request with this JSON body."""
    lines = ("POST /v1/predict HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json")
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode()


def pictures(count: int, first: int = 2**31 + 10_000) -> list[bytes]:
    """Drawn pictures as PNG, none of them in any training."""
    return [encode(draw(first + number, objects=(1, 4))[0]) for number in range(count)]


async def all_at_once(port: int, requests: Sequence[bytes], clients: int) -> list[Response]:
    """Every request answered, by clients that send the next as soon as they have an answer."""
    answers: list[Response] = [(0, b"", 0.0)] * len(requests)
    todo = iter(range(len(requests)))

    async def client() -> None:
        connection = Connection(port)
        for number in todo:
            answers[number] = await connection.ask(requests[number])
        connection.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return answers


def rate(args: argparse.Namespace) -> dict[str, object]:
    count = 60 if args.quick else 400
    files = pictures(count)
    requests = [request(picture, [{"task": "OD"}]) for picture in files]
    model = florence2.load(args.model)
    torch.set_num_threads(args.threads)
    ratios, cpu_ratios, server_s, alone_s = [], [], [], []
    options = ("--threads", str(args.threads), "--batch-size", str(args.batch), "--cache-bytes", "0", "--queue", "1000")
    with RunningServer(args.model, *options) as server:
        server.wait_ready()
        asyncio.run(all_at_once(server.port, requests[:20], args.clients))
        list(model.predict_many(files[:20], "<OD>", batch_size=args.batch))
        for _ in range(3 if args.quick else args.pairs):
            start, cpu = time.perf_counter(), time.process_time()
            list(model.predict_many(files, "<OD>", batch_size=args.batch))
            middle, cpu = time.perf_counter(), time.process_time() - cpu
            worker_cpu = processor_s(server.worker_pids())
            answers = asyncio.run(all_at_once(server.port, requests, args.clients))
            end, worker_cpu = time.perf_counter(), processor_s(server.worker_pids()) - worker_cpu
            assert all(status == 200 for status, _, _ in answers), Counter(answer[0] for answer in answers)
            alone_s.append(middle - start)
            server_s.append(end - middle)
            ratios.append(alone_s[-1] / server_s[-1])
            cpu_ratios.append(cpu / worker_cpu)
    return {
        "pictures": count,
        "of_predict_many": round(statistics.median(ratios), 3),
        "of_predict_many_runs": [round(ratio, 3) for ratio in ratios],
        "in_processor_s": round(statistics.median(cpu_ratios), 3),
        "requests_per_s": round(count / min(server_s), 1),
        "predict_many_per_s": round(count / min(alone_s), 1),
    }


def processor_s(pids: Sequence[int]) -> float:
    """Processor seconds that processes have used."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(one[11]) + int(one[12]) for one in fields) / os.sysconf("SC_CLK_TCK")


def mixed(count: int, files: Sequence[bytes], seed: int) -> list[tuple[int, dict]]:
    """(picture's place, ask) of so many requests, of every kind of input."""
    rng = random.Random(seed)
    words = ("fish", "a red star", "the umbrella", "text", "a large green square")
    found = []
    for _ in range(count):
        kind = rng.random()
        if kind < 0.6:
            ask: dict = {"task": rng.choice(TASKS)}
        elif kind < 0.7:
            ask = {"task": "OD", "labels": rng.sample(["fish", "star", "umbrella", "crescent", "cat"], 2)}
        elif kind < 0.85:
            ask = {
                "task": rng.choice(["OPEN_VOCABULARY_DETECTION", "CAPTION_TO_PHRASE_GROUNDING"]),
                "text": rng.choice(words),
            }
        else:
            x, y = rng.randrange(80), rng.randrange(80)
            ask = {
                "task": rng.choice(["REGION_TO_CATEGORY", "REGION_TO_DESCRIPTION"]),
                "region": [x, y, x + 40, y + 40],
            }
        found.append((rng.randrange(len(files)), ask))
    return found


def same(found: dict, alone: Answer) -> bool:
    """Whether a served answer is that of an unbatched call, but for rounding in scores."""
    expected = json.loads(json.dumps(alone.to_json()))
    for items, number in {"texts": "score", "regions": "score", "groundings": "score", "decisions": "value"}.items():
        for one, other in zip(found.get(items, []), expected.get(items, [])):
            if not math.isclose(one.pop(number, 0.0), other.pop(number, 0.0), abs_tol=CLOSE):
                return False
    pairs = zip(found.pop("token_logprobs"), expected.pop("token_logprobs"))
    return all(math.isclose(a, b, abs_tol=CLOSE) for a, b in pairs) and found == expected


def right(args: argparse.Namespace) -> dict[str, object]:
    count, files = (300, pictures(20)) if args.quick else (args.requests, pictures(200))
    asked = mixed(count, files, args.seed)
    requests = [request(files[place], [ask]) for place, ask in asked]
    with RunningServer(args.model, "--threads", str(args.threads), "--queue", "1000") as server:
        server.wait_ready()
        answers = asyncio.run(all_at_once(server.port, requests, args.clients))
    model = florence2.load(args.model)
    torch.set_num_threads(args.threads)
    encoded = [model.encode_image(picture) for picture in files]
    known: dict[tuple[int, str], Answer] = {}
    wrong = []
    for (place, ask), (status, body, _) in zip(asked, answers):
        key = (place, json.dumps(ask))
        if key not in known:
            given = {name: tuple(value) if isinstance(value, list) else value for name, value in ask.items()}
            known[key] = model.predict(encoded[place], Ask(**given))
        if status != 200 or not same(json.loads(body)["answers"][0], known[key]):
            wrong.append((place, ask, status))
    for one in wrong[:5]:
        print("wrong:", *one)
    return {"requests": count, "distinct": len(known), "wrong": len(wrong)}


async def arriving(port: int, requests: Sequence[bytes], per_s: float) -> list[Response]:
    """Requests that come when they come, each over a connection of its own, whatever the server does."""

    async def one(number: int) -> Response:
        await asyncio.sleep(number / per_s)
        connection = Connection(port)
        try:
            return await connection.ask(requests[number])
        finally:
            connection.close()

    return await asyncio.gather(*(one(number) for number in range(len(requests))))


def overload(args: argparse.Namespace) -> dict[str, object]:
    files = pictures(50)
    requests = [request(picture, [{"task": "OD"}]) for picture in files] * (4 if args.quick else 40)
    queue = 16
    options = ("--threads", str(args.threads), "--queue", str(queue), "--cache-bytes", "0")
    with RunningServer(args.model, *options) as server:
        server.wait_ready()
        warm = asyncio.run(all_at_once(server.port, requests[:50], queue))
        start = time.perf_counter()
        asyncio.run(all_at_once(server.port, requests[:100], queue))
        per_s = 100 / (time.perf_counter() - start)
        assert all(status == 200 for status, _, _ in warm)
        answers = asyncio.run(arriving(server.port, requests, 3 * per_s))
    taken = sorted(seconds for status, _, seconds in answers if status == 200)
    refused = sorted(seconds for status, _, seconds in answers if status == 503)
    assert len(taken) + len(refused) == len(answers), Counter(answer[0] for answer in answers)
    room = (queue + 16) / per_s  # what lies before a request that is taken in: the queue, and the worker's window
    return {
        "capacity_per_s": round(per_s, 1),
        "offered_per_s": round(3 * per_s, 1),
        "answered": len(taken),
        "refused": len(refused),
        "answered_p50_s": round(quantile(taken, 0.5), 3),
        "answered_p99_s": round(quantile(taken, 0.99), 3),
        "refused_p99_s": round(quantile(refused, 0.99), 3),
        "full_queue_s": round(room, 3),
    }


def quantile(values: Sequence[float], q: float) -> float:
    """Of sorted values."""
    return values[min(len(values) - 1, int(q * len(values)))] if values else float("nan")


def soak(args: argparse.Namespace) -> dict[str, object]:
    seconds = args.seconds or (20 if args.quick else 600)
    files = pictures(300)
    requests = [request(files[place], [ask]) for place, ask in mixed(3000, files, seed=2)]
    options = ("--threads", str(args.threads), "--cache-bytes", str(1 << 20), "--queue", "1000")
    marks: dict[str, list[int]] = {"server": [], "worker": []}
    asked = 0
    with RunningServer(args.model, *options) as server:
        server.wait_ready()
        start, parts = time.monotonic(), 8
        for part in range(1, parts + 1):
            while time.monotonic() < start + seconds * part / parts:
                answers = asyncio.run(all_at_once(server.port, requests[:300], args.clients))
                assert all(status == 200 for status, _, _ in answers)
                requests = requests[300:] + requests[:300]
                asked += len(answers)
            marks["server"].append(resident_mb([server.process.pid]))
            marks["worker"].append(resident_mb(server.worker_pids()))
    return {"seconds": seconds, "requests": asked, "resident_mb_by_eighth": marks}


def resident_mb(pids: Sequence[int]) -> int:
    """Memory of processes, what they share counted for each."""
    lines = [line for pid in pids for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) // 1024


def main() -> None:
    out = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    out.add_argument("--quick", action="store_true", help="few requests, a short soak")
    out.add_argument("--only", default=",".join(PARTS), help=f"parts, with commas between: {', '.join(PARTS)}")
    out.add_argument("--model", default="nano")
    out.add_argument("--threads", type=int, default=1, help="of the model, in the server and beside it")
    out.add_argument("--batch", type=int, default=8, help="of both")
    out.add_argument("--clients", type=int, default=24, help="connections that send without a pause")
    out.add_argument("--pairs", type=int, default=5)
    out.add_argument("--requests", type=int, default=10_000, help="of `right`")
    out.add_argument("--seed", type=int, default=1, help="of `right`")
    out.add_argument("--seconds", type=float, help="of the soak")
    args = out.parse_args()
    result: dict[str, object] = {"benchmark": "serving", "model": args.model, "quick": args.quick}
    for name in args.only.split(","):
        found = {"rate": rate, "right": right, "overload": overload, "soak": soak}[name](args)
        print(name, json.dumps(found), flush=True)
        result[name] = found
    print(json.dumps(result))


if __name__ == "__main__":
    main()
