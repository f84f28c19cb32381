"""What a comparison comes to at the common values, and after a search of 2, 4, 8 points: from the runs of the searches.

With one search for each seed, every search gives one paired value: each cell at the point that its search would have
chosen from its first points, on the test images. The interval over these values therefore includes the choice. A budget
of one point is the recipe's own values, which all cells share.

The run that is tested here is the one that was chosen, so its chance helped to choose it. Where two cells gain alike
from that, their difference does not move; the comparison proper has runs of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from alexnet_ablations.conclude.conclusions import Conclusion, conclusions_of
from alexnet_ablations.conclude.outcomes import ended_well, headline_of, read_results
from alexnet_ablations.conclude.resplits import read_resplits
from alexnet_ablations.conclude.sentences import ALL_POSSIBLE, effect, name_of, shown_interval
from alexnet_ablations.declare.splitting import cell_in_fold
from alexnet_ablations.declare.study import PlannedRun, Study
from alexnet_ablations.tune.choice import SearchResult, within_budget
from alexnet_ablations.tune.searches import searches_of


@dataclass(frozen=True)
class AtBudget:
    """All contrasts of the headline outcome, each cell at the best of so many points."""

    points: int
    conclusions: Sequence[Conclusion]


def budgets_of(points: int) -> list[int]:
    """Return 1, 2, 4, 8 and so on, and at last all points."""
    doubled = [2**power for power in range(points.bit_length()) if 2**power < points]
    return [*doubled, points]


def effects_at_budgets(study: Study, outcomes: Sequence[SearchResult]) -> list[AtBudget]:
    """Return the effects at every budget, from the runs of the searches that are complete."""
    complete = [outcome for outcome in outcomes if outcome.is_complete]
    if not complete:
        return []
    runs_of = {(search.cell.name, search.number, search.fold): search.runs for search in searches_of(study)}
    effects = []
    for points in budgets_of(len(complete[0].tried)):
        runs = [
            _as_compared(runs_of[one.cell.name, one.number, one.fold][within_budget(one, points).chosen], one)
            for one in complete
        ]
        # Nothing is concluded about the inside of these networks, which takes longest to read.
        results = read_results(runs, health={})
        resplits = read_resplits(runs, ended_well(results)) if study.splitting.resplit else None
        concluded = conclusions_of(results, study.contrasts(), (headline_of(results),), study.margin, resplits=resplits)
        effects.append(AtBudget(points, concluded.headline))
    return effects


def _as_compared(run: PlannedRun, search: SearchResult) -> PlannedRun:
    """Return the run of a point as the run of its cell: without the values, and under the number of the search."""
    trained = cell_in_fold(search.cell, search.fold)
    return PlannedRun(trained, search.number, run.recipe, run.folder, search.cell if search.fold else None)


def beside_sentences(headline: Sequence[Conclusion], budgets: Sequence[AtBudget]) -> list[str]:
    """Say of each effect what it is at the common values and what it is with each cell tuned."""
    if not budgets:
        return []
    common = {item.contrast.name: item for item in budgets[0].conclusions}
    sentences = []
    for tuned in headline:
        shared = common.get(tuned.contrast.name)
        if tuned.contrast.kind == "effect" and tuned.n and shared is not None and shared.n:
            population = f" {tuned.population}" if tuned.population else ""
            sentences.append(
                f"{name_of(tuned.contrast)}{population}: {size_of(shared)} at the common values, {size_of(tuned)} with "
                "each cell tuned"
            )
    return sentences


def size_of(conclusion: Conclusion) -> str:
    """Write an effect with its interval and n: +3.1 points [+1.2, +5.0], n=3; or why there is none."""
    if not conclusion.n:
        return "no pair"
    size = effect(conclusion.outcome, conclusion.inference.mean)
    if conclusion.covers_all:
        return f"{size}, n={conclusion.n} (the interval holds {ALL_POSSIBLE})"
    between = f" {shown_interval(conclusion)}" if conclusion.shown else ""
    return f"{size}{between}, n={conclusion.n}"
