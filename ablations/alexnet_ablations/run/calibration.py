"""How long runs will take on this machine, measured by a few training steps of each different network.

    python -m alexnet_ablations.run.calibration < recipes.json

is a process of its own, as a run is, and prints one line of JSON per recipe. As many of them work side by side as runs
will, so that the times include what runs take from each other. Nothing that is trained here is kept.
"""

import hashlib
import json
import math
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from alexnet_lab.records import parse_json, read_text, write_atomically
from alexnet_lab.training.process import child_environment, python_command
from alexnet_lab.training.recipe import Recipe, read_recipe

if TYPE_CHECKING:
    from alexnet_lab.data.feed import Feed

# A step of at most so many seconds is timed in a real run, over some steps; a longer one on parts of a batch.
PATIENCE = 0.4
STEPS = 12  # of which the default instruments measure one
PARTS = (2, 4, 12)  # images: the difference of two parts tells what each image adds to a step
SLOW = 0.3  # seconds: where the smallest part takes longer, the largest is not tried
PROCESSES = 8  # calibrations side by side, at most
# Fields that change what is learned, and not how long it takes.
FREE = {"seed", "init", "learning_rate", "schedule", "warmup_epochs", "momentum", "weight_decay"}
FREE |= {
    "dropout",
    "label_smoothing",
    "epochs",
    "patience",
    "best_by",
    "split_seed",
    "fold",
    "deterministic",
    "clip_norm",
}
FREE |= {"layer_decay", "head_lr", "class_weights"}


@dataclass(frozen=True)
class Pace:
    """Time and disk that a run of some recipe takes."""

    start_seconds: float  # interpreter and libraries, which a forked run finds ready
    opening_seconds: float  # of the data
    step_seconds: float
    steps_per_epoch: int
    evaluation_seconds: float  # of one image
    validation_images: int
    test_images: int
    weights_bytes: int

    def seconds(self, recipe: Recipe, *, is_forked: bool = False) -> float:
        """Return what a whole run takes, from its start to its verdict."""
        views = 10 if recipe.ten_views else 1
        evaluated = recipe.epochs * self.validation_images + self.validation_images + views * self.test_images
        steps = recipe.epochs * self.steps_per_epoch
        start = self.opening_seconds + (0.0 if is_forked else self.start_seconds)
        return start + steps * self.step_seconds + evaluated * self.evaluation_seconds


