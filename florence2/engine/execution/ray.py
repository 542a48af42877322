"""The runner on Ray: one actor a worker, on an embedded Ray or on a cluster. The only home of the library.

Actors rather than Ray Data: of Ray's own retries none is used, since they repeat for ever what kills its worker, and
end a job at the first exception. Deaths, leases and poison pictures are the supervisor's, as they are of processes;
what an actor has to say streams from it. Ray places actors, by what an operator declares, and tells when one is gone.
"""

from __future__ import annotations

import logging
import math
import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import ray

import florence2
from florence2.engine.execution.context import WorkerContext
from florence2.engine.execution.devices import AUTO
from florence2.engine.execution.job_worker import JobWorker, Message, pickled
from florence2.engine.execution.jobs import ATTEMPTS, Job, Resources
from florence2.engine.execution.processes import THREADS
from florence2.engine.execution.supervision import BOOT_S, GB, Ending, SupervisedWorker, Supervisor, WorkerLost
from florence2.labels import one_line

STARTS = 3  # of an embedded Ray, which does not always come up on a busy machine
OBJECT_STORE_BYTES = 100_000_000  # of an embedded one: jobs and outcomes are small, pictures are never in it
NODE_LOSS_S = 30.0  # within which Ray finds out that a node which does not answer is dead
LOOK_AGAIN_S = 5.0  # for nodes that have come or gone
PATIENCE_S = 15.0  # before it is said that the cluster has no room
REACH_S = 10.0  # for a cluster to greet
SETTINGS = b"\4"  # the kind of HTTP/2's first frame, which the server of a cluster sends to whoever greets it so
GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0" + SETTINGS + b"\0" * 5


class JobActor:
    """The worker inside an actor: a job's messages are yielded as they come, the job runs beside in a thread."""

    def __init__(self, path: Sequence[str], pickled: bytes, version: str, beacon: str):
        sys.path += [folder for folder in path if folder not in sys.path]
        self._check(version)
        self._worker = JobWorker(pickled)
        store = self._worker.context.store
        if not store.has(beacon):
            raise ValueError(
                f"{store.root}: is another folder on this node; a store must be on storage that nodes share"
            )

    def _do(self, *args: Any) -> None:
        """Do a job; what would end a process ends this one, too, not the thread alone, which nobody would notice."""
        try:
            self._worker.do(*args)
        except BaseException:
            os._exit(1)

    def _check(self, version: str) -> None:
        if florence2.__version__ != version:
            raise ValueError(f"florence2 is {florence2.__version__} on this node and {version} where the command runs")

    def node(self) -> str:
        """The id of the node it is on."""
        return str(ray.get_runtime_context().get_node_id())

    def do(self, job: Job, device: str, isolate: bool, poison_images: dict[int, str]) -> Iterator[Message]:
        """Do a job; yields its messages."""
        messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        args = (job, device, isolate, poison_images, messages.put)
        threading.Thread(target=self._do, args=args, daemon=True).start()
        while True:
            message = messages.get()
            yield message
            if message[0] in ("done", "error"):
                return


class ActorWorker(SupervisedWorker):
    """An actor, which is not ready until Ray has found room for it and it has opened the store."""

    def __init__(self, actor: Any, slot: int):
        super().__init__(slot)
        self.ready = False
        self.actor, self.node, self.asked = actor, "", time.monotonic()
        self._nodes = _alive()  # where it may come to be
        self.coming = actor.node.remote()  # what is waited for: its node, then each message
        self._death, self._unreached = "", False

    def give(self, job: Job, device: str, isolate: bool, poison_images: dict[int, str]) -> None:
        """Send it a job."""
        self.coming = self.actor.do.options(num_returns="streaming").remote(job, device, isolate, poison_images)

    def receive(self) -> Message:
        """What it yielded."""
        try:
            if not self.ready:
                self.node = ray.get(self.coming)
                return ("ready",)
            message: Message = ray.get(next(self.coming))
            return message
        except (ray.exceptions.RayError, StopIteration) as error:
            self._death, self._unreached = _cause(error), isinstance(error, ray.exceptions.ActorUnavailableError)
            raise WorkerLost(self._death) from None

    def end(self) -> Ending:
        """Have Ray kill it. What it did is not to blame where its node, or one that it was to start on, is gone."""
        ray.kill(self.actor)
        lost_at_start = bool(self._death) and not self.node
        until = time.monotonic() + (NODE_LOSS_S if self._unreached or lost_at_start else 0)
        needed = {self.node} if self.node else self._nodes if lost_at_start else set()
        while needed:
            if needed - _alive():
                return Ending("its node is gone", to_blame=False)
            if time.monotonic() >= until:
                break
            time.sleep(0.5)
        return Ending(self._death or "killed")


