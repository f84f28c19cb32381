"""The page of an evaluation, in the order of CLAIM, and its files: page, figures, evaluation.json, tables for a paper.

>>> write_evaluation(evaluate_run("runs/xrays-alexnet-1f0c"), Path("evaluation"))
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import alexnet_lab
from alexnet_lab.data.findings import text_of
from alexnet_lab.evaluation.assessment import Assessment, ClassAssessment, Rules
from alexnet_lab.evaluation.estimates import Estimate
from alexnet_lab.evaluation.evaluating import Evaluation
from alexnet_lab.evaluation.labelled_sets import LabelledSet
from alexnet_lab.evaluation.statistics import OF_CLASSES
from alexnet_lab.records import RunFolder, title_of, write_atomically
from alexnet_lab.reports.claim import ITEMS, NOT_FILLED
from alexnet_lab.reports.evaluation_figures import calibration_figure, decision_figure, roc_figure
from alexnet_lab.reports.export import csv_text
from alexnet_lab.reports.maps import confusion
from alexnet_lab.reports.page import Block, Callout, Commands, FigureGrid, Page, Paragraph, Section, Table, decimals
from alexnet_lab.reports.pictures import Gallery, Picture, thumbnail

MOST_CLASSES = 8  # with figures of their own: those with most images
MOST_MISTAKES = 12
MOST_PICTURES = 120  # behind the cells of one confusion matrix
OF_A_CELL = 6

COLUMNS = ("figure", "class", "estimate", "95% interval", "interval by", "95% interval, DeLong over images")
WIDE = (
    "class", "images", "threshold", "AUROC", "by DeLong", "sensitivity", "specificity", "PPV", "NPV", "Brier",
)  # fmt: skip
SENTENCE_OF = {
    "youden": "the highest sensitivity + specificity",
    "sensitivity": "the highest threshold with a sensitivity of at least {least}",
    "specificity": "the lowest threshold with a specificity of at least {least}",
}


def write_evaluation(evaluation: Evaluation, out: Path) -> Path:
    """Write index.html, figures, evaluation.json, tables.md, figures.csv and predictions.csv; return the page."""
    page = page_of(evaluation).write(out)
    write_atomically(out / "evaluation.json", json.dumps(evaluation.facts(), indent=1, allow_nan=False))
    write_atomically(out / "tables.md", markdown(evaluation))
    write_atomically(out / "figures.csv", _csv(("set", *COLUMNS), all_rows(evaluation)))
    write_atomically(out / "predictions.csv", csv_text(_predictions(evaluation)))
    return page


def page_of(evaluation: Evaluation) -> Page:
    """Return the page."""
    answers = claim_answers(evaluation)
    extra: Mapping[str, Sequence[Block]] = {
        "Evaluation": [Paragraph(_how(evaluation.rules, evaluation))],
        "Results: performance": _performance(evaluation),
    }
    sections = []
    for title in dict.fromkeys(item.section for item in ITEMS):
        rows = [
            [item.number, item.asks, answers.get(item.number, NOT_FILLED)] for item in ITEMS if item.section == title
        ]
        sections.append(Section(title, [Table(["CLAIM", "asks for", "here"], rows), *extra.get(title, ())]))
    run = evaluation.run
    words = ["alexnet-lab", "evaluate", str(run.path), *(["--data", evaluation.data] if evaluation.data else [])]
    if evaluation.rules.rule != "youden":
        words += ["--threshold", evaluation.rules.rule]
    sections.append(Section("Reproduce", [Commands([shlex.join(words)])]))
    footer = f"alexnet-lab {alexnet_lab.__version__}; {run.path.resolve()}; checklist: CLAIM 2020, 42 items"
    return Page(f"Evaluation of {title_of(run.path)}", summary(evaluation), sections, footer=footer)


def summary(evaluation: Evaluation) -> str:
    """Say in two sentences how good the predictions are, for whom, and how far they fall elsewhere."""
    test = evaluation.test
    interval = headline(test)
    beside = f"over {len(evaluation.run.classes)} findings"
    if "accuracy" in test.figures:
        beside = f"and accuracy {_shown(test.figures['accuracy'], percent=True)}"
    sentence = (
        f"Macro AUROC {_shown(interval)} {beside} on "
        f"{test.images:,} test images{_of_patients(test)}; intervals are for {test.population}."
    )
    external = evaluation.external
    if external is None:
        return f"{sentence} No external set was given."
    fall = evaluation.drops["auroc"]
    return (
        f"{sentence} On {external.images:,} images of {evaluation.data}{_of_patients(external)} the macro AUROC is "
        f"{_shown(headline(external))}, a difference of {_shown(fall, signed=True)}."
    )


def headline(assessment: Assessment) -> Estimate:
    """Return the macro AUROC with the interval that fits: over patients where they are known, else DeLong's."""
    return assessment.figures["auroc"] if assessment.unit == "patients" else assessment.macro_auroc_delong


