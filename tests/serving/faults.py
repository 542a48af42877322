"""A server whose model process is killed every few seconds, among clients that leave, are slow or send garbage.

    python -m tests.serving.faults [SECONDS] [SEED]      # 600 seconds unless given

Holds when the process stays up, every whole request gets exactly one answer, equal to that of an unbatched call, or one
honest error (5xx with a type), everything else is refused as what it is, and nothing is left in the queue at the end.
"""

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import time
from collections import Counter

import httpx

import florence2
from benchmarks.serving import Connection, head_of, mixed, pictures, request, same
from florence2.records import Ask
from tests.serving.running import RunningServer, children

HONEST = {(500, "worker_died"), (503, "overloaded"), (503, "not_ready"), (504, "timeout")}
ANSWER_S = 45


class Run:
    """One run: what is asked, what is expected, what came."""

    def __init__(self, server, seconds, seed):
        self.server, self.end = server, time.monotonic() + seconds
        self.rng = random.Random(seed)
        files = pictures(12)
        asked = mixed(60, files, seed)
        model = florence2.load("nano")
        self.good = []
        for place, ask in asked:
            given = {name: tuple(value) if isinstance(value, list) else value for name, value in ask.items()}
            self.good.append((request(files[place], [ask]), model.predict(files[place], Ask(**given))))
        self.counts, self.faults = Counter(), []

    async def run(self, clients=8):
        await asyncio.gather(self.kill(), *(self.client(random.Random(n)) for n in range(clients)))

    async def client(self, rng):
        kinds = [self.whole, self.leaver, self.garbage, self.bad, self.slow]
        while time.monotonic() < self.end:
            kind = rng.choices(kinds, [6, 2, 1, 2, 1])[0]
            try:
                await asyncio.wait_for(kind(rng), ANSWER_S)
                self.counts[kind.__name__] += 1
            except Exception as error:
                self.faults.append(f"{kind.__name__}: {type(error).__name__} {error}")

    async def whole(self, rng):
        sent, alone = rng.choice(self.good)
        connection = Connection(self.server.port)
        status, body, _ = await connection.ask(sent)
        if status == 200:
            assert same(json.loads(body)["answers"][0], alone), "another answer than alone"
            self.counts["true answers"] += 1
        else:
            assert (status, json.loads(body)["error"]["type"]) in HONEST, body
            self.counts[f"honest {status}"] += 1
        with contextlib.suppress(asyncio.TimeoutError):
            assert not await asyncio.wait_for(connection.reader.read(1), 0.02), "more than one answer"
        connection.close()

    async def leaver(self, rng):
        _, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        writer.write(rng.choice(self.good)[0])
        await asyncio.sleep(rng.random() * 0.3)
        writer.transport.abort() if rng.random() < 0.5 else writer.close()

    async def slow(self, rng):
        _, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        sent = rng.choice(self.good)[0]
        for start in range(0, rng.randrange(len(sent)), 2000):
            writer.write(sent[start : start + 2000])
            await asyncio.sleep(0.01)
        writer.close()

    async def garbage(self, rng):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        writer.write(rng.randbytes(rng.randrange(1, 3000)) + b"\r\n\r\n")
        with contextlib.suppress(ConnectionError, asyncio.TimeoutError):
            answer = await asyncio.wait_for(reader.read(100), 2)
            assert not answer or answer.startswith(b"HTTP/1.1 4"), answer
        writer.close()

    async def bad(self, rng):
        body = rng.choice(
            [
                b"{",
                rng.randbytes(200),
                json.dumps({"image": "AAAA", "asks": [{"task": "OD"}]}).encode(),
                json.dumps({"image": "", "asks": []}).encode(),
                json.dumps([[]] * 20).encode(),
            ]
        )
        connection = Connection(self.server.port)
        status, answer, _ = await connection.ask(head_of(body) + body)
        assert status in (413, 415, 422) or (status, json.loads(answer)["error"]["type"]) in HONEST, answer
        connection.close()

    async def kill(self):
        while time.monotonic() < self.end:
            await asyncio.sleep(self.rng.uniform(1.5, 4))
            if self.rng.random() < 0.15:  # the host too: no fork is to be had until there is another
                victims = children(self.server.process.pid)
                self.counts["hosts killed"] += 1
            else:
                victims = self.server.worker_pids()
                self.counts["workers killed"] += len(victims)
            for pid in victims:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def faults(seconds, seed=0):
    """What came, counted; AssertionError where something does not hold."""
    with RunningServer("nano", "--threads", "1", "--timeout", "30") as server:
        server.wait_ready()
        run = Run(server, seconds, seed)
        asyncio.run(run.run())
        assert server.process.poll() is None, "the server ended: " + "".join(server.lines[-5:])
        assert not run.faults, (len(run.faults), run.faults[:5])
        server.wait_ready()
        for _ in range(100):
            text = httpx.get(server.url + "/metrics").text
            if "florence2_queue_requests 0.0" in text and "florence2_running_requests 0.0" in text:
                break
            time.sleep(0.1)
        else:
            raise AssertionError("requests are left in the queue")
        printed = "".join(server.lines)
        assert "Traceback" not in printed, printed[printed.index("Traceback") - 500 :][:3000]
        assert server.stop() == 0
    return dict(run.counts)


if __name__ == "__main__":
    arguments = [float(value) for value in sys.argv[1:]]
    print(json.dumps(faults(*(arguments or [600.0]))))
