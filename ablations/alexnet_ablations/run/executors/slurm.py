"""Runs as jobs of a Slurm cluster, by its own programs: sbatch, squeue, scontrol, scancel.

    run_all(study.folder, study.runs(), executor=Slurm(partition="gpu", time="4h"))

Runs are submitted together, as one job array per wave; the scheduler starts them when it has room, at most `jobs` at a
time. A wave is a folder, STUDY/slurm/<wave>/, with a script and a task for each run. Jobs carry the wave in their
comment, so that a coordinator that comes back, or `alexnet-lab status`, finds them again. They go on without one.

Before its time limit a job gets USR1: the run saves, and the job goes back to the queue. After a failed node, or a
preemption, Slurm queues the job again by itself. Each start is a new attempt (alexnet_lab/training/handover.py), so a
node that was only thought dead does no harm. How a run ended stands in its folder. What Slurm says of its job is shown
beside it, and counts only where the run says nothing.
"""

import getpass
import re
import shutil
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import ClassVar

from alexnet_ablations.declare.status import Sighting
from alexnet_ablations.declare.study import PlannedRun
from alexnet_ablations.run.elsewhere import RemoteAttempt, end_in_place, make_way, task_of
from alexnet_ablations.run.executors import Order, Refusal, option
from alexnet_ablations.run.node import Task
from alexnet_lab.training.process import child_environment, last_line, python_command

FOLDER = "slurm"
COMMENT = "alexnet-lab:"
# Runs of one wave. Slurm's own default for MaxArraySize allows indices up to 1000.
MOST = 1000
# Seconds between two looks at the queue: every look is a question to the controller that all users share.
LOOK = 3.0
# Seconds after which a job that left the queue without a verdict has failed: a shared disk may be late to show it.
SETTLE = 10.0
# Seconds before its time limit at which a job is told to save, and the shortest limit that leaves time for anything.
SAVE, LEAST_MINUTES = 120, 5
ANSWER = 60.0  # seconds that a program of Slurm has to answer
SPARE_MEMORY = 1.25  # of what an earlier run took
# What squeue prints of a job: array, index, id, state, seconds, reason, nodes, comment.
FORMAT = "%F|%K|%i|%T|%M|%r|%N|%k"
QUEUED = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "SUSPENDED", "STOPPED")
# Arguments of sbatch that are given here.
OURS = (
    *("array", "job-name", "comment", "requeue", "no-requeue", "open-mode", "signal", "output", "error", "parsable"),
    *("wrap", "chdir", "test-only", "wait", "hold"),
)

SCRIPT = """#!/bin/bash
# Makes the run of task $SLURM_ARRAY_TASK_ID. On USR1, and before its time limit, it saves and queues itself again.
{environment}
trap 'saving=1; kill -TERM "$run" 2>/dev/null' USR1
trap 'kill -TERM "$run" 2>/dev/null' TERM
{command} {tasks}/"$SLURM_ARRAY_TASK_ID".json "slurm $SLURM_ARRAY_JOB_ID"_"$SLURM_ARRAY_TASK_ID $SLURMD_NODENAME" &
run=$!
while kill -0 "$run" 2>/dev/null; do wait "$run"; status=$?; done
if [ -n "$saving" ] && {{ [ "$status" = 130 ] || [ "$status" = 143 ]; }}; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$status"
"""


