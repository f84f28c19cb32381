"""Runs as tasks of a Ray cluster: one task a run, with its share of processors, memory and GPUs.

    run_all(study.folder, study.runs(), executor=Ray(ray_address="auto"))

A task starts the run as a process of its own (run/node.py), at the end of a pipe: when the task is cancelled, or its
worker dies, the run saves and ends. Ray never repeats a task here, because the coordinator does. Where a machine does
not see the study's folder, the run works on that machine's own disk, and the task returns the finished folder.

Tasks end with the coordinator. The extra `ray` brings what this needs.
"""

import io
import logging
import os
import platform
import shutil
import tempfile
import threading
import time
import uuid
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from alexnet_ablations.declare.status import Sighting
from alexnet_ablations.declare.study import PlannedRun
from alexnet_ablations.run.elsewhere import RemoteAttempt, end_in_place, make_way, task_of
from alexnet_ablations.run.executors import Order, Refusal, option
from alexnet_ablations.run.node import GRACE, Task, make_attempt
from alexnet_lab.training.handover import new_attempt, publish

# Seconds between two looks at the records of a run; its end is seen at once.
LOOK = 1.0
# A file in the study's folder while its runs are placed: a machine that sees it shares the folder.
MARK = ".ray-"


@dataclass(frozen=True)
class Ray:
    """A Ray cluster, as an engine."""

    ray_address: str | None = option(
        "Ray: address of the cluster, or auto for the one of this machine; a cluster of this machine alone if none.",
        "ADDRESS",
    )

    outlives: ClassVar[bool] = False
    is_here: ClassVar[bool] = False

    def open(self, order: Order) -> "RayExecutor":
        """Return an executor for one study, connected to the cluster."""
        ray, is_ours = _connect(self.ray_address)
        return RayExecutor(ray, order, is_ours=is_ours)

    @staticmethod
    def sightings(_study: Path) -> Mapping[Path, Sighting]:
        """Return nothing: tasks live as long as the coordinator, whose lock says that it is at work."""
        return {}


class RayAttempt(RemoteAttempt):
    """A run as a task of Ray."""

    def __init__(self, run: PlannedRun, number: int, task: Any) -> None:
        super().__init__(run, number, "ray")
        self.task = task
        self.failure = ""
        self.began = self.looked_at = time.monotonic()
        self.asked_at: float | None = None

    def how_it_died(self) -> str:
        """Say what Ray says of a task whose run left no verdict, and what the run said last."""
        words = self.said()
        return f"its task ended without a verdict: {self.failure}" + (f"; its last words: {words}" if words else "")