def claim_answers(evaluation: Evaluation) -> dict[int, str]:
    """Return what the lab knows of CLAIM's items, by number."""
    run, recipe, test, external = evaluation.run, evaluation.run.recipe, evaluation.test, evaluation.external
    folder = RunFolder(run.path)
    provenance, split, verdict = folder.provenance() or {}, folder.split() or {}, folder.verdict() or {}
    counts = {part: len(split.get(part, ())) for part in ("train", "validation", "test")}
    geometry = run.preprocessing.geometry
    slots = ", ".join(f"{name} {getattr(recipe, name) or 'as published'}" for name in ("norm", "act"))
    notes = "; ".join(
        [*provenance.get("notes", ()), *(note for assessment in evaluation.assessments for note in assessment.notes)]
    )
    result = verdict.get("result", {})
    bad = [str(note) for note in provenance.get("notes", ()) if "cannot be read" in str(note)]
    kinds = "findings" if recipe.has_findings else "classes"
    answers = {
        2: summary(evaluation),
        7: f"{recipe.data}, fingerprint {provenance.get('data_fingerprint', '?')}; where it is from: {NOT_FILLED}",
        9: (
            f"decoded, made square by fit={recipe.fit}, {geometry.stored} pixels a side, "
            f"{'grey' if run.preprocessing.channels == 1 else 'colour'}, scale {recipe.input_scale} of the training "
            f"images; the network sees {geometry.seen} pixels"
        ),
        13: f"images that cannot be read: {'; '.join(bad) or 'none'}; other missing data: {NOT_FILLED}",
        20: f"{_how_split(recipe, split)}: " + ", ".join(f"{part} {count:,}" for part, count in counts.items()),
        21: "patients: no patient is in two parts" if test.unit == "patients" else f"images; {NO_PATIENTS}",
        22: (
            f"{recipe.network}{f' {recipe.preset}' if recipe.preset else ''}, width {recipe.width:g}, {slots}; input "
            f"{run.preprocessing.channels} x {geometry.seen} x {geometry.seen}; {len(run.classes)} {kinds} "
            f"({', '.join(run.classes[:8])}{' ...' if len(run.classes) > 8 else ''}) by "
            + ("a sigmoid each" if recipe.has_findings else "softmax")
        ),
        23: ", ".join(f"{name} {provenance.get(name, '?')}" for name in ("alexnet_lab", "torch", "python")),
        24: f"weights {recipe.weights}" if recipe.weights else f"random, init {recipe.init}, seed {recipe.seed}",
        25: (
            f"{recipe.epochs} epochs, {recipe.optimiser}, learning rate {recipe.learning_rate:g} ({recipe.schedule}), "
            f"batch {recipe.batch_size}, weight decay {recipe.weight_decay:g}, augmentation {recipe.augment}, "
            f"class weights {recipe.class_weights}, sampling {recipe.sampling}, frozen {recipe.freeze}"
        ),
        26: (
            f"the epoch with the best validation {recipe.best_by}: {result.get('tested_epoch', '?')} of "
            f"{result.get('epochs', '?')}"
        ),
        27: "ten views of each test image, averaged" if recipe.ten_views else "none: one network, one view",
        28: "AUROC, sensitivity, specificity, predictive values, "
        + ("" if recipe.has_findings else "balanced accuracy, ")
        + "Brier, calibration, net benefit",
        29: _uncertainty(test),
        30: NOT_FILLED + "; one training run: `alexnet-lab ablate --seeds` shows how much seeds change",
        31: "not part of this page: alexnet-lab explain shows maps beside those of random weights",
        32: f"{evaluation.data}: {external.images:,} images{_of_patients(external)}"
        if external
        else "none: give --data",
        33: ", ".join(f"{part} {count:,} images" for part, count in counts.items()) + f"; people: {NOT_FILLED}",
        35: f"test below; {_validated(result)}",
        36: "the tables below",
        37: "the findings missed, and the false alarms, below"
        if recipe.has_findings
        else "the mistakes and the confusion matrix below, with the pictures behind each cell",
        38: f"known to the lab: {notes or 'no warning'}; clinical: {NOT_FILLED}",
        41: f"every setting of the run: {run.path.name}/recipe.json",
    }
    return {number: text for number, text in answers.items() if text}


