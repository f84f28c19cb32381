"""How many runs fit at once: cores, containers, GPUs, memory."""

import os
import resource

import pytest

from alexnet_ablations.run import slots
from alexnet_ablations.run.executors import Needs
from alexnet_ablations.run.executors.local import LocalExecutor
from alexnet_ablations.run.slots import Slots, memory_allows
from alexnet_lab.training.recipe import Recipe


def test_each_run_on_gpus_sees_one_of_them_and_they_share_the_load():
    places = Slots(4, ("2", "5"))
    taken = []
    for _ in range(4):
        taken.append(places.free(taken))
    assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in taken] == ["2", "5", "2", "5"]
    assert places.free(taken) is None
    assert places.free(taken[1:]).gpu == "2"


@pytest.mark.parametrize(
    ("quota", "threads", "jobs", "count"),
    [
        ("max 100000", 1, None, 6),
        ("max 100000", 4, None, 1),
        ("250000 100000", 1, None, 2),
        ("50000 100000", 1, None, 1),
        ("", 2, None, 3),
        ("", 2, 9, 9),
        ("", 16, None, 1),
    ],
)
def test_as_many_runs_as_the_cores_carry_that_a_container_leaves(quota, threads, jobs, count, tmp_path, monkeypatch):
    monkeypatch.setattr(slots, "CGROUP", tmp_path)
    monkeypatch.setattr(slots.os, "sched_getaffinity", lambda _process: set(range(6)), raising=False)
    if quota:
        (tmp_path / "cpu.max").write_text(quota + "\n")
    assert slots.find_slots(threads, 0, jobs).count == count


@pytest.mark.parametrize(
    ("visible", "jobs", "count", "gpus"),
    [("0,1", None, 2, ("0", "1")), ("3", 4, 4, ("3",)), ("", None, 1, ()), ("1,-1,2", None, 1, ("1",))],
)
def test_on_gpus_one_run_stands_on_each_unless_more_are_asked_for(visible, jobs, count, gpus, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert slots.find_slots(1, 1, jobs) == Slots(count, gpus)


def test_a_run_of_several_processes_takes_a_gpu_or_its_threads_for_each(monkeypatch):
    needs = Needs.of([Recipe(processes=2, threads=3, batch_size=32), Recipe(threads=4)])
    assert (needs.threads, needs.gpus) == (6, 0)
    needs = Needs.of([Recipe(processes=2, device="cuda")])
    assert (needs.threads, needs.gpus) == (2, 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4")
    places = slots.find_slots(2, 2, None)
    first = places.free([])
    second = places.free([first])
    assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in (first, second)] == ["0,1", "2,3"]
    assert second.name == "gpu 2,3"
    assert places.free([first, second]) is None


def test_too_few_gpus_for_the_processes_of_a_run_are_refused(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(ValueError, match="processes 2 takes 2 GPUs for each run, and 1 can be used here"):
        LocalExecutor(Needs(2, 2), None, print)


def test_memory_is_what_the_machine_or_the_container_has_free_whichever_is_less(tmp_path, monkeypatch):
    monkeypatch.setattr(slots, "PROC", tmp_path)
    monkeypatch.setattr(slots, "CGROUP", tmp_path)
    assert slots.free_memory() is None
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    1000 kB\n")
    assert slots.free_memory() == 1000 * 1024
    (tmp_path / "memory.current").write_text("5000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert slots.free_memory() == 1000 * 1024
    (tmp_path / "memory.max").write_text("9000\n")
    (tmp_path / "memory.stat").write_text("anon 4000\ninactive_file 700\n")
    assert slots.free_memory() == 9000 - 5000 + 700


@pytest.mark.parametrize(
    ("lines", "group"),
    [("0::/user/job_7\n", ""), ("4:memory:/job_7\n3:cpuset:/\n1:cpu,cpuacct:/job_7\n0::/\n", "memory")],
)
@pytest.mark.parametrize("level", ["own", "above"])
def test_limits_of_the_own_control_group_and_of_those_above_count_in_both_versions(
    lines, group, level, tmp_path, monkeypatch
):
    monkeypatch.setattr(slots, "PROC", tmp_path / "proc")
    monkeypatch.setattr(slots, "CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(slots.os, "sched_getaffinity", lambda _process: set(range(6)), raising=False)
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text(lines)
    (tmp_path / "proc" / "meminfo").write_text("MemAvailable:    9000000 kB\n")
    if group:
        memory, cpu = tmp_path / "cgroup" / "memory" / "job_7", tmp_path / "cgroup" / "cpu" / "job_7"
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    else:
        memory = cpu = tmp_path / "cgroup" / "user" / "job_7"
        names = ("memory.max", "memory.current", "inactive_file")
    for path in (memory, cpu):
        path.mkdir(parents=True, exist_ok=True)
    memory, cpu = (path if level == "own" else path.parent for path in (memory, cpu))
    (memory / names[0]).write_text("8000\n")
    (memory / names[1]).write_text("5000\n")
    (memory / "memory.stat").write_text(f"cache 1\n{names[2]} 600\n")
    if group:
        (cpu / "cpu.cfs_quota_us").write_text("200000\n")
        (cpu / "cpu.cfs_period_us").write_text("100000\n")
    else:
        (cpu / "cpu.max").write_text("200000 100000\n")
    assert slots.free_memory() == 8000 - 5000 + 600
    assert slots.usable_cores() == 2


def test_the_memory_of_a_process_is_the_most_it_held():
    held = slots.resident_memory(os.getpid())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert 0.8 * peak < held <= 1.2 * peak
    assert slots.resident_memory(2**22 + 1) == 0  # no such process


@pytest.mark.parametrize(
    ("taken", "largest", "free", "allowed"),
    [
        ([], 50, 1, True),  # one may always start
        ([50], 50, 55, True),
        ([50], 50, 54, False),
        ([10], 50, 94, False),  # the one in progress will take 40 more
        ([10], 50, 95, True),
        ([60], 50, 65, False),  # what a run takes now counts if it is more than any took before
        ([60], 50, 66, True),
        ([10], 50, None, True),  # the system does not say
    ],
)
def test_a_run_starts_only_where_memory_holds_it_beside_what_the_others_will_still_take(taken, largest, free, allowed):
    assert memory_allows(taken, largest, free) is allowed
