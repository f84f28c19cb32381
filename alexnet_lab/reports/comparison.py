"""Runs side by side, as a page: their results and what speaks against them, what differs, and layer by layer.

>>> compare_runs([Path("runs/lrn"), Path("runs/bn")]).write(Path("comparison"))

Layers are matched by name, and histograms bin by bin. Differences and distances are from the first run to each other.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import alexnet_lab
from alexnet_lab.diagnosis.areas import areas_of
from alexnet_lab.diagnosis.examination import examine
from alexnet_lab.diagnosis.limitations import counts_of, limitations
from alexnet_lab.reports import panels
from alexnet_lab.reports.curves import Scale, Series, curves, intervals, profile
from alexnet_lab.reports.distances import Distance, distance
from alexnet_lab.reports.inspection import open_run
from alexnet_lab.reports.maps import histograms_over_time, span_of
from alexnet_lab.reports.measured import Measured, short_names, spaced
from alexnet_lab.reports.page import (
    Beside,
    Block,
    Callout,
    Figure,
    FigureGrid,
    Page,
    Paragraph,
    Remarks,
    Section,
    Table,
    decimals,
    number,
)
from alexnet_lab.reports.panels import PERCENT, share_interval

KINDS = ("gradient", "activation gradient", "weight", "activation")
SHORT_KINDS = dict(zip(KINDS, ("weight gradients", "activ. gradients", "weights", "activations"), strict=True))
RESULTS = ("accuracy", "balanced_accuracy", "auroc", "calibration_error", "loss")
PROVENANCE = ("data_fingerprint", "alexnet_lab", "torch", "python", "machine", "device")
MOST_LAYERS = 12


@dataclass(frozen=True)
class Compared:
    """Runs with names that tell them apart; differences and distances are from the first."""

    names: list[str]
    runs: list[Measured]

    @property
    def is_of_panels(self) -> bool:
        """Return whether none of these is a run with a recipe and a result: all are records of a user's own Panel."""
        return all(run.is_of_panel for run in self.runs)

    @property
    def epoch(self) -> int:
        """Return the last epoch that every run with instruments has measured; 0 if there is none."""
        measured = [set(run.flow.epochs) for run in self.runs if run.flow]
        return max(set.intersection(*measured), default=0) if len(measured) > 1 else 0


def open_runs(paths: Sequence[Path]) -> Compared:
    """Read run folders; fewer than two different ones are no comparison."""
    if len({path.resolve() for path in paths}) < 2:
        raise ValueError(f"a comparison needs two different runs, got {', '.join(map(str, paths)) or 'none'}")
    return Compared(names_of(paths), [open_run(path) for path in paths])


