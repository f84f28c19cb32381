"""How many runs fit on this machine at once: by cores, by memory, by GPU.

A run takes as many cores as its processes have threads together, so cores divided by these run side by side. On GPUs
each process of a run has one; one run works on each GPU unless more jobs are asked for, and sees its own GPUs only.
Another run starts only while the free memory holds what the largest run of the study took, beside what the runs in
progress will still take. One run may always start, whatever is measured.
"""

import itertools
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

# Bytes that a run is assumed to need until one has ended: Python and torch alone take a quarter of this.
UNKNOWN_RUN = 2**30
# Memory kept free beside a new run, as a share of what it needs.
SPARE = 0.1

PROC = Path("/proc")
CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Slot:
    """A slot for one run: its number, from 1, and the GPUs that the run sees, joined by commas, if it runs on GPUs."""

    number: int
    gpu: str | None = None

    @property
    def name(self) -> str:
        """Name the slot: 2, or gpu 0."""
        return str(self.number) if self.gpu is None else f"gpu {self.gpu}"

    @property
    def environment(self) -> dict[str, str]:
        """Return the environment variables that a run in this slot needs."""
        return {} if self.gpu is None else {"CUDA_VISIBLE_DEVICES": self.gpu}


@dataclass(frozen=True)
class Slots:
    """The slots of this machine for the runs of one study."""

    count: int
    gpus: tuple[str, ...] = ()
    gpus_of_run: int = 1

    def free(self, taken: Iterable[Slot]) -> Slot | None:
        """Return a free slot, on the GPUs with the fewest runs; None while all are taken."""
        busy = {slot.number: slot for slot in taken}
        number = next((n for n in range(1, self.count + 1) if n not in busy), None)
        if number is None:
            return None
        if not self.gpus:
            return Slot(number)
        load = Counter(gpu for slot in busy.values() for gpu in (slot.gpu or "").split(","))
        chosen = sorted(self.gpus, key=lambda gpu: load[gpu])[: self.gpus_of_run]  # of equal load the first ones
        return Slot(number, ",".join(gpu for gpu in self.gpus if gpu in chosen))


def find_slots(threads: int, gpus: int, jobs: int | None) -> Slots:
    """Return `jobs` slots, or as many as there are GPUs or cores for: each run takes so many threads, or GPUs."""
    if gpus:
        visible = visible_gpus()
        return Slots(jobs or max(len(visible) // gpus, 1), visible, gpus)
    return Slots(jobs or max(usable_cores() // threads, 1))


def usable_cores() -> int:
    """Count the cores that this process may use: limits by affinity and control groups count."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for group in _control_groups("cpu"):
        quota, _, period = _text(group / "cpu.max").partition(" ")  # version 2, then version 1
        quota = quota or _text(group / "cpu.cfs_quota_us")
        period = period or _text(group / "cpu.cfs_period_us")
        if quota.strip().isdigit() and period.strip().isdigit():
            cores = min(cores, max(int(quota) // int(period), 1))
    return cores


def visible_gpus() -> tuple[str, ...]:
    """Name the GPUs that may be used, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        names = [name for name in map(str.strip, visible.split(",")) if name]
        return tuple(itertools.takewhile(lambda name: name != "-1", names))  # as CUDA reads it: no more after -1
    import torch

    return tuple(str(index) for index in range(torch.cuda.device_count()))


def free_memory() -> int | None:
    """Return the bytes that are free for new processes; None where the system does not say."""
    match = re.search(r"MemAvailable:\s+(\d+) kB", _text(PROC / "meminfo"))
    free = [int(match[1]) * 1024] if match else []
    for group in _control_groups("memory"):
        limit = (_text(group / "memory.max") or _text(group / "memory.limit_in_bytes")).strip()
        used = (_text(group / "memory.current") or _text(group / "memory.usage_in_bytes")).strip()
        if limit.isdigit() and used.isdigit():
            # Files in the page cache count as used, and give way to whoever needs the memory.
            cached = re.search(r"^(?:total_)?inactive_file (\d+)", _text(group / "memory.stat"), re.MULTILINE)
            free.append(int(limit) - int(used) + (int(cached[1]) if cached else 0))
    return min(free) if free else None


def resident_memory(process: int) -> int:
    """Return the most bytes that a process has held; 0 where the system does not say."""
    match = re.search(r"VmHWM:\s+(\d+) kB", _text(PROC / str(process) / "status"))
    return int(match[1]) * 1024 if match else 0


def memory_allows(taken: Sequence[int], largest: int, free: int | None) -> bool:
    """Say whether one more run fits, in bytes: `taken` by each run in progress, `largest` known need, `free` now."""
    if free is None or not taken:
        return True
    need = max(largest or UNKNOWN_RUN, *taken)
    still_to_come = sum(need - memory for memory in taken)
    return free >= need + int(SPARE * need) + still_to_come


def _control_groups(controller: str) -> list[Path]:
    """Return the control groups that limit this process, the innermost first; a limit of any of them counts.

    Version 2 has one tree for all controllers, version 1 one for each. In a container the tree may begin at its own
    group, so that the path which the kernel names is not there and the root of the tree holds the limits.
    """
    groups = []
    for line in _text(PROC / "self" / "cgroup").splitlines() or ["0::/"]:
        _, names, path = line.split(":", 2)
        if names and controller not in names.split(","):
            continue
        root = CGROUP / controller if names else CGROUP
        group = root / path.strip("/")
        groups += [group, *(parent for parent in group.parents if parent == root or root in parent.parents)]
    return groups


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # another system, or a process that has just ended
        return ""