NO_PATIENTS = "no patient is known, so one may be in two parts"


def _how_split(recipe: Any, split: Mapping[str, Any]) -> str:
    if recipe.fold:
        return f"test is fold {recipe.fold} of the images, split seed {recipe.split_seed}"
    strata = "each image's rarest finding" if recipe.has_findings else "classes"
    return (
        f"by the parts that the data names, else at random with {strata} in proportion (split seed {recipe.split_seed})"
    )


def _validated(result: Mapping[str, Any]) -> str:
    validation = result.get("validation") or {}
    if not validation:
        return "validation has no figures on record"
    accuracy = validation.get("accuracy")
    right = "" if accuracy is None else f"accuracy {decimals(accuracy)}, "
    return f"validation {right}AUROC {decimals(validation.get('auroc'))}, on which the epoch was chosen"


def _uncertainty(test: Assessment) -> str:
    if not test.replicates:
        return f"no interval: {'; '.join(test.notes)}"
    return (
        f"95%, by the percentile bootstrap over {test.units:,} {test.unit} with {test.replicates:,} replicates, "
        f"widened for few {test.unit}, and by DeLong over images; they are about {test.population}"
    )


def _how(rules: Rules, evaluation: Evaluation) -> str:
    name, _, least = rules.rule.partition("=")
    validation = len(evaluation.sets["validation"].predicted.labels)
    has_findings = evaluation.run.recipe.has_findings
    counted = (
        "an image is said to have a finding, and it may have any number."
        if has_findings
        else "an image counts as positive for a class; the predicted class is the most probable one."
    )
    return (
        f"Chosen on the {validation:,} validation images alone: for each {'finding' if has_findings else 'class'} the "
        f"threshold with {SENTENCE_OF[name].format(least=least)}, and the temperature {rules.temperature:.3f}. At or "
        f"above its threshold {counted}"
    )


def _performance(evaluation: Evaluation) -> list[Block]:
    blocks: list[Block] = []
    together, by_class = "all classes together", "each class against the others"
    if evaluation.run.recipe.has_findings:
        together, by_class = "means over findings", "each finding against its absence"
    for assessment in evaluation.assessments:
        labelled = evaluation.sets[assessment.part]
        blocks += [
            *(Callout("warning", f"About the {assessment.part} set", _sentence(note)) for note in assessment.notes),
            *(Callout("note", f"About the {assessment.part} set", _sentence(note)) for note in labelled.notes),
            Table(COLUMNS, overall_rows(assessment), f"{_titled(assessment)}: {together}"),
            Table(WIDE, wide_rows(assessment), f"{_titled(assessment)}: {by_class}"),
            Paragraph(_legend(assessment)),
        ]
        if assessment.part == "external":
            rows = [[name, _cell(fall), _interval(fall), fall.method] for name, fall in evaluation.drops.items()]
            blocks.append(Table(["external less test", "difference", "95% interval", "interval by"], rows, "The drop"))
        blocks += [FigureGrid(_figures(assessment, labelled, evaluation)), *_pictures(assessment, labelled)]
    return blocks


def _sentence(note: str) -> str:
    return f"{note[:1].upper()}{note[1:]}."


def overall_rows(assessment: Assessment) -> list[list[object]]:
    """Return the figures of all classes together, as COLUMNS."""
    delong = {"auroc": assessment.macro_auroc_delong}
    rows: list[list[object]] = [
        [
            "macro AUROC" if name == "auroc" else name,
            "all",
            _cell(estimate),
            _interval(estimate),
            estimate.method,
            _interval(delong.get(name)),
        ]
        for name, estimate in assessment.figures.items()
    ]
    for word, value in (("", assessment.calibration_error), (", tempered", assessment.calibration_error_tempered)):
        rows.append([f"calibration error{word}", "all", decimals(value), "", "no interval: resampling biases it", ""])
    return rows


