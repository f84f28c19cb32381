"""Keeps the results of a study: sentences, tables, rows and a few figures, in a folder small enough for the repository.

    alexnet-lab study lrn-or-bn --out runs/lrn-or-bn
    python benchmarks/keep_results.py runs/lrn-or-bn ablations/results/lrn-or-bn --commit ac36a4b \\
        --command "alexnet-lab study lrn-or-bn"

writes README.md (what was run, conclusions, figures), tables.md, results.csv (a row per run, or per cell and seed where
seeds divide the images into folds), answers.csv (which test images each row got right, one bit each, as hexadecimal
digits; images like these are concluded from it), study.toml and SVGs.
Times, speed and memory stay behind: they say as much of the machine and its other work as of the study. Everything else
repeats to the last bit on one machine.
"""

import argparse
import csv
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from alexnet_ablations.conclude.answers import Answers, read_answers
from alexnet_ablations.conclude.budgets import beside_sentences, effects_at_budgets
from alexnet_ablations.conclude.conclusions import Conclusion, Conclusions, conclusions_of
from alexnet_ablations.conclude.outcomes import HEADLINE, OUTCOMES, ended_well, read_results, write_results
from alexnet_ablations.conclude.paper_tables import markdown, paper_tables
from alexnet_ablations.conclude.sentences import sentence_of, survival_sentences
from alexnet_ablations.declare.contrasts import Contrast
from alexnet_ablations.declare.design import Cell, level_text
from alexnet_ablations.declare.study import Study, read_study
from alexnet_ablations.report import write_report
from alexnet_ablations.report.verdicts import limits, unfinished
from alexnet_ablations.tune.choice import read_outcomes
from alexnet_ablations.tune.sentences import chosen_sentences, edge_sentences, plan_sentence

OF_THE_MACHINE = [*(outcome.name for outcome in OUTCOMES if outcome.of_machine), "measuring_share"]
KEPT = tuple(outcome for outcome in OUTCOMES if not outcome.of_machine)
SHARED = ("width", "image_size", "channels", "init", "input_scale", "learning_rate", "batch_size", "epochs")
FIGURES = {
    "effects": "Effects on test accuracy: the mean with its 95% interval, and under it each seed. Grey: the margin.",
    "learning-validation": "Validation accuracy by epoch: the mean over seeds, and from the lowest to the highest.",
    "learning-loss": "Training loss by epoch: the mean over seeds, and from the lowest to the highest.",
    "tuning-learning-rate": "Validation accuracy of one search by learning rate; a ring is what was chosen.",
    "seeds": "Test accuracy of every run; a line is a seed, a bar a mean.",
    "off-rates": "Share of inputs on which a unit is silent, by layer, at the end.",
    "dead-units": "Units that were silent on every input, by layer, at the end.",
    "gradient-depth": "The typical gradient of one weight, by layer, at the end.",
}


def read_rows(path: Path) -> pd.DataFrame:
    """Read kept rows; `none` is a level, not a missing value."""
    return pd.read_csv(path, keep_default_na=False, na_values=[""]).astype({"why": "string"}).fillna({"why": ""})


def at_each_level(study: Study, changed: str, beside: str) -> list[Contrast]:
    """Return every change of one factor at each level of another, the remaining factors at their baselines."""
    first = {factor.field: factor.levels[0] for factor in study.factors}
    levels = {factor.field: factor.levels for factor in study.factors}
    for name in (changed, beside):
        if name not in levels:
            raise ValueError(f"--at-each names two factors of the study ({', '.join(levels)}); got {name!r}")

    def cell(**chosen: Any) -> str:
        return Cell(tuple({**first, **chosen}.items())).name

    return [
        Contrast(
            f"{changed}: {level_text(first[changed])} → {level_text(level)} at {beside} {level_text(other)}",
            "effect",
            {cell(**{changed: level, beside: other}): 1.0, cell(**{beside: other}): -1.0},
            (changed, beside),
        )
        for other in levels[beside]
        for level in levels[changed][1:]
    ]


