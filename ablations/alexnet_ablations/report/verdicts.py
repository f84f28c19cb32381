"""The report in words: the sentence that comes first, a verdict per comparison, what stands out beside accuracy."""

from collections.abc import Sequence

import pandas as pd

from alexnet_ablations.conclude.conclusions import Conclusion, Conclusions
from alexnet_ablations.conclude.outcomes import HEADLINE
from alexnet_ablations.conclude.sentences import effect, interval, seeds_to_go
from alexnet_ablations.declare.study import Study

UNFINISHED = {"waiting": "not begun", "running": "at work", "lost": "cut off", "damaged": "damaged"}
VERDICTS = {
    "difference": "Difference",
    "difference within margin": "Difference, too small to matter",
    "equivalent": "No difference that matters",
    "open": "Open",
    "no spread": "No spread over seeds",
    "one pair": "One seed only",
    "no pair": "Nothing to compare",
}
# What more, and what less, of an outcome means in plain words.
PLAIN = {
    "gradient_first_to_last": ("more gradient reaches the first layer", "less gradient reaches the first layer"),
    "update_ratio": ("larger steps for the size of the weights", "smaller steps for the size of the weights"),
    "signal_to_noise": ("batches agree more on where to go", "batches agree less on where to go"),
    "dead_share": ("more units are dead", "fewer units are dead"),
    "negative_side_rate": ("units are silent on more inputs", "units are silent on fewer inputs"),
    "epochs_to_level": ("it learns slower", "it learns faster"),
    "final_train_loss": ("it fits the training images less", "it fits the training images better"),
    "validation_accuracy": ("more validation images right", "fewer validation images right"),
    "balanced_accuracy": ("higher balanced accuracy", "lower balanced accuracy"),
    "auroc": ("classes are told apart better", "classes are told apart less"),
    "calibration_error": ("its confidence fits less", "its confidence fits better"),
    "images_per_second": ("it trains faster", "it trains slower"),
    "train_seconds": ("training takes longer", "training takes less time"),
    "peak_memory_mb": ("it takes more memory", "it takes less memory"),
}  # fmt: skip


def unfinished(results: pd.DataFrame) -> str:
    """Say that runs are missing; empty where every run has come to an end."""
    counts = results["state"].value_counts()
    parts = [f"{counts[state]} {word}" for state, word in UNFINISHED.items() if counts.get(state, 0)]
    ended = int((~results["state"].isin(list(UNFINISHED))).sum())
    return f"{ended} of {len(results)} runs have ended ({', '.join(parts)})" if parts else ""


def lead(study: Study, results: pd.DataFrame, conclusions: Conclusions) -> str:
    """Say in a few sentences what was compared and what came out."""
    data = study.start.data.rpartition("/")[2]
    seeds = "one seed" if study.seeds == 1 else f"{study.seeds} seeds"
    networks = dict.fromkeys(str(dict(cell.settings).get("network", study.start.network)) for cell in study.cells)
    what = f"{len(study.cells)} cells of {', '.join(networks)} on {data}, {seeds} each. "
    missing = unfinished(results)
    if missing:
        what = f"Unfinished: {missing}; all that follows rests on these. {what}"
    found = conclusions.headline
    if not any(each.n for each in found):
        return what + f"No comparison has a pair of runs with a {HEADLINE.label}: nothing can be said yet."
    if not any(each.inference.t for each in found):
        return what + _without_intervals(found)
    sentences = []
    different = [each for each in found if each.verdict.startswith("difference")]
    equal = [each for each in found if each.verdict == "equivalent"]
    rest = [each for each in found if each not in different and each not in equal]
    if different:
        told = "; ".join(_short(each) for each in _largest(different))
        more = f"; and {len(different) - 3} more" if len(different) > 3 else ""
        sentences.append(f"Beyond chance in {HEADLINE.label}: {told}{more}.")
    else:
        which = f"None of {len(found)} comparisons shows a" if len(found) > 1 else "The one comparison shows no"
        sentences.append(f"{which} difference in {HEADLINE.label} beyond chance.")
    if equal:
        sentences.append(f"Shown to be too small to matter: {_names(equal)}.")
    if rest:
        all_open = f"{'All stay' if len(found) > 1 else 'It stays'} open: {_spans(rest)}."
        sentences.append(f"Open: {_names(rest)}." if different or equal else all_open)
    return what + " ".join(sentences)


def _without_intervals(found: Sequence[Conclusion]) -> str:
    told = "; ".join(_short(each) for each in _largest([each for each in found if each.n]))
    if all(each.n <= 1 for each in found):
        return (
            f"One pair of runs per comparison, so there is no interval and no verdict: {told}. "
            "Chance alone may have made any of this; more seeds can tell."
        )
    return f"The pairs do not differ among each other, so there is no interval: {told}."


def _largest(found: Sequence[Conclusion]) -> list[Conclusion]:
    return sorted(found, key=lambda each: -abs(each.inference.mean))[:3]


def _short(found: Conclusion) -> str:
    between = f" {interval(found.outcome, found.inference.t)}" if found.inference.t else ""
    return f"{_name(found)} {effect(found.outcome, found.inference.mean)}{between}, n={found.n}".replace("-", "−")