def wide_rows(assessment: Assessment) -> list[list[object]]:
    """Return a row per class, as WIDE: figures with their intervals."""
    rows: list[list[object]] = []
    for assessed in assessment.classes:
        estimates = [assessed.figures.get(name) for name in OF_CLASSES]
        delong = _interval(assessed.auroc_delong, 3) or "–"
        first, *others = ["–" if one is None else _with_interval(one) for one in estimates]
        rows.append(
            [
                assessed.name,
                assessed.images,
                decimals(assessed.threshold, 3),
                first,
                delong,
                *others,
                decimals(assessed.brier, 3),
            ]
        )
    return rows


def _with_interval(estimate: Estimate) -> str:
    interval = _interval(estimate, 3)
    mark = "ʷ" if estimate.method.startswith("Wilson") else ""
    return decimals(estimate.value, 3) + (f" ({interval}){mark}" if interval else "")


def _legend(assessment: Assessment) -> str:
    return (
        f"In brackets: 95% intervals, by the bootstrap over {assessment.unit}; DeLong's over images. ʷ: Wilson's, "
        "where every replicate is alike. PPV and NPV: positive and negative predictive value, at the share of each "
        "class in this set."
    )


def class_rows(assessment: Assessment) -> list[list[object]]:
    """Return the figures of each class against the others, as COLUMNS."""
    rows: list[list[object]] = []
    for assessed in assessment.classes:
        for name, estimate in assessed.figures.items():
            delong = _interval(assessed.auroc_delong) if name == "auroc" else ""
            rows.append([name, _of(assessed), _cell(estimate), _interval(estimate), estimate.method, delong])
        rows.append(["Brier score of the class", _of(assessed), decimals(assessed.brier), "", "", ""])
        rows.append(["threshold", _of(assessed), decimals(assessed.threshold), "", "chosen on validation", ""])
    return rows


def all_rows(evaluation: Evaluation) -> list[list[object]]:
    """Return every figure of every set."""
    return [
        [assessment.part, *row]
        for assessment in evaluation.assessments
        for row in (*overall_rows(assessment), *class_rows(assessment))
    ]


def markdown(evaluation: Evaluation) -> str:
    """Return the tables for a paper."""
    parts = [
        f"# Evaluation of {title_of(evaluation.run.path)}",
        summary(evaluation),
        _how(evaluation.rules, evaluation),
    ]
    for assessment in evaluation.assessments:
        parts += [
            f"## {_titled(assessment)}",
            f"Intervals: {_uncertainty(assessment)}.",
            _table(COLUMNS, overall_rows(assessment)),
        ]
        parts += [_table(WIDE, wide_rows(assessment)), _legend(assessment)]
        parts += [f"- {note}" for note in assessment.notes]
    if evaluation.external is not None:
        rows = [[name, _cell(fall), _interval(fall), fall.method] for name, fall in evaluation.drops.items()]
        parts += ["## External less test", _table(["figure", "difference", "95% interval", "interval by"], rows)]
    return "\n\n".join(parts) + "\n"


def _figures(assessment: Assessment, labelled: LabelledSet, evaluation: Evaluation) -> list[Any]:
    part = assessment.part
    drawn = [one for one in assessment.classes if one.images][:MOST_CLASSES]
    if len(assessment.classes) > MOST_CLASSES:
        drawn = sorted(drawn, key=lambda one: -one.images)
    names = list(evaluation.run.classes)
    figures = [
        roc_figure(f"roc-{part}", labelled.predicted, assessment.classes[:MOST_CLASSES]),
    ]
    if assessment.confusion:
        figures.append(
            confusion(
                f"confusion-{part}",
                f"Confusion: {part}",
                "True classes in rows; the colour is the share of the row. Predicted is the most probable class.",
                assessment.confusion,
                names,
            )
        )
    for one in drawn:
        number = names.index(one.name)
        figures.append(calibration_figure(f"calibration-{part}-{number}", one, evaluation.rules.temperature))
        figures.append(decision_figure(f"net-benefit-{part}-{number}", one))
    return figures


