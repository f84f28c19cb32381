"""Figures of the training, all cells on the same axes: learning, gradients through depth, silent units."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from alexnet_ablations.conclude.outcomes import headline_of
from alexnet_ablations.report.multiples import MOST_TOGETHER, depth_pictures, lines_by_cell, matrix
from alexnet_ablations.report.readings import CellReadings, Silent
from alexnet_lab.reports.page import Figure, Table

MOST_CELLS = 12  # drawn side by side; of more, the baseline and those farthest from it
MOST_NETWORKS = 3  # kinds of network with layers of their own, each with figures of its own


def drawn_cells(cells: Sequence[CellReadings], results: pd.DataFrame) -> list[CellReadings]:
    """Choose the cells that figures show: all, or the baseline and those whose headline lies farthest from it."""
    if len(cells) <= MOST_CELLS:
        return list(cells)
    means = results.assign(value=headline_of(results).compared(results)).groupby("cell", sort=False)["value"].mean()
    base = means.get(cells[0].cell, np.nan)
    away = {cell.cell: abs(means.get(cell.cell, np.nan) - base) for cell in cells[1:]}
    ranked = sorted(cells[1:], key=lambda cell: -np.nan_to_num(away[cell.cell], nan=-1.0))
    drawn = {cell.cell for cell in ranked[: MOST_CELLS - 1]} | {cells[0].cell}
    return [cell for cell in cells if cell.cell in drawn]


def learning(cells: Sequence[CellReadings], *, has_findings: bool = False) -> list[Figure]:
    """Draw training loss and validation accuracy, of findings AUROC, of every cell by epoch, with its seeds' range."""
    figures = []
    validation = ("validation_accuracy", "Validation accuracy", "images right", "percent")
    if has_findings:
        validation = ("validation_auroc", "Validation AUROC", "mean over findings", "linear")
    for name, metric, title, unit, scale, reading in (
        ("loss", "train_loss", "Training loss", "cross-entropy", "linear", "Lower is better."),
        ("validation", *validation, "Higher is better."),
    ):
        series = [cell.curve(metric) for cell in cells]
        if any(np.isfinite(line.y).any() for line in series if len(line.y)):
            how = " Line: mean over seeds; band: lowest to highest seed."
            also = " Grey: the baseline." if len(series) > MOST_TOGETHER else ""
            figures.append(
                lines_by_cell(
                    f"learning-{name}",
                    title,
                    reading + how + also,
                    series,
                    y_label=unit,
                    scale="percent" if scale == "percent" else "linear",
                )
            )
    return figures


def gradient_flow(cells: Sequence[CellReadings]) -> list[Figure]:
    """Draw the size of the gradient through depth, and how its elements are spread, cell beside cell."""
    figures = []
    for at, (layers, mine) in enumerate(_by_layers(cells)):
        series = [cell.gradients(layers) for cell in mine]
        tail, whose = ("", "") if at == 0 else (f"-{at + 1}", f", {mine[0].label}")
        if any(np.isfinite(line.y).any() for line in series):
            also = " Grey: the baseline." if len(series) > MOST_TOGETHER else ""
            figures.append(
                lines_by_cell(
                    f"gradient-depth{tail}",
                    f"Gradient through depth{whose}",
                    "Norm over the root of the number of weights, median over the last epoch's measured steps, so that "
                    "layers compare. A line that rises to the right is a gradient that thins on its way to the first "
                    f"layer. Band: lowest to highest seed.{also}",
                    series,
                    y_label="typical gradient of one weight",
                    scale="log",
                    layers=layers,
                )
            )
        pictures = [(cell.label, cell.sizes(layers)) for cell in mine]
        if any(strip.exponents for _, strips in pictures for strip in strips):
            figures.append(
                depth_pictures(
                    f"gradient-sizes{tail}",
                    f"Sizes of the gradient's elements{whose}",
                    "To the right depth, upwards size as a power of two, the bottom row zeros; the colour is how many "
                    "elements. A ridge that sinks to the left: the gradient grows thin towards the first layer.",
                    pictures,
                    layers,
                )
            )
    return figures


def silent_units(cells: Sequence[CellReadings]) -> list[Figure]:
    """Draw, cells below each other and layers aligned, how often units are off and how many never fire."""
    figures = []
    for at, (sites, layers, mine) in enumerate(_by_sites(cells)):
        counted = [cell.silent(sites) for cell in mine]
        tail, whose = ("", "") if at == 0 else (f"-{at + 1}", f", {mine[0].label}")
        labels = [cell.label for cell in mine]
        figures.append(_rates(f"off-rates{tail}", whose, labels, layers, counted))
        figures.append(_dead(f"dead-units{tail}", whose, labels, layers, counted))
    series = [cell.silent_by_epoch() for cell in cells]
    if figures and any(np.isfinite(line.y).any() for line in series if len(line.y)):
        also = " Grey: the baseline." if len(series) > MOST_TOGETHER else ""
        figures.append(
            lines_by_cell(
                "silent-by-epoch",
                "Units that never fire, by epoch",
                "The share of all units that are silent on every one of the N inputs. A line that climbs: units die "
                "while it learns; one that starts high: they were silent from the start. Band: lowest to highest seed."
                + also,
                series,
                y_label="share of all units",
                scale="percent",
            )
        )
    return figures