class RayRunner(Supervisor[ActorWorker]):
    """Runs jobs in actors, as many as the cluster holds, or as `cpus` hold where they are named."""

    def __init__(
        self,
        context: WorkerContext,
        cpus: int | None = None,
        address: str | None = None,
        attempts: int = ATTEMPTS,
        lease_s: float | None = None,
        boot_s: float = BOOT_S,
        on_message: Callable[[str], None] | None = None,
    ):
        super().__init__(context, attempts, lease_s, boot_s, on_message)
        self.cpus = cpus
        self._shape: dict[str, float] = {}  # what the present actors ask of the cluster
        self._looked, self._nodes = -math.inf, [dict[str, float]()]
        self.address, self._ours, self._beacon = address, False, ""
        self._held = ExitStack()
        _check_device(context.device)

    def __enter__(self) -> RayRunner:
        with ExitStack() as held:
            self._beacon = held.enter_context(self._store.beacon())
            self._ours = _connect(self.address, self.cpus, self.context.device)
            if self._ours:
                held.callback(ray.shutdown)
            self._held = held.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            ray.kill(worker.actor)
        self._workers.clear()
        self._held.close()

    def workers(self, resources: Resources) -> int:
        """As many as `cpus` hold, or all nodes of now; where a GPU is wanted and there are some, as these hold."""
        asks = self._asks(resources)
        fit = sum(_times(node, asks) for node in self._cluster())
        if self.cpus is not None and not asks.get("GPU"):
            fit = _times({"CPU": self.cpus}, {"CPU": asks["CPU"]})
        return max(1, min(fit, resources.at_once or fit))

    def _asks(self, resources: Resources) -> dict[str, float]:
        """What one worker asks of the cluster: of an embedded one, never more than there is."""
        asks = {"CPU": resources.num_cpus}
        if resources.memory_gb:
            asks["memory"] = int(resources.memory_gb * GB)
        if self._ours:
            (node,) = self._cluster()
            asks = {name: min(amount, node.get(name, 0)) for name, amount in asks.items()}
        if resources.num_gpus and self._has_gpus():
            # Ray takes fractions below one only
            asks["GPU"] = resources.num_gpus if resources.num_gpus < 1 else math.ceil(resources.num_gpus)
        return asks

    def _has_gpus(self) -> bool:
        return self.context.device != "cpu" and any(node.get("GPU", 0) for node in self._cluster())

    def _cluster(self) -> list[dict[str, float]]:
        """The resources of each node that is alive, looked up every few seconds."""
        if time.monotonic() - self._looked > LOOK_AGAIN_S:
            self._nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            self._looked = time.monotonic()
        return self._nodes

    def _hand_out(self, todo: Any, source: Any, resources: Resources) -> None:
        asks = self._asks(resources)
        if asks != self._shape:  # actors that ask for something else make room
            for worker in self._workers:
                worker.end()
            self._workers.clear()
            self._shape = asks
        super()._hand_out(todo, source, resources)

    def _start(self, slot: int, job: Job, resources: Resources) -> ActorWorker:
        asks = self._shape
        actor = ray.remote(JobActor).options(  # type: ignore[attr-defined]
            num_cpus=asks["CPU"],
            num_gpus=asks.get("GPU", 0),
            memory=asks.get("memory"),
            max_restarts=0,
            max_task_retries=0,
            runtime_env={"env_vars": {name: os.environ.get(name, one) for name, one in THREADS.items()}},
        )
        return ActorWorker(actor.remote(*pickled(self.context), florence2.__version__, self._beacon), slot)

    def _wait(self, workers: Sequence[ActorWorker], timeout_s: float) -> Collection[ActorWorker]:
        by_what = {worker.coming: worker for worker in workers}
        ready, _ = ray.wait(list(by_what), num_returns=1, timeout=timeout_s)
        late = [w for w in workers if not w.ready and time.monotonic() - w.asked > PATIENCE_S]
        if late and not ready:
            asked = ", ".join(f"{amount:g} {name}" for name, amount in self._shape.items() if amount)
            self._say_once("waiting", f"Ray has no room yet for {len(late)} workers with {asked} each; waiting")
        return [by_what[each] for each in ready]

    def _device(self, worker: ActorWorker, resources: Resources) -> str:
        return "cpu" if resources.num_gpus > 0 and not self._has_gpus() else ""  # else those Ray shows the actor


