"""The figures of one run, made from its records; None or an empty list where the records lack what they show."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from alexnet_lab.diagnosis.areas import Areas, areas_of
from alexnet_lab.diagnosis.limitations import constant_share, counts_of
from alexnet_lab.diagnosis.proportions import wilson
from alexnet_lab.evaluation.auroc import METHOD
from alexnet_lab.instruments.flow import Columns
from alexnet_lab.reports.curves import Interval, Scale, Series, curves, intervals, profile
from alexnet_lab.reports.maps import MOST_ROWS, confusion, filters, histograms_over_time, unit_map
from alexnet_lab.reports.measured import Measured, spaced
from alexnet_lab.reports.page import Figure, Table, number
from alexnet_lab.training.metrics import read_confusion

Floats = NDArray[np.float64]

MOST_STRIPS = 12  # layers in one figure of histograms
MOST_MAPS = 12  # units of so many sites
MOST_RECALLS = 30
SPLIT_WORDS = {"training": "while training", "probe": "on the probe set"}
KIND_WORDS = {
    "gradient": "Gradients of the weights",
    "activation gradient": "Gradients at the activation functions",
    "weight": "Weights",
    "activation": "What the activation functions receive",
}


PERCENT = (-2.0, 102.0)  # the axis of a share, with room for a dot at either end


AREA = (0.0, 1.0)  # the axis of an AUROC
BY_DELONG = "Dot: an AUROC by the tested weights. Bar: its 95% interval for new images like these (DeLong)."


def result(run: Measured) -> Figure | None:
    """Draw the shares of test and validation images that are right, with their intervals; None without a result.

    Where images have several findings: the mean AUROC.
    """
    rows = []
    if run.evidence.has_findings:
        for part in ("test", "validation"):
            areas = areas_of(run.evidence, part)
            if areas is not None:
                rows += mean_area(f"{part}, {areas.images:,} images", areas)
        return area_figure("result", "Mean AUROC over findings", BY_DELONG, rows)
    for part in ("test", "validation"):
        counts = counts_of(run.evidence, part)
        if counts is not None:
            rows.append(share_interval(f"{part}, {counts[1]:,} images", counts[1], counts[0]))
    if not rows:
        return None
    reading = (
        "Dot: the share that the tested weights get right. Bar: its 95% interval for new images like these (Wilson)."
    )
    constant = constant_share(run.evidence, "test")
    if constant is not None:
        reading += f" Dashed: what always naming {constant[0]} gets right on test, {100 * constant[1]:.1f}%."
    marks = [] if constant is None else [(100 * constant[1], f"always {constant[0]}")]
    return intervals(
        "result", "Images right", reading, rows, unit="% of the images", signed=False, marks=marks, span=PERCENT
    )


def learning(run: Measured) -> list[Figure]:
    """Draw loss, accuracy and learning rate by epoch."""
    figures = []
    accuracy_by_epoch = (
        "accuracy",
        "Accuracy",
        "Higher is better. Training counts each batch as it was met, with dropout on; validation the whole set.",
        (("training", "train_accuracy"), ("validation", "validation_accuracy")),
        "images right",
        "percent",
    )
    auroc_by_epoch = (
        "auroc",
        "AUROC",
        "Higher is better; 0.5 is guessing. The mean over the findings that validation images have and lack.",
        (("validation", "validation_auroc"),),
        "mean over findings",
        "linear",
    )
    for name, title, reading, metrics, unit, scale in (
        (
            "loss",
            "Loss",
            "Both lines should fall; a validation line that turns up while training falls on is overfitting.",
            (("training", "train_loss"), ("validation", "validation_loss")),
            "cross-entropy",
            "linear",
        ),
        auroc_by_epoch if run.evidence.has_findings else accuracy_by_epoch,
        (
            "learning-rate",
            "Learning rate",
            "The rate at the end of each epoch, as the schedule had it.",
            (("rate", "learning_rate"),),
            "rate",
            "linear",
        ),
    ):
        series = [run.curve(word, metric) for word, metric in metrics]
        series = [line for line in series if len(line.x)]
        chance = [(1 / len(run.classes), "chance")] if name == "accuracy" and run.classes else []
        if series:
            checked: Scale = "percent" if scale == "percent" else "linear"
            figures.append(curves(name, title, reading, series, y_label=unit, scale=checked, marks=chance))
    return figures


def flow_histograms(run: Measured, kinds: Sequence[str]) -> list[Figure]:
    """Draw the histograms of these kinds over time, layer under layer."""
    figures = []
    for kind in kinds:
        every = run.subjects(kind)
        if not every:
            continue
        drawn = [every[at] for at in spaced(len(every), MOST_STRIPS)]
        strips, times = run.strips(kind, drawn)
        fewer = f" {len(drawn)} of {len(every)} layers, evenly chosen." if len(drawn) < len(every) else ""
        reading = (
            "One strip a layer, the first on top; to the right time, upwards the size of the values as a power of two, "
            "the bottom line zeros. " + KIND_READINGS[kind] + fewer
        )
        ends = ("start", times[-1].partition(",")[0])
        name = f"{kind.replace(' ', '-')}-sizes"
        figures.append(histograms_over_time(name, KIND_WORDS[kind], reading, strips, times, ends))
    return figures


KIND_READINGS = {
    "gradient": "A ridge that sinks from the last strip to the first is a gradient growing thin on its way back.",
    "activation gradient": "What reaches each layer from behind, before its own weights turn it into their gradient.",
    "weight": "A ridge that moves is a layer that learns; one that stays where it began is not.",
    "activation": "Ridges of one height: the signal keeps its size through the layers; a ridge that falls: it fades.",
}


def gradient_norm(rows: Columns) -> Floats:
    """Return the norm of the gradient, step by step."""
    return np.asarray(rows["gradient_norm"], float)


def weight_norm(rows: Columns) -> Floats:
    """Return the norm of the weights, step by step."""
    return np.asarray(rows["weight_norm"], float)


def update_ratio(rows: Columns) -> Floats:
    """Return the norm of the update over the norm of the weights, step by step."""
    weights = weight_norm(rows)
    ratios: Floats = np.divide(rows["update_norm"], weights, out=np.full(len(weights), np.nan), where=weights > 0)
    return ratios


def norms(run: Measured) -> list[Figure]:
    """Draw norms, update ratio and signal-to-noise of every layer's weights over time."""
    if not run.layers or not len(run.steps.get("step", ())):
        return []
    figures = []
    measures: tuple[tuple[str, str, str, Callable[[Columns], Floats], str], ...] = (
        (
            "gradient-norm",
            "Gradient norm by layer",
            "The first layer far below the last: the gradient vanishes; lines that climb together: it explodes.",
            gradient_norm,
            "norm of the gradient",
        ),
        (
            "weight-norm",
            "Weight norm by layer",
            "Weights that keep growing outrun their decay; a flat line is a layer that does not learn.",
            weight_norm,
            "norm of the weights",
        ),
        (
            "update-ratio",
            "Update ratio by layer",
            "The update applied, as a share of the weights. Near 0.001 is usual; far above is rash, far below idle.",
            update_ratio,
            "update / weights",
        ),
    )
    for name, title, reading, measure, unit in measures:
        series = [run.over_steps(layer, measure) for layer in run.layers]
        plain = [Series(line.name, line.x, line.y, details=_ranges(line)) for line in series]
        figures.append(curves(name, title, reading, plain, y_label=unit, scale="log", in_order=True, height=300))
    noise = [run.over_windows("signal_to_noise", layer) for layer in run.layers]
    if any(np.isfinite(line.y).any() for line in noise if len(line.y)):
        reading = (
            "How much the gradients of a window agree: far below 1 each step mostly follows its own batch. It is an "
            "estimate, and can come out below 0 where there is nothing but noise."
        )
        figures.append(
            curves(
                "signal-to-noise",
                "Gradient signal-to-noise by layer",
                reading,
                noise,
                y_label="signal / noise",
                in_order=True,
                height=300,
            )
        )
    return figures


