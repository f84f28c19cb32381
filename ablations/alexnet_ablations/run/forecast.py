"""What a study will cost and what it can show, before its first step."""

import heapq
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from alexnet_ablations.conclude.intervals import LEVEL
from alexnet_ablations.conclude.looks import level_of_look
from alexnet_ablations.declare.history import read_history
from alexnet_ablations.declare.study import PlannedRun, Study
from alexnet_ablations.run.calibration import FREE, Pace, UnfitRecipeError, calibrate, key_of
from alexnet_ablations.run.executors.local import is_forked
from alexnet_ablations.tune.searches import every_run, is_search
from alexnet_lab.training.recipe import Recipe

# Standard deviation between seeds of one cell, in points, assumed (and said to be) until runs have shown it.
ASSUMED_SPREAD = 1.0
# Share of the images that two cells answer differently under every seed, one right and the other wrong: likewise.
ASSUMED_DISAGREEMENT = 0.04
# Epochs in all: a smaller study of the laptop's size runs faster than it can be calibrated.
SMALL = 200
RECORDS_BYTES = 2**20  # of a run, beside its weights: metrics, instruments, split; tens of epochs
CALIBRATION = "calibration.json"


@dataclass(frozen=True)
class Power:
    """What so many seeds and test images can show."""

    pairs: int
    family: int  # effects that Holm's rule adjusts for
    attainable_p: float
    seeds_for_one: int  # the fewest whose smallest p is below 5%, for one effect by itself
    seeds_for_family: int  # and for the first step of Holm's rule
    spread: float  # points, standard deviation between runs of one cell
    is_assumed: bool
    detectable: Mapping[str, float]  # points, by kind of contrast; infinite below two seeds
    test_images: int | None = None  # under one seed, of all folds together; None: not known before the first run
    disagreement: float = ASSUMED_DISAGREEMENT  # share of the images that two cells answer differently for good
    is_disagreement_assumed: bool = True
    least: Mapping[str, float] = field(default_factory=dict)  # points that no number of seeds goes below
    margin: float | None = None  # points, the smallest effect of interest, where the user has named one
    seeds_for_margin: int | None = None  # for an effect; None: no margin, or out of reach of any number of seeds
    folds: int = 0  # in which each seed tests its images; 0 without folds
    overlap: float = 0.0  # test over training images, where each seed draws its own split
    has_findings: bool = False  # then all that is in points is an AUROC, 0 to 1, and nothing is assumed of it

    def sentences(self) -> list[str]:
        """Return the smallest p and the detectable effects as sentences."""
        n = f"{self.pairs} pair{'s' if self.pairs > 1 else ''}"
        sentence = f"{n}: an exact sign-flip test cannot go below p = {self.attainable_p:.2g}"
        if self.overlap:
            sentence = ""  # that test takes pairs for independent
        elif self.attainable_p > LEVEL:
            sentence += f"; it takes {self.seeds_for_one} seeds to get below {LEVEL:g}"
            if self.family > 1:
                sentence += f", and {self.seeds_for_family} after Holm's correction for {self.family} effects"
        elif self.attainable_p * self.family > LEVEL:
            sentence += f"; it takes {self.seeds_for_family} seeds after Holm's correction for {self.family} effects"
        source = "assumed" if self.is_assumed else "seen in the runs already there"
        if self.pairs < 2 or math.isinf(min(self.detectable.values())):
            power = "one seed shows no spread, so no interval and no test: take at least two"
        elif self.has_findings and self.is_assumed:
            power = (
                "which differences of AUROC the seeds and images show is said once two seeds of each cell have ended"
            )
        else:
            sizes = " and ".join(f"{self._size(least)} for an {kind}" for kind, least in self.detectable.items())
            spread = f"{self.spread:.2g} point{'' if self.spread == 1 else 's'}"
            if self.has_findings:
                spread = self._size(self.spread)
            adjusted = f", adjusted for {self.family} comparisons" if self.family > 1 else ""
            images = "" if self.test_images is None else f" and {self._tested()}"
            power = (
                f"{self.pairs} seeds{images} show effects of this size four times in five{adjusted}: {sizes}; with a "
                f"spread of {spread} between seeds of one cell (standard deviation, {source}){self._disagreement()}"
            )
        return [text for text in (sentence, power, self._limit()) if text]

    def _size(self, count: float) -> str:
        return f"an AUROC of {count:.2g}" if self.has_findings else _points(count)

    def _tested(self) -> str:
        images = f"{self.test_images:,} {'' if self.folds else 'test '}images"
        if self.folds:
            return f"{images} by {self.folds} folds"
        return f"{images} in each of their splits" if self.overlap else images

    def _disagreement(self) -> str:
        if self.test_images is None:
            return ", for these test images alone"
        if self.overlap and not self.is_assumed:
            return ", splits of the images included"
        if self.has_findings:
            return "" if self.is_disagreement_assumed else ", and the spread between images that was seen"
        source = "assumed" if self.is_disagreement_assumed else "seen"
        share = f"{100 * self.disagreement:.2g}% of the images"
        return f", and {share} that two cells answer differently whatever the seed ({source})"

    def _limit(self) -> str:
        """Say what no number of seeds can show on so few images, and what the margin takes."""
        if self.test_images is None or not self.least or (self.has_findings and self.is_disagreement_assumed):
            return ""
        least = self._size(min(self.least.values()))
        population = "training and test images like these" if self.overlap else "images like these"
        sentence = f"{self._tested()}: no number of seeds shows less than about {least} for {population}"
        if self.margin is None:
            return sentence
        margin = f"{self.margin:g} point{'' if self.margin == 1 else 's'}, the margin,"
        if self.has_findings:
            margin = f"an AUROC of {self.margin:g}, the margin,"
        if self.seeds_for_margin is None:
            return f"{sentence}; {margin} cannot be shown with them"
        return f"{sentence}; {margin} take about {self.seeds_for_margin:,} seeds"


