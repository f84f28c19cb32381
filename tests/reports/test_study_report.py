"""The report of a study in every state it can be in: whole, cut off, of one seed, with a cell that never survives."""

import html
import re
import shutil

import pandas as pd
from planted_studies import figures_of, page_of, planted, text_of

from alexnet_ablations.conclude.conclusions import conclude
from alexnet_ablations.conclude.outcomes import read_results
from alexnet_ablations.report import verdicts, write_report
from alexnet_ablations.report.readings import labels_of, read_cells

EVIL = "<script>alert(1)</script>"


def test_a_planted_difference_comes_first_with_its_number_interval_and_pairs(page, text):
    # By hand: the pairs differ by 2.9, 3.0 and 3.1 points, and t(.975, 2) x 0.1 / sqrt(3) is 0.248.
    assert "norm lrn → bn +3.0 points [+2.8, +3.2], n=3" in page.lead
    assert text.index("Difference, for the better") < text.index("Effects on test accuracy, points")
    assert "cannot go below p = 0.25" in text
    assert "act relu → leaky" in page.lead.partition("Open:")[2]


def test_the_report_stands_beside_its_tables_rows_and_figures(study):
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
    assert page.lead.startswith("Unfinished: 7 of 12 runs have ended (4 not begun, 1 cut off)")
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


def test_a_cell_that_always_diverges_is_reported_with_its_survival_and_never_dropped(make_study):
    study = make_study(lambda seed, norm: "diverged" if norm == "none" else planted(seed, norm, "relu"),
                       {"norm": ["bn", "none"]})  # fmt: skip
    page = page_of(study)
    text = text_of(page)
    assert "norm none: 0 of 3 runs ended well" in text
    assert "No seed has every run that this needs (n=0)" in text
    assert "the loss was nan at step 7" in text
    assert "norm lrn → bn +3.0 points" in page.lead
    rows = {row[0]: row for row in figures_of(page)["seeds"].table.rows}
    assert rows["seed 0"][3] is None  # drawn as a gap, under its name


def test_a_study_of_two_cells_is_not_empty(make_study):
    page = page_of(make_study(lambda seed, norm: planted(seed, norm, "relu"), {"norm": ["bn"]}))
    assert {"effects", "seeds", "learning-loss", "gradient-depth", "off-rates"} <= set(figures_of(page))
    assert "interaction" not in " ".join(figures_of(page))


def test_of_one_comparison_that_stays_open_the_page_speaks_as_of_one(make_study):
    page = page_of(make_study(lambda seed, act: 0.8 + (act == "leaky") * 0.05 * seed, {"act": ["leaky"]}, flow=False))
    assert "The one comparison shows no difference in test accuracy beyond chance. It stays open: act" in page.lead


def test_runs_without_instruments_leave_a_page_that_says_what_is_missing(make_study):
    page = page_of(make_study(lambda seed, norm: 0.9, {"norm": ["bn"]}, 1, flow=False))
    assert "gradient-depth" not in figures_of(page)
    assert text_of(page).count("No run has recorded this yet.") == 2


def test_names_that_look_like_markup_stay_text(make_study):
    study = make_study(
        lambda seed, norm: 0.9, {"norm": ["bn"]}, 1, about=f"What {EVIL} does", data=f"x/{EVIL.replace('/', '')}.zip"
    )
    markup = page_of(study).html()
    assert "<script>alert" not in markup
    assert "&lt;script&gt;alert(1)" in markup


def test_levels_that_look_like_markup_stay_text(make_study):
    evil = {"weights": [f"{EVIL}.pth"]}
    study = make_study(lambda seed, weights: 0.9 + seed / 100, evil, seeds=2)
    page = page_of(study)
    assert "<script>alert" not in page.html()
    assert "weights <script>alert(1)</script>.pth" in text_of(page)


def test_a_finding_says_in_how_many_seeds_of_which_cells_it_is(text):
    found = text.partition(" Failures None")[0]
    assert re.search(r"Dead at start These ReLUs .* baseline in 3 of 3 seeds\. Seed 0: ", found)
    assert re.search(r"Without any finding: .*norm bn; norm bn, act leaky\.", found)
    assert "baseline" not in found.partition("Without any finding")[2]


def test_a_finding_of_some_seeds_is_not_one_of_all(make_study):
    study = make_study(lambda seed, norm: "diverged" if norm == "bn" and seed else 0.9, {"norm": ["bn"]}, flow=False)
    assert re.search(r"Diverged The loss .* norm bn in 2 of 3 seeds\. Seed 1: ", text_of(page_of(study)))


def test_what_stands_out_beside_accuracy_is_said_in_plain_words(text):
    number = r"×\d[\d.]*"
    said = rf"norm lrn → bn: more gradient reaches the first layer, {number} \[{number}, {number}\], n=3 pairs"
    assert re.search(said, text)
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


def test_a_damaged_run_is_named_and_the_others_are_reported(make_study):
    study = make_study(planted)
    (study.runs()[0].folder.path / "provenance.json").write_text("{")
    page = page_of(study)
    assert "provenance.json is damaged" in text_of(page)
    assert "effects" in figures_of(page)


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
    assert list(labels_of(study.cells).values()) == ["baseline", "act leaky", "norm bn", "norm bn, act leaky"]


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
    told = "What is said of norm lrn → bn rests on the t interval: the exact sign-flip test alone does not see it"
    assert f"{told} (p = 0.062)." in text


def test_verdicts_say_how_many_seeds_would_tell_as_the_terminal_does(make_study):
    study = make_study(lambda seed, norm: 0.9 + (0.01 * (seed - 1) if norm == "bn" else 0), {"norm": ["bn"]})
    results = read_results(study.runs())
    found = conclude(results, study.contrasts()).headline[0]
    assert found.verdict == "open"
    assert found.seeds_needed > 3
    assert f"About {found.seeds_needed} seeds would narrow it to 0.5 points either way." in verdicts.verdict_text(found)
    assert f"about {found.seeds_needed} seeds would narrow it to 0.5 points either way" in found.sentence


def test_what_is_too_small_to_matter_is_the_readers_to_say(make_study):
    study = make_study(lambda seed, norm: 0.9 + (0.001 * (seed - 1) if norm == "bn" else 0), {"norm": ["bn"]})
    told = {margin: write_report(study, margin=margin).read_text() for margin in (0.05, 3.0)}
    assert "pairs: less than 3 points either way." in told[3.0]
    assert "pairs: less than" not in told[0.05]


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