def through_depth(run: Measured) -> Figure | None:
    """Draw the size of the gradient's elements from the first layer to the last, in some of the epochs."""
    norms_by_epoch = [run.by_epoch(layer, gradient_norm) for layer in run.layers]
    epochs = sorted({epoch for by_epoch in norms_by_epoch for epoch in by_epoch})
    if not epochs:
        return None
    series = []
    for epoch in [epochs[at] for at in spaced(len(epochs), 5)]:
        sizes = [
            by_epoch.get(epoch, math.nan) / math.sqrt(layer.elements)
            for by_epoch, layer in zip(norms_by_epoch, run.layers, strict=True)
        ]
        series.append(Series(f"epoch {epoch}", list(range(len(sizes))), sizes))
    return profile(
        "gradient-through-depth",
        "Gradient through depth",
        "Norm over the root of the number of weights, so that layers compare: a line that rises to the right is a "
        "gradient that thins on its way to the first layer.",
        [layer.name for layer in run.layers],
        series,
        y_label="typical gradient of one weight",
    )


def _ranges(series: Series) -> list[str]:
    """Return the range of the middle 80% of the steps behind each point; nothing for a single step."""
    return [
        "" if low == high else f"80% of steps {number(low)} to {number(high)}"
        for low, high in zip(series.low, series.high, strict=True)
    ]


