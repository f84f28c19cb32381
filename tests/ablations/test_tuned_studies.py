"""Tuned studies from their first run to their page: stages, interruptions, verdicts, and what is said of them."""

import json
import math
import shutil
import signal

import pandas as pd
import pytest
import tuned_studies
from stand_ins import use
from tuned_studies import BEST_AT, START, STEEPNESS, study_in
from typer.testing import CliRunner

from alexnet_ablations.cli.application import application
from alexnet_ablations.conclude.budgets import budgets_of, effects_at_budgets
from alexnet_ablations.conclude.conclusions import conclusions_of
from alexnet_ablations.conclude.outcomes import read_results
from alexnet_ablations.declare.status import found_runs
from alexnet_ablations.declare.study import declare_study, read_study
from alexnet_ablations.report import write_report
from alexnet_ablations.run.forecast import forecast
from alexnet_ablations.run.study import run_study
from alexnet_ablations.tune.choice import read_outcomes
from alexnet_ablations.tune.searches import every_run, searches_of, tuning_runs

# A program that stands in for a run: bn learns best at a high rate and lrn at a low one, and .5 is too high for both.
LEARNS = """
import math
import signal
rate = recipe["learning_rate"]
ends = {"lrn": 0.9 - 0.2 * (math.log10(rate) + 2) ** 2, "bn": 0.94 - 0.2 * (math.log10(rate) + 1.25) ** 2}
good = ends[norm] + seed % 7 / 1000
folder.log({"epoch": 1, "validation_accuracy": good})
if rate >= 0.5:
    folder.end("diverged", "the loss was nan")
else:
    folder.end("ok", result={"test": {"accuracy": good}, "validation": {"accuracy": good, "loss": 1 - good}})
"""
KILLED_ONCE = """
mark = folder.path.parents[2] / "killed"
if not mark.exists() and norm == "bn" and 0.02 < recipe["learning_rate"] < 0.1:
    mark.write_text("")
    os.kill(os.getppid(), signal.SIGINT)
    time.sleep(30)
"""


def invoke(*words):
    return CliRunner().invoke(application, list(map(str, words)))


def ablate(folder, *words):
    return invoke("ablate", "--norm", "bn", "--epochs", 1, "--out", folder, "--jobs", 2, *words)


def states(runs):
    return [(run.folder.verdict() or {"state": None})["state"] for run in runs]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return tuned_studies.make(study_in(tmp_path_factory.mktemp("tuned"), seeds=4))


def test_two_cells_whose_order_turns_around_when_both_are_tuned_are_told_right(made):
    (tuned,) = conclusions_of(read_results(made.runs()), made.contrasts()).headline
    (common, *_) = effects_at_budgets(made, read_outcomes(made))
    assert common.conclusions[0].verdict == tuned.verdict == "difference"
    # By the formula: bn loses at the common rate and gains at the best of eight.
    at_common = BEST_AT["bn"][1] - STEEPNESS * 0.75**2 - BEST_AT["lrn"][1]
    assert common.conclusions[0].low < 100 * at_common < common.conclusions[0].high
    assert common.conclusions[0].effect < 0 < tuned.effect
    assert tuned.low > 0


def test_the_effect_over_the_budget_ends_at_all_points_and_begins_at_the_recipes_own(made):
    assert budgets_of(8) == [1, 2, 4, 8]
    assert budgets_of(6) == [1, 2, 4, 6]
    found = effects_at_budgets(made, read_outcomes(made))
    assert [budget.points for budget in found] == [1, 2, 4, 8]
    rows = read_results(tuning_runs(searches_of(made)), health={}).set_index(["cell", "seed"])["test_accuracy"]
    by_hand = [
        100 * (rows["norm=bn,learning_rate=0.01", seed] - rows["norm=lrn,learning_rate=0.01", seed])
        for seed in range(10_000, 10_004)
    ]
    assert list(found[0].conclusions[0].values.values()) == pytest.approx(by_hand)
    assert found[-1].conclusions[0].n == 4