def keep(
    study: Study,
    folder: Path,
    *,
    command: str,
    commit: str,
    figures: list[str],
    at_each: tuple[str, ...] = (),
    remarks: list[str],
) -> Conclusions:
    """Write the folder, and make sure that the rows alone lead back to its tables."""
    results = read_results(study.runs())
    missing = unfinished(results)
    if missing:
        raise ValueError(f"only a finished study is kept; {study.folder}: {missing}; give its command again")
    write_report(study)
    answers = read_answers(study.runs(), ended_well(results))
    context = {"answers": answers, "looks": study.looks}
    conclusions = conclusions_of(results, study.contrasts(), KEPT, **context)
    simple = conclusions_of(results, at_each_level(study, *at_each), [HEADLINE], **context).headline if at_each else []
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("*.svg"):
        stale.unlink()
    rows = results.drop(columns=OF_THE_MACHINE)
    write_results(rows, folder / "results.csv")
    if answers is not None:
        write_answers(answers, folder / "answers.csv")
    tables = markdown(paper_tables(rows, conclusions))
    (folder / "tables.md").write_text(f"# {study.about}\n\n{tables}")
    shutil.copy(study.folder / "study.toml", folder / "study.toml")
    for name in figures:
        drawn = (study.folder / "report" / "figures" / f"{name}.svg").read_text()
        (folder / f"{name}.svg").write_text(on_white(drawn))
    page = told(study, conclusions, simple, command=command, commit=commit, figures=figures, remarks=remarks)
    (folder / "README.md").write_text(page)
    again = read_rows(folder / "results.csv")
    again.attrs = rows.attrs
    if markdown(paper_tables(again, conclusions_of(again, study.contrasts(), KEPT, **context))) != tables:
        raise ValueError(f"rows and tables of {folder} differ: the rows and predictions do not lead back to the tables")
    return conclusions


