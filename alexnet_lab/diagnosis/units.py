"""Rules on units that never fire: dead since the first epoch, or died on the way.

A unit is dead over a set when it was off on every one of its N inputs, which bounds how often it can fire: on fewer
than 3/N of inputs, with 95% confidence (Hanley and Lippman-Hand 1983). The probe set in eval mode is what counts; the
counters of the training epoch, with weights moving and dropout on, are a second report and the contrary check.
Only ReLU and ReLU6 are judged: a unit on the negative side of another activation still passes a gradient.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alexnet_lab.diagnosis.evidence import Evidence, Silence
from alexnet_lab.diagnosis.findings import Finding
from alexnet_lab.diagnosis.numbers import written
from alexnet_lab.diagnosis.thresholds import Limit, limit


@dataclass(frozen=True)
class Deaths:
    """The units of one site that are dead in the last epoch counted, by when that began."""

    last: Silence
    since_first: tuple[int, ...]  # never fired: dead in every epoch counted, by both counters
    later: tuple[int, ...]  # fired at some time
    since: int  # the first epoch from which all of them were dead

    @property
    def layer(self) -> str:
        """Return the layer that computes these units."""
        return self.last.site.fed_by

    @property
    def share(self) -> float:
        """Return the dead share of this site's units."""
        return len(self.last.dead) / len(self.last.rate)


def is_silent(silence: Silence) -> bool:
    """Say whether as large a share of a site's units is dead as a warning needs."""
    return len(silence.dead) >= limit_of(silence).value * len(silence.rate)


def limit_of(silence: Silence) -> Limit:
    """Return the limit for a site: a channel with one position counts as a neuron."""
    return limit("dead_channels" if silence.positions > 1 else "dead_neurons")


def counted_at_end(evidence: Evidence) -> list[Silence]:
    """Return the units of every ReLU in the last epoch counted: on the probe set if there is one, else in training."""
    split = "probe" if evidence.epochs_counted("probe") else "training"
    epochs = evidence.epochs_counted(split)
    counted = [evidence.silence(split, at, epochs[-1]) for at in range(len(evidence.sites))] if epochs else []
    return [silence for silence in counted if silence is not None and silence.site.word == "off"]


def silent_units(evidence: Evidence) -> list[Finding]:
    """Find layers where a large share of units is dead: since the first epoch for the most part, or died later."""
    split, every = _deaths(evidence)
    from_start = [deaths for deaths in every if len(deaths.since_first) >= len(deaths.later)]
    later = [deaths for deaths in every if len(deaths.since_first) < len(deaths.later)]
    return _dead_at_start(evidence, split, from_start) + _dying(evidence, split, later)


def _dead_at_start(evidence: Evidence, split: str, chosen: list[Deaths]) -> list[Finding]:
    return _finding(
        evidence,
        split,
        chosen,
        lambda deaths: deaths.since_first,
        name="dead-at-start",
        title="dead from the start",
        sentence="These ReLUs have been silent on every image from the first epoch on: no gradient passes them, so "
        "they do not come back by themselves, and the network is as much narrower as there are of them.",
        remedy="init he, input_scale unit, no strongly negative biases, a smaller rate with warmup_epochs 1; act leaky "
        "lets silent units recover.",
    )


def _dying(evidence: Evidence, split: str, chosen: list[Deaths]) -> list[Finding]:
    return _finding(
        evidence,
        split,
        chosen,
        lambda deaths: deaths.later,
        name="dying-units",
        title="died in training",
        sentence="These ReLUs fired and then fell silent on every image: updates pushed them so far to the negative "
        "side that no image activates them, and no gradient passes them.",
        remedy="A rate three to ten times smaller, or clip_norm 1; act leaky lets silent units recover.",
    )