def _spans(found: Sequence[Conclusion]) -> str:
    with_n = [each for each in found if each.n]
    told = "; ".join(_short(each) for each in _largest(with_n))
    return told + (f"; and {len(with_n) - 3} more" if len(with_n) > 3 else "")


def _names(found: Sequence[Conclusion]) -> str:
    names = [_name(each) for each in found]
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _name(found: Conclusion) -> str:
    return found.contrast.name.replace(": ", " ", 1)


def verdict_text(found: Conclusion) -> str:
    """Say what one comparison came to, in words for somebody who reads nothing else."""
    outcome, inference = found.outcome, found.inference
    size = effect(outcome, inference.mean).replace("-", "−")
    between = interval(outcome, inference.t).replace("-", "−")
    pairs = f"n={found.n} pairs" + (f" of {found.planned}" if found.n < found.planned else "")
    margin = outcome.show_margin(inference.margin) if inference.margin is not None else "?"
    if found.verdict == "no pair":
        return f"No seed has every run that this needs (n=0): {'; '.join(found.left_out[:3]) or 'none was run'}."
    if found.verdict == "one pair":
        return f"{size} under one seed, n=1: no interval. One pair cannot tell an effect from luck."
    if found.verdict == "no spread":
        return f"Exactly {size} under each seed, {pairs}; without spread there is no interval."
    if found.verdict == "equivalent":
        return f"{size} {between}, {pairs}: less than {margin} either way."
    if found.verdict.startswith("difference"):
        way = {True: "better", False: "worse", None: "different"}[found.is_better]
        tail = f", yet less than {margin}" if found.verdict == "difference within margin" else ""
        return f"{size} {between}, {pairs}: {way} than the baseline, beyond chance{tail}."
    return f"{size} {between}, {pairs}: {_why_open(found)}"


def _why_open(found: Conclusion) -> str:
    t = found.inference.t
    if t is not None and not t.low <= 0 <= t.high:
        text = (
            f"the interval alone leaves 0 out, but among {found.family} comparisons that is not beyond chance "
            f"(adjusted p = {found.holm_p:.2g})."
        )
    else:
        text = "no difference shown, nor that there is none."
    to_go = seeds_to_go(found)
    return f"{text} {to_go[0].upper()}{to_go[1:]}." if to_go else text


def limits(conclusions: Conclusions, limitations: Sequence[str]) -> list[str]:
    """Say what these seeds and this design cannot show; each sentence once."""
    found = conclusions.headline
    # Said below, with the names that these notes go without, and once where many share one.
    apart = ("over the seeds", "cannot be told from", "the exact sign-flip test alone")
    notes = list(dict.fromkeys(note for each in found for note in each.notes if not note.startswith(apart)))
    for each in found:
        alone = [note for note in each.notes if note.startswith(apart[-1])]
        notes += [f"what is said of {_name(each)} rests on the t interval: {note}" for note in alone]
    shared = [each.contrast for each in found if each.contrast.aliases]
    notes += [f"{each.name} cannot be told from {', '.join(each.aliases)} in this design" for each in shared[:3]]
    if len(shared) > 3:
        notes.append(f"{len(shared) - 3} more comparisons share their number likewise; --plan names them all")
    fewer = [each for each in found if 0 < each.n < each.planned]
    if fewer:
        least = min(each.n for each in fewer)
        what = _name(fewer[0]) if len(fewer) == 1 else f"{len(fewer)} of {len(found)} comparisons"
        notes.append(
            f"{what} rest{'s' if len(fewer) == 1 else ''} on fewer than {fewer[0].planned} seeds, the fewest {least}; "
            "a seed under which a run that is needed has no result is left out"
        )
    return [_sentence(text) for text in (*notes, *limitations)]


def standing_out(conclusions: Conclusions) -> list[tuple[Conclusion, str]]:
    """Return what stands out beside the headline, the surest first, each in a sentence."""
    found = [each for each in conclusions.items if each.is_exploratory and each.verdict == "difference"]
    # How far the interval stays from 0, in intervals: a number that compares outcomes of any unit.
    found.sort(
        key=lambda each: (
            -abs(each.inference.mean) / (each.inference.t.high - each.inference.t.low if each.inference.t else 1)
        )
    )
    return [(each, plain_sentence(each)) for each in found]


def plain_sentence(found: Conclusion) -> str:
    """Say in plain words which way an outcome went, with its number."""
    more, less = PLAIN.get(found.outcome.name, (f"more {found.outcome.label}", f"less {found.outcome.label}"))
    if found.contrast.kind == "interaction":
        head = f"{found.outcome.label}, beyond the sum of each alone"
    else:
        head = more if found.inference.mean > 0 else less
    between = interval(found.outcome, found.inference.t)
    size = f"{effect(found.outcome, found.inference.mean)} {between}".replace("-", "−")
    return f"{_name(found)}: {head}, {size}, n={found.n} pairs"


def counted(number: int, word: str) -> str:
    """Write 1 seed, 2 seeds."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!")) else ".")
