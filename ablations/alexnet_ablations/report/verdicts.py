"""The report in words: what stands first, what limits it, what stands out beside accuracy, how numbers are set."""

import re
from collections.abc import Sequence

import pandas as pd

from alexnet_ablations.conclude.conclusions import Conclusion, Conclusions
from alexnet_ablations.conclude.outcomes import headline_of, population_of
from alexnet_ablations.conclude.sentences import (
    averaged,
    averaging_note,
    damage_sentence,
    effect,
    exact_test_note,
    lacking_sentence,
    look_sentence,
    name_of,
    notes_of,
    shown_interval,
)
from alexnet_ablations.declare.study import Study

UNFINISHED = {"waiting": "not begun", "running": "at work", "lost": "interrupted", "damaged": "damaged"}
VERDICTS = {
    "difference": "Difference",
    "difference within margin": "Difference, too small to matter",
    "equivalent": "No difference that matters",
    "undecided": "Undecided",
    "censored": "No verdict",
    "no spread": "No spread over seeds",
    "one pair": "One seed only",
    "no pair": "Nothing to compare",
}
MOST_NAMED = 3  # comparisons that a sentence gives with their numbers
MOST_NAMES = 4
# What more, and what less, of an outcome means in plain words.
PLAIN = {
    "gradient_first_to_last": ("more gradient reaches the first layer", "less gradient reaches the first layer"),
    "update_ratio": ("larger steps for the size of the weights", "smaller steps for the size of the weights"),
    "signal_to_noise": ("batches agree more on where to go", "batches agree less on where to go"),
    "dead_share": ("more units are dead", "fewer units are dead"),
    "negative_side_rate": ("units are silent on more inputs", "units are silent on fewer inputs"),
    "epochs_to_level": ("it learns more slowly", "it learns faster"),
    "final_train_loss": ("it fits the training images less", "it fits the training images better"),
    "validation_accuracy": ("more images right", "fewer images right"),
    "balanced_accuracy": ("higher balanced accuracy", "lower balanced accuracy"),
    "auroc": ("classes are told apart better", "classes are told apart less"),
    "calibration_error": ("its confidence fits less", "its confidence fits better"),
    "images_per_second": ("it trains faster", "it trains more slowly"),
    "train_seconds": ("training takes longer", "training takes less time"),
    "peak_memory_mb": ("it takes more memory", "it takes less memory"),
}  # fmt: skip


def typeset(text: str) -> str:
    """Set numbers as people write them: a hyphen before a number as a minus, 2e-05 as 2·10⁻⁵."""
    text = re.sub(r"(?<![\w.,-])-(?=\d)", "−", text)
    return re.sub(r"(?<=\d)e([+-])0*(\d+)\b", _power_of_ten, text)


def _power_of_ten(match: re.Match[str]) -> str:
    sign = "⁻" if match[1] == "-" else ""
    return f"·10{sign}{match[2].translate(str.maketrans('0123456789', '⁰¹²³⁴⁵⁶⁷⁸⁹'))}"


def unfinished(results: pd.DataFrame) -> str:
    """Say that runs are missing; empty where every run has come to an end."""
    counts = results["state"].value_counts()
    parts = [f"{counts[state]} {word}" for state, word in UNFINISHED.items() if counts.get(state, 0)]
    ended = int((~results["state"].isin(list(UNFINISHED))).sum())
    # Under each seed a cell has several runs, one for each fold, and the table has them in one row.
    what = "cells and seeds" if results.attrs.get("folds") else "runs"
    return f"{ended} of {len(results)} {what} have ended ({', '.join(parts)})" if parts else ""


def lead(study: Study, results: pd.DataFrame, conclusions: Conclusions) -> str:
    """Say in a few sentences what came out, and of what: what was found is the first."""
    data = study.start.data.rpartition("/")[2]
    seeds = "one seed" if study.seeds == 1 else f"{study.seeds} seeds"
    seeds += f" by {study.splitting.folds} folds" if study.splitting.folds else ""
    networks = dict.fromkeys(str(dict(cell.settings).get("network", study.start.network)) for cell in study.cells)
    what = f"{len(study.cells)} cells of {', '.join(networks)} on {data}, {seeds} each. "
    missing = unfinished(results)
    warning = f"Unfinished: {missing}; all that follows rests on these. " if missing else ""
    headline, outcome = conclusions.headline, headline_of(results)
    where = next((item.population for item in headline if item.n), population_of(results, outcome))
    measured = f"{outcome.label} {where}"
    if not any(item.n for item in headline):
        return warning + what + f"No comparison has a pair of runs with a {outcome.label}: nothing can be said yet."
    if not any(item.inference.t for item in headline):
        return warning + what + _without_intervals(headline, measured)
    different = [item for item in headline if item.verdict.startswith("difference")]
    equal = [item for item in headline if item.verdict == "equivalent"]
    rest = [item for item in headline if item not in different and item not in equal]
    sentences = []
    if different:
        effects = "; ".join(_short(item) for item in _largest(different))
        more = f"; and {len(different) - MOST_NAMED} more" if len(different) > MOST_NAMED else ""
        sentences.append(f"Beyond chance in {measured}: {effects}{more}.")
    if equal:
        where = "" if different else f" in {measured}"
        sentences.append(f"Shown to be too small to matter{where}: {_names(equal)}.")
    if rest:
        where = "" if different or equal else f" in {measured}"
        sentences.append(f"Undecided{where}: {_names(rest) if different or equal else _spans(rest)}.")
    return f"{warning}{' '.join(sentences)} {what}".strip()