def _finding(
    evidence: Evidence,
    split: str,
    chosen: list[Deaths],
    concerned: Callable[[Deaths], tuple[int, ...]],
    name: str,
    title: str,
    sentence: str,
    remedy: str,
) -> list[Finding]:
    if not chosen:
        return []
    dead, units = sum(len(deaths.last.dead) for deaths in chosen), sum(len(deaths.last.rate) for deaths in chosen)
    of_this_kind = sum(len(concerned(deaths)) for deaths in chosen)
    last = chosen[0].last
    agreed, total, other_inputs = _other_counter(evidence, split, chosen)
    # Units that fire under dropout still learn: that is less than death, however many they are.
    serious = max(deaths.share for deaths in chosen) >= limit("dead_serious").value and 2 * agreed >= total
    limits = {"dead_serious": limit("dead_serious")} if serious else {}
    limits = limits or {limit_of(deaths.last).name: limit_of(deaths.last) for deaths in chosen}
    layers = tuple(deaths.layer for deaths in chosen)
    where = "on the probe set in eval mode" if split == "probe" else "in the training epoch, weights moving"
    by_layer = ", ".join(
        f"{deaths.layer} {len(deaths.last.dead)} of {len(deaths.last.rate)} ({len(concerned(deaths))} {title})"
        for deaths in chosen
    )
    silenced = [deaths.layer for deaths in chosen if deaths.share == 1]
    return [
        Finding(
            name=name,
            is_inside=True,
            severity="serious" if serious else "warning",
            title=f"{of_this_kind} of {units} units {title}, in {', '.join(layers)}",
            sentence=sentence
            + (f" Every unit of {silenced[0]} is silent: nothing passes it, forward or back." if silenced else ""),
            evidence=f"Dead {where}, epoch {last.epoch}, N={last.inputs}: {by_layer}. Such a unit fires on fewer than "
            f"{written(last.bound, 2)} of inputs (3/N, 95%).",
            threshold="; ".join(str(limits[name]) for name in sorted(limits)),
            contrary=_words_on_other(split, agreed, total, other_inputs, len(evidence.epochs_counted(split))),
            remedy=remedy,
            layers=layers,
            epochs=tuple(epoch for epoch in evidence.epochs_counted(split) if epoch >= min(d.since for d in chosen)),
            numbers={
                "dead": dead,
                "of_this_kind": of_this_kind,
                "units": units,
                "inputs": last.inputs,
                "bound": last.bound,
            },
            units={deaths.last.site.name: deaths.last.dead for deaths in chosen},
        )
    ]


def _deaths(evidence: Evidence) -> tuple[str, list[Deaths]]:
    """Return the sites with a large dead share in the last epoch: by the probe set, else training."""
    split = "probe" if evidence.epochs_counted("probe") else "training"
    epochs = evidence.epochs_counted(split)
    sites = []
    for index, site in enumerate(evidence.sites):
        counted = [evidence.silence(split, index, epoch) for epoch in epochs]
        history = [silence for silence in counted if silence is not None]
        if site.word != "off" or not history or not history[-1].dead:
            continue
        last = history[-1]
        if not is_silent(last) or _is_unconfirmed(evidence, index, last):
            continue
        silent = np.array([silence.rate == 1 for silence in history])  # epochs x units
        always: NDArray[np.bool_] = np.asarray(silent.all(0))
        beginning = evidence.silence("training", index, epochs[0])
        if split == "probe" and beginning is not None:
            always = always & (beginning.rate == 1)  # silent after the first epoch, but not in it: it died there
        began = len(history) - np.argmin(silent[::-1], 0)  # for units that fired: the position after they last did
        since = [0 if silent[:, unit].all() else int(began[unit]) for unit in last.dead]
        sites.append(
            Deaths(
                last,
                tuple(unit for unit in last.dead if always[unit]),
                tuple(unit for unit in last.dead if not always[unit]),
                history[max(since)].epoch,
            )
        )
    return split, sites


def _is_unconfirmed(evidence: Evidence, site: int, silence: Silence) -> bool:
    """Say whether the inputs are too few to call units dead, and the training epoch does not confirm it."""
    if silence.bound <= limit("dead_bound").value:
        return False
    training = evidence.silence("training", site, silence.epoch)
    confirmed = set(training.dead) & set(silence.dead) if training and training.inputs > silence.inputs else set()
    return 2 * len(confirmed) < len(silence.dead)


def _other_counter(evidence: Evidence, split: str, chosen: list[Deaths]) -> tuple[int, int, int]:
    """Count on how many of these units the other counter agrees in the same epoch, of how many, and its N."""
    other = "training" if split == "probe" else "probe"
    agreed, total, inputs = 0, 0, 0
    for deaths in chosen:
        silence = evidence.silence(other, evidence.sites.index(deaths.last.site), deaths.last.epoch)
        if silence is not None:
            inputs, total = silence.inputs, total + len(deaths.last.dead)
            agreed += len(set(deaths.last.dead) & set(silence.dead))
    return agreed, total, inputs


def _words_on_other(split: str, agreed: int, total: int, inputs: int, epochs: int) -> str:
    young = " Only one epoch was counted, and units may yet revive." if epochs == 1 else ""
    if split == "training":
        return f"No probe set was counted in eval mode, which would be the check on this.{young}"
    if not total:
        return f"The training epoch was not counted, which would be the check on this.{young}"
    text = (
        f"in the training epoch, weights moving and dropout on, {agreed} of these {total} were off on all N={inputs} "
    )
    if agreed == total:
        return f"None: {text}inputs too, so that it is neither eval mode nor the choice of probe images.{young}"
    return (
        f"{text[0].upper()}{text[1:]}inputs too; the other {total - agreed} fired at least once there, so that they "
        f"are rare, or kept alive by dropout, rather than dead.{young}"
    )
