"""One training run, from a recipe to a run folder with a verdict.

    python -m alexnet_lab.training.run RUN_FOLDER

reads RUN_FOLDER/recipe.json, trains, and writes metrics, weights and a verdict there. It continues from a checkpoint of
the same recipe and data, if there is one. A run is a process of its own, so that it cannot affect another.
"""

import errno
import json
import os
import platform
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from alexnet_kernels import triton_trouble
from alexnet_lab.data.audit import LIST
from alexnet_lab.data.feed import Feed, open_feed
from alexnet_lab.data.leaks import LIST as DROPPED_LIST
from alexnet_lab.data.leaks import dropped_as_json
from alexnet_lab.records import RunFolder, State, write_atomically
from alexnet_lab.terminal import as_text
from alexnet_lab.training.companions import COMPANION, RECIPE, CompanionError, companions
from alexnet_lab.training.errors import (
    DivergedError,
    InterruptedRunError,
    OutOfMemoryError,
    is_out_of_memory,
    largest_fitting,
    memory_of_others,
)
from alexnet_lab.training.handover import others_further, take_over
from alexnet_lab.training.parallel import RANK_HERE, Ranks, joined
from alexnet_lab.training.process import end_with, is_first_process, leave, run_folder
from alexnet_lab.training.recipe import Recipe, read_recipe
from alexnet_lab.training.trainer import Report, Trainer, network_of
from alexnet_lab.version import __version__

# Errors whose message says what to do; the traceback tells a user nothing more.
MISTAKES = (ValueError, FileNotFoundError, ConnectionError)
BF16_CAPABILITY = (8, 0)  # Ampere; older GPUs emulate bf16, slower than fp32


def train(recipe: Recipe, folder: RunFolder, report: Report = lambda _kind, _facts: None) -> dict[str, Any]:
    """Train by the recipe in this process and return the result; the folder gets everything but the verdict."""
    if recipe.device == "cuda":
        check_gpu(recipe)
    configure_torch(recipe)
    with companions(recipe, folder):
        return _train(recipe, folder, report)


def _train(recipe: Recipe, folder: RunFolder, report: Report) -> dict[str, Any]:
    with joined(recipe.device) as ranks:
        speak = report if ranks.is_first else lambda _kind, _facts: None
        feed = open_feed_of(recipe, speak)
        for text in (*recipe.warnings(), *feed.notes):
            speak("note", {"text": text})
        trainer = Trainer(recipe, folder, feed, ranks, speak)
        identity = recipe.identity(feed.fingerprint, trainer.weights.digest if trainer.weights else "")
        if ranks.is_first:
            folder.clear_leftovers()
            _take_over_further(folder, trainer, identity, speak)
        ranks.wait()
        resumed = _is_same_run(folder, identity, speak) and trainer.resume()
        ranks.wait()  # until every process has read the checkpoint
        if not resumed and ranks.is_first:
            folder.begin(recipe.to_json(), _provenance(trainer, identity), feed.split.to_json())
        if ranks.is_first:  # of a run that goes on, too: what stands there may have been damaged meanwhile
            write_atomically(folder.path / LIST, feed.audit.to_json())
            if feed.dropped:
                write_atomically(folder.path / DROPPED_LIST, dropped_as_json(feed.dropped))
        ranks.wait()
        with _stopped_by_signals(trainer):
            try:
                return trainer.run()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                # The frames of the step that failed still hold its activations.
                traceback.clear_frames(error.__traceback__)
                trainer.optimiser.zero_grad(set_to_none=True)
                raise OutOfMemoryError(_advice_on_memory(recipe, feed, ranks)) from error


def check_gpu(recipe: Recipe) -> None:
    """Refuse a recipe for a GPU that is not there, or that lacks what the recipe asks for."""
    if not torch.cuda.is_available():
        raise ValueError("device cuda was asked for, and torch sees no GPU here; take device cpu")
    index, count = int(os.environ.get(RANK_HERE, "0")), torch.cuda.device_count()
    if recipe.processes > count:
        raise ValueError(
            f"processes {recipe.processes} takes a GPU for each, and there {'is' if count == 1 else 'are'} {count} "
            f"here; take processes {count}"
        )
    if index >= count:
        raise ValueError(
            f"each process needs a GPU of its own, and process {index + 1} of this machine has none of its {count}; "
            f"start torchrun with --nproc-per-node {count}"
        )
    capability = torch.cuda.get_device_capability(index)
    if recipe.precision == "bf16" and capability < BF16_CAPABILITY:
        raise ValueError(
            f"precision bf16 needs a GPU of compute capability {_dotted(BF16_CAPABILITY)} or higher, and "
            f"{torch.cuda.get_device_name(index)} has {_dotted(capability)}; take precision fp16 or fp32"
        )
    architectures = torch.cuda.get_arch_list()
    if architectures and not any(_runs_on(built, capability) for built in architectures):
        raise ValueError(
            f"torch {torch.__version__} has no code for {torch.cuda.get_device_name(index)}, whose compute capability "
            f"is {_dotted(capability)}, but for {', '.join(architectures)}; install a torch that was built for it, or "
            "take device cpu"
        )
    trouble = triton_trouble(torch.device("cuda", index)) if recipe.compile else None
    if trouble:
        raise ValueError(f"compile needs Triton on a GPU, and does without it on a processor: {trouble}; leave it off")