def write_answers(answers: Answers, path: Path) -> None:
    """Write which images each cell got right under each seed; the last digit is filled up with zeros."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["cell", "seed", "images", "right"])
        rows.writerows(
            [cell, seed, answers.images, packed.tobytes().hex()] for (cell, seed), packed in answers.right.items()
        )


def on_white(drawn: str) -> str:
    """Give a figure a ground of its own and no date: pages are dark for some, and its ink is not."""
    drawn = re.sub(r"\s*<metadata>.*?</metadata>", "", drawn, flags=re.DOTALL)
    return re.sub(r"(<svg\b[^>]*>)", r'\1<rect width="100%" height="100%" fill="#ffffff"/>', drawn, count=1)


def told(
    study: Study,
    conclusions: Conclusions,
    simple: list[Conclusion],
    *,
    command: str,
    commit: str,
    figures: list[str],
    remarks: list[str],
) -> str:
    """Write what was run and what follows from it, in the words of the reports."""
    facts = [run.folder.provenance() or {} for run in study.runs()]
    first = facts[0]
    days = sorted({str(run["started"])[:10] for run in facts})
    varied = {factor.field for factor in study.factors} | set(study.tuning.names if study.tuning else ())
    shared = {field: getattr(study.start, field) for field in SHARED if field not in varied}
    folds = f" x {study.splitting.folds} folds" if study.splitting.folds else ""
    lines = [
        f"# {study.about}",
        "",
        f"    {command}",
        "",
        f"{len(study.cells)} cells x {study.seeds} seeds{folds} = {len(facts)} runs, {study.design}. "
        f"All cells: {', '.join(f'{name}={value}' for name, value in shared.items())}. "
        f"Commit {commit}, torch {first['torch']}, {first['machine'].split(',')[0]} {first['device']}, "
        f"{' and '.join(days)}. Data: {study.start.data}, fingerprint {first['data_fingerprint'][:12]}.",
        *(f"{note[:1].upper()}{note[1:].rstrip('.')}." for note in [*notes(facts), *remarks]),
        "",
        "## Conclusions",
        "",
        *(f"- {sentence_of(conclusion)}" for conclusion in conclusions.headline),
        *(f"- {sentence}" for sentence in survival_sentences(conclusions)),
        "",
        *(f"{text}" for text in limits(conclusions, study.limitations)),
        "",
    ]
    if study.tuning is not None:
        lines += [*tuned(study, conclusions), ""]
    if simple:
        lines += [
            "## One change at each level of the other",
            "",
            "A family of its own for Holm's rule, exploratory.",
            "",
        ]
        lines += [*(f"- {sentence_of(conclusion)}" for conclusion in simple), ""]
    for name in figures:
        reading = FIGURES.get(name, "Two factors together: means over seeds.")
        lines += [f"![{reading}]({name}.svg)", "", reading, ""]
    differing = [item for item in conclusions.items if item.is_exploratory and item.verdict == "difference"]
    if differing:
        lines += ["## Beside accuracy (exploratory)", ""]
        lines += [f"- {item.outcome.label}: {sentence_of(item)}" for item in differing]
        lines.append("")
    lines.append("[tables.md](tables.md), [results.csv](results.csv): a row per run, [study.toml](study.toml)")
    return "\n".join(lines) + "\n"


def tuned(study: Study, conclusions: Conclusions) -> list[str]:
    """Write what the searches tried and chose, and the effects at the common values beside the tuned ones."""
    searches = read_outcomes(study)
    names = list(searches[0].tried[0].values)
    runs = sum(len(search.tried) for search in searches)
    texts = [plan_sentence(study, runs), *chosen_sentences(searches), *edge_sentences(study, searches)]
    texts += beside_sentences(conclusions.headline, effects_at_budgets(study, searches))
    lines = ["## Each cell tuned", "", *(f"- {text}" for text in texts)]
    lines += ["", f"| cell | {' | '.join(names)} | validation {study.start.best_by}, mean over searches |"]
    lines.append("|" + "---|" * (len(names) + 2))
    for cell in dict.fromkeys(search.cell.name for search in searches):
        mine = [search for search in searches if search.cell.name == cell]
        for place, tried in enumerate(mine[0].tried):
            mean = sum(search.tried[place].metric for search in mine) / len(mine)
            values = " | ".join(f"{tried.values[name]:.3g}" for name in names)
            lines.append(f"| {cell} | {values} | {mean:.3f} |")
    return lines


def notes(facts: list[dict[str, Any]]) -> list[str]:
    """Return the notes of all runs on their data, without repetition."""
    return list(dict.fromkeys(note for run in facts for note in run.get("notes", [])))


def main() -> None:
    """Keep one study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="folder of a finished study")
    parser.add_argument("folder", type=Path, help="where to keep it")
    parser.add_argument("--command", required=True, help="what made the study")
    parser.add_argument("--commit", required=True, help="of the code that made it")
    parser.add_argument("--figures", default="effects,learning-validation", help="names in its report/figures")
    parser.add_argument("--at-each", default="", help="norm:batch_size: the norms compared at each batch size, too")
    parser.add_argument("--title", default="", help="of a study that asks no question of its own")
    parser.add_argument("--remark", action="append", default=[], help="what is known of the data, without full stop")
    arguments = parser.parse_args()
    study = read_study(arguments.study / "study.toml", arguments.study)
    study = replace(study, about=arguments.title or study.about or arguments.study.name)
    conclusions = keep(
        study,
        arguments.folder,
        command=arguments.command,
        commit=arguments.commit,
        figures=arguments.figures.split(","),
        remarks=arguments.remark,
        at_each=tuple(filter(None, arguments.at_each.split(":"))),
    )
    for conclusion in conclusions.headline:
        print(sentence_of(conclusion))


if __name__ == "__main__":
    main()