def unit_rates(run: Measured, split: str) -> list[Figure]:
    """Draw, for each site, the mean off-rate and the share of dead units by epoch."""
    rates, dead = [], []
    for at, (name, _) in enumerate(run.sites):
        epochs, off, inputs = run.rates(split, at)
        if not epochs:
            continue
        details = [f"N = {count:,} inputs" for count in inputs]
        rates.append(Series(name, epochs, [float(value) for value in np.nanmean(off, 1)], details=details))
        counts = (off == 1).sum(1)
        of_dead = [f"{count} of {off.shape[1]} units, N = {n:,}" for count, n in zip(counts, inputs, strict=True)]
        dead.append(Series(name, epochs, [float(count / off.shape[1]) for count in counts], details=of_dead))
    if not rates:
        return []
    word = off_word(run)
    where = SPLIT_WORDS[split]
    verb = "off" if word == "off" else "on the negative side"
    always = "dead" if word == "off" else "always negative"
    return [
        curves(
            f"rate-{split}",
            f"Inputs a unit is {verb} on, {where}",
            "The mean over a layer's units. Near 100%, hardly anything gets through.",
            rates,
            y_label="share of the inputs",
            scale="percent",
            in_order=True,
        ),
        curves(
            f"dead-{split}",
            f"Units {always}, {where}",
            f"The share of a layer's units that were {verb} on every one of the N inputs.",
            dead,
            y_label="share of the units",
            scale="percent",
            in_order=True,
        ),
    ]


def off_word(run: Measured) -> str:
    """Return "off" where every counted activation is a ReLU, and "negative side" where one is not."""
    words = {site.word for _, site in run.sites}
    return "off" if words <= {"off"} else "negative side"


