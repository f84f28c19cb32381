"""The inspection of one run, as a page, from its records alone: the result, what speaks against it, the findings.

>>> inspect_run(Path("runs/digits-alexnet")).write(Path("runs/digits-alexnet/report"))

What a run did not record, or what cannot be read of it, is named on the page.
"""

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import alexnet_lab
from alexnet_lab.diagnosis.areas import areas_of
from alexnet_lab.diagnosis.examination import examine, unexamined
from alexnet_lab.diagnosis.findings import Finding
from alexnet_lab.diagnosis.limitations import counts_of, limitations
from alexnet_lab.diagnosis.proportions import wilson
from alexnet_lab.instruments.flow import has_records
from alexnet_lab.records import title_of
from alexnet_lab.reports import panels
from alexnet_lab.reports.measured import Measured
from alexnet_lab.reports.page import (
    Beside,
    Block,
    Callout,
    Commands,
    Facts,
    Figure,
    FigureGrid,
    Page,
    Paragraph,
    Remarks,
    Section,
    Table,
    decimals,
)
from alexnet_lab.training.recipe import Recipe

NO_INSTRUMENTS = (
    "This run carried no instruments, so there are no records of its gradients, updates and units, only its metrics "
    "and its verdict."
)
METRICS = ("accuracy", "balanced_accuracy", "auroc", "top5_accuracy", "calibration_error", "loss", "images")


def inspect_run(path: Path, findings: Sequence[Finding] | None = None) -> Page:
    """Return the page of a run; `findings` are those of alexnet_lab.diagnosis unless given."""
    return page_of(open_run(path), findings)


def page_of(run: Measured, findings: Sequence[Finding] | None = None) -> Page:
    """Return the page of a run that was read already."""
    findings = examine(run.evidence) if findings is None else list(findings)
    section = Section("Findings", [*finding_blocks(findings), *_blind(run)])
    sections = [section] if run.is_of_panel else _training_sections(run, findings, section)
    if run.flow is None:
        reason = run.damages.get("flow/layout.json", NO_INSTRUMENTS)
        sections.append(Section("Inside the network", [Paragraph(reason)]))
    else:
        sections += [
            Section("Gradient flow", _gradient_flow(run)),
            Section("Norms and updates", _norms(run)),
            Section("Signals", _signals(run)),
            Section("Units while training", _units(run, "training")),
            Section("Units on the probe set", _units(run, "probe")),
            Section("First-layer filters", _filters(run)),
            Section("Cost of measuring", _cost(run)),
        ]
    if not run.is_of_panel:
        sections += [Section("Recipe and provenance", _recipe(run)), Section("Reproduce", _reproduce(run))]
    title = f"Inspection of {title_of(run.path)}"
    footer = f"alexnet-lab {alexnet_lab.__version__}; {run.path.resolve()}"
    return Page(title, summary(run, findings), sections, footer=footer)


def _training_sections(run: Measured, findings: Sequence[Finding], of_findings: Section) -> list[Section]:
    curves = panels.learning(run)
    first = panels.result(run) or (curves.pop(0) if curves else None)
    return [
        Section("Result", _result(run, findings, first)),
        of_findings,
        Section("Learning", _learning(run, curves)),
        Section("Predictions", _predictions(run)),
    ]


def open_run(path: Path) -> Measured:
    """Read a run folder, or the folder of a Panel; anything else is refused, and of a study the runs are named."""
    if (path / "study.toml").exists():
        runs = sorted(str(recipe.parent) for recipe in path.glob("runs/*/*/recipe.json"))
        shown = ", ".join(runs[:4]) + (f" and {len(runs) - 4} more" if len(runs) > 4 else "")
        raise ValueError(f"{path} is a study; name one of its runs: {shown or 'there are none yet'}")
    if not (path / "recipe.json").exists() and not has_records(path):
        inside = sorted(str(recipe.parent) for recipe in path.glob("*/recipe.json"))
        hint = f"; it holds runs: name one of them, such as {inside[0]}" if inside else ""
        raise ValueError(
            f"{path} is no run folder: a run has a recipe.json, as alexnet-lab train leaves it, and the folder of a "
            f"Panel a flow/layout.json{hint}"
        )
    return Measured(path)


def summary(run: Measured, findings: Sequence[Finding]) -> str:
    """Say in a sentence or two how the run ended, or what a Panel recorded."""
    if run.is_of_panel:
        return _recorded(run, findings)
    recipe = run.recipe
    slots = ", ".join(
        f"{name} {recipe[name]}" for name in ("preset", "norm", "act", "dropout") if recipe.get(name) is not None
    )
    parts = f" ({slots})" if slots else " with its published parts"
    what = f"{recipe.get('network', 'a network')}{parts} on {_data(recipe)}"
    ending = _count(len(findings), "finding") if findings else "The diagnosis has no finding"
    return f"{what}: {_outcome(run)}. {ending}."


