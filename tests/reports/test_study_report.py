"""The report of a study in every state it can be in: whole, cut off, of one seed, with a cell that never survives."""

import html
import json
import re
import shutil

import pandas as pd
import pytest
from planted_studies import figures_of, page_of, planted, text_of

from alexnet_ablations.conclude.conclusions import conclusions_of
from alexnet_ablations.conclude.outcomes import OUTCOMES, read_results
from alexnet_ablations.conclude.sentences import sentence_of
from alexnet_ablations.report import verdicts, write_report
from alexnet_ablations.report.readings import labels_of, read_cells

pytestmark = pytest.mark.usefixtures("undrawn")

EVIL = "<script>alert(1)</script>"


def test_a_planted_difference_comes_first_with_its_number_interval_and_pairs(page, text):
    # By hand: the pairs differ by 2.9, 3.0 and 3.1 points, and t(.975, 2) x 0.1 / sqrt(3) is 0.248.
    assert "norm lrn → bn +3.0 points [+2.8, +3.2], n=3" in page.lead
    assert text.index("Difference, for the better") < text.index("Effects on test accuracy, points")
    assert "cannot go below p = 0.25" in text
    assert "act relu → leaky" in page.lead.partition("Undecided: ")[2]


def test_the_report_stands_beside_its_tables_rows_and_figures(study, drawn):
    page = write_report(study)
    assert page == study.folder / "report" / "index.html"
    names = {path.name for path in page.parent.iterdir()}
    assert names == {"index.html", "tables.md", "tables.tex", "results.csv", "figures"}
    figures = {path.name for path in (page.parent / "figures").iterdir()}
    for name in (
        "effects",
        "seeds",
        "interaction-norm-act",
        "learning-loss",
        "gradient-depth",
        "off-rates",
        "dead-units",
    ):
        assert {f"{name}.svg", f"{name}.png"} <= figures
    assert len((page.parent / "results.csv").read_text().splitlines()) == 1 + 12


def test_a_figure_of_an_earlier_report_does_not_outlive_it(make_study):
    study = make_study(lambda seed, norm: None, {"norm": ["bn"]}, seeds=1)
    stale = study.folder / "report" / "figures" / "gradient-depth-9.svg"
    stale.parent.mkdir(parents=True)
    stale.write_text("old")
    write_report(study)
    assert not stale.exists()


def test_a_study_half_done_says_so_before_anything_else(make_study):
    study = make_study(lambda seed, norm, act: planted(seed, norm, act) if norm == "lrn" or seed == 0 else None)
    shutil.rmtree(study.runs()[0].folder.path / "checkpoints")
    (study.runs()[0].folder.path / "state.json").unlink()  # it was cut off
    page = page_of(study)
    assert page.lead.startswith("Unfinished: 7 of 12 runs have ended (4 not begun, 1 interrupted)")
    assert "This study is not finished" in text_of(page)


def test_a_finished_study_does_not_say_that_it_is_unfinished(page, text):
    assert "Unfinished" not in page.lead
    assert "not finished" not in text


def test_a_study_of_which_nothing_has_run_is_a_page_that_says_so(make_study):
    page = page_of(make_study(lambda seed, **_: None))
    assert "0 of 12 runs have ended (12 not begun)" in page.lead
    assert "nothing can be said yet" in page.lead
    assert not figures_of(page)


def test_one_seed_has_no_interval_and_no_verdict_and_the_page_says_why(make_study):
    page = page_of(make_study(planted, seeds=1, flow=False))
    text = text_of(page)
    assert "One pair of runs per comparison, so there is no interval and no verdict" in page.lead
    assert "One seed: there are no intervals and no verdicts" in text
    assert "Difference," not in text
    assert not re.search(r"points \[", text)
    assert "n=1" in text


def test_a_cell_that_always_diverges_is_reported_with_its_survival_and_never_dropped(make_study, drawn):
    study = make_study(lambda seed, norm: "diverged" if norm == "none" else planted(seed, norm, "relu"),
                       {"norm": ["bn", "none"]})  # fmt: skip
    page = page_of(study)
    text = text_of(page)
    assert "norm none: 0 of 3 runs ended well" in text
    assert "Nothing can be said, n=0: no seed has every run that it needs; norm=none diverged under seed 0" in text
    assert "the loss was nan at step 7" in text
    assert "norm lrn → bn +3.0 points" in page.lead
    rows = {row[0]: row for row in figures_of(page)["seeds"].table.rows}
    assert rows["seed 0"][3] is None  # drawn as a gap, under its name