def key_of(recipe: Recipe, jobs: int) -> str:
    """Name what a pace depends on: recipe fields that cost time, the machine, and how many runs work side by side."""
    facts = {name: value for name, value in asdict(recipe).items() if name not in FREE}
    if recipe.data == "digits":
        facts.pop("skip_bad")
    machine = [platform.node(), platform.machine(), os.cpu_count(), min(jobs, PROCESSES)]
    text = json.dumps([facts, machine], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


class UnfitRecipeError(ValueError):
    """A recipe of which not one step can be taken; the message says why."""

    def __init__(self, why: str, recipe: Recipe) -> None:
        super().__init__(why)
        self.recipe = recipe


def calibrate(recipes: Sequence[Recipe], jobs: int, cache: Path) -> dict[str, Pace]:
    """Return a pace for every recipe, by its key; those that the cache holds are not measured again."""
    paces = _read(cache)
    missing = {key_of(recipe, jobs): recipe for recipe in recipes}
    missing = {key: recipe for key, recipe in missing.items() if key not in paces}
    if missing:
        processes = min(jobs, PROCESSES)
        # With fewer recipes than processes, several processes time the same one: so many runs will work side by side.
        rounds = -(-len(missing) // processes)
        dealt = list(islice(cycle(missing.items()), rounds * processes))
        measured = list(_measured_side_by_side([dealt[at::processes] for at in range(processes)]))
        for key in missing:
            paces[key] = _typical([pace for name, pace in measured if name == key])
        cache.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(cache, json.dumps({key: asdict(pace) for key, pace in paces.items()}, indent=1))
    return paces


def _read(cache: Path) -> dict[str, Pace]:
    with suppress(
        FileNotFoundError, ValueError, TypeError, AttributeError
    ):  # absent, torn, or of another version: measured again
        paces = {key: Pace(**facts) for key, facts in parse_json(read_text(cache)).items()}
        return {key: pace for key, pace in paces.items() if _is_measured(pace)}
    return {}


def _is_measured(pace: Pace) -> bool:
    """Return whether a pace that was read has numbers that a measurement can give."""
    return all(type(value) in (int, float) and 0 <= value < math.inf for value in asdict(pace).values())


def _typical(paces: Sequence[Pace]) -> Pace:
    first = asdict(paces[0])
    return Pace(**{name: type(value)(median(getattr(pace, name) for pace in paces)) for name, value in first.items()})


def _measured_side_by_side(parts: Sequence[Sequence[tuple[str, Recipe]]]) -> Iterator[tuple[str, Pace]]:
    started = [(part, _start([recipe for _, recipe in part])) for part in parts]
    try:
        for part, process in started:
            out, err = process.communicate()
            if process.returncode:
                lines = err.strip().splitlines()
                why = lines[-1] if lines else _how_it_died(process.returncode)
                raise UnfitRecipeError(why, part[len(out.splitlines())][1])  # those timed before it left a line
            for (key, _), line in zip(part, out.splitlines(), strict=True):
                yield key, Pace(**json.loads(line))
    finally:
        for _, process in started:
            process.kill()
            process.communicate()


def _how_it_died(code: int) -> str:
    if code == -signal.SIGKILL:
        return (
            "timing its first steps was killed (SIGKILL), which is what a system does when memory runs out; "
            "take a smaller batch, or fewer runs side by side with --jobs"
        )
    if code < 0:
        return f"timing its first steps was ended by {signal.Signals(-code).name}"
    return f"timing its first steps ended with status {code} and printed nothing"


def _start(recipes: Sequence[Recipe]) -> "subprocess.Popen[str]":
    threads = str(recipes[0].threads)
    process = subprocess.Popen(  # noqa: S603  # our own interpreter, our own module
        python_command("alexnet_ablations.run.calibration", str(time.time())),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**child_environment(), "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
    )
    assert process.stdin is not None  # noqa: S101  # a pipe was asked for
    process.stdin.write(json.dumps([asdict(recipe) for recipe in recipes]))
    process.stdin.close()
    process.stdin = None  # so that communicate does not write to it again
    return process


def measure(recipe: Recipe, start_seconds: float = 0.0) -> Pace:
    """Time a few steps of the recipe in this process; `start_seconds` is how long its start took, where known."""
    import torch

    from alexnet_lab.networks.layers import frozen_layers
    from alexnet_lab.training.optim import build_optimiser
    from alexnet_lab.training.run import configure_torch, open_feed_of
    from alexnet_lab.training.trainer import network_of
    from alexnet_lab.training.weight_loading import load_weights
    from alexnet_lab.training.weight_sources import find_weights

    configure_torch(recipe)
    began = time.perf_counter()
    feed = open_feed_of(recipe, lambda _kind, _facts: None)
    opening = time.perf_counter() - began
    network = network_of(recipe, len(feed.classes), feed.channels)
    source = find_weights(recipe)
    if source is not None:  # not worth timing, but an unfit file is refused here
        load_weights(network, source, recipe, feed)
    if recipe.is_frozen_in(recipe.epochs):
        for layer in frozen_layers(network, recipe.freeze):
            for parameter in layer.parameters:
                parameter.requires_grad_(False)
    network.to(recipe.device)
    optimiser = build_optimiser(recipe, network)
    side, channels = recipe.image_size, feed.channels
    dtype = torch.float16 if recipe.precision == "fp16" else torch.bfloat16

    def seconds_of(work: Any) -> float:
        began = time.perf_counter()
        work()
        if recipe.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    def step(pixels: Any, labels: Any) -> None:
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(recipe.device, dtype, enabled=recipe.precision != "fp32"):
            loss = torch.nn.functional.cross_entropy(network(pixels), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    def blank(count: int) -> tuple[Any, Any]:
        pixels = torch.randn(count, channels, side, side, device=recipe.device)
        return pixels, torch.zeros(count, dtype=torch.long, device=recipe.device)

    network.train()
    step(*blank(PARTS[0]))  # the first step allocates; the second shows whether larger parts take too long
    is_slow = seconds_of(lambda: step(*blank(PARTS[0]))) > SLOW
    fewer, more = PARTS[:2] if is_slow else PARTS[1:]
    part = blank(more)
    low, high = (
        min(seconds_of(lambda x=x: step(*x)) for _ in range(1 if is_slow else 2)) for x in (blank(fewer), part)
    )
    per_image = min(max(high - low, 0.0) / (more - fewer), high / more)
    per_step = high + per_image * max(recipe.batch_size - more, 0)
    if per_step < PATIENCE:
        per_step = _seconds_per_step_of_a_run(recipe, feed) or per_step
    network.eval()
    with torch.inference_mode():
        evaluation = min(seconds_of(lambda: network(part[0])) for _ in range(2)) / more
    return Pace(
        start_seconds=start_seconds,
        opening_seconds=opening,
        step_seconds=per_step,
        steps_per_epoch=feed.steps_per_epoch(recipe.batch_size),
        evaluation_seconds=evaluation,
        validation_images=len(feed.split.validation),
        test_images=len(feed.split.test),
        weights_bytes=sum(value.numel() * value.element_size() for value in network.state_dict().values()),
    )


def _seconds_per_step_of_a_run(recipe: Recipe, feed: "Feed") -> float | None:
    """Time the first steps of a real run, instruments included; None where it has fewer than two."""
    from alexnet_lab.records import RunFolder
    from alexnet_lab.training.errors import DivergedError, InterruptedRunError
    from alexnet_lab.training.parallel import joined
    from alexnet_lab.training.trainer import Trainer

    seen: list[tuple[int, float]] = []  # steps taken, and when

    def watch(kind: str, facts: dict[str, Any]) -> None:
        if kind == "step":
            seen.append((facts["step"], time.perf_counter()))
            trainer.stop_asked = facts["step"] > STEPS

    with TemporaryDirectory() as path, joined(recipe.device) as ranks:
        folder = RunFolder(Path(path))
        folder.begin(recipe.to_json(), {}, "{}")
        # Compiling takes a minute, once: too long to wait for here.
        # Layers that train later take their time too.
        freeze = recipe.freeze if recipe.is_frozen_in(recipe.epochs) else "none"
        trainer = Trainer(replace(recipe, compile=False, epochs=1, freeze=freeze), folder, feed, ranks, watch)
        with suppress(InterruptedRunError, DivergedError):
            trainer.run()
    if len(seen) < 2:
        return None
    (first, began), (last, ended) = seen[0], seen[-1]
    return (ended - began) / (last - first)


def main(arguments: Sequence[str]) -> int:
    """Time the recipes given as JSON on standard input; the argument is the time at which this process was started."""
    start = None
    try:
        for values in json.loads(sys.stdin.read()):
            recipe = read_recipe(values)
            if start is None:
                import alexnet_lab.training.trainer  # noqa: F401  # what a run imports before its first step

                start = max(time.time() - float(arguments[0]), 0.0)
            print(json.dumps(asdict(measure(recipe, start))), flush=True)  # noqa: T201  # the answer
    except (ValueError, OSError, RuntimeError) as error:
        print(error, file=sys.stderr)  # noqa: T201  # the parent raises it
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