def names_of(paths: Sequence[Path]) -> list[str]:
    """Return the shortest ends of the paths that tell them apart; of a study's runs, the settings that differ."""
    parts = [path.resolve().parts for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        ends = [end[-length:] for end in parts]
        if len(set(ends)) == len(ends):
            return ["/".join(end) for end in _differing(ends)]
    return [str(path) for path in paths]


def _differing(ends: Sequence[tuple[str, ...]]) -> list[list[str]]:
    """Leave out folders that all paths share, such as seed-0, and in cells, norm=bn,act=relu, the shared settings."""
    if len({len(end) for end in ends}) > 1:
        return [list(end) for end in ends]
    columns = [column for column in zip(*ends, strict=True) if len(set(column)) > 1]
    settings = [[cell.split(",") for cell in column] for column in columns]
    shared = [set(column[0]).intersection(*column[1:]) for column in settings]
    return [
        [
            ",".join(setting for setting in column[at] if setting not in same) or ",".join(column[at])
            for column, same in zip(settings, shared, strict=True)
        ]
        for at in range(len(ends))
    ]


def compare_runs(paths: Sequence[Path]) -> Page:
    """Return the page that lays these runs side by side."""
    return page_of(open_runs(paths))


def page_of(compared: Compared) -> Page:
    """Return the page of runs that were read already."""
    trained = (
        []
        if compared.is_of_panels
        else [
            Section("Results", _results(compared)),
            Section("What differs", _differences(compared)),
            Section("Learning", [FigureGrid(_curves(compared))]),
        ]
    )
    sections = [
        *trained,
        Section("Through depth", _through_depth(compared)),
        Section("Distances", _distances(compared)),
        Section("Histograms", _histograms(compared)),
    ]
    lead = f"{len(compared.names)} runs: {', '.join(compared.names)}. {_headline(compared)}"
    return Page("Comparison of runs", lead, sections, footer=f"alexnet-lab {alexnet_lab.__version__}")


def recipe_rows(compared: Compared) -> list[list[object]]:
    """Return a row for each field of the recipe in which the runs differ: its name, and each run's value."""
    fields = list(dict.fromkeys(field for run in compared.runs for field in run.recipe))
    rows: list[list[object]] = []
    for field in fields:
        values = [run.recipe.get(field) for run in compared.runs]
        if any(value != values[0] for value in values):
            rows.append([field, *("as published" if value is None else _plain(value) for value in values)])
    return rows


def result_table(compared: Compared) -> Table:
    """Return the metrics, a column for each run and, of two, one for the difference."""
    columns = ["", *compared.names]
    if len(compared.runs) == 2:
        columns.append("difference")
    rows: list[list[object]] = []
    for part in ("test", "validation"):
        for metric in (*RESULTS, "images"):
            values: list[Any] = [(run.result.get(part) or {}).get(metric) for run in compared.runs]  # numbers or None
            if all(value is None for value in values):
                continue
            row: list[object] = [f"{part} {metric.replace('_', ' ')}", *map(decimals, values)]
            if len(values) == 2:
                one, other = values
                is_difference = one is not None and other is not None and metric != "images"
                row.append(decimals(other - one) if is_difference else "–")
            rows.append(row)
    return Table(columns, rows)


def distance_rows(compared: Compared, other: int) -> list[tuple[str, str, Distance]]:
    """Return kind, layer and distance from the first run to another, at the last epoch that both have."""
    first, second, epoch = compared.runs[0], compared.runs[other], compared.epoch
    rows = []
    for kind in KINDS if epoch else ():
        one, two = _subjects(first, kind), _subjects(second, kind)
        shared = [name for name in one if name in two]
        for name, short in zip(shared, short_names(shared), strict=True):
            measured = distance(
                first.histogram(kind, one[name], epoch), second.histogram(kind, two[name], epoch)
            )  # fmt: skip
            if measured is not None:
                rows.append((kind, short, measured))
    return rows


def unmatched(compared: Compared) -> list[str]:
    """Say which layers have no partner of their name in another run."""
    layers = [_subjects(run, "weight", measured=False) for run in compared.runs]
    everywhere = set.intersection(*(set(own) for own in layers))
    alone_in = []
    for name, mine in zip(compared.names, layers, strict=True):
        alone = [layer for layer in mine if layer not in everywhere]
        if alone:
            alone_in.append(f"{name}: {', '.join(alone)}")
    return alone_in


def _subjects(run: Measured, kind: str, *, measured: bool = True) -> dict[str, int]:
    """Return what a kind of histogram was taken of, by the full name of the layer."""
    parameters = run.flow.layout.parameters if run.flow else ()
    if not measured:
        return {parameters[layer.parameter].layer: layer.parameter for layer in run.layers}
    if kind in ("weight", "gradient"):
        return {parameters[at].layer: at for _, at in run.subjects(kind)}
    return {run.site_keys[at]: at for _, at in run.subjects(kind)}


def remarks(compared: Compared) -> list[tuple[str, str]]:
    """Return what speaks against the results: that there is one seed each, then the limitations of every run.

    What holds for all runs, such as a note on their data, is said once; anything else with the names it holds for.
    """
    if compared.is_of_panels:
        return []
    seeds = [run.recipe.get("seed") for run in compared.runs]
    which = f"All have seed {seeds[0]}." if len(set(seeds)) == 1 else f"The seeds are {', '.join(map(str, seeds))}."
    more = "Another seed may change the order of these runs; alexnet-lab ablate compares several, with intervals."
    by_title: dict[str, dict[str, list[str]]] = {}
    for name, run in zip(compared.names, compared.runs, strict=True):
        for limitation in limitations(run.evidence, examine(run.evidence)):
            by_title.setdefault(limitation.title, {}).setdefault(limitation.text, []).append(name)
    return [
        ("One seed each", f"{which} {more}"),
        *(
            (title, text if len(names) == len(compared.runs) else f"{', '.join(names)}: {text}")
            for title, texts in by_title.items()
            for text, names in texts.items()
        ),
    ]


def _results(compared: Compared) -> list[Block]:
    """Put the test accuracy of every run beside what speaks against it; then the table of all metrics."""
    rows = [
        share_interval(name, counts[1], counts[0])
        for name, run in zip(compared.names, compared.runs, strict=True)
        if (counts := counts_of(run.evidence, "test")) is not None
    ]
    against = Remarks("What speaks against them", remarks(compared))
    table = result_table(compared)
    blocks: list[Block] = [against, table]
    if rows:
        reading = "Dot: the share of test images right. Bar: its 95% interval for new images like these (Wilson)."
        figure = intervals(
            "result", "Test images right", reading, rows, unit="% of the test images", signed=False, span=PERCENT
        )
        blocks = [Beside(figure, [table], [against])]
    areas = [(name, areas_of(run.evidence, "test")) for name, run in zip(compared.names, compared.runs, strict=True)]
    means = [row for name, area in areas if area is not None for row in panels.mean_area(name, area)]
    drawn = panels.area_figure("result-auroc", "Mean AUROC over findings, test", panels.BY_DELONG, means)
    if drawn is not None:
        blocks = [Beside(drawn, [table], [against])] if not rows else [*blocks, FigureGrid([drawn])]
    return [*blocks, *_verdicts(compared)]


def _headline(compared: Compared) -> str:
    if compared.is_of_panels:
        return "They are records of a Panel, which knows of no recipe and no result."
    have_findings = [run.evidence.has_findings for run in compared.runs]
    if any(have_findings):
        scores = [(run.result.get("test") or {}).get("auroc") for run in compared.runs]
        measured, form = "Test AUROC, of findings their mean", "{:.4f}"
    else:
        scores = [(run.result.get("test") or {}).get("accuracy") for run in compared.runs]
        measured, form = "Test accuracy", "{:.1%}"
    scored = [
        f"{name} {form.format(score)}" if score is not None else f"{name} without a result"
        for name, score in zip(compared.names, scores, strict=True)
    ]
    fields = [str(row[0]) for row in recipe_rows(compared)]
    differ = f"They differ in {', '.join(fields)}." if fields else "Their recipes are the same."
    return f"{measured}, one seed each: {', '.join(scored)}. {differ}"


def _differences(compared: Compared) -> list[Block]:
    rows = recipe_rows(compared)
    blocks: list[Block] = []
    if rows:
        blocks.append(Table(["recipe", *compared.names], rows))
    else:
        blocks.append(Paragraph("The recipes are the same in every field."))
    prints = {run.provenance.get("data_fingerprint") for run in compared.runs}
    if len(prints) > 1:
        text = "The fingerprints of their data differ, so what differs between the runs is not the recipe alone."
        blocks.append(Callout("warning", "Not the same data", text))
    seeds = {run.recipe.get("seed") for run in compared.runs}
    if len(seeds) > 1:
        text = "Runs of different seeds share no random draw: part of every difference below is chance."
        blocks.append(Callout("note", "Not the same seed", text))
    elsewhere: list[list[object]] = []
    for field in PROVENANCE:
        values = [str(run.provenance.get(field, "–")) for run in compared.runs]
        if len(set(values)) > 1:
            elsewhere.append([field, *values])
    if elsewhere:
        blocks.append(Table(["provenance", *compared.names], elsewhere))
    return blocks


def _verdicts(compared: Compared) -> list[Block]:
    """Say which runs did not end well, and why."""
    return [
        Paragraph(f"{name}: {_state(run)}. {run.verdict.get('why', '')}")
        for name, run in zip(compared.names, compared.runs, strict=True)
        if not run.result
    ]


def _state(run: Measured) -> str:
    if "state.json" in run.damages:
        return "its verdict cannot be read"
    return str(run.verdict.get("state", "no verdict yet"))


def _curves(compared: Compared) -> list[Figure]:
    figures = []
    have_findings = any(run.evidence.has_findings for run in compared.runs)
    ranked = (("validation_auroc", "Validation AUROC", "Higher is better; 0.5 is guessing.", "AUROC", "linear"),)
    for metric, title, reading, unit, scale in (
        *(ranked if have_findings else ()),
        ("validation_accuracy", "Validation accuracy", "Higher is better.", "images right", "percent"),
        ("validation_loss", "Validation loss", "Lower is better.", "cross-entropy", "linear"),
        ("train_loss", "Training loss", "Lower is better; with what is switched on while training.", "loss", "linear"),
    ):
        series = [run.curve(name, metric) for name, run in zip(compared.names, compared.runs, strict=True)]
        series = [line for line in series if len(line.x)]
        checked: Scale = "percent" if scale == "percent" else "linear"
        if series:
            figures.append(curves(metric.replace("_", "-"), title, reading, series, y_label=unit, scale=checked))
    return figures


def _through_depth(compared: Compared) -> list[Block]:
    blocks: list[Block] = []
    without = [name for name, run in zip(compared.names, compared.runs, strict=True) if run.flow is None]
    if without:
        blocks.append(Paragraph(f"Without instruments, and so without these numbers: {', '.join(without)}."))
    alone = unmatched(compared)
    if alone:
        blocks.append(Paragraph(f"Layers are matched by name; without a partner: {'; '.join(alone)}."))
    layers = list(
        dict.fromkeys(name for run in compared.runs for name in _subjects(run, "weight", measured=False))
    )  # fmt: skip
    if not layers or not compared.epoch:
        return [
            *blocks,
            Paragraph("No two of these runs measured the same epoch, so there is nothing to compare by layer."),
        ]
    names = short_names(layers)
    figures = []
    for name, title, reading, measure, unit in (
        (
            "depth-gradient",
            "Gradient norm through depth",
            "Where one line falls off towards the left and the other does not, its gradient thins on the way back.",
            panels.gradient_norm,
            "norm of the gradient",
        ),
        (
            "depth-update",
            "Update ratio through depth",
            "How large a share of its weights each layer changes in a step.",
            panels.update_ratio,
            "update / weights",
        ),
    ):
        series = []
        for run_name, run in zip(compared.names, compared.runs, strict=True):
            parameters = run.flow.layout.parameters if run.flow else ()
            at = {parameters[layer.parameter].layer: run.by_epoch(layer, measure) for layer in run.layers}
            places = [place for place, layer in enumerate(layers) if layer in at]
            heights = [at[layers[place]].get(compared.epoch, math.nan) for place in places]
            series.append(Series(run_name, places, heights))
        of_epoch = f"{reading} Medians of epoch {compared.epoch}."
        figures.append(profile(name, title, of_epoch, names, series, y_label=unit, in_order=False))
    figures += _unit_profiles(compared)
    return [*blocks, FigureGrid(figures)]


def _unit_profiles(compared: Compared) -> list[Figure]:
    """Draw mean rate and share of dead units through depth: on the probe set where all have one."""
    names = list(dict.fromkeys(key for run in compared.runs for key in run.site_keys))
    split = "probe" if all(run.rates("probe", 0)[0] for run in compared.runs if run.sites) else "training"
    rates, dead = [], []
    for run_name, run in zip(compared.names, compared.runs, strict=True):
        places, means, shares, details = [], [], [], []
        for at, (_, site) in enumerate(run.sites):
            epochs, by_epoch, inputs = run.rates(split, at)
            if compared.epoch in epochs:
                row, n = by_epoch[epochs.index(compared.epoch)], inputs[epochs.index(compared.epoch)]
                places.append(names.index(run.site_keys[at]))
                means.append(float(np.nanmean(row)))
                shares.append(float((row == 1).mean()))
                details.append(f"{int((row == 1).sum())} of {len(row)} units, {site.activation}, N = {n:,}")
        rates.append(Series(run_name, places, means, details=details))
        dead.append(Series(run_name, places, shares, details=details))
    if not any(len(line.x) for line in rates):
        return []
    short, where = short_names(names), panels.SPLIT_WORDS[split]
    reading = f"Mean over a layer's units, {where}, epoch {compared.epoch}; of leaky units, the negative side."
    of_dead = f"Off, or on the negative side, on every one of the N inputs, {where}, epoch {compared.epoch}."
    return [
        profile("depth-rate", "Off-rate through depth", reading, short, rates, y_label="share of the inputs",
                scale="percent", in_order=False),
        profile("depth-dead", "Units off on every input", of_dead, short, dead, y_label="share of the units",
                scale="percent", in_order=False),
    ]  # fmt: skip


def _distances(compared: Compared) -> list[Block]:
    if not compared.epoch:
        return [Paragraph("There are no histograms of one epoch in two of these runs.")]
    blocks: list[Block] = [
        Paragraph(
            "Two numbers for each pair of histograms, since each misses what the other shows. Total variation: the "
            "share of values that would have to change their bin, signs, zeros and infinities too; 100% once no bin "
            "is shared. Wasserstein: by how many powers of two the finite, non-zero values would have to move on "
            "average. Shift: by how many powers of two the mean size moved, with its direction. "
            f"All at epoch {compared.epoch}."
        )
    ]
    for other in range(1, len(compared.runs)):
        rows = distance_rows(compared, other)
        name = compared.names[other]
        if not rows:
            text = f"From {compared.names[0]} to {name} there is none: no layer that was measured has a partner."
            blocks.append(Paragraph(text))
            continue
        table = [
            [
                kind,
                layer,
                f"{100 * gap.total_variation:.1f}%",
                gap.wasserstein,
                f"{gap.shift:+.2f}".replace("-", "−"),
            ]
            for kind, layer, gap in rows
        ]
        layers = list(dict.fromkeys(layer for _, layer, _ in rows))
        series = [
            Series(
                SHORT_KINDS[kind],
                [layers.index(layer) for own, layer, _ in rows if own == kind],
                [gap.wasserstein for own, _, gap in rows if own == kind],
            )
            for kind in KINDS
            if any(own == kind for own, _, _ in rows)
        ]
        reading = "How many powers of two lie between the two runs' values, layer by layer; 0: the same histogram."
        figure = profile(
            f"distance-{other}", f"From {compared.names[0]} to {name}", reading, layers, series,
            y_label="powers of two", scale="linear", in_order=False, height=320,
        )  # fmt: skip
        columns = ["values", "layer", "total variation", "Wasserstein, powers of two", "shift, powers of two"]
        full = Table(columns, table, f"Numbers: from {compared.names[0]} to {name}", folded=True)
        blocks.append(replace(figure, table=full))
    return blocks


def _histograms(compared: Compared) -> list[Block]:
    blocks: list[Block] = []
    for kind in KINDS:
        subjects = [_subjects(run, kind) for run in compared.runs]
        shared = [name for name in subjects[0] if all(name in measured for measured in subjects)]
        if not shared:
            continue
        chosen = [shared[at] for at in spaced(len(shared), MOST_LAYERS)]
        titles = short_names(chosen)
        drawn = []
        for run, mine in zip(compared.runs, subjects, strict=True):
            drawn.append(run.strips(kind, [(title, mine[name]) for title, name in zip(titles, chosen, strict=True)]))
        spans = [span_of(strips) for strips, _ in drawn]
        span = (min(low for low, _ in spans), max(high for _, high in spans))
        figures = [
            histograms_over_time(
                f"{kind.replace(' ', '-')}-{at}", f"{name}: {panels.KIND_WORDS[kind].lower()}",
                "One strip a layer, the first on top; to the right time, upwards powers of two, alike in every run.",
                strips, times, ("start", times[-1].partition(",")[0]), span,
            )
            for at, (name, (strips, times)) in enumerate(zip(compared.names, drawn, strict=True))
        ]  # fmt: skip
        blocks.append(FigureGrid(figures))
    return blocks or [Paragraph("No layer has a histogram in every one of these runs.")]


def _plain(value: object) -> str:
    return number(value) if isinstance(value, int | float) else str(value)
