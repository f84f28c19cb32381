"""Conclusions in words. Each sentence has its n and its population; where there is no interval it says why.

These are the only words for a conclusion: the terminal, the tables, the report and the kept results use them alike.
"""

from collections.abc import Sequence

import pandas as pd

from alexnet_ablations.conclude.conclusions import Conclusion, Conclusions
from alexnet_ablations.conclude.intervals import LEVEL, Interval
from alexnet_ablations.conclude.looks import look_in_words
from alexnet_ablations.conclude.outcomes import Outcome
from alexnet_ablations.conclude.seeds import MOST
from alexnet_ablations.conclude.survival import Survival
from alexnet_ablations.declare.contrasts import Contrast
from alexnet_ablations.declare.design import level_text

MOST_FIELDS = 3  # factors that a sentence lists by name
MOST_DAMAGED = 3  # runs that a sentence lists by name
ALL_POSSIBLE = "all that is possible"


def sentence_of(conclusion: Conclusion) -> str:
    """Say what one contrast of one outcome came to."""
    return f"{name_of(conclusion.contrast)}{averaged(conclusion.contrast)}: {finding_of(conclusion)}"


def name_of(contrast: Contrast) -> str:
    """Return a contrast's name as it stands in a sentence: norm lrn → bn."""
    return contrast.name.replace(": ", " ", 1)


def averaged(contrast: Contrast) -> str:
    """Name the factors that a contrast is averaged over: `, averaged over act`; empty where there are none."""
    if not contrast.over:
        return ""
    fields = list(contrast.over)
    return ", averaged over " + (_listed(fields) if len(fields) <= MOST_FIELDS else f"the {len(fields)} other factors")


def averaging_note(contrasts: Sequence[Contrast]) -> str:
    """Say what the effects of a table or figure are averaged over; empty where they are averaged over nothing."""
    over = {contrast.fields: contrast.over for contrast in contrasts if contrast.over and contrast.kind == "effect"}
    if not over:
        return ""
    if len(over) > MOST_FIELDS:
        return "Each effect is averaged over the levels of all other factors."
    texts = [
        f"{_listed(fields)} over "
        + _listed([f"{field} ({', '.join(map(level_text, levels))})" for field, levels in others.items()])
        for fields, others in over.items()
    ]
    return f"Effects are averaged over the levels of the other factors: {'; '.join(texts)}."


def finding_of(conclusion: Conclusion) -> str:
    """Say what a conclusion came to, without the name of its contrast."""
    inference, pairs = conclusion.inference, _pairs(conclusion)
    if conclusion.verdict == "censored":
        return f"no verdict, {pairs}: {_never_reached(conclusion)}"
    if inference.t is None:
        return _without_interval(conclusion)
    size, where = effect(conclusion.outcome, inference.mean), _where(conclusion)
    estimate = f"{size} {shown_interval(conclusion)}{where}{_beside(conclusion)}, {pairs}"
    if conclusion.covers_all:
        estimate = f"{size}{where}, {pairs}; the 95% interval holds {ALL_POSSIBLE}"
    within = f"less than {_margin(conclusion)} either way"
    between = f"{decisive(conclusion)} interval {equivalence_interval(conclusion)}"
    if conclusion.verdict == "equivalent":
        return f"{within}, {between}{where}, {pairs}"
    if conclusion.verdict == "difference within margin":
        return f"{estimate}; {within}, {between}"
    if conclusion.verdict == "difference":
        return estimate
    texts = [f"undecided with {conclusion.n} seeds, {estimate}"]
    # What a lone test would have called a difference is named, and so is the reason why it does not count.
    if not inference.t.low <= 0 <= inference.t.high:
        adjusted = f"p = {p_value(conclusion.holm_p)}"
        if conclusion.holm_p is not None and conclusion.holm_p <= LEVEL:
            texts.append(f"not beyond chance at {100 * conclusion.level:.2g}%, the level of this look ({adjusted})")
        else:
            adjusted = f"t test, Holm: {adjusted}"
            texts.append(f"not beyond chance among {conclusion.family} comparisons ({adjusted})")
    return "; ".join(filter(None, (*texts, reach_of(conclusion))))