@dataclass(frozen=True)
class Forecast:
    """What is left to run, and its cost."""

    cells: int
    runs: int
    missing: int
    slots: int
    seconds: float | None  # None: not measured
    disk_bytes: int | None
    free_bytes: int
    power: Power

    def sentences(self) -> list[str]:
        """Return time, disk and power as sentences."""
        if not self.missing:
            return self.power.sentences()
        if self.seconds is not None and self.disk_bytes is None:
            cost = f"time to expect: about {duration(self.seconds)}, by the runs already there"
        elif self.seconds is None or self.disk_bytes is None:
            cost = "time to expect: shown as soon as the first runs are under way (--plan measures it before)"
        else:
            cost = f"time to expect: about {duration(self.seconds)}; disk: about {size(self.disk_bytes)}"
        return [f"{self.slots} side by side; {cost}", *self.power.sentences()]

    def facts(self) -> dict[str, Any]:
        """Return the numbers, fit for JSON: None for what is not measured or cannot be found."""
        power = asdict(self.power)
        for name in ("detectable", "least"):
            power[name] = {kind: None if math.isinf(points) else points for kind, points in power[name].items()}
        if self.power.has_findings and self.power.is_assumed:  # nothing is assumed of an AUROC
            power |= {"detectable": {}, "least": {}, "spread": None, "disagreement": None, "seeds_for_margin": None}
        return {**asdict(self), "power": power}


def forecast(
    study: Study, slots: int, *, measured: bool | None, test_images: int | None = None, overlap: float = 0.0
) -> Forecast:
    """Return what a study will cost and can show; some training steps are timed if `measured` or it is not small.

    Where `measured` is None nothing is timed, since the runs are made on other machines. Without the number of test
    images, what it can show is about these images alone; `overlap` is that of splits which each seed draws.
    """
    every = every_run(study)
    missing = [run for run in every if not run.is_done]
    seconds, needed = None, None
    free = shutil.disk_usage(_existing(study.folder)).free
    if missing and measured is not None and (measured or not is_small(missing)):
        recipes = [run.recipe for run in missing]
        paced = list(zip(recipes, paces_of(study, missing, slots), strict=True))
        seconds = study_seconds(paced, slots)
        needed = disk_need(paced, slots)
        if needed > free:
            raise ValueError(
                f"this study needs about {size(needed)} of disk and {_existing(study.folder)} has {size(free)} free; "
                "free some, or choose another folder with --out"
            )
    elif missing:
        seconds = _by_runs_that_ended(every, missing, slots)
    waiting = {id(run) for run in missing}
    runs = [run for run in every if not is_search(run)]
    done = sum(id(run) not in waiting for run in runs)
    power = expected_power(study, runs, done=done, test_images=test_images, overlap=overlap)
    return Forecast(len(study.cells), len(every), len(missing), slots, seconds, needed, free, power)