def _without_intervals(headline: Sequence[Conclusion], measured: str) -> str:
    effects = "; ".join(_short(item) for item in _largest([item for item in headline if item.n]))
    if all(item.n <= 1 for item in headline):
        return (
            f"One pair of runs per comparison, so there is no interval and no verdict: in {measured}, {effects}. "
            "Chance alone may have made any of this; more seeds can tell."
        )
    return f"The pairs do not differ among each other, so there is no interval: in {measured}, {effects}."


def _largest(conclusions: Sequence[Conclusion]) -> list[Conclusion]:
    return sorted(conclusions, key=lambda item: -abs(item.inference.mean))[:MOST_NAMED]


def _short(conclusion: Conclusion) -> str:
    between = f" {shown_interval(conclusion)}" if conclusion.shown and not conclusion.covers_all else ""
    size = typeset(f"{effect(conclusion.outcome, conclusion.inference.mean)}{between}")
    return f"{name_of(conclusion.contrast)} {size}, n={conclusion.n}"


def _spans(conclusions: Sequence[Conclusion]) -> str:
    with_n = [item for item in conclusions if item.n]
    effects = "; ".join(_short(item) for item in _largest(with_n))
    return effects + (f"; and {len(with_n) - MOST_NAMED} more" if len(with_n) > MOST_NAMED else "")


def _names(conclusions: Sequence[Conclusion]) -> str:
    names = [name_of(item.contrast) for item in conclusions]
    return ", ".join(names[:MOST_NAMES]) + (f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else "")


def zero_of(study: Study, baseline: str) -> str:
    """Say what an effect of 0 means in the design of a study."""
    if len(study.factors) == 1 or study.design in ("one-at-a-time", "only"):
        return f"0 is the baseline, {baseline}."
    if study.design == "leave-one-out":
        return "0 is no change; each change is taken while all the others are made."
    note = averaging_note(study.contrasts())
    return f"0 is no change. {note}"


def limits(conclusions: Conclusions, limitations: Sequence[str]) -> list[str]:
    """Say what these seeds and this design cannot show; each sentence once."""
    headline = conclusions.headline
    # Said below, with the names that these notes go without, and once where many share one.
    apart = ("over the seeds", "cannot be told from", "the exact sign-flip test alone")
    notes = list(dict.fromkeys(note for item in headline for note in notes_of(item) if not note.startswith(apart)))
    for item in headline:
        notes += [f"{name_of(item.contrast)} rests on the t interval: {note}" for note in exact_test_note(item)]
    shared = [item.contrast for item in headline if item.contrast.aliases]
    notes += [f"{one.name} cannot be told from {', '.join(one.aliases)} in this design" for one in shared[:3]]
    if len(shared) > 3:
        notes.append(f"{len(shared) - 3} more comparisons share their number likewise; --plan names them all")
    fewer = [item for item in headline if 0 < item.n < item.planned]
    if fewer:
        least = min(item.n for item in fewer)
        what = name_of(fewer[0].contrast) if len(fewer) == 1 else f"{len(fewer)} of {len(headline)} comparisons"
        notes.append(
            f"{what} rest{'s' if len(fewer) == 1 else ''} on fewer than {fewer[0].planned} seeds, the fewest {least}; "
            "a seed under which a run that is needed has no result is left out"
        )
    notes += filter(None, (lacking_sentence(conclusions), look_sentence(conclusions)))
    if conclusions.answers is not None and any(item.inference.images for item in headline):
        answers = conclusions.answers
        trained = (
            f"each seed divided them into {answers.folds} folds of its own and trained on the rest, and with other "
            "training images an effect may differ"
            if answers.folds
            else "the training images were the same under every seed, and with others an effect may differ"
        )
        images = f"{answers.images:,} {'' if answers.folds else 'test '}images"
        notes.append(f"intervals {answers.population} take the {images} as drawn from those that matter; {trained}")
    return [as_sentence(text) for text in (*notes, *limitations)]


def standing_out(conclusions: Conclusions) -> list[tuple[Conclusion, str]]:
    """Return what stands out beside the headline, the surest first, each in a sentence."""
    different = [item for item in conclusions.items if item.is_exploratory and item.verdict == "difference"]
    # How far the interval stays from 0, in intervals: a number that compares outcomes of any unit.
    different.sort(
        key=lambda item: (
            -abs(item.inference.mean) / (item.inference.t.high - item.inference.t.low if item.inference.t else 1)
        )
    )
    return [(item, plain_sentence(item)) for item in different]


def plain_sentence(conclusion: Conclusion) -> str:
    """Say in plain words which way an outcome went, with its number."""
    outcome = conclusion.outcome
    more, less = PLAIN.get(outcome.name, (f"more {outcome.label}", f"less {outcome.label}"))
    if outcome.finding is not None:
        more, less = f"higher {outcome.label}", f"lower {outcome.label}"
    if conclusion.contrast.kind == "interaction":
        head = f"{outcome.label}, beyond the sum of each alone"
    else:
        head = more if conclusion.inference.mean > 0 else less
    where = f" {conclusion.population}" if conclusion.population else ""
    size = typeset(f"{effect(outcome, conclusion.inference.mean)} {shown_interval(conclusion)}")
    name = name_of(conclusion.contrast) + averaged(conclusion.contrast)
    return f"{name}: {head}{where}, {size}, n={conclusion.n} pairs"


def damage(results: pd.DataFrame) -> str:
    """Name the runs whose records are damaged, as a sentence; empty where there are none."""
    return as_sentence(damage_sentence(results))


def counted(number: int, word: str) -> str:
    """Write 1 seed, 2 seeds."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def as_sentence(text: str) -> str:
    """Begin with a capital and end with a full stop; nothing stays nothing."""
    return text[:1].upper() + text[1:] + ("" if not text or text.endswith((".", "!")) else ".")