def reach_of(conclusion: Conclusion) -> str:
    """Say what such a study shows, and what it would take to show the margin: by seeds, by images, or not at all."""
    sensitivity = conclusion.sensitivity
    if sensitivity is None:
        return ""
    outcome = conclusion.outcome
    images = "" if sensitivity.groups is None else f" and {sensitivity.groups:,} {_units(conclusion)}"
    sentence = f"{sensitivity.seeds} seeds{images} show {_size(outcome, sensitivity.effect)} four times in five"
    if sensitivity.margin is None or sensitivity.effect <= sensitivity.margin:
        return sentence
    margin = outcome.show_margin(sensitivity.margin)
    if sensitivity.seeds_for_margin is not None:
        return f"{sentence}, and {margin} with about {sensitivity.seeds_for_margin:,} seeds"
    if sensitivity.groups is None and not conclusion.inference.overlap:
        return f"{sentence}; {margin} would take more than {MOST:,} seeds"
    sentence += f" (no number of seeds less than {_size(outcome, sensitivity.least)})"
    if sensitivity.groups_for_margin is None:
        return sentence
    return f"{sentence}; {margin} would take about {_rounded(sensitivity.groups_for_margin)} {_units(conclusion)}"


def _units(conclusion: Conclusion) -> str:
    return "test patients" if "patients" in conclusion.population else "test images"


def _size(outcome: Outcome, effect_size: float) -> str:
    """Write an effect without its sign: 2.3 points, ×1.2."""
    return effect(outcome, effect_size).removeprefix("+")


def _rounded(count: int) -> str:
    """Write a count with two digits that matter."""
    digits = max(len(str(count)) - 2, 0)
    return f"{round(count, -digits):,}"


def _beside(conclusion: Conclusion) -> str:
    """Give the interval over seeds alone beside the one for other images: ([+1.5, +2.7] on these 359 test images)."""
    if conclusion.inference.overlap:
        return f" ({conclusion.tested_on})"
    if conclusion.inference.images is None:
        return ""
    if conclusion.inference.seeds_alone is None:
        return f" (the same under each seed {conclusion.tested_on})"
    return f" ({seeds_alone(conclusion)} {conclusion.tested_on})"


def seeds_alone(conclusion: Conclusion) -> str:
    """Write the 95% interval for other seeds on the same images; a dash where the interval is that one already."""
    if conclusion.inference.images is None:
        return "-"
    return interval_text(conclusion.outcome, conclusion.within_possible(conclusion.inference.seeds_alone))


def lacking_sentence(conclusions: Conclusions) -> str:
    """Say which runs have no predictions, or others' test images, and what follows; empty where all have theirs."""
    answers = conclusions.answers
    if not any(item.n for item in conclusions.headline):
        return ""
    if conclusions.resplits is not None:
        return ""
    if answers is None:
        return (
            "no run has kept its predictions (runs of earlier versions did not): intervals are about these test "
            "images, and on others an effect may differ by more"
        )
    texts = []
    for runs, what in ((answers.lacking, "no predictions"), (answers.elsewhere, "other test images than the rest")):
        if runs:
            names = _first_of([f"{cell} under seed {seed}" for cell, seed in runs], MOST_DAMAGED)
            texts.append(f"{_counted(len(runs), 'run')} {'has' if len(runs) == 1 else 'have'} {what}: {names}")
    if answers.areas and len(answers.rare):
        names = _first_of([conclusions.findings[k] for k in answers.rare], MOST_DAMAGED)
        texts.append(f"a single test image tells of {names}, which shows no spread of its AUROC")
    if not texts:
        return ""
    return f"{'; '.join(texts)}; comparisons that need them are about these test images alone"


def look_sentence(conclusions: Conclusions) -> str:
    """Say which look at the study this is; empty for the first."""
    planned = max((item.planned for item in conclusions.headline), default=0)
    return look_in_words(planned, conclusions.looks)