def study_seconds(paced: Sequence[tuple[Recipe, Pace]], slots: int) -> float:
    """Return when the last of these runs ends; those that are forked wait once for the process that forks them."""
    forked = [is_forked(recipe) for recipe, _ in paced]
    once = max((pace.start_seconds for (_, pace), is_so in zip(paced, forked, strict=True) if is_so), default=0.0)
    seconds_of_each = [
        pace.seconds(recipe, is_forked=is_so) for (recipe, pace), is_so in zip(paced, forked, strict=True)
    ]
    return once + wall_time(seconds_of_each, slots)


def paces_of(study: Study, runs: Sequence[PlannedRun], slots: int) -> list[Pace]:
    """Return the pace of each run, by a few training steps of every different network unless they were timed before."""
    jobs = min(slots, len(runs))
    try:
        paces = calibrate([run.recipe for run in runs], jobs, study.folder / CALIBRATION)
    except UnfitRecipeError as error:
        cell = next(run.cell.name for run in runs if run.recipe == error.recipe)
        fields = " or ".join(factor.field for factor in study.factors)
        raise ValueError(
            f"{error} (in the cell {cell}; --baseline sets {fields} for all cells instead of varying it)"
        ) from None
    return [paces[key_of(run.recipe, jobs)] for run in runs]


def _by_runs_that_ended(every: Sequence[PlannedRun], missing: Sequence[PlannedRun], slots: int) -> float | None:
    """Return the seconds to expect from the finished runs of each cell, or of any; None where none ended well."""
    took: dict[str, list[float]] = {}
    for run in every:
        history = read_history(run.folder.path)
        if history.seconds and history.state == "ok":
            took.setdefault(run.compared.name, []).append(history.seconds)
    if not took:
        return None
    typical = fmean(seconds for of_cell in took.values() for seconds in of_cell)
    return wall_time([fmean(took.get(run.compared.name, [typical])) for run in missing], slots)


def is_small(runs: Sequence[PlannedRun]) -> bool:
    """Say whether all runs have the laptop's size, and there are few."""
    varying = {*FREE, "preset", "norm", "act", "optimiser", "batch_size"}
    default = vars(Recipe())
    alike = all(
        value == default[name]
        for run in runs
        for name, value in vars(run.recipe).items()
        if name in default and name not in varying
    )
    sizes = all(16 <= run.recipe.batch_size <= 256 for run in runs)
    return alike and sizes and sum(run.recipe.epochs for run in runs) <= SMALL


def wall_time(seconds: Sequence[float], slots: int) -> float:
    """Return when the last run ends if each takes the first slot that is free, in order."""
    ends = [0.0] * max(slots, 1)
    for duration in seconds:
        heapq.heapreplace(ends, ends[0] + duration)
    return max(ends)


def disk_need(paced: Sequence[tuple[Recipe, Pace]], slots: int) -> int:
    """Return the bytes that runs leave, and that those at work hold besides to go on from."""
    left_behind = sum(pace.weights_bytes + RECORDS_BYTES for _, pace in paced)
    # Two checkpoints, each of weights and what the optimiser and an average of the weights add to them.
    working = (
        2 * pace.weights_bytes * ({"adamw": 3}.get(recipe.optimiser, 2) + bool(recipe.ema)) for recipe, pace in paced
    )
    return left_behind + slots * max(working, default=0)