def _connect(address: str | None, cpus: int | None, device: str) -> bool:
    """Be connected to Ray: to one that this process is connected to, to a cluster, or to one of its own (True)."""
    if ray.is_initialized():
        return False
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    logging.getLogger("ray").setLevel(logging.ERROR)  # it says things before `init` has set this
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address != "local":
        try:
            _check_reached(address)
            ray.init(address, **quiet)
        except (RuntimeError, ValueError, OSError) as error:
            what = f"no Ray is reached there ({one_line(str(error), 200)})"
            remedy = "; one that asks for a token wants RAY_AUTH_MODE=token here" if _no_token() else ""
            raise OSError(f"--ray-address {address}: {what}{remedy}") from None
        return False
    more: dict[str, Any] = {"object_store_memory": OBJECT_STORE_BYTES}
    if device == "cpu":
        more["num_gpus"] = 0
    for left in reversed(range(STARTS)):
        try:
            ray.init("local", num_cpus=cpus, include_dashboard=False, **quiet, **more)
            return True
        except Exception as error:  # Ray raises bare ones
            ray.shutdown()
            if not left:
                raise OSError(f"Ray did not start here in {STARTS} tries ({one_line(str(error), 200)})") from None
    raise AssertionError


def _check_reached(address: str) -> None:
    """OSError or ValueError where no Ray listens at an address: Ray itself would end this process, or wait for ever."""
    host, _, port = address.rpartition(":")
    if address == "auto":
        return
    if "://" in address or not host or not port.isdigit():
        raise ValueError("expected HOST:PORT, or auto on a node of the cluster")
    with socket.create_connection((host, int(port)), timeout=REACH_S) as asked:
        if os.environ.get("RAY_USE_TLS", "0") in ("", "0"):  # else it answers to its own kind only
            asked.sendall(GREETING)
            if asked.recv(4, socket.MSG_WAITALL)[3:] != SETTINGS:
                raise OSError("who answers there is no Ray")


def _no_token() -> bool:
    """Whether no token is sent to a cluster: to an address that is named, Ray sends one only where it is asked to."""
    return os.environ.get("RAY_AUTH_MODE", "").lower() != "token"


def _alive() -> set[str]:
    """The ids of the cluster's nodes that Ray holds to be alive."""
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def _check_device(device: str) -> None:
    if device not in (AUTO, "cpu", "cuda"):
        raise ValueError(f"device {device!r}: with runner ray expected auto, cpu or cuda; Ray says which GPU is whose")


def _times(node: dict[str, float], asks: dict[str, float]) -> int:
    """How many workers with these needs a node holds."""
    return min((int(node.get(name, 0) / amount + 1e-6) for name, amount in asks.items() if amount), default=1)


def _cause(error: BaseException) -> str:
    """Why an actor is gone, in a line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return one_line(lines[-1] if lines else type(error).__name__, 300)
