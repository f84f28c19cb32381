"""How many points a search may have so that tuning ends within a time: --tune learning_rate --within 30m.

Each different network is timed by a few training steps, as for --plan, and the points are the most whose runs fit. They
stand in study.toml as any number of points does, so that the study can be made again without the time.
"""

import re
from dataclasses import dataclass, replace

from alexnet_ablations.declare.design import MOST_RUNS, count_cells
from alexnet_ablations.declare.study import Study
from alexnet_ablations.declare.tuning import MOST_POINTS
from alexnet_ablations.run.executors import Needs
from alexnet_ablations.run.forecast import duration, paces_of, study_seconds
from alexnet_ablations.run.slots import find_slots
from alexnet_ablations.tune.searches import searches_of

_TIME = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m(?:in)?)?(?:(\d+(?:\.\d+)?)s)?")


@dataclass(frozen=True)
class Budget:
    """A number of points, and what their runs take."""

    within: float  # seconds that were given
    points: int
    runs: int  # of searches, that are still to be made
    seconds: float  # that they are expected to take
    is_cut: bool = False  # more would fit into the time, and not into the number of runs

    def sentence(self) -> str:
        """Say what was chosen and why, before it starts."""
        text = (
            f"tuning within {duration(self.within)}: {self.points} points, {self.runs} runs still to be made, about "
            f"{duration(self.seconds)}"
        )
        if self.is_cut:
            text += "; more would fit into the time, and --yes RUNS allows them"
        return f"{text}; the comparison comes after"


def read_time(text: str) -> float:
    """Return the seconds of a time such as 30m, 2h, 1h30m or 90s."""
    match = _TIME.fullmatch(text.strip())
    hours, minutes, seconds = (float(part or 0) for part in match.groups()) if match else (0.0, 0.0, 0.0)
    total = 3600 * hours + 60 * minutes + seconds
    if total <= 0:
        raise ValueError(f"--within takes a time above 0, such as 30m, 2h or 1h30m; got {text!r}")
    return total


def points_within(study: Study, seconds: float, jobs: int | None, most_runs: int) -> Budget:
    """Return the most points whose missing runs take so many seconds at most, where all runs are so many at most.

    The study has the fewest points that it may end with: two, or those that it has searched already, which cost
    nothing. Raises ValueError where not even these fit.
    """
    tuning = study.tuning
    assert tuning is not None  # noqa: S101  # only studies that are tuned have points
    cells = count_cells(study.design, study.factors) * len(study.splitting.parts)
    searches = tuning.searches(study.seeds)
    largest = max(min(MOST_POINTS, (MOST_RUNS // cells - study.seeds) // searches), tuning.points)
    # The first points of a longer search are those of a shorter one.
    longest = searches_of(replace(study, tuning=replace(tuning, points=largest)))
    needs = Needs.of([study.start])
    slots = find_slots(needs.threads, needs.gpus, jobs).count
    firsts = {search.cell.name: search.runs[0] for search in longest}
    paces = paces_of(study, list(firsts.values()), slots)
    costs = {name: (firsts[name].recipe, pace) for name, pace in zip(firsts, paces, strict=True)}
    missing = [(costs[search.cell.name], [not run.is_done for run in search.runs]) for search in longest]

    def with_points(points: int) -> Budget:
        runs = [cost for cost, flags in missing for is_missing in flags[:points] if is_missing]
        return Budget(seconds, points, len(runs), study_seconds(runs, slots))

    best = with_points(tuning.points)
    if best.seconds > seconds:
        raise ValueError(
            f"{best.points} points, the fewest, take {best.runs} runs and about {duration(best.seconds)}, and --within "
            f"gives {duration(seconds)}; give more time, or name fewer cells or seeds"
        )
    # The runs of the comparison count among those that are allowed, and not in the time; too many are refused later.
    for points in range(tuning.points + 1, largest + 1):
        more = with_points(points)
        if more.seconds > seconds:
            break
        if more.runs + study.size > most_runs:
            return replace(best, is_cut=True)
        best = more
    return best