def _dotted(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))


def _runs_on(built: str, capability: tuple[int, int]) -> bool:
    """Return whether code runs on a GPU: sm_86 on 8.6 to 8.9, sm_90a on 9.0 alone, compute_86 on 8.6 and all later."""
    parts = re.fullmatch(r"(sm|compute)_(\d+)(\d)([a-z]?)", built)
    if parts is None:
        return False
    kind, major, minor, only = parts.groups()
    of = (int(major), int(minor))
    if only:
        return of == capability
    return of <= capability and (kind == "compute" or of[0] == capability[0])


def configure_torch(recipe: Recipe) -> None:
    """Set for this process what torch keeps globally: threads, determinism, and what fp32 means on a GPU.

    torch's own default lets cuDNN round the factors of fp32 convolutions to TF32. The settings are those that torch
    calls legacy, because torch.compile still reads them.
    """
    torch.set_num_threads(recipe.threads)
    if recipe.deterministic:
        # cuBLAS reads it at its first product; torch refuses deterministic products without it.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.allow_tf32 = recipe.tf32
    torch.set_float32_matmul_precision("high" if recipe.tf32 else "highest")


@contextmanager
def torch_set_as_in(recipe: Recipe) -> Iterator[None]:
    """Set torch's global settings as a run has them, and give back those of the process."""
    threads, is_deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    tf32, precision = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    dtype = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float32)
        configure_torch(recipe)
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(is_deterministic)
        torch.backends.cudnn.allow_tf32 = tf32
        torch.set_float32_matmul_precision(precision)
        torch.set_default_dtype(dtype)


def open_feed_of(recipe: Recipe, report: Report) -> Feed:
    """Open the data that a recipe names, as its network will see it."""
    return open_feed(
        recipe.data,
        image_size=recipe.image_size,
        scale=recipe.input_scale,
        split_seed=recipe.split_seed,
        fold=recipe.fold,
        fit=recipe.fit,
        channels=recipe.channels,
        augment=recipe.augment,
        device=recipe.device,
        skip_bad=recipe.skip_bad,
        group=recipe.group,
        patient_from=recipe.patient_from,
        findings=recipe.findings,
        drop_duplicates=recipe.drop_duplicates,
        allow_leaks=recipe.allow_leaks,
        progress=lambda what, done, total: report("preparing", {"what": what, "done": done, "total": total}),
    )


def train_with_verdict(recipe: Recipe, folder: RunFolder, report: Report = lambda _kind, _facts: None) -> int:
    """Train and write the verdict, whatever comes; return 0 for a finding, 1 for a failure, 130 for an interruption."""
    try:
        result = train(recipe, folder, report)
    except DivergedError as finding:  # in every process that shares the run
        if is_first_process():
            folder.end("diverged", str(finding))
    except OutOfMemoryError as failure:
        folder.end("oom", str(failure))
        return 1
    except InterruptedRunError as interruption:
        report("note", {"text": f"{interruption}; the same command goes on from there"})
        return 130
    except Exception as error:  # noqa: BLE001  # the verdict must be written whatever went wrong; the trace goes with it
        _write_failure(error, recipe, folder)
        return 1
    else:
        if is_first_process():
            folder.end("ok", result=result)
            folder.clear_leftovers()  # the best weights stay; the checkpoints of steps are not needed any more
    return 0


def _write_failure(error: Exception, recipe: Recipe, folder: RunFolder) -> None:
    """Write the verdict of a run that an error has ended, with the traceback of the error being handled."""
    # These are mistakes that their message explains; anything else needs its name.
    mistake = isinstance(error, (*MISTAKES, CompanionError))
    why = str(error) if mistake else f"{type(error).__name__}: {error}"
    if is_out_of_memory(error):  # of a batch there would be advice; this is before the first
        size = f"{recipe.image_size} pixels, width {recipe.width:g}"
        why = f"a network for {size}, does not fit in memory; take a smaller image_size or width"
        why += memory_of_others(recipe.device)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        why = f"no space left on the disk of {folder.path}; what was saved is whole: free some and run it again"
        print(as_text(why), file=sys.stderr)  # noqa: T201  # the verdict may not find room either
    if isinstance(error, CompanionError) and (folder.path / "state.json").exists():  # the other process has said why
        return
    folder.path.mkdir(parents=True, exist_ok=True)
    state: State = "oom" if is_out_of_memory(error) else "error"
    folder.end(state, why, {"traceback": traceback.format_exc()})