def _counted(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _without_interval(conclusion: Conclusion) -> str:
    size = f"{effect(conclusion.outcome, conclusion.inference.mean)}"
    if conclusion.n == 0:
        return f"nothing can be said, n=0: no seed has every run that it needs; {_first_of(conclusion.left_out)}"
    if conclusion.n == 1:
        return f"{size} under one seed{_where(conclusion)}, n=1: no interval"
    exactly = "no difference at all" if conclusion.inference.mean == 0 else f"exactly {size}"
    return f"{exactly} under each seed{_where(conclusion)}, {_pairs(conclusion)}: without spread there is no interval"


def _where(conclusion: Conclusion) -> str:
    return f" {conclusion.population}" if conclusion.population else ""


def _pairs(conclusion: Conclusion) -> str:
    return f"n={conclusion.n} pairs" + (f" of {conclusion.planned}" if conclusion.n < conclusion.planned else "")


def effect(outcome: Outcome, compared: float) -> str:
    """Write an effect with its unit: +3.1 points, ×1.8."""
    return f"{outcome.show_effect(compared)} {outcome.unit}".strip()


def shown_interval(conclusion: Conclusion) -> str:
    """Write the 95% interval of a conclusion, cut to what is possible: [+2.4, +3.8]; a dash where there is none."""
    return ALL_POSSIBLE if conclusion.covers_all else interval_text(conclusion.outcome, conclusion.shown)


def equivalence_interval(conclusion: Conclusion) -> str:
    """Write the interval whose place within the margin decides on equivalence; a dash where there is none."""
    if conclusion.censored is not None:
        return "-"
    return interval_text(conclusion.outcome, conclusion.within_possible(conclusion.inference.equivalence))


def decisive(conclusion: Conclusion) -> str:
    """Return the confidence of the interval that decides on equivalence: 93.3% where a look is tested at 3.3%."""
    return f"{100 * (1 - 2 * conclusion.level):.3g}%"


def interval_text(outcome: Outcome, interval: Interval | None) -> str:
    """Write an interval: [+2.4, +3.8]; a dash where there is none."""
    if interval is None:
        return "-"
    # With one digit more where rounding would make an interval that holds 0, or leaves it out, look otherwise.
    digits = outcome.digits
    ends = [outcome.show_effect(end, digits) for end in (interval.low, interval.high)]
    if outcome.scale == "difference" and 0 in map(float, ends) and interval.low * interval.high != 0:
        ends = [outcome.show_effect(end, digits + 1) for end in (interval.low, interval.high)]
    return f"[{ends[0]}, {ends[1]}]"


def p_value(p: float | None) -> str:
    """Write a p-value with two digits that matter; a dash where there is none."""
    if p is None:
        return "-"
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def notes_of(conclusion: Conclusion) -> tuple[str, ...]:
    """Return what a reader should keep in mind beside the sentence."""
    texts = []
    inference = conclusion.inference
    if conclusion.inference.overlap:
        texts.append(overlap_note(conclusion))
    elif conclusion.n >= 2 and inference.attainable_p > LEVEL:
        texts.append(
            f"of {conclusion.n} pairs an exact sign-flip test cannot go below p = {inference.attainable_p:.2g}; "
            "the interval rests on differences that are roughly normal"
        )
    else:
        texts += exact_test_note(conclusion)
    if conclusion.false_claim is not None and conclusion.false_claim.probability > LEVEL:
        texts.append(doubtful_claim(conclusion))
    if conclusion.n and conclusion.lost:
        texts.append(f"no run of {_first_of(conclusion.lost)} ended well; {_without_lost(conclusion)}")
    if conclusion.left_out and conclusion.n:
        texts.append(f"over the seeds under which every run has a number; left out: {', '.join(conclusion.left_out)}")
    if conclusion.censored is not None:
        texts.append(_never_reached(conclusion))
    if conclusion.contrast.aliases:
        texts.append(f"cannot be told from {', '.join(conclusion.contrast.aliases)} in this design")
    return tuple(texts)


def doubtful_claim(conclusion: Conclusion) -> str:
    """Say of a difference that was found that a single run of each, as papers report it, would not show it."""
    claim = conclusion.false_claim
    if claim is None:
        return ""
    units = _units(conclusion).removeprefix("test ")
    return (
        f"{name_of(conclusion.contrast)}: from one run of each on {claim.images:,} {units}, {claim.better:.1%} and "
        f"{claim.other:.1%} right and {claim.both:.1%} by both, a claim of the better one is false with a probability "
        f"of {false_claim_text(conclusion)}"
    )


def false_claim_text(conclusion: Conclusion) -> str:
    """Write the probability that a claim of a difference is false; a dash where there is none."""
    claim = conclusion.false_claim
    if claim is None:
        return "-"
    return "< 0.1%" if claim.probability < 1e-3 else f"{100 * claim.probability:.2g}%"


def overlap_note(conclusion: Conclusion) -> str:
    """Say how an interval over splits of one set makes up for what they share."""
    overlap = conclusion.inference.overlap
    return (
        f"each seed drew its own split; splits overlap, so the variance of the mean is that of the {conclusion.n} "
        f"pairs times 1/{conclusion.n} + {overlap:.2f}, test over training images (Nadeau and Bengio), and no number "
        "of seeds takes the second term away; an exact sign-flip test does not hold of such pairs"
    )


def exact_test_note(conclusion: Conclusion) -> list[str]:
    """Say of a difference that the exact sign-flip test does not find it; empty where there is nothing to say."""
    p = conclusion.inference.sign_flip_p
    if conclusion.verdict.startswith("difference") and p is not None and p > LEVEL:
        return [f"the exact sign-flip test alone does not find it (p = {p_value(p)})"]
    return []


def _without_lost(conclusion: Conclusion) -> str:
    return f"{name_of(conclusion.contrast)} is taken without {'it' if len(conclusion.lost) == 1 else 'them'}"


def _never_reached(conclusion: Conclusion) -> str:
    censored = conclusion.censored
    if censored is None:
        return ""
    reached = f"{censored.runs} of {censored.of} runs never reached {censored.level:.1%}"
    return f"{reached}; they count one epoch more than they had, the least it can have been"


def survival_sentence(survival: Survival) -> str:
    """Say how many runs of a cell ended well, of how many."""
    others = [f"{n} {state}" for state, n in survival.states.items() if state != "ok"]
    tail = f"; {', '.join(others)}" if others else ""
    if not survival.ended:
        return f"{survival.cell}: no run has ended{tail}"
    text = f"{survival.cell}: {survival.well} of {survival.ended} runs ended well"
    text += f" ({survival.share:.0%}, 95% interval {survival.interval.low:.0%} to {survival.interval.high:.0%}){tail}"
    if survival.against_baseline is not None and survival.against_baseline < 1:
        text += f"; against the baseline, by seed, p = {survival.against_baseline:.2g} (exact McNemar test)"
    return text


def survival_sentences(conclusions: Conclusions) -> list[str]:
    """Return a sentence for each cell of which a run did not end well."""
    return [survival_sentence(one) for one in conclusions.survivals if one.well < sum(one.states.values())]


def damage_sentence(results: pd.DataFrame) -> str:
    """Name the runs whose records are damaged; empty where there are none."""
    damaged = results[results["state"] == "damaged"]
    if damaged.empty:
        return ""
    names = [
        f"{cell} under seed {seed} ({why})"
        for cell, seed, why in zip(damaged["cell"], damaged["seed"], damaged["why"], strict=True)
    ]
    have = "1 run has" if len(names) == 1 else f"{len(names)} runs have"
    again = "it" if len(names) == 1 else "them"
    return f"{have} damaged records: {_first_of(names, MOST_DAMAGED)}; the same command makes {again} again"


def _margin(conclusion: Conclusion) -> str:
    margin = conclusion.inference.margin
    return "?" if margin is None else conclusion.outcome.show_margin(margin)


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _first_of(texts: Sequence[str], most: int = 3) -> str:
    """Join the first few, and count the rest."""
    if not texts:
        return "its cells were not run"
    return ", ".join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")