def unit_maps(run: Measured, split: str) -> list[Figure]:
    """Draw the map of every unit of every site; of many sites, those with the highest mean rate."""
    counted = []
    for at, (name, site) in enumerate(run.sites):
        epochs, rates, _ = run.rates(split, at)
        if epochs:
            counted.append((float(np.nanmean(rates)), at, name, site, epochs, rates))
    drawn = {entry[1] for entry in sorted(counted, key=lambda entry: -entry[0])[:MOST_MAPS]}
    figures = []
    for _, at, name, site, epochs, rates in counted:
        if at not in drawn:
            continue
        shared = -(-site.units // MOST_ROWS)
        reading = f"{site.units} {site.unit}s of {site.activation}" + (
            f"; a row is up to {shared} of them, neighbours in rate." if shared > 1 else ", one a row."
        )
        figures.append(
            unit_map(f"units-{split}-{at}", name, reading, rates, epochs, unit=site.unit, word=_short(site.word))
        )
    return figures


def _short(word: str) -> str:
    return "off" if word == "off" else "negative"


def first_filters(run: Measured) -> list[Figure]:
    """Draw the first layer's filters as images, before and after."""
    by_time = run.flow.filters if run.flow else {}
    if "start" not in by_time or by_time["start"].ndim != 4:
        return []
    start = np.asarray(by_time["start"], float)
    end = np.asarray(by_time["end"], float) if "end" in by_time else None
    rows: list[list[object]] = []
    for at, before in enumerate(start):
        row: list[object] = [at, float(np.linalg.norm(before))]
        if end is not None:
            after = end[at]
            size = float(np.linalg.norm(before) * np.linalg.norm(after))
            row += [float(np.linalg.norm(after)), float((before * after).sum() / size) if size > 0 else None]
        rows.append(row)
    columns = ["filter", "norm at the start", "norm at the end", "cosine, start to end"][: len(rows[0]) if rows else 0]
    table = Table(columns, rows)
    details = [", ".join(f"{name} {number(value)}" for name, value in zip(columns, row, strict=True)) for row in rows]  # type: ignore[arg-type]  # numbers or None
    reading = "Mid grey is zero; each filter is scaled by its own largest weight."
    if start.shape[1] not in (1, 3):
        reading += f" The mean over {start.shape[1]} channels is shown."
    figures = [filters("filters-start", "First-layer filters, before the first step", reading, start, details, table)]
    if end is not None:
        figures.append(filters("filters-end", "First-layer filters, at the end", reading, end, details, table))
    return figures


def predictions(run: Measured, part: str = "test") -> list[Figure]:
    """Draw the confusion matrix and the recall of every class; of findings the AUROC of each."""
    areas = areas_of(run.evidence, part)
    if areas is not None:
        rows = [
            Interval(f"{name}, {count:,} images", one.value, _end(one.low), _end(one.high), METHOD)
            for name, count, one in sorted(areas.each, key=lambda entry: entry[2].value or 0.0)
            if one.value is not None
        ]
        fewer = f" The {MOST_RECALLS} lowest of {len(rows)}." if len(rows) > MOST_RECALLS else ""
        title = f"AUROC by finding, {part} images"
        figure = area_figure(f"auroc-{part}", title, BY_DELONG + fewer, rows[:MOST_RECALLS])
        return [] if figure is None else [figure]
    stored = (run.result.get(part) or {}).get("confusion")
    if not stored:
        return []
    matrix = read_confusion(stored)
    numbered = [f"class {at}" for at in range(matrix.shape[0])]
    names = run.classes if len(run.classes) == len(numbered) else numbered
    figures = [
        confusion(
            f"confusion-{part}",
            f"Confusion, {part} images",
            "A row is a true class, a column what it was taken for; off the diagonal are the mistakes.",
            stored,
            names,
        )
    ]
    images, right = matrix.sum(1), matrix.diagonal()
    counts = [(name, int(images[at]), int(right[at])) for at, name in enumerate(names)]
    present = sorted((entry for entry in counts if entry[1]), key=lambda entry: entry[2] / entry[1])
    drawn = {entry[0] for entry in present[:MOST_RECALLS]}
    rows = [share_interval(*entry) for entry in counts if entry[0] in drawn]
    fewer = f" The {MOST_RECALLS} lowest of {len(present)}." if len(present) > len(rows) else ""
    reading = f"Of the images of each class, the share that is recognised, with its 95% interval (Wilson).{fewer}"
    if rows:
        title = f"Recall by class, {part} images"
        figures.append(
            intervals(f"recall-{part}", title, reading, rows, unit="% recognised", signed=False, span=PERCENT)
        )
    return figures


def mean_area(name: str, areas: Areas) -> list[Interval]:
    """Return the mean AUROC over findings with its interval; none where it is not defined."""
    mean = areas.mean
    if mean.value is None:
        return []
    return [Interval(name, mean.value, _end(mean.low), _end(mean.high), f"{len(areas.each)} findings, {METHOD}")]


def area_figure(name: str, title: str, reading: str, rows: Sequence[Interval]) -> Figure | None:
    """Draw AUROCs with their intervals beside guessing; None without any."""
    if not rows:
        return None
    marks = [(0.5, "guessing")]
    return intervals(name, title, reading, rows, unit="AUROC", signed=False, marks=marks, span=AREA)


def _end(value: float | None) -> float:
    return math.nan if value is None else value


def share_interval(name: str, images: int, right: int) -> Interval:
    """Return a share of images in percent with Wilson's 95% interval."""
    low, high = wilson(right, images)
    return Interval(name, 100 * right / images, 100 * low, 100 * high, f"{right:,} of {images:,}")