def _take_over_further(folder: RunFolder, trainer: Trainer, identity: str, report: Report) -> None:
    """Copy the furthest checkpoint of another attempt at this run, if it is later than those in the folder."""
    for path in others_further(folder.path):
        other = RunFolder(path)
        if _is_same_run(other, identity, report) and trainer.can_resume_from(other):
            report("note", {"text": f"from the checkpoints of {path.name}"})
            take_over(path, folder.path)
            return


def _is_same_run(folder: RunFolder, identity: str, report: Report) -> bool:
    try:
        provenance = folder.provenance()
    except ValueError as error:
        report("note", {"text": f"{str(error).partition(';')[0]}; the run starts again"})
        return False
    return provenance is not None and provenance.get("identity") == identity


def _provenance(trainer: Trainer, identity: str) -> dict[str, Any]:
    recipe, feed, weights = trainer.recipe, trainer.feed, trainer.weights
    device = torch.cuda.get_device_name() if recipe.device == "cuda" else "cpu"
    return {
        "identity": identity,
        "data_fingerprint": feed.fingerprint,
        "classes": list(feed.classes),
        "notes": [*recipe.warnings(), *feed.notes, *trainer.notes],
        "alexnet_lab": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {platform.system()} {platform.release()}",
        "device": device,
        "fp32_products": "tf32" if recipe.device == "cuda" and recipe.tf32 else "fp32",
        **({} if weights is None else {"weights": weights.description, "weights_digest": weights.digest}),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


class _stopped_by_signals:  # noqa: N801  # a context manager reads as one
    """Let Ctrl-C and a polite kill end the run at the next step, saved; a second Ctrl-C ends it at once.

    A second SIGTERM changes nothing: a scheduler sends it to every process of a job, and a parent passes it on.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def __enter__(self) -> None:
        def ask(number: int, _frame: object) -> None:
            if self.trainer.stop_asked and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.trainer.stop_asked = True

        # Python hands signals to the main thread alone, and lets no other ask for them.
        heard = threading.current_thread() is threading.main_thread()
        numbers = (signal.SIGINT, signal.SIGTERM) if heard else ()
        self.before = {number: signal.signal(number, ask) for number in numbers}

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


def _advice_on_memory(recipe: Recipe, feed: Feed, ranks: Ranks) -> str:
    """Find a batch that fits, by trying."""
    dtype = torch.float16 if recipe.precision == "fp16" else torch.bfloat16

    def attempt(size: int) -> None:
        network = network_of(recipe, len(feed.classes), feed.channels).to(recipe.device)
        x = torch.zeros(size, feed.channels, recipe.image_size, recipe.image_size, device=recipe.device)
        with torch.autocast(recipe.device, dtype, enabled=recipe.precision != "fp32"):
            loss = F.cross_entropy(network(x), torch.zeros(size, dtype=torch.long, device=recipe.device))
        loss.backward()  # type: ignore[no-untyped-call]

    part = recipe.batch_size // (recipe.accumulate * ranks.count)
    fits, others = largest_fitting(part, attempt), memory_of_others(recipe.device)
    if not fits:
        why = f"not even one image of {recipe.image_size} pixels fits in memory; take a smaller image_size or width"
        return why + others
    of_process = recipe.batch_size // ranks.count
    parts = next(parts for parts in range(1, of_process + 1) if of_process % parts == 0 and of_process // parts <= fits)
    return (
        f"{part} images at once do not fit in memory, {fits} do: take batch_size {fits * ranks.count}, "
        f"or compute the same batch in parts with accumulate {parts}{others}"
    )


def accompany(place: Path, folder: RunFolder) -> int:
    """Be one of the processes that the first one of a run has started; what all of them meet, the first one tells."""
    end_with(sys.stdin.fileno(), signal.SIGKILL)
    recipe = read_recipe(json.loads((place / RECIPE).read_text()))
    try:
        if recipe.device == "cuda":
            check_gpu(recipe)
        configure_torch(recipe)
        _train(recipe, folder, lambda _kind, _facts: None)
    except (DivergedError, InterruptedRunError):
        return 0
    except MISTAKES:
        return 1
    except OutOfMemoryError as failure:
        folder.end("oom", str(failure))
        return 1
    return 0


def main(arguments: list[str]) -> int:
    """Run the recipe that stands in the folder named on the command line."""
    if arguments[:1] == [COMPANION]:
        return accompany(Path(arguments[1]), RunFolder(Path(arguments[2])))
    return run_folder(arguments, train_with_verdict)


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