def _recorded(run: Measured, findings: Sequence[Finding]) -> str:
    epochs = _count(len(run.flow.epochs) if run.flow else 0, "epoch")
    what = f"{_count(len(run.layers), 'layer')} with weights and {_count(len(run.sites), 'activation')}"
    sentence = f"{_count(len(findings), 'finding')}." if findings else "The diagnosis has no finding."
    return f"Records of a Panel: {epochs} of {what}. There is no result, since a Panel does not train. {sentence}"


def _outcome(run: Measured) -> str:
    state, why = run.verdict.get("state"), str(run.verdict.get("why", ""))
    tested = counts_of(run.evidence, "test")
    if tested is not None:
        low, high = wilson(*tested)
        return (
            f"{100 * tested[0] / tested[1]:.1f}% of {tested[1]:,} test images right (95% interval {100 * low:.1f} to "
            f"{100 * high:.1f}%), by the weights of epoch {run.result.get('tested_epoch', '?')} of "
            f"{run.result.get('epochs', '?')}"
        )
    if "state.json" in run.damages:
        return "its result cannot be read, since state.json is damaged"
    if state == "diverged":
        return f"diverged: {why}"
    if state == "ok":
        return (
            _mean_auroc(run)
            or f"ended well, with no test {'AUROC' if run.evidence.has_findings else 'accuracy'} on record"
        )
    if state:
        return f"ended without a result ({state}): {why}"
    done, asked = len(run.rows), run.recipe.get("epochs", "?")
    return f"no verdict yet, {done} of {asked} epochs recorded; it still runs, or was lost and can go on"


def _mean_auroc(run: Measured) -> str:
    """Say what a run on findings reached; empty of any other, and where it is not known."""
    areas = areas_of(run.evidence, "test")
    if areas is None or areas.mean.value is None:
        return ""
    mean = areas.mean
    between = "" if mean.low is None else f" (95% interval {mean.low:.4f} to {mean.high:.4f})"
    return (
        f"a mean AUROC of {mean.value:.4f}{between} over {len(areas.each)} findings on {areas.images:,} test "
        f"images, by the weights of epoch {run.result.get('tested_epoch', '?')} of {run.result.get('epochs', '?')}"
    )


def finding_blocks(findings: Sequence[Finding]) -> list[Block]:
    """Return the findings, most serious first; without any, a note on what that means."""
    if not findings:
        text = (
            "Every rule that applies was checked on what was recorded, and no limit is crossed. The rules judge the "
            "training, not the data: what speaks against the result stands above."
        )
        return [Callout("note", "No finding", text)]
    return [
        Callout(
            finding.severity,
            finding.title,
            finding.sentence,
            [
                (name.capitalize(), text)
                for name, text in (
                    ("evidence", finding.evidence),
                    ("threshold", finding.threshold),
                    ("against it", finding.contrary),
                    ("try", finding.remedy),
                    ("layers", ", ".join(finding.layers)),
                    ("epochs", _ranges(finding.epochs)),
                )
                if text
            ],
        )
        for finding in findings
    ]


def layer_rows(run: Measured) -> list[dict[str, Any]]:
    """Return, for each layer in order, what the short table shows: the last epoch's medians, and its units."""
    units = {
        site.fed_by: (at, site) for at, (_, site) in reversed(list(enumerate(run.sites)))
    }  # the first site that a layer feeds
    parameters = run.flow.layout.parameters if run.flow else ()
    rows = []
    for layer in run.layers:
        row: dict[str, Any] = {"layer": layer.name}
        for name, measure in (("gradient norm", panels.gradient_norm), ("update ratio", panels.update_ratio)):
            by_epoch = run.by_epoch(layer, measure)
            row[name] = by_epoch[max(by_epoch)] if by_epoch else None
        row |= {"off-rate": None, "dead": None, "units": None, "N": None, "split": None, "word": None}
        at, site = units.get(parameters[layer.parameter].layer, (None, None))
        for split in ("training", "probe"):  # the probe set, where there is one, has the last word
            epochs, rates, inputs = run.rates(split, at) if at is not None else ([], np.zeros((0, 0)), [])
            if epochs and site is not None:
                row |= {
                    "off-rate": float(np.nanmean(rates[-1])),
                    "dead": int((rates[-1] == 1).sum()),
                    "units": rates.shape[1],
                    "N": inputs[-1],
                    "split": split,
                    "word": site.word,
                }
        rows.append(row)
    return rows