def expected_power(
    study: Study, runs: Sequence[PlannedRun], *, done: int, test_images: int | None = None, overlap: float = 0.0
) -> Power:
    """Return what the seeds and test images of a study can show; spreads are its own once two seeds have ended."""
    from alexnet_ablations.conclude.intervals import attainable_p
    from alexnet_ablations.conclude.seeds import MOST, fewest
    from alexnet_ablations.conclude.sensitivity import Spread

    contrasts = study.contrasts()
    seed_spread, image_spread, tested = None, None, None
    if done > len(study.cells) * len(study.splitting.parts):
        seed_spread, image_spread, tested = _spreads_of(study, runs)
    test_images = test_images or tested
    spread = ASSUMED_SPREAD if seed_spread is None else seed_spread
    disagreement = ASSUMED_DISAGREEMENT if image_spread is None else image_spread
    has_findings = study.start.has_findings
    if has_findings and seed_spread is not None and image_spread is None and not overlap:
        test_images = None  # no run has kept its predictions: what is said is of these images
    everything = 1.0 if has_findings else 100.0
    groups, between_images = test_images or 1, 0.0 if test_images is None else everything * math.sqrt(disagreement / 2)
    # At the level of the first step of Holm's rule at this look, as the verdicts are; and at what no look exceeds.
    level, most = level_of_look(study.seeds, study.looks) / len(contrasts), LEVEL / len(contrasts)
    detectable: dict[str, float] = {}
    spreads: dict[str, Spread] = {}
    for contrast in contrasts:
        # As for independent runs; common random numbers can only make the spread smaller.
        scale = math.sqrt(sum(weight**2 for weight in contrast.weights.values()))
        if overlap:  # under each seed other images are tested, so that their spread is part of that between seeds
            images = 0.0 if seed_spread is not None else between_images / math.sqrt(groups)
            of_contrast = Spread(math.hypot(spread, images) * scale, overlap=overlap)
        else:
            of_contrast = Spread(spread * scale, between_images * scale)
        effect = of_contrast.detectable(study.seeds, groups, level) if level > 0 else math.inf
        if effect >= detectable.get(contrast.kind, 0.0):
            detectable[contrast.kind], spreads[contrast.kind] = effect, of_contrast
    margin, of_effect = study.margin, spreads.get("effect")
    return Power(
        study.seeds,
        len(contrasts),
        attainable_p(study.seeds),
        _seeds_below(LEVEL),
        _seeds_below(most),
        spread,
        seed_spread is None,
        detectable,
        test_images=test_images,
        disagreement=disagreement,
        is_disagreement_assumed=image_spread is None,
        least={}
        if test_images is None
        else {kind: of_contrast.detectable(MOST, groups, most) for kind, of_contrast in spreads.items()},
        margin=margin,
        seeds_for_margin=None
        if margin is None or of_effect is None
        else fewest(lambda n: of_effect.shows(margin, n, groups, most)),
        folds=study.splitting.folds,
        overlap=overlap,
        has_findings=has_findings,
    )


def _spreads_of(study: Study, runs: Sequence[PlannedRun]) -> tuple[float | None, float | None, int | None]:
    """Return the spread of a run in points, the share of images that two cells answer differently, and their number.

    Of findings the spread is that of the mean AUROC, and twice the variance between images stands for the share. The
    first two are pooled over the contrasts of the finished runs; None where none has two seeds, or predictions.
    """
    from statistics import variance

    from alexnet_ablations.conclude.answers import image_values, read_answers
    from alexnet_ablations.conclude.conclusions import values_by_seed
    from alexnet_ablations.conclude.crossed import crossed
    from alexnet_ablations.conclude.outcomes import ended_well, headline_of, read_results

    results = read_results(runs)
    headline = headline_of(results)
    answers = None if study.splitting.resplit else read_answers(runs, ended_well(results))
    variances, disagreeing = [], []
    for contrast in study.contrasts():
        values = values_by_seed(results, contrast, headline)
        if len(values) < 2:
            continue
        size = sum(weight**2 for weight in contrast.weights.values())
        variances.append(variance(values.values()) / size)
        if answers is None:
            continue
        if headline.images == "area":
            table = answers.area_differences(contrast.weights, values, headline.finding)
        else:
            differences = answers.differences(contrast.weights, values)
            table = None if differences is None else image_values(differences, answers)
        if table is not None:
            squares = crossed(table)
            disagreeing.append(0.0 if squares is None else 2 * squares.image_spread**2 / size)
    spread = math.sqrt(sum(variances) / len(variances)) if variances else None
    disagreement = sum(disagreeing) / len(disagreeing) if disagreeing else None
    return spread, disagreement, None if answers is None else answers.images


def _seeds_below(level: float) -> int:
    """Return the fewest pairs n with 2 / 2^n at the level or below."""
    return math.ceil(1 - math.log2(level) - 1e-9)


def duration(seconds: float) -> str:
    """Write a time as one would say it: 40 s, 2 min, 3 h 20 min, 2 days 4 h."""
    if seconds < 90:
        return f"{max(round(seconds, -1), 10):.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 36:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(round(seconds / 3600), 24)
    return f"{days} days {hours} h" if hours else f"{days} days"


def size(count: int) -> str:
    """Write bytes in MB or GB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{max(count / 1e6, 1):.0f} MB"


def _points(count: float) -> str:
    return f"{count:.1f} points" if count <= 100 else "more points than there are"


def _existing(path: Path) -> Path:
    """Return the folder, or the nearest one above it that is there."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.exists())