@dataclass(frozen=True)
class Slurm:
    """A Slurm cluster, as an engine: plain sbatch, on a disk that all its machines share."""

    partition: str | None = option("Slurm: partition.", "NAME")
    time: str | None = option("Slurm: time limit of a job, such as 4h, 90m or 1-12:00:00; runs go on after it.", "TIME")
    slurm_arg: tuple[str, ...] = option("Slurm: another argument of sbatch, such as account=lab.", "NAME=VALUE", ())

    outlives: ClassVar[bool] = True
    is_here: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse what sbatch would refuse, and what is given by this program."""
        self.arguments()

    def open(self, order: Order) -> "SlurmExecutor":
        """Return an executor for one study; jobs of it that are in the queue are found again."""
        return SlurmExecutor(self, order)

    @staticmethod
    def sightings(study: Path) -> Mapping[Path, Sighting]:
        """Return what Slurm says of the jobs of a study; nothing where it cannot be asked."""
        if not (study / FOLDER).is_dir():
            return {}
        try:
            jobs = _jobs_of(study)
        except ValueError:  # this machine has no squeue, or the controller does not answer
            return {}
        return {run: Sighting(job.text, job.is_running) for run, job in jobs.items()}

    def arguments(self) -> list[str]:
        """Return what the user wants of sbatch, as its arguments."""
        arguments = [f"--partition={self.partition}"] if self.partition else []
        if self.time is not None:
            arguments.append(f"--time={_slurm_time(self.time)}")
        for text in self.slurm_arg:
            name, equals, value = text.lstrip("-").partition("=")
            if not re.fullmatch(r"[a-z][a-z0-9-]+", name):
                raise ValueError(f"--slurm-arg takes name=value as sbatch has it, such as account=lab; got {text!r}")
            if name in OURS:
                raise ValueError(f"--slurm-arg {name} is given by alexnet-lab itself; leave it out")
            arguments.append(f"--{name}{equals}{value}")
        return arguments


@dataclass(frozen=True)
class Job:
    """A job in the queue, as squeue shows it."""

    id: str  # 12_3: task 3 of array 12
    state: str
    seconds: float
    reason: str
    node: str

    @property
    def is_running(self) -> bool:
        """Return whether it has a machine."""
        return self.state not in QUEUED

    @property
    def text(self) -> str:
        """Say what Slurm says of it."""
        where = f" on {self.node}" if self.node else ""
        why = f" ({self.reason})" if self.reason not in ("None", "") and not self.is_running else ""
        return f"slurm job {self.id}: {self.state}{where}{why}"


class SlurmAttempt(RemoteAttempt):
    """A run in the queue of Slurm, or at work on one of its machines."""

    def __init__(self, run: PlannedRun, number: int) -> None:
        super().__init__(run, number, "slurm")
        self.id = ""
        self.wave: Path | None = None
        self.has_ended = False
        self.gone_at: float | None = None  # when its job was missed first
        self.asked_at: float | None = None

    def how_it_died(self) -> str:
        """Say what Slurm says of a job whose run left no verdict, and what the run said last."""
        says = _end_of(self.id) if self.id else "slurm has no job of it"
        words = self.said() or (last_line(self.wave / f"{self.id.partition('_')[2]}.out") if self.wave else "")
        return f"its job ended without a verdict: {says}" + (f"; its last words: {words}" if words else "")


class SlurmExecutor:
    """Places runs in the queue of Slurm: see Executor."""

    def __init__(self, slurm: Slurm, order: Order) -> None:
        self.slurm, self.order = slurm, order
        self.study = order.study.absolute()
        self.count = order.jobs or MOST
        self.wake = threading.Event()
        self.active: list[SlurmAttempt] = []
        self.batch: list[SlurmAttempt] = []  # to be submitted together
        self.jobs = _jobs_of(self.study)
        self.looked_at = -LOOK
        self.name = f"alexnet-lab:{re.sub(r'[^A-Za-z0-9_.=+-]', '-', self.study.name)[:60]}"
        self._remove_old_waves()
        if self.jobs:
            order.say(f"{len(self.jobs)} jobs of this study are in the queue of Slurm already, and are followed")

    def submit(self, run: PlannedRun, number: int, is_done: Callable[[PlannedRun], bool]) -> SlurmAttempt | Refusal:
        """Put a run into the next wave, or follow the job that it has in the queue."""
        job = self.jobs.get(run.folder.path.absolute())
        if job is None:
            refused = make_way(run, is_done)
            if refused is not None:
                return refused
        elif is_done(run):  # another attempt was first; the job sees that as soon as it starts
            return Refusal.DONE
        attempt = SlurmAttempt(run, number)
        self.active.append(attempt)
        if job is None:
            self.batch.append(attempt)
        else:
            attempt.id = job.id
        return attempt

    def poll(self, attempt: SlurmAttempt) -> bool:
        """Submit what waits for it, ask Slurm now and then, and say whether the attempt has ended."""
        if self.batch:
            self._submit_wave(self.batch[:MOST])
        if time.monotonic() - self.looked_at >= LOOK:
            self._look()
            self.looked_at = time.monotonic()
        return attempt.has_ended

    def stop(self, attempt: SlurmAttempt) -> None:
        """Cancel a job; Slurm lets its run save, and kills it if it takes too long."""
        now = time.monotonic()
        if attempt.id and (attempt.asked_at is None or now - attempt.asked_at > ANSWER):
            attempt.asked_at = now
            _ask("scancel", attempt.id)

    def stop_all(self) -> None:
        """Cancel all jobs of the study."""
        self.batch.clear()
        ids = [attempt.id for attempt in self.active if attempt.id and not attempt.has_ended]
        for start in range(0, len(ids), 100):
            _ask("scancel", *ids[start : start + 100])

    def close(self, attempt: SlurmAttempt) -> None:
        """Forget an attempt; a job that another attempt has made needless is cancelled."""
        self.active.remove(attempt)
        job = self.jobs.pop(attempt.run.folder.path.absolute(), None)
        if job is not None and job.state in QUEUED:
            _ask("scancel", job.id)

    def write_verdict(self, attempt: SlurmAttempt) -> None:
        """Write the verdict of a run whose attempts left none."""
        end_in_place(attempt, "timeout" if attempt.is_over_time else "lost")

    def _submit_wave(self, attempts: list[SlurmAttempt]) -> None:
        wave = self.study / FOLDER / uuid.uuid4().hex
        wave.mkdir(parents=True)
        for index, attempt in enumerate(attempts):
            (wave / f"{index}.json").write_text(task_of(attempt.run).to_json())
        script = wave / "job.sh"
        script.write_text(_script(wave))
        needs, given_arguments = self.order.needs, self.slurm.arguments()
        throttle = f"%{self.order.jobs}" if self.order.jobs else ""
        arguments = [
            f"--array=0-{len(attempts) - 1}{throttle}",
            f"--job-name={self.name}",
            f"--comment={COMMENT}{wave.name}",
            *(
                "--parsable",
                "--requeue",
                "--open-mode=append",
                f"--signal=B:USR1@{SAVE}",
                f"--output={str(wave).replace('%', '%%')}/%a.out",
            ),
            *_unless_given(given_arguments, ("cpus-per-task",), f"--cpus-per-task={needs.threads}"),
        ]
        if needs.gpus:
            arguments += _unless_given(
                given_arguments, ("gres", "gpus", "gpus-per-task", "gpus-per-node"), f"--gres=gpu:{needs.gpus}"
            )
        if needs.memory:
            megabytes = int(SPARE_MEMORY * needs.memory / 2**20) + 1
            arguments += _unless_given(given_arguments, ("mem", "mem-per-cpu", "mem-per-gpu"), f"--mem={megabytes}M")
        if needs.seconds is not None:  # the scheduler finds room sooner for a job that says how long it takes
            arguments += _unless_given(
                given_arguments, ("time",), f"--time={int(needs.seconds // 60) + 2 * LEAST_MINUTES}"
            )
        try:
            answer = _ask("sbatch", *arguments, *given_arguments, str(script), must=True)
        except ValueError:
            shutil.rmtree(wave, ignore_errors=True)
            self.batch.clear()
            raise
        array = answer.partition(";")[0].strip()
        for index, attempt in enumerate(attempts):
            attempt.id, attempt.wave = f"{array}_{index}", wave
        del self.batch[: len(attempts)]
        self.looked_at = -LOOK

    def _look(self) -> None:
        try:
            self.jobs = _jobs_of(self.study)
        except ValueError as error:  # nothing is known, so nothing has ended; verdicts are seen all the same
            self.order.say(f"slurm does not answer: {error}; asked again every {LOOK:g} s")
            for attempt in self.active:
                attempt.has_ended = attempt.has_ended or attempt.is_published()
            return
        for attempt in self.active:
            self._look_at(attempt)

    def _look_at(self, attempt: SlurmAttempt) -> None:
        if attempt.has_ended or (attempt.run.folder.path / "state.json").exists():
            attempt.has_ended = attempt.is_published()
            return
        if not attempt.id:  # not submitted yet
            return
        job = self.jobs.get(attempt.run.folder.path.absolute())
        if job is None:
            attempt.gone_at = attempt.gone_at or time.monotonic()
            attempt.has_ended = attempt.is_published() or time.monotonic() - attempt.gone_at > SETTLE
            return
        attempt.gone_at, attempt.id, attempt.is_queued = None, job.id, not job.is_running
        attempt.slot = f"slurm {job.id}"
        if job.is_running:
            attempt.seconds = job.seconds
            attempt.look()
        elif job.reason == "BeginTime":  # Slurm lets a job that was queued again wait two minutes
            _ask("scontrol", "update", f"jobid={job.id}", "starttime=now")
        elif "held" in job.reason.lower():
            self.order.say(f"slurm holds job {job.id} back ({job.reason}); scontrol release {job.id} lets it go")

    def _remove_old_waves(self) -> None:
        """Delete the waves that have no job in the queue any more."""
        live = _waves_in_queue()
        for wave in (self.study / FOLDER).glob("*"):
            if wave.name not in live:
                shutil.rmtree(wave, ignore_errors=True)


def command_of_node() -> list[str]:
    """Return the command that does a task on the machine that a job got."""
    return python_command("alexnet_ablations.run.node")


def _script(wave: Path) -> str:
    path = child_environment().get("PYTHONPATH", "")
    environment = f"export PYTHONSAFEPATH=1 PYTHONPATH={quote(path)}" if path else "export PYTHONSAFEPATH=1"
    command = " ".join(map(quote, command_of_node()))
    return SCRIPT.format(environment=environment, command=command, tasks=quote(str(wave)))


def _unless_given(arguments: list[str], names: tuple[str, ...], argument: str) -> list[str]:
    return [] if any(text.startswith(f"--{name}=") for text in arguments for name in names) else [argument]


def _slurm_time(text: str) -> str:
    """Return a time limit as sbatch takes it: minutes, or as written."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(m|min|h|d)", text.strip())
    minutes = float(match[1]) * {"m": 1, "min": 1, "h": 60, "d": 1440}[match[2]] if match else _minutes_of(text.strip())
    if minutes is None:
        raise ValueError(f"--time takes hours, minutes or a time of Slurm, such as 4h, 90m or 1-12:00:00; got {text!r}")
    if minutes < LEAST_MINUTES:
        raise ValueError(
            f"--time must be at least {LEAST_MINUTES} minutes, since a run saves {SAVE} s before its end; got {text!r}"
        )
    return str(round(minutes)) if match else text.strip()


