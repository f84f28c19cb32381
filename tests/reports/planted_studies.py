"""Planted studies: runs that end as a function says, and the text and figures of their report."""

import html
import re

from alexnet_ablations.conclude.conclusions import conclusions_of
from alexnet_ablations.conclude.outcomes import read_results
from alexnet_ablations.declare.study import declare_study
from alexnet_ablations.report.writing import study_page

CROSSED = {"norm": ["bn"], "act": ["leaky"]}


def study_maker(new_folder, write_run):
    """Return what makes a study whose runs ended as `outcome` says: an accuracy, a state, None where none began."""

    def make(outcome, factors=CROSSED, seeds=3, about="", flow=True, data="digits", **options):
        start = {"data": data, "epochs": 3, "threads": 1, "device": "cpu"}
        study = declare_study(factors, start, new_folder("study"), seeds=seeds, about=about, **options)
        study = study.open_folder()
        for run in study.runs():
            settings = dict(run.cell.settings)
            found = outcome(run.seed, **settings)
            if found is None:
                continue
            accurate = not isinstance(found, str)
            write_run(
                run.folder.path,
                state="ok" if accurate else found,
                flow=flow,
                filters=False,
                activation="LeakyReLU" if settings.get("act") == "leaky" else "ReLU",
                fall=(0.2 if settings.get("norm") == "bn" else 2.0) + 0.02 * run.seed,  # seeds differ
                dead=0 if settings.get("norm") == "bn" else 3,
            )
            (run.folder.path / "recipe.json").write_text(run.recipe.to_json())
            verdict = run.folder.verdict()
            if accurate:
                verdict["result"]["test"]["accuracy"] = found
                verdict["result"]["measuring_share"] = 0.025
            run.folder.end(verdict["state"], verdict["why"], verdict["result"])  # with the digests of what is there now
        return study

    return make


def planted(seed, norm, act):
    """BN is worth three points under every seed, give or take a tenth; leaky nothing that three seeds can tell."""
    shared = (0.0, 0.05, -0.03)[seed % 3]
    return (
        0.9
        + shared
        + (0.03 + 0.001 * (seed - 1) if norm == "bn" else 0)
        + (0.002 * (seed - 1) if act == "leaky" else 0)
    )


def page_of(study):
    results = read_results(study.runs())
    return study_page(study, results, conclusions_of(results, study.contrasts()))


def text_of(page):
    """All that a reader sees, without what only hovering tells."""
    markup = re.sub(r"<(script|style|svg)\b.*?</\1>", " ", page.html(), flags=re.S)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", markup)))


def figures_of(page):
    return {figure.name: figure for figure in page.figures()}