def _result(run: Measured, findings: Sequence[Finding], figure: Figure | None) -> list[Block]:
    """Put the figure and the metrics of the result beside what speaks against it."""
    points = [(f"{finding.severity.capitalize()} finding", f"{finding.title}.") for finding in findings]
    points += [(limitation.title, limitation.text) for limitation in limitations(run.evidence, findings)]
    remarks = [Remarks("What speaks against it", points)] if points else []
    if figure is None:
        return [*remarks, Paragraph("No epoch has ended, so there is no result.")]
    return [Beside(figure, _metrics(run), remarks)]


def _metrics(run: Measured) -> list[Block]:
    result = run.result
    parts = [part for part in ("test", "validation") if result.get(part)]
    rows = [
        [name.replace("_", " "), *(decimals(result[part].get(name)) for part in parts)]
        for name in METRICS
        if any(result[part].get(name) is not None for part in parts)
    ]
    return [Table([f"weights of epoch {result.get('tested_epoch', '?')}", *parts], rows)] if rows else []


def _learning(run: Measured, figures: Sequence[Figure]) -> list[Block]:
    if not run.rows:
        return [Paragraph("No epoch has ended, so there are no learning curves.")]
    blocks: list[Block] = [FigureGrid(figures)]
    if not len(run.curve("", "validation_loss").x):
        blocks.append(Paragraph("There are no validation metrics: the run recorded none."))
    return blocks


def _predictions(run: Measured) -> list[Block]:
    figures = panels.predictions(run)
    if not figures:
        return [Paragraph("There are no predictions to show: only a run that ended well tests its weights.")]
    return [FigureGrid(figures)]


def _gradient_flow(run: Measured) -> list[Block]:
    layout = run.flow.layout if run.flow else None
    depth = panels.through_depth(run)
    figures = panels.flow_histograms(run, ("gradient", "activation gradient"))
    read_at = f"Read: {layout.read_at}; every {_th(layout.every)} step." if layout else ""
    blocks: list[Block] = [Paragraph(read_at), FigureGrid([*([depth] if depth else []), *figures])]
    if depth is None:
        blocks.append(Paragraph("No measured step was recorded, so there is no norm of the gradient."))
    if not figures:
        blocks.append(Paragraph("No histogram of gradients was recorded."))
    return blocks


def _norms(run: Measured) -> list[Block]:
    figures = panels.norms(run)
    if not figures:
        return [Paragraph("No measured step was recorded, so there are no norms and updates.")]
    said = "A point is the median over a stretch of measured steps; hovering also tells the middle 80% of them."
    return [Paragraph(said), FigureGrid(figures), *_precision(run)]


def _precision(run: Measured) -> list[Block]:
    """Tell what the run's precision could not hold, where anything was lost."""
    if not run.windows or "underflow" not in run.windows:
        return []
    rows: list[list[object]] = []
    for kind in ("weight", "gradient", "activation", "activation gradient"):
        for name, subject in run.subjects(kind):
            under, over = (run.largest(kind, subject, column) for column in ("underflow", "overflow"))
            if under > 0 or over > 0:
                rows.append([name, kind, f"{100 * under:.3g}%", f"{100 * over:.3g}%"])
    precision = run.flow.layout.precision if run.flow else ""
    if not rows:
        return [Paragraph(f"Every value that was counted fits {precision}: none under- or overflowed.")]
    columns = ["layer", "of its", "lost to zero, at most", "beyond the largest, at most"]
    return [Table(columns, rows, f"Share of values that {precision} cannot hold, in the worst window")]


def _signals(run: Measured) -> list[Block]:
    figures = panels.flow_histograms(run, ("activation", "weight"))
    return [FigureGrid(figures)] if figures else [Paragraph("No histogram of weights or activations was recorded.")]


def _units(run: Measured, split: str) -> list[Block]:
    figures = panels.unit_rates(run, split)
    if not figures:
        why = {
            "training": "No unit was counted while training: the network has no activation function that was seen.",
            "probe": "No unit was counted on a fixed probe set: the run had none, or has not ended an epoch yet.",
        }[split]
        return [Paragraph(why)]
    probe = run.flow.layout.probe if run.flow else ""
    said = {
        "training": "Counted at every step, over all images of an epoch, while the weights moved and dropout was on.",
        "probe": f"Counted at each epoch's end, in evaluation mode, on one fixed set: {probe or 'the probe set'}.",
    }[split]
    meaning = (
        "A unit is a channel or a neuron. It is off on an input when what its ReLU receives is 0 or less at every "
        "position, and dead over a set when it is off on all N inputs of it. A unit dead over N inputs may still "
        "fire: on fewer than 3/N of them, with 95% confidence."
    )
    if panels.off_word(run) != "off":
        meaning += (
            " Here some activation is no ReLU: such a unit, on its negative side, still passes something on, and is "
            "never dead in that sense."
        )
    blocks: list[Block] = [Paragraph(said), *([Paragraph(meaning)] if split == "training" else [])]
    blocks += [FigureGrid(figures), _unit_table(run, split)]
    maps = panels.unit_maps(run, split)
    fewer = (
        f" Of {len(run.sites)} places, the {len(maps)} with the highest mean rate."
        if len(maps) < len(run.sites)
        else ""
    )
    blocks += [Paragraph(f"Every unit, by epoch.{fewer}"), FigureGrid(maps)]
    return blocks


