"""How many points a search gets where a time is named, and that it is said before anything runs."""

from types import SimpleNamespace

import pytest
import tuned_studies
from typer.testing import CliRunner

from alexnet_ablations.cli.application import application
from alexnet_ablations.declare.study import read_study
from alexnet_ablations.run import budget
from alexnet_ablations.run.budget import points_within, read_time
from alexnet_ablations.run.calibration import Pace
from alexnet_ablations.tune.searches import searches_of, tuning_runs

SECONDS = {"lrn": 10.0, "bn": 20.0}  # of a run


@pytest.fixture(autouse=True)
def timed(monkeypatch):
    """Let runs take what the table says, on one slot, instead of timing them."""
    monkeypatch.setattr(
        budget,
        "paces_of",
        lambda _study, runs, _slots: [Pace(0.0, SECONDS[run.recipe.norm], 0.0, 1, 0.0, 1, 1, 1) for run in runs],
    )
    monkeypatch.setattr(budget, "find_slots", lambda *_arguments: SimpleNamespace(count=1))


def study_in(path, points=2, seeds=3):
    return tuned_studies.study_in(path, seeds=seeds, tune=f"learning_rate=1e-4..1:{points}")


@pytest.mark.parametrize(
    ("text", "seconds"), [("30m", 1800), ("2h", 7200), ("1h30m", 5400), ("90s", 90), ("1.5h", 5400), (" 5min ", 300)]
)
def test_a_time_is_hours_minutes_and_seconds(text, seconds):
    assert read_time(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "0m", "m", "-5m", "30 minutes", "1m1h"])
def test_a_text_that_is_no_time_is_refused(text):
    with pytest.raises(ValueError, match="--within takes a time above 0, such as 30m, 2h or 1h30m; got"):
        read_time(text)


@pytest.mark.parametrize(("seconds", "points"), [(180, 2), (269, 2), (270, 3), (900, 10)])
def test_the_points_are_the_most_whose_runs_fit_into_the_time(tmp_path, seconds, points):
    # Three seeds of two cells, 10 and 20 s a run: 90 s a point on one slot.
    found = points_within(study_in(tmp_path), seconds, None, 200)
    assert (found.points, found.runs, found.seconds, found.is_cut) == (points, 6 * points, 90.0 * points, False)
    longer = study_in(tmp_path, points)
    assert len(tuning_runs(searches_of(longer))) == found.runs


def test_a_time_that_is_too_short_for_two_points_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match="2 points, the fewest, take 12 runs and about 3 min, and --within gives 2 min"
    ):
        points_within(study_in(tmp_path), 120, None, 200)


def test_no_more_runs_are_asked_for_than_are_allowed(tmp_path):
    found = points_within(study_in(tmp_path), 10_000, None, 36)
    assert (found.points, found.is_cut) == (5, True)  # 30 runs, beside 6 of the comparison
    assert "--yes RUNS allows them" in found.sentence()


def test_points_that_were_searched_cost_nothing(tmp_path):
    study = study_in(tmp_path, points=4).open_folder()
    for run in tuning_runs(searches_of(study)):
        tuned_studies.end_by_formula(run)
    assert points_within(study, 10, None, 200).points == 4
    assert points_within(study, 190, None, 200).points == 6


def ablate(*words):
    start = ("ablate", "--norm", "bn", "--seeds", 3, "--epochs", 1, "--plan", *words)
    return CliRunner().invoke(application, list(map(str, start)))


def test_the_plan_says_how_many_points_fit_and_the_saved_study_has_them(tmp_path, monkeypatch):
    from alexnet_ablations.cli import run_study

    monkeypatch.setattr(run_study, "predict", lambda *_, **__: SimpleNamespace(sentences=list))
    mine = tmp_path / "mine.toml"
    done = ablate("--out", tmp_path / "study", "--tune", "learning_rate", "--within", "9m", "--save", mine)
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())
    assert "tuning within 9 min: 6 points, 36 runs still to be made, about 9 min; the comparison comes after" in said
    assert read_study(mine, tmp_path).tuning.points == 6


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--within", "30m"), "--within is a time for --tune; name what is tuned"),
        (("--within", "30m", "--tune", "learning_rate:8"), "names how many points are tried, and --within finds it"),
        (("--within", "soon", "--tune", "learning_rate"), "--within takes a time above 0"),
        (
            ("--within", "30m", "--tune", "learning_rate", "--executor", "slurm", "--time", "1h"),
            "--within times runs on this machine",
        ),
    ],
)
def test_a_time_that_cannot_be_kept_is_one_sentence(tmp_path, words, sentence):
    done = ablate("--out", tmp_path / "study", *words)
    assert done.exit_code != 0
    assert sentence in str(done.exception)