def _minutes_of(text: str) -> float | None:
    """Read one of Slurm's own ways to write a time: M, M:S, H:M:S, D-H, D-H:M, D-H:M:S."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if not match:
        return None
    days, *parts = (None if part is None else int(part) for part in match.groups())
    first, second, third = parts
    if days is not None:
        return 1440 * days + 60 * (first or 0) + (second or 0) + (third or 0) / 60
    if third is not None:
        return 60 * (first or 0) + (second or 0) + third / 60
    return (first or 0) + (second or 0) / 60


def _waves_in_queue() -> set[str]:
    return {comment.removeprefix(COMMENT) for _, _, _, comment in _queue()}


def _jobs_of(study: Path) -> dict[Path, Job]:
    """Return the jobs of a study that are in the queue, by the absolute folder of their run."""
    if not (study / FOLDER).is_dir():
        _require_programs()
        return {}
    jobs = {}
    for job, _, index, comment in _queue():
        task = study.absolute() / FOLDER / comment.removeprefix(COMMENT) / f"{index}.json"
        if task.is_file():
            jobs[Path(Task.from_json(task.read_text()).run)] = job
    return jobs


def _queue() -> list[tuple[Job, str, str, str]]:
    """Return this user's jobs: each with its array, its index and its comment."""
    jobs = []
    for line in _ask("squeue", "-h", "-r", "-u", getpass.getuser(), "-o", FORMAT, must=True).splitlines():
        words = line.split("|", 7)
        if len(words) == 8 and words[7].startswith(COMMENT):
            array, index, id_, state, seconds, reason, node, comment = words
            jobs.append((Job(id_, state, 60 * (_minutes_of(seconds) or 0.0), reason, node), array, index, comment))
    return jobs


