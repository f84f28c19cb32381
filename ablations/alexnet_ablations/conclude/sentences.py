"""Conclusions in words. Each sentence has its n; where there is no interval it says why."""

import math
from typing import TYPE_CHECKING

import pandas as pd

from alexnet_ablations.conclude.intervals import CONFIDENCE, Interval
from alexnet_ablations.conclude.outcomes import Outcome

if TYPE_CHECKING:
    from alexnet_ablations.conclude.conclusions import Conclusion

LEVEL = 1 - CONFIDENCE


def conclusion(found: "Conclusion") -> str:
    """Say what one contrast of one outcome came to."""
    name = found.contrast.name.replace(": ", " ", 1)
    return f"{name}: {_finding(found)}"


def _finding(found: "Conclusion") -> str:
    outcome, inference, pairs = found.outcome, found.inference, _pairs(found)
    size, between = effect(outcome, inference.mean), interval(outcome, inference.t)
    if inference.t is None:
        return _without_interval(found)
    if found.verdict == "equivalent":
        return f"less than {_margin(found)} either way, {between}, {pairs}"
    if found.verdict.startswith("difference"):
        within = f"; less than {_margin(found)} either way" if found.verdict == "difference within margin" else ""
        return f"{size} {between}, {pairs}{within}"
    # What a lone test would have called a difference is named, and so is the reason why it does not count.
    if not inference.t.low <= 0 <= inference.t.high:
        among = f"not beyond chance among {found.family} comparisons (Holm p = {p_value(found.holm_p)})"
        return "; ".join(filter(None, (f"{size} {between}, {pairs}", among, seeds_to_go(found))))
    return "; ".join(filter(None, (f"no difference found, {size} {between}, {pairs}", seeds_to_go(found))))


def seeds_to_go(found: "Conclusion") -> str:
    """Say what it would take to know: whether so large an effect is real, or whether a small one is small for sure."""
    needed = found.seeds_needed if found.is_within_margin else found.seeds_to_show
    if needed is None:
        return ""
    seeds = f"about {max(needed, found.n + 1)} seeds would"
    if found.is_within_margin:
        return f"{seeds} narrow it to {_margin(found)} either way"
    return f"{seeds} show an effect of this size four times in five"


def _without_interval(found: "Conclusion") -> str:
    size = effect(found.outcome, found.inference.mean)
    if found.n == 0:
        return f"nothing can be said, n=0: no seed has every run that it needs; {_first_of(found.left_out)}"
    if found.n == 1:
        return f"{size} under one seed, n=1: no interval"
    exactly = "no difference at all" if found.inference.mean == 0 else f"exactly {size}"
    return f"{exactly} under each seed, {_pairs(found)}: without spread there is no interval"


def _pairs(found: "Conclusion") -> str:
    return f"n={found.n} pairs" + (f" of {found.planned}" if found.n < found.planned else "")


def effect(outcome: Outcome, compared: float) -> str:
    """Write an effect with its unit: +3.1 points, ×1.8."""
    return f"{outcome.show_effect(compared)} {outcome.unit}".strip()


def interval(outcome: Outcome, found: Interval | None) -> str:
    """Write an interval: [+2.4, +3.8]; a dash where there is none."""
    if found is None:
        return "-"
    # With one digit more where rounding would make an interval that holds 0, or leaves it out, look otherwise.
    digits = outcome.digits
    ends = [outcome.show_effect(end, digits) for end in (found.low, found.high)]
    if outcome.scale == "difference" and 0 in [float(e) for e in ends if "∞" not in e] and found.low * found.high != 0:
        ends = [outcome.show_effect(end, digits + 1) for end in (found.low, found.high)]
    return f"[{ends[0]}, {ends[1]}]"


def p_value(p: float | None) -> str:
    """Write a p-value with two digits that matter; a dash where there is none."""
    if p is None:
        return "-"
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def left_out(without: pd.DataFrame, found: "Conclusion") -> tuple[str, ...]:
    """Say of each seed that a contrast does without which run it lacks, and why."""
    if without.empty:
        return ()
    without = without[without["cell"].isin(found.contrast.weights) & ~without["seed"].isin(found.values)]
    return tuple(
        f"{cell} {'has no number' if state == 'ok' else state} under seed {seed}"
        for cell, state, seed in zip(without["cell"], without["state"], without["seed"], strict=True)
    )


def notes(found: "Conclusion", results: pd.DataFrame) -> tuple[str, ...]:
    """Return what a reader should keep in mind beside the sentence."""
    texts = []
    inference = found.inference
    if found.n >= 2 and inference.attainable_p > LEVEL:
        texts.append(
            f"of {found.n} pairs an exact sign-flip test cannot go below p = {inference.attainable_p:.2g}; "
            "the interval rests on differences that are roughly normal"
        )
    elif found.verdict.startswith("difference") and inference.sign_flip_p is not None and inference.sign_flip_p > LEVEL:
        texts.append(f"the exact sign-flip test alone does not see it (p = {p_value(inference.sign_flip_p)})")
    if found.left_out and found.n:
        texts.append(f"over the seeds under which every run has a number; left out: {', '.join(found.left_out)}")
    if found.outcome.name == "epochs_to_level":
        texts += _never_reached(results[results["cell"].isin(found.contrast.weights)])
    if found.contrast.aliases:
        texts.append(f"cannot be told from {', '.join(found.contrast.aliases)} in this design")
    return tuple(texts)


def _never_reached(rows: pd.DataFrame) -> list[str]:
    censored, ended = int(rows["never_reached"].sum()), int(rows["never_reached"].notna().sum())
    if not censored:
        return []
    reached = f"{censored} of {ended} runs never reached {rows['level'].iloc[0]:.1%}"
    return [f"{reached}; they count one epoch more than they had, the least it can have been"]


def _margin(found: "Conclusion") -> str:
    margin = found.inference.margin
    return found.outcome.show_margin(math.nan if margin is None else margin)


def _first_of(texts: tuple[str, ...], most: int = 3) -> str:
    """Join the first few, and count the rest."""
    if not texts:
        return "its cells were not run"
    return ", ".join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")