def _pictures(assessment: Assessment, labelled: LabelledSet) -> list[Block]:
    """Show the most confident mistakes, and pictures behind each cell of the confusion matrix."""
    blocks: list[Block] = []
    if not assessment.mistakes:
        why = "the most probable class is always right"
        if labelled.predicted.has_findings:
            why = "each finding is on the right side of its threshold"
        blocks.append(Paragraph(f"The {assessment.part} set has no mistake: {why}."))
    if labelled.pixels is None:
        return [*blocks, Paragraph(f"The pictures of the {assessment.part} set cannot be shown: its data is not here.")]
    if assessment.mistakes:
        pictures = [
            Picture(
                thumbnail(labelled.pixels(mistake.image)),
                (f"{mistake.true}, called {mistake.predicted}", f"{mistake.confidence:.1%} sure", mistake.name),
            )
            for mistake in assessment.mistakes[:MOST_MISTAKES]
        ]
        count = len(assessment.mistakes)
        title = f"Most confident mistakes on the {assessment.part} set, {len(pictures)} of {count}"
        blocks.append(Gallery(title, pictures))
    if labelled.predicted.has_findings:  # the pictures of all findings missed, and of all false alarms, are above
        return blocks
    place_of = {name: place for place, name in enumerate(labelled.predicted.names)}
    confidence = labelled.predicted.probabilities.max(1)
    room = MOST_PICTURES
    cells = sorted(assessment.cells.items(), key=lambda cell: (_is_right(cell[0]), -len(cell[1])))
    for cell, names in cells:
        first = names[: min(OF_A_CELL, room)]
        room -= len(first)
        if not first:
            break
        places = [place_of[name] for name in first]
        pictures = [
            Picture(thumbnail(labelled.pixels(place)), (f"{confidence[place]:.1%}", name))
            for place, name in zip(places, first, strict=True)
        ]
        title = f"{assessment.part}: {cell}, {len(first)} of {len(names)}, the most confident first"
        blocks.append(Gallery(title, pictures, folded=True))
    return blocks


def _is_right(cell: str) -> bool:
    true, _, predicted = cell.partition(" as ")
    return true == predicted


def _titled(assessment: Assessment) -> str:
    title = f"{assessment.part.capitalize()} set, {assessment.images:,} images"
    return title + _of_patients(assessment)


def _of_patients(assessment: Assessment) -> str:
    return f" of {assessment.units:,} patients" if assessment.unit == "patients" else ""


def _of(assessed: ClassAssessment) -> str:
    return f"{assessed.name} ({assessed.images:,})"


def _cell(estimate: Estimate) -> str:
    return decimals(estimate.value)


def _interval(estimate: Estimate | None, places: int = 4) -> str:
    if estimate is None or estimate.low is None or estimate.high is None:
        return ""
    return f"{decimals(estimate.low, places)} to {decimals(estimate.high, places)}"


def _shown(estimate: Estimate, *, percent: bool = False, signed: bool = False) -> str:
    if estimate.value is None:
        return "undefined"
    form = "{:+.3f}" if signed else "{:.1%}" if percent else "{:.3f}"
    value, *ends = (
        form.format(end).replace("-", "−") for end in (estimate.value, estimate.low, estimate.high) if end is not None
    )
    return f"{value} ({ends[0]} to {ends[1]})" if ends else f"{value} (no interval)"


def _predictions(evaluation: Evaluation) -> Any:
    """Return a row per image: set, name, true and predicted class, probabilities as they came and tempered."""
    import pandas as pd

    tables = []
    for part, labelled in evaluation.sets.items():
        predicted, classes = labelled.predicted, np.array(evaluation.run.classes, object)
        columns = {"set": part, "image": np.array(predicted.names, object)}
        if predicted.has_findings:
            cuts = [np.inf if threshold is None else threshold.value for threshold in evaluation.rules.thresholds]
            for word, which in (("true", predicted.positive), ("predicted", predicted.probabilities >= cuts)):
                columns[word] = np.array([text_of(row.astype(np.int64), evaluation.run.classes) for row in which])
        else:
            columns |= {"true": classes[predicted.labels], "predicted": classes[predicted.answers]}
        cooled = predicted.tempered(evaluation.rules.temperature)
        for word, values in (("probability", predicted.probabilities), ("tempered", cooled)):
            columns |= {f"{word} of {name}": values[:, k] for k, name in enumerate(classes)}
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def _csv(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    import pandas as pd

    return csv_text(pd.DataFrame([list(row) for row in rows], columns=list(header)))


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in lines)