def _end_of(job: str) -> str:
    """Return what Slurm says of a job that has ended; it forgets one after some minutes."""
    text = _ask("scontrol", "show", "job", job, "-o")
    facts = dict(word.partition("=")[::2] for word in text.split())
    if "JobState" not in facts:
        return "slurm has forgotten the job"
    reason = facts.get("Reason", "None")
    answer = f"slurm says {facts['JobState']}" + (f", {reason}" if reason != "None" else "")
    return f"{answer}, exit code {facts.get('ExitCode', 'unknown')}"


def _require_programs() -> None:
    if shutil.which("sbatch") is None:
        raise ValueError(
            "executor slurm needs the program sbatch, which is not on this machine; start where jobs are submitted "
            "to Slurm, or take --executor local"
        )


def _ask(program: str, *arguments: str, must: bool = False) -> str:
    """Return what a program of Slurm answers; ValueError if it `must` and does not, else nothing."""
    _require_programs()
    try:
        done = subprocess.run(  # noqa: S603  # Slurm's own program, our arguments, no shell
            [program, *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=ANSWER,
            check=False,
            env=child_environment(),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        if must:
            raise ValueError(f"{program} did not answer ({error}); try again") from None
        return ""
    if done.returncode and must:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise ValueError(
            f"{program} ended with status {done.returncode}: {lines[-1] if lines else 'it said nothing'}; correct "
            "that, and the same command continues"
        )
    return done.stdout