def test_a_study_of_two_cells_is_not_empty(make_study):
    page = page_of(make_study(lambda seed, norm: planted(seed, norm, "relu"), {"norm": ["bn"]}))
    assert {"effects", "seeds", "learning-loss", "gradient-depth", "off-rates"} <= set(figures_of(page))
    assert "interaction" not in " ".join(figures_of(page))


def test_a_comparison_that_is_not_decided_is_undecided_and_not_no_difference(make_study):
    page = page_of(make_study(lambda seed, act: 0.8 + (act == "leaky") * 0.05 * seed, {"act": ["leaky"]}, flow=False))
    assert "Undecided in test accuracy on these 95 test images: act relu → leaky +5.0 points [" in page.lead
    assert "no difference" not in text_of(page).casefold()


def test_runs_without_instruments_leave_a_page_that_says_what_is_missing(make_study):
    page = page_of(make_study(lambda seed, norm: 0.9, {"norm": ["bn"]}, 1, flow=False))
    assert "gradient-depth" not in figures_of(page)
    assert text_of(page).count("No run has recorded this yet.") == 2


def test_names_that_look_like_markup_stay_text(make_study, drawn):
    study = make_study(
        lambda seed, norm: 0.9, {"norm": ["bn"]}, 1, about=f"What {EVIL} does", data=f"x/{EVIL.replace('/', '')}.zip"
    )
    markup = page_of(study).html()
    assert "<script>alert" not in markup
    assert "&lt;script&gt;alert(1)" in markup


def test_levels_that_look_like_markup_stay_text(make_study, drawn):
    evil = {"weights": [f"{EVIL}.pth"]}
    study = make_study(lambda seed, weights: 0.9 + seed / 100, evil, seeds=2)
    page = page_of(study)
    assert "<script>alert" not in page.html()
    assert "weights <script>alert(1)</script>.pth" in text_of(page)


def test_a_finding_says_in_how_many_seeds_of_which_cells_it_is(text):
    found = text.partition(" Failures None")[0]
    assert re.search(r"Dead at start These ReLUs .* lrn, relu \(baseline\) in 3 of 3 seeds\. Seed 0: ", found)
    assert re.search(r"Without any finding: .*norm bn; norm bn, act leaky\.", found)
    assert "baseline" not in found.partition("Without any finding")[2]


def test_a_finding_of_some_seeds_is_not_one_of_all(make_study):
    study = make_study(lambda seed, norm: "diverged" if norm == "bn" and seed else 0.9, {"norm": ["bn"]}, flow=False)
    assert re.search(r"Diverged The loss .* norm bn in 2 of 3 seeds\. Seed 1: ", text_of(page_of(study)))


def test_what_stands_out_beside_accuracy_is_said_in_plain_words(text):
    number = r"×\d[\d.]*"
    said = "norm lrn → bn, averaged over act: more gradient reaches the first layer,"
    assert re.search(rf"{said} {number} \[{number}, {number}\], n=3 pairs", text)
    assert "Exploratory" in text


def test_an_outcome_that_only_some_cells_have_is_named_as_not_compared(text):
    # A leaky unit cannot die, so every comparison of this factorial lacks a side.
    assert "Not compared, since no comparison has a number on both sides: dead units." in text


def test_silent_units_come_with_their_n_and_its_bound(text):
    assert "N = 64 inputs: a unit that is silent on all of them may still fire on fewer than 4.7% of inputs" in text


def test_a_run_is_linked_only_where_its_page_exists(make_study):
    study = make_study(lambda seed, norm: 0.9, {"norm": ["bn"]}, seeds=1, flow=False)
    assert "report/index.html" not in page_of(study).html()
    page = study.runs()[1].folder.path / "report" / "index.html"
    page.parent.mkdir()
    page.write_text("x")
    links = re.findall(r'href="(\.\./[^"]+)"', page_of(study).html())
    assert links == ["../runs/norm%3Dbn/seed-0/report/index.html"]