class RayExecutor:
    """Places runs as tasks of Ray: see Executor."""

    def __init__(self, ray: Any, order: Order, *, is_ours: bool) -> None:
        self.ray, self.order, self.is_ours = ray, order, is_ours
        self.wake = threading.Event()
        self.active: list[RayAttempt] = []
        needs = order.needs
        self.function = ray.remote(
            num_cpus=needs.threads,
            num_gpus=needs.gpus,
            memory=needs.memory or None,
            max_retries=0,  # Ray would repeat a task that is killed for memory without end; the coordinator counts
        )(do_task)
        total = ray.cluster_resources()
        has = {"threads": int(total.get("CPU", 0)), "gpus": int(total.get("GPU", 0))}
        if has["threads"] < needs.threads or has["gpus"] < needs.gpus:
            raise ValueError(
                f"a run needs {needs.threads} processors and {needs.gpus} GPUs, and the Ray cluster has "
                f"{has['threads']} and {has['gpus']}; add machines to it, or take fewer threads or another device"
            )
        fits = has["gpus"] if needs.gpus else has["threads"] // needs.threads
        self.count = order.jobs or fits
        self.mark = order.study.absolute() / f"{MARK}{uuid.uuid4().hex}"
        self.mark.touch()

    def submit(self, run: PlannedRun, number: int, is_done: Callable[[PlannedRun], bool]) -> RayAttempt | Refusal:
        """Hand a run to Ray, which starts it as soon as a machine has room."""
        if len(self.active) >= self.count:
            return Refusal.FULL
        refused = make_way(run, is_done)
        if refused is not None:
            return refused
        task = self.function.options(name=f"{run.cell.name} seed {run.seed}").remote(
            task_of(run).to_json(), str(self.mark)
        )
        attempt = RayAttempt(run, number, task)
        self.active.append(attempt)
        return attempt

    def poll(self, attempt: RayAttempt) -> bool:
        """Read how far an attempt is; say whether its task has ended."""
        ended, _ = self.ray.wait([attempt.task], timeout=0)
        now = time.monotonic()
        if not ended:
            if now - attempt.looked_at >= LOOK:
                attempt.looked_at = now
                attempt.look()
                attempt.is_queued = attempt.is_queued and attempt.folder.path == attempt.run.folder.path
            if attempt.is_queued:
                attempt.began = now
            attempt.seconds = now - attempt.began
            return False
        try:
            place, content = self.ray.get(attempt.task)
        except self.ray.exceptions.RayError as error:
            attempt.failure = f"ray says {type(error).__name__}, {str(error).strip().splitlines()[0][:300]}"
        else:
            attempt.slot, attempt.failure = f"ray {place}", "the run's process ended before it was done"
            if content is not None:
                _unpack(content, attempt.run.folder.path)
        attempt.is_published()
        return True

    def stop(self, attempt: RayAttempt) -> None:
        """Cancel a task; its run saves and ends. One that is asked again and does not listen is killed."""
        now = time.monotonic()
        if attempt.asked_at is None:
            attempt.asked_at = now
            self.ray.cancel(attempt.task)
        elif now - attempt.asked_at > GRACE:
            self.ray.cancel(attempt.task, force=True)

    def stop_all(self) -> None:
        """Let all runs save and end, kill those that do not, and leave the cluster."""
        tasks = [attempt.task for attempt in self.active]
        for attempt in self.active:
            self.stop(attempt)
        try:
            if tasks:
                self.ray.wait(tasks, num_returns=len(tasks), timeout=GRACE)
        finally:
            for attempt in self.active:
                self.poll(attempt)
            self.mark.unlink(missing_ok=True)
            if self.is_ours:
                self.ray.shutdown()

    def close(self, attempt: RayAttempt) -> None:
        """Forget an attempt."""
        self.active.remove(attempt)

    def write_verdict(self, attempt: RayAttempt) -> None:
        """Write the verdict of a run whose attempts left none."""
        end_in_place(attempt, "timeout" if attempt.is_over_time else "lost")


def do_task(text: str, mark: str) -> tuple[str, bytes | None]:
    """Make an attempt at a run on this machine; return the machine, and the run's folder if it is not shared."""
    task = Task.from_json(text)
    place = platform.node()
    if Path(mark).exists():
        make_attempt(task, f"ray {place}")
        return place, None
    with tempfile.TemporaryDirectory(prefix="alexnet-lab-") as folder:
        target = Path(folder) / Path(task.run).name
        make_attempt(replace(task, run=str(target)), f"ray {place}")
        return place, _pack(target) if target.exists() else None


def _connect(address: str | None) -> tuple[Any, bool]:
    """Return Ray, connected, and whether the connection is ours to close."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no report of this study to anybody
    try:
        import ray
    except ImportError:
        raise ValueError('executor ray needs the extra ray: pip install "alexnet-lab[ray]"') from None
    if ray.is_initialized():  # by the program that calls us; it keeps its connection
        return ray, False
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=None)
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise ValueError(
            f"no Ray cluster answers at {address or 'this machine'} ({reason}); start one with ray start --head, or "
            "leave --ray-address out"
        ) from None
    return ray, True


def _pack(folder: Path) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder))
    return content.getvalue()


def _unpack(content: bytes, run: Path) -> None:
    attempt = new_attempt(run)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            archive.extractall(attempt)  # which leaves no folder
        publish(attempt)
    finally:
        if attempt.exists() and not (attempt / "state.json").exists():
            shutil.rmtree(attempt, ignore_errors=True)