def test_the_verdict_has_fresh_seeds_and_the_chosen_values(made):
    for run in made.runs():
        at = made.chosen[run.cell.name][run.seed]["learning_rate"]
        assert json.loads((run.folder.path / "recipe.json").read_text())["learning_rate"] == at
        assert run.seed < 10_000
        tried = {one.values["learning_rate"]: one.metric for one in outcome_of(made, run).tried}
        assert tried[at] == max(value for value in tried.values() if math.isfinite(value))


def outcome_of(study, run):
    return next(o for o in read_outcomes(study) if (o.cell.name, o.number) == (run.cell.name, run.seed))


def test_the_report_shows_what_was_chosen_and_both_effects(made, drawn):
    page = write_report(made).read_text()
    assert "at the common values, +" in page
    assert "with each cell tuned." in page
    assert 'id="section-tuning"' in page
    for name in ("tuning-learning-rate", "tuning-budget"):
        assert (made.folder / "report" / "figures" / f"{name}.svg").exists()
    rate = made.chosen["norm=bn"][0]["learning_rate"]
    assert f"{rate:g}" in page
    assert "All cells share" not in page


def test_a_report_of_an_unfinished_search_says_so(tmp_path):
    study = study_in(tmp_path, seeds=2).open_folder()
    assert "The search is not finished" in write_report(study).read_text()
    for run in tuning_runs(searches_of(study))[:5]:
        tuned_studies.end_by_formula(run)
    assert "5 of 32 tuning runs have ended" in write_report(study).read_text()


def test_a_report_without_tuning_names_what_all_cells_share(tmp_path):
    study = declare_study({"norm": "bn"}, START, tmp_path, seeds=2).open_folder()
    for run in study.runs():
        tuned_studies.end_by_formula(run)
    page = write_report(study).read_text()
    assert "All cells share learning rate 0.01, weight decay 0.0005, no warm-up" in page
    assert 'id="section-tuning"' not in page


def test_one_search_for_all_seeds_has_a_report_that_says_what_its_interval_leaves_out(tmp_path):
    study = tuned_studies.make(study_in(tmp_path, tune="learning_rate,weight_decay:5:once"))
    page = write_report(study).read_text()
    assert "does not include that another search might choose otherwise" in page
    assert (tmp_path / "report" / "figures" / "tuning-weight-decay.svg").exists()
    assert not (tmp_path / "report" / "figures" / "tuning-budget.svg").exists()


def test_a_study_is_searched_and_then_compared_in_processes(tmp_path, monkeypatch):
    use(monkeypatch, LEARNS)
    results = run_study(study_in(tmp_path, seeds=2, tune="learning_rate=1e-4..1:4"), jobs=2)
    study = read_study(tmp_path / "study.toml", tmp_path)
    assert set(states(tuning_runs(searches_of(study)))) == {"ok"}
    assert list(results["state"]) == ["ok"] * 4
    best = {norm: study.chosen[f"norm={norm}"][0]["learning_rate"] for norm in ("lrn", "bn")}
    assert best["lrn"] < best["bn"]
    before = {run.folder.path: run.folder.path.joinpath("state.json").stat().st_mtime_ns for run in every_run(study)}
    run_study(read_study(tmp_path / "study.toml", tmp_path), jobs=2)
    assert before == {path: path.joinpath("state.json").stat().st_mtime_ns for path in before}