DAMAGED = {
    "flow/epoch-0002.npz": lambda content: content[:120] + bytes([content[120] ^ 1]) + content[121:],
    "flow/epoch-0003.npz": lambda content: b"",
    "flow/layout.json": lambda content: content.replace(b'"parameters"', b'"parametres"'),
    "split.json": lambda content: content[:5],
    "metrics.jsonl": lambda content: content[: len(content) // 2],
    "provenance.json": lambda content: b"{",
    "recipe.json": lambda content: b"[" * 100_000,
    "state.json": lambda content: content.replace(b'"ok"', b'"no"'),
}


# Each takes seconds: these are in the default suite, the others in the long step.
QUICK = ("flow/epoch-0002.npz", "split.json", "state.json")
BY_DAMAGE = [name if name in QUICK else pytest.param(name, marks=pytest.mark.long) for name in DAMAGED]


@pytest.mark.parametrize("name", BY_DAMAGE)
def test_a_run_with_a_damaged_record_keeps_its_rows_and_is_named_while_the_others_are_reported(name, make_study):
    study = make_study(planted)
    path = study.runs()[0].folder.path / name
    path.write_bytes(DAMAGED[name](path.read_bytes()))
    results = read_results(study.runs())
    assert len(results) == 12
    first = results.iloc[0]
    assert (first["state"], first["why"]) == ("damaged", name)
    assert first[[outcome.name for outcome in OUTCOMES]].isna().all()
    page = page_of(study)
    told = f"1 run has damaged records: norm=lrn,act=relu under seed 0 ({name}); the same command makes it again."
    assert text_of(page).count(told) == 2  # first of all, and among the failures
    assert {"effects", "gradient-depth", "off-rates"} <= set(figures_of(page))
    assert "1 damaged" in page.lead


def without_digests(run):
    """Leave the verdict as version 0.1.0 wrote it, from which no damage can be told."""
    verdict = run.folder.verdict()
    old = {name: verdict[name] for name in ("state", "why", "result")}
    (run.folder.path / "state.json").write_text(json.dumps(old))


@pytest.mark.parametrize(
    "name",
    [
        "flow/epoch-0002.npz",
        pytest.param("flow/epoch-0003.npz", marks=pytest.mark.long),
        pytest.param("flow/layout.json", marks=pytest.mark.long),
        "split.json",
    ],
)
def test_of_a_run_without_digests_a_damaged_record_costs_that_record_and_is_named(name, make_study):
    study = make_study(planted)
    run = study.runs()[0]
    without_digests(run)
    path = run.folder.path / name
    path.write_bytes(DAMAGED[name](path.read_bytes()))
    first = read_results(study.runs()).iloc[0]
    assert first["state"] == "ok"
    assert first["test_accuracy"] == planted(0, "lrn", "relu")
    # A damaged split leaves what the instruments saw as it is, and so does an epoch that outcomes are not read from.
    assert pd.isna(first["update_ratio"]) == (name in ("flow/epoch-0003.npz", "flow/layout.json"))
    text = text_of(page_of(study))
    assert "unreadable records" in text
    assert name in text


def test_what_the_study_is_can_be_read_back_from_its_page(study, page):
    text = page.html()
    shown = html.unescape(re.findall(r"<pre[^>]*><code>(design.*?)</code>", text, flags=re.S)[0])
    path = study.folder / "again.toml"
    path.write_text(shown)
    from alexnet_ablations.declare.study import read_study

    assert read_study(path, study.folder) == study


def test_the_cost_of_measuring_is_the_one_that_the_runs_clocked(text):
    assert "Measuring took 2.5% of the time of training, as clocked in these runs (2.5% to 2.5%, n=12 runs)." in text


def test_cells_are_named_by_what_they_change(study):
    assert list(labels_of(study.cells).values()) == [
        "lrn, relu (baseline)",
        "act leaky",
        "norm bn",
        "norm bn, act leaky",
    ]


def test_of_a_fraction_each_shared_number_has_its_names(make_study):
    levels = {"norm": ["bn"], "act": ["leaky"], "dropout": [0.3], "batch_size": [64]}
    study = make_study(lambda seed, **_: 0.9 + seed / 100, levels, seeds=2, design="fractional", flow=False)
    text = text_of(page_of(study))
    aliased = [each for each in study.contrasts() if each.aliases]
    assert aliased
    assert (
        f"{aliased[0].name} cannot be told from {', '.join(aliased[0].aliases)} in this design.".casefold()
        in text.casefold()
    )


def test_what_the_exact_test_alone_does_not_see_is_said_by_name(make_study):
    # Five seeds gain a point or two and one loses a little: t is sure, and 2 of 64 signs are p = 0.062.
    gains = (0.01, 0.02, 0.015, 0.012, 0.018, -0.001)
    study = make_study(
        lambda seed, norm: 0.9 + (gains[seed] if norm == "bn" else 0), {"norm": ["bn"]}, seeds=6, flow=False
    )
    text = text_of(page_of(study))
    told = "Norm lrn → bn rests on the t interval: the exact sign-flip test alone does not find it"
    assert f"{told} (p = 0.062)." in text


def test_verdicts_say_what_such_a_study_shows_as_the_terminal_does(make_study):
    study = make_study(lambda seed, norm: 0.9 + (0.01 * (seed - 1) if norm == "bn" else 0), {"norm": ["bn"]})
    results = read_results(study.runs())
    found = conclusions_of(results, study.contrasts()).headline[0]
    assert found.verdict == "undecided"
    known = found.sensitivity
    assert known.seeds_for_margin > 3
    told = f"3 seeds show {known.effect:.1f} points four times in five, and 0.5 points with about "
    told += f"{known.seeds_for_margin} seeds"
    assert told in text_of(page_of(study))
    assert told in sentence_of(found)


def test_what_is_too_small_to_matter_is_the_readers_to_say(make_study):
    study = make_study(lambda seed, norm: 0.9 + (0.001 * (seed - 1) if norm == "bn" else 0), {"norm": ["bn"]})
    told = {margin: write_report(study, margin=margin).read_text() for margin in (0.05, 3.0)}
    assert "Less than 3 points either way, 93.3% interval [" in told[3.0]
    assert "Less than" not in told[0.05]


def test_one_more_cell_is_one_cell():
    assert [verdicts.counted(number, "more cell") for number in (1, 2)] == ["1 more cell", "2 more cells"]


def test_cells_whose_runs_have_only_not_ended_yet_are_no_failures(make_study):
    study = make_study(lambda seed, norm: 0.9 if seed < 2 else None, {"norm": ["bn"]}, flow=False)
    text = text_of(page_of(study))
    assert "Runs that did not end well" not in text
    assert "None: all 4 runs that ended, ended well." in text


def test_health_that_was_read_with_the_rest_is_the_health_that_a_run_has(study):
    health = {(each.cell, run.seed): run.health for each in read_cells(study) for run in each.runs}
    apart, together = read_results(study.runs()), read_results(study.runs(), health=health)
    assert apart["gradient_first_to_last"].notna().all()
    pd.testing.assert_frame_equal(apart, together)


@pytest.mark.parametrize(
    ("design", "said", "unsaid"),
    [
        ("factorial", "0 is no change. Effects are averaged over the levels of the other factors", "0 is the baseline"),
        ("one-at-a-time", "0 is the baseline, norm=lrn, act=relu.", "averaged"),
        ("leave-one-out", "0 is no change; each change is taken while all the others are made.", "averaged"),
        ("only", "0 is the baseline, norm=lrn, act=relu.", "averaged"),
    ],
)
def test_what_an_effect_of_nothing_is_depends_on_the_design(design, said, unsaid, make_study):
    page = page_of(make_study(planted, design=design, flow=False))
    reading = figures_of(page)["effects"].reading
    assert said in reading
    assert unsaid not in reading
    assert ("averaged over act" in text_of(page)) == (design == "factorial")


@pytest.mark.parametrize(
    ("factors", "label"),
    [
        ({"network": ["resnet18"]}, "alexnet (baseline)"),
        ({"dropout": [0.3]}, "dropout 0.5 (baseline)"),
        ({"norm": ["bn"], "act": ["leaky"]}, "lrn, relu (baseline)"),
    ],
)
def test_the_baseline_is_labelled_by_its_levels(factors, label, make_study):
    study = make_study(lambda seed, **_: None, factors, seeds=1)
    assert next(iter(labels_of(study.cells).values())) == label


def test_numbers_are_set_as_people_write_them_and_names_stay_as_they_are():
    told = "norm=bn,init=-x norm-placement -2.4 points [-3.1, +0.2], 2.16e-05 and 2.5e+07"
    assert verdicts.typeset(told) == "norm=bn,init=-x norm-placement −2.4 points [−3.1, +0.2], 2.16·10⁻⁵ and 2.5·10⁷"