def _unit_table(run: Measured, split: str) -> Table:
    rows: list[list[object]] = []
    for at, (name, site) in enumerate(run.sites):
        epochs, rates, inputs = run.rates(split, at)
        if not epochs:
            continue
        dead = rates == 1
        revived = (dead[:-1] & ~dead[1:]).any(0).sum() if len(epochs) > 1 else 0
        through = dead.all(0).sum()
        rows.append(
            [
                name,
                site.activation,
                rates.shape[1],
                inputs[-1],
                f"{100 * float(np.nanmean(rates[-1])):.3g}%",
                int(dead[-1].sum()),
                f"{min(300 / inputs[-1], 100):.2g}%",
                int(revived),
                int(through),
            ]
        )
    columns = [
        "layer",
        "activation",
        "units",
        "N",
        "mean rate",
        "dead",
        "fires on fewer than (95%)",
        "revived at some time",
        "dead in every epoch",
    ]
    if panels.off_word(run) != "off":
        columns[5], columns[8] = "always negative", "always negative in every epoch"
    return Table(columns, rows, "The last epoch counted")


def _filters(run: Measured) -> list[Block]:
    figures = panels.first_filters(run)
    if not figures:
        return [Paragraph("The first layer's weights were not kept, or are no filters of an image.")]
    blocks: list[Block] = [FigureGrid(figures)]
    if len(figures) == 1:
        blocks.append(Paragraph("Those of the end are missing: the run has not ended."))
    return blocks


def _cost(run: Measured) -> list[Block]:
    measuring, total = run.cost()
    if not total:
        return [Paragraph("No epoch's clock was recorded.")]
    clock = run.flow.layout.cost_clock if run.flow else ""
    text = (
        f"The instruments took {measuring:.2f} of {total:.1f} seconds of training, {100 * measuring / total:.1f}%, "
        f"as clocked in this very run ({clock})."
    )
    return [Paragraph(text)]


def _recipe(run: Measured) -> list[Block]:
    blocks: list[Block] = [Facts([(name, value) for name, value in run.recipe.items() if value not in (None, "")])]
    facts = [(name, value) for name, value in run.provenance.items() if name not in ("notes", "classes")]
    if facts:
        blocks.append(Facts([*facts, ("classes", ", ".join(run.classes))]))
    missing = [name for name in ("recipe.json", "provenance.json") if name in run.damages]
    return [*blocks, *(Paragraph(f"{name} cannot be read.") for name in missing)]


def _reproduce(run: Measured) -> list[Block]:
    if not run.recipe:
        return [Paragraph("The recipe cannot be read, so there is no command.")]
    version = run.provenance.get("alexnet_lab", "?")
    said = (
        f"With alexnet-lab {version} and the same data, on the same kind of machine, the same numbers to the last bit:"
    )
    return [Paragraph(said), Commands([command_of(run.recipe)])]


def command_of(recipe: dict[str, Any]) -> str:
    """Return the command that trains this recipe: every field that differs from the default, as an option."""
    defaults = {field.name: field.default for field in dataclasses.fields(Recipe)}
    parts = ["alexnet-lab train"]
    for name, value in recipe.items():
        # Defaults of the command line depend on the machine for these two.
        if value is None or (name not in ("threads", "device") and defaults.get(name) == value):
            continue
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            parts.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            parts.append(f"--{flag} {shlex.quote(str(value))}")
    return " ".join(parts)


def _blind(run: Measured) -> list[Block]:
    spots = [text.partition(": ") for text in unexamined(run.evidence)]
    return [Paragraph("Not examined:"), Facts([(what, why) for what, _, why in spots])] if spots else []


def _data(recipe: dict[str, Any]) -> str:
    text = str(recipe.get("data", "unknown data"))
    return Path(text).name if "/" in text else text


def _count(number: int, word: str) -> str:
    return f"1 {word}" if number == 1 else f"{number} {word}s"


def _th(every: int) -> str:
    return "" if every == 1 else f"{every}{'th' if every > 3 else ('nd', 'rd')[every - 2]}"


def _ranges(epochs: Sequence[int]) -> str:
    """Write 1, 2, 3, 5 as 1 to 3, 5."""
    parts: list[list[int]] = []
    for epoch in sorted(epochs):
        if parts and epoch == parts[-1][-1] + 1:
            parts[-1].append(epoch)
        else:
            parts.append([epoch])
    return ", ".join(f"{part[0]} to {part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)