@pytest.fixture
def interruptible():
    """Let Ctrl-C interrupt, also where these tests were started in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_a_study_that_is_interrupted_in_its_search_goes_on_where_it_was(tmp_path, monkeypatch):
    use(monkeypatch, KILLED_ONCE + LEARNS)
    asked = study_in(tmp_path / "study", seeds=2, tune="learning_rate=1e-4..1:4")
    with pytest.raises(KeyboardInterrupt):
        run_study(asked, jobs=2)
    study = read_study(tmp_path / "study" / "study.toml", tmp_path / "study")
    assert not study.chosen
    done = [run for run in tuning_runs(searches_of(study)) if run.is_done]
    assert len(done) < 16
    assert not any(run.is_done for run in study.runs())
    ended = {run.folder.path: (run.folder.path / "state.json").stat().st_mtime_ns for run in done}

    results = run_study(asked, jobs=2)
    assert {path: (path / "state.json").stat().st_mtime_ns for path in ended} == ended
    use(monkeypatch, LEARNS)
    undisturbed = run_study(study_in(tmp_path / "again", seeds=2, tune="learning_rate=1e-4..1:4"), jobs=2)
    chosen = [read_study(tmp_path / name / "study.toml", tmp_path / name).chosen for name in ("study", "again")]
    assert chosen[0] == chosen[1]
    pd.testing.assert_frame_equal(results, undisturbed)


def test_a_search_whose_runs_fail_compares_nothing_and_ends_with_status_1(tmp_path, monkeypatch):
    use(monkeypatch, 'folder.end("oom", "no memory") if recipe["learning_rate"] > 0.02 else exec(LEARNS)'.replace(
        "LEARNS", repr(LEARNS)
    ))  # fmt: skip
    result = ablate(tmp_path, "--tune", "learning_rate=1e-4..1:4", "--seeds", 1)
    assert result.exit_code == 1
    assert "tuning runs have no result, so no values are chosen yet" in result.output
    study = read_study(tmp_path / "study.toml", tmp_path)
    assert set(states(study.runs())) == {None}
    use(monkeypatch, LEARNS)
    again = invoke("retry", tmp_path, "--state", "oom,waiting", "--jobs", 2)
    assert again.exit_code == 0, again.output
    assert set(states(read_study(tmp_path / "study.toml", tmp_path).runs())) == {"ok"}


def test_status_counts_the_runs_of_searches_by_cell(tmp_path):
    study = tuned_studies.make(study_in(tmp_path, seeds=2))
    last = study.runs()[-1]
    shutil.rmtree(last.folder.path)
    told = invoke("status", tmp_path).output
    assert "36 runs" in told
    assert "tuning norm=bn" in told
    rows = json.loads(invoke("status", tmp_path, "--json").output)["runs"]
    assert sum(row["search_of"] == "norm=bn" for row in rows) == 16
    assert [row["state"] for row in rows if row["search_of"] is None] == ["ok", "ok", "ok", "waiting"]
    assert len(found_runs(tmp_path)) == 35


def test_a_plan_counts_the_search_and_trains_nothing(tmp_path):
    study = study_in(tmp_path, seeds=2)
    counted = forecast(study, 2, measured=False)
    assert (counted.runs, counted.missing) == (36, 36)
    assert counted.power.pairs == 2
    tuned_studies.make(study)
    made = read_study(tmp_path / "study.toml", tmp_path)
    assert forecast(made, 2, measured=False).missing == 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--tune", "learning_rate=1..0.1"), "goes from the lower end to the higher"),
        (("--tune", "norm"), "norm is varied between the cells"),
        (("--tune", "act"), "act cannot be tuned"),
        (("--tune", "learning_rate:1"), "at least 2 points"),
        (("--tune", "learning_rate:64", "--seeds", "4"), "levels, seeds or points to tune"),
    ],
)
def test_a_mistake_in_the_flag_ends_with_status_2_before_anything_runs(tmp_path, words, expected):
    result = ablate(tmp_path / "study", *words)
    assert result.exit_code in (1, 2)
    said = " ".join(str(result.exception or result.output).split())
    assert expected in said
    assert not (tmp_path / "study").exists()


@pytest.mark.long
@pytest.mark.usefixtures("timed_here")
def test_a_real_study_is_tuned(tmp_path):
    result = ablate(
        tmp_path / "study",
        "--tune",
        "learning_rate=0.003..0.1:2",
        "--seeds",
        2,
        "--width",
        "0.1",
        "--data",
        "synthetic:classes=3,side=16,count=107",
    )
    assert result.exit_code == 0, result.output
    assert "with each cell tuned" in " ".join(result.output.split())