def _rates(
    name: str, whose: str, labels: Sequence[str], layers: Sequence[str], counted: Sequence[Sequence[Sequence[Silent]]]
) -> Figure:
    rates = np.asarray([[_mean([one.rate for one in runs]) for runs in row] for row in counted])
    texts = [["" if np.isnan(rate) else f"{100 * rate:.0f}%" for rate in row] for row in rates]
    details = [
        [
            f"{100 * rate:.3g}% ({_seeds(runs)}, N = {_inputs(runs)})" if runs else ""
            for runs, rate in zip(row, values, strict=True)
        ]
        for row, values in zip(counted, rates, strict=True)
    ]  # fmt: skip
    rows: list[list[object]] = [
        [cell, layer, _word(runs), *_range([100 * one.rate for one in runs]), len(runs), _inputs(runs)]
        for cell, row in zip(labels, counted, strict=True)
        for layer, runs in zip(layers, row, strict=True)
    ]
    columns = ["cell", "layer", "counted as", "mean, %", "lowest seed", "highest seed", "seeds", "N"]
    reading = (
        "The share of inputs on which a unit's pre-activation is 0 or less everywhere, mean over the units of a layer "
        "and over seeds: off, where a ReLU follows; on the negative side elsewhere. Near 100%, hardly anything passes."
    )
    title = f"Inputs a unit is silent on{whose}"
    return matrix(name, title, reading, labels, layers, rates, texts, details, Table(columns, rows))


def _dead(
    name: str, whose: str, labels: Sequence[str], layers: Sequence[str], counted: Sequence[Sequence[Sequence[Silent]]]
) -> Figure:
    shares = np.asarray([[_mean([one.dead / one.units for one in runs]) for runs in row] for row in counted])
    texts = [[_dead_text(runs) for runs in row] for row in counted]
    details = [[_dead_told(runs) for runs in row] for row in counted]
    rows: list[list[object]] = []
    for cell, row in zip(labels, counted, strict=True):
        for layer, runs in zip(layers, row, strict=True):
            dead = " ".join(str(one.dead) for one in runs) or "–"
            units = runs[0].units if runs else None
            rows.append([cell, layer, _word(runs), units, dead, _inputs(runs), _bound(runs)])
    columns = [
        "cell",
        "layer",
        "counted as",
        "units",
        "silent on all N, each seed",
        "N",
        "may fire on fewer than (95%)",
    ]
    reading = (
        "Units silent on every one of the N inputs, mean count over seeds; the colour is their share of the layer. "
        "Behind a ReLU such a unit is dead; elsewhere it still passes something on."
    )
    title = f"Units that never fire{whose}"
    return matrix(name, title, reading, labels, layers, shares, texts, details, Table(columns, rows))


def _by_layers(cells: Sequence[CellReadings]) -> list[tuple[tuple[str, ...], list[CellReadings]]]:
    """Group the cells by their layers: networks of one kind share a figure."""
    groups: dict[tuple[str, ...], list[CellReadings]] = {}
    for cell in cells:
        layers = next((run.layers for run in cell.runs if run.layers), ())
        if layers:
            groups.setdefault(layers, []).append(cell)
    return list(groups.items())[:MOST_NETWORKS]


def _by_sites(cells: Sequence[CellReadings]) -> list[tuple[tuple[str, ...], tuple[str, ...], list[CellReadings]]]:
    """Group the cells by the places where units fire, with the layers that feed these in the first of each group."""
    groups: dict[tuple[str, ...], tuple[tuple[str, ...], list[CellReadings]]] = {}
    for cell in cells:
        run = next((run for run in cell.runs if run.sites and any(run.silent)), None)
        if run is not None:
            groups.setdefault(run.sites, (run.fed_by, []))[1].append(cell)
    return [(sites, fed_by, mine) for sites, (fed_by, mine) in groups.items()][:MOST_NETWORKS]


def _dead_text(runs: Sequence[Silent]) -> str:
    if not runs:
        return ""
    mean = _mean([one.dead for one in runs])
    return f"{mean:.0f}" if mean >= 10 or mean == round(mean) else f"{mean:.1f}"


def _dead_told(runs: Sequence[Silent]) -> str:
    if not runs:
        return ""
    counts = ", ".join(str(one.dead) for one in runs[:8]) + (" …" if len(runs) > 8 else "")
    return f"{counts} of {runs[0].units} units ({_seeds(runs)}), N = {_inputs(runs)}, bound {_bound(runs)}"


def _bound(runs: Sequence[Silent]) -> str:
    fewest = min((one.inputs for one in runs), default=0)
    return f"{100 * min(3 / fewest, 1):.2g}%" if fewest else "–"


def _inputs(runs: Sequence[Silent]) -> str:
    return " or ".join(f"{count:,}" for count in sorted({one.inputs for one in runs})) or "–"


def _word(runs: Sequence[Silent]) -> str:
    return runs[0].word if runs else "–"


def _seeds(runs: Sequence[Silent]) -> str:
    return "1 seed" if len(runs) == 1 else f"{len(runs)} seeds"


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def _range(values: Sequence[float]) -> tuple[float | None, float | None, float | None]:
    return (_mean(values), min(values), max(values)) if values else (None, None, None)
