"""Faults injected into a Ray cluster of this machine while a command runs on it; the store is as if there were none.

    python -m tests.ray_faults [COUNT] [SEED]      # each fault so often; part of `make faults`

The cluster has two nodes of one processor beside its head. Killed are the process of an actor, an actor, a node, and
the driver, at random moments of a life: annotating by two specialists, filtering, merging.
"""

import functools
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

import florence2
from florence2.engine.curation.merging import MergeConfig
from florence2.engine.execution.ray import RayRunner
from florence2.store import Store
from tests.engine.doubles import Boxes, Floor, NoTexts, folder_of
from tests.injected import children_of, content

NODE = {"num_cpus": 1, "object_store_memory": 80_000_000}
DETECT = {"health_check_period_ms": 500, "health_check_failure_threshold": 4, "health_check_initial_delay_ms": 500}
STARTS = 3  # Ray does not always come up on a busy machine


class Pausing(Boxes):
    """Takes its time over each picture."""

    def one(self, sample, image):
        time.sleep(0.3)
        return super().one(sample, image)


def life(folder, out, **by):
    """A store from pictures to merged annotations."""
    with_ = [Pausing(), Boxes("reader", shift=1.0, requires={"region_text/object"})]
    florence2.annotate(folder, out, with_, unit=1, **by)
    florence2.filter(out, [Floor(0.5), NoTexts()], merging=MergeConfig(), **by)


class RayFaults:
    """A cluster, what a life in peace leaves, and the faults."""

    def __init__(self, root, seed=0, pictures=6):
        self.root, self.draw, self.number, self.said = Path(root), random.Random(seed), 0, []
        self.folder = folder_of(self.root, pictures)
        life(self.folder, self.root / "clean", workers=0)
        self.clean = content(self.root / "clean")
        self.cluster = started()
        self.nodes = [self.cluster.add_node(**NODE) for _ in range(2)]
        self.runners = []
        self.injected = []  # names of the faults that came while a life was under way
        enter = RayRunner.__enter__
        RayRunner.__enter__ = lambda runner: self.runners.append(runner) or enter(runner)
        self._enter = enter

    def close(self):
        RayRunner.__enter__ = self._enter
        ray.shutdown()
        self.cluster.shutdown()

    def process(self):
        """kill -9 of the process of an actor."""
        for node in self.nodes:
            for raylet in node.all_processes["raylet"]:
                for pid in children_of(raylet.process.pid):
                    if b"JobActor" in Path(f"/proc/{pid}/cmdline").read_bytes():
                        os.kill(pid, signal.SIGKILL)
                        return True
        return False

    def actor(self):
        """An actor killed by Ray."""
        workers = self.runners[-1]._workers if self.runners else []
        if workers:
            ray.kill(self.draw.choice(workers).actor)
        return bool(workers)

    def node(self):
        """A node gone without a word; another one comes after it."""
        self.cluster.remove_node(self.nodes.pop(self.draw.randrange(len(self.nodes))), allow_graceful=False)
        self.nodes.append(self.cluster.add_node(**NODE))
        return True

    def during(self, *faults):
        """A life in this process during which these happen, once its first unit is done; what is amiss."""
        if not ray.is_initialized():
            ray.init(self.cluster.address, log_to_driver=False, logging_level="ERROR")
        out, ended, raised = self._out(), threading.Event(), []

        def run():
            try:
                florence2.annotate(self.folder, out, [Pausing()], unit=1, runner="ray", on_message=self.said.append)
                life(self.folder, out, runner="ray")
            except Exception as error:
                raised.append(error)
            ended.set()

        thread = threading.Thread(target=run)  # Ray adds nodes in the main thread alone
        thread.start()
        begun(out, ended)
        for fault in faults:
            time.sleep(self.draw.uniform(0, 2))
            while not ended.is_set():
                if fault():
                    self.injected.append(fault.__name__)
                    break
                time.sleep(0.1)
        thread.join()
        return repr(raised[0]) if raised else self._amiss(out)

    def driver(self):
        """kill -9 of the process that runs the command, then the same in peace."""
        out, address = self._out(), self.cluster.address
        args = f"{str(self.folder)!r}, {str(out)!r}, runner='ray', ray_address={address!r}"
        code = f"from tests.ray_faults import life; life({args})"
        child = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
        begun(out, threading.Event(), child)
        time.sleep(self.draw.uniform(0, 3))
        child.kill()
        child.wait()
        halves = [path for path, held in content(out).items() if self.clean.get(path) != held]
        if halves:
            return f"not whole after a kill: {halves[:3]}"
        again = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        if again.returncode:
            return again.stderr[-300:]
        journals = [path.read_text() for path in (out / "attempts").rglob("*") if path.is_file()]
        return "counted against a job" if any("died" in text for text in journals) else self._amiss(out)

    def _out(self):
        self.number += 1
        return self.root / f"s{self.number}"

    def _amiss(self, out):
        found = {path: held for path, held in content(out).items() if path.endswith(".parquet")}
        clean = {path: held for path, held in self.clean.items() if path.endswith(".parquet")}
        wrong = [path for path in found.keys() | clean.keys() if found.get(path) != clean.get(path)]
        return ", ".join(wrong[:3] + [damage.path for damage in Store(out).verify()])


def begun(out, done, child=None):
    """Wait until a first unit is annotated."""
    end = time.monotonic() + 120
    while time.monotonic() < end and not done.is_set() and (child is None or child.poll() is None):
        if list(out.glob("annotations/**/*.parquet")):
            return
        time.sleep(0.05)


def started():
    """A cluster's head."""
    for left in reversed(range(STARTS)):
        try:
            return Cluster(initialize_head=True, head_node_args={**NODE, "num_cpus": 0, "_system_config": DETECT})
        except Exception:
            if not left:
                raise


def main(count, seed):
    """Each fault so often; prints a table; 1 where anything was amiss."""
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        faults = RayFaults(folder, seed)
        kinds = {f.__name__: functools.partial(faults.during, f) for f in (faults.process, faults.actor, faults.node)}
        try:
            for name, inject in {**kinds, "driver": faults.driver}.items():
                started_s = time.monotonic()
                found = [wrong for wrong in (inject() for _ in range(count)) if wrong]
                bad += len(found)
                print(f"ray {name:<16}{count:>7} injected{len(found):>5} amiss  {time.monotonic() - started_s:6.0f} s")
                for wrong in found[:5]:
                    print(f"    {wrong}", flush=True)
        finally:
            faults.close()
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main(int((sys.argv[1:] or ["10"])[0]), int((sys.argv[2:] or ["0"])[0])))
