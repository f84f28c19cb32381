"""What is said before the first step: time, disk, and what so many seeds can show."""

import json
import math
import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest

from alexnet_ablations.declare.history import note_end, note_start
from alexnet_ablations.declare.study import declare_study
from alexnet_ablations.run import calibration, forecast
from alexnet_ablations.run.calibration import Pace, calibrate, key_of, measure
from alexnet_ablations.run.forecast import duration, expected_power, is_small, wall_time
from alexnet_lab.training.recipe import Recipe

PACE = Pace(1.5, 0.5, 0.05, 33, 0.001, 359, 359, 5_000_000)
TINY = {"width": 0.0625, "norm": "bn", "data": "synthetic:classes=2,side=16,count=120"}


def study_in(folder, seeds=3, **factors):
    return declare_study(factors or {"norm": "bn", "act": "leaky"}, {}, folder, seeds=seeds)


def test_a_run_takes_its_start_its_steps_and_its_evaluations():
    # 1.5 s of imports, 0.5 s for the data, 10 epochs of 33 steps, validation after each and at the end, the test once
    assert PACE.seconds(Recipe(epochs=10)) == pytest.approx(2 + 10 * 33 * 0.05 + (11 * 359 + 359) * 0.001)
    assert PACE.seconds(Recipe(epochs=10), is_forked=True) == pytest.approx(PACE.seconds(Recipe(epochs=10)) - 1.5)
    assert PACE.seconds(Recipe(epochs=10, ten_views=True)) == pytest.approx(2 + 16.5 + (11 * 359 + 3590) * 0.001)


def test_the_wall_time_is_that_of_the_last_of_the_slots():
    assert wall_time([10] * 12, 2) == 60
    assert wall_time([10] * 12, 5) == 30
    assert wall_time([30, 10, 10, 10], 2) == 30
    assert wall_time([], 2) == 0


def test_the_smallest_p_and_the_seeds_it_takes_are_those_of_two_over_two_to_the_n(tmp_path):
    power = expected_power(study_in(tmp_path), [], done=0)
    assert power.attainable_p == 0.25
    assert power.seeds_for_one == next(n for n in range(1, 99) if 2 / 2**n <= 0.05) == 6
    assert power.seeds_for_family == next(n for n in range(1, 99) if 3 * 2 / 2**n <= 0.05) == 7
    text = " ".join(power.sentences())
    assert "3 pairs: an exact sign-flip test cannot go below p = 0.25; it takes 6 seeds" in text
    assert "assumed" in text


def test_an_effect_as_large_as_foretold_is_found_four_times_in_five(tmp_path):
    from scipy import stats

    power = expected_power(study_in(tmp_path, seeds=6), [], done=0)
    generator = np.random.default_rng(5)
    # 4 cells x 6 seeds of independent runs with the spread that is assumed
    runs = generator.normal(0, power.spread, (20_000, 6, 4))
    effect = power.detectable["effect"] + runs @ np.array([0.5, 0.5, -0.5, -0.5])
    interaction = power.detectable["interaction"] + runs @ np.array([1, -1, -1, 1])
    for values in (effect, interaction):
        # The level of a first look with six seeds, at the first step of Holm's rule.
        found = stats.ttest_1samp(values, 0, axis=1).pvalue < 0.05 * (1 - 1 / 6) / 3
        assert found.mean() == pytest.approx(0.8, abs=0.015)


def test_the_spread_of_runs_that_are_there_takes_the_place_of_the_assumption(tmp_path):
    study = study_in(tmp_path, seeds=4, norm="bn")
    accuracies = {"norm=lrn": [0.90, 0.92, 0.91, 0.95], "norm=bn": [0.93, 0.91, 0.96, 0.95]}
    runs = study.runs()
    for run in runs:
        run.folder.begin(run.recipe.to_json(), {}, "{}")
        run.folder.end("ok", result={"test": {"accuracy": accuracies[run.cell.name][run.seed]}})
    power = expected_power(study, runs, done=len(runs))
    differences = 100 * np.subtract(accuracies["norm=bn"], accuracies["norm=lrn"])
    assert power.spread == pytest.approx(differences.std(ddof=1) / math.sqrt(2))
    assert "seen in the runs already there" in " ".join(power.sentences())


def test_few_test_images_are_told_before_anything_runs(tmp_path):
    from scipy import stats

    study = replace(study_in(tmp_path, seeds=6, norm="bn"), margin=2.0)
    power = expected_power(study, [], done=0, test_images=66)
    # Two cells that answer 4% of the images differently: their difference on an image has a spread of 20 points.
    error = 20 / math.sqrt(66)
    assert power.least["effect"] == pytest.approx((stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) * error, rel=0.03)
    assert power.detectable["effect"] > power.least["effect"]
    text = " ".join(power.sentences())
    least = f"{power.least['effect']:.1f} points"
    assert f"66 test images: no number of seeds shows less than about {least} for images like these" in text
    assert "2 points, the margin, cannot be shown with them" in text
    assert "4% of the images that two cells answer differently whatever the seed (assumed)" in text
    many = expected_power(study, [], done=0, test_images=100_000)
    assert f"take about {many.seeds_for_margin} seeds" in " ".join(many.sentences())
    # With so many images the seeds alone decide, as without a word of images.
    assert many.detectable["effect"] == pytest.approx(expected_power(study, [], done=0).detectable["effect"], rel=0.02)


def test_one_seed_is_told_that_it_shows_no_spread(tmp_path):
    facts = forecast.forecast(study_in(tmp_path, seeds=1), 1, measured=False).facts()
    assert facts["power"]["detectable"] == {"effect": None, "interaction": None}
    assert facts["seconds"] is None
    assert "take at least two" in " ".join(expected_power(study_in(tmp_path, seeds=1), [], done=0).sentences())


def test_calibration_is_measured_once_per_architecture_and_then_read(tmp_path, monkeypatch):
    recipes = [Recipe(norm=norm, seed=seed) for norm in ("lrn", "bn") for seed in (0, 1)]
    dealt = []

    def stand_in(hands):
        dealt.append([[recipe.norm for _, recipe in hand] for hand in hands])
        return [(key, replace(PACE, step_seconds=0.1 if r.norm == "bn" else 0.05)) for hand in hands for key, r in hand]

    monkeypatch.setattr(calibration, "_measured_side_by_side", stand_in)
    paces = calibrate(recipes, 2, tmp_path / "calibration.json")
    assert dealt == [[["lrn"], ["bn"]]]
    assert [paces[key_of(recipe, 2)].step_seconds for recipe in recipes] == [0.05, 0.05, 0.1, 0.1]
    assert calibrate(recipes, 2, tmp_path / "calibration.json") == paces
    assert len(dealt) == 1
    # One architecture and three slots: all three time it at once. Another number of slots is another measurement.
    calibrate(recipes[:1], 3, tmp_path / "calibration.json")
    assert dealt[1:] == [[["lrn"], ["lrn"], ["lrn"]]]
    # Three architectures and two slots: the last one is timed beside the first, since it will not run alone either.
    calibrate([Recipe(norm=norm, width=0.5) for norm in ("lrn", "bn", "gn")], 2, tmp_path / "calibration.json")
    assert dealt[2:] == [[["lrn", "gn"], ["bn", "lrn"]]]


@pytest.mark.parametrize("value", [None, '{"abc": {"start', '"0.05"', "-1", "NaN", "1e999", "9" * 30, "[]"])
def test_a_torn_or_senseless_calibration_is_measured_again(tmp_path, monkeypatch, value):
    known = json.dumps({key_of(Recipe(), 1): asdict(PACE)})
    senseless = known.replace(f'"step_seconds": {PACE.step_seconds}', f'"step_seconds": {value}')
    (tmp_path / "calibration.json").write_text(senseless if value else '{"abc": {"start')
    monkeypatch.setattr(
        calibration, "_measured_side_by_side", lambda hands: [(key, PACE) for hand in hands for key, _ in hand]
    )
    assert list(calibrate([Recipe()], 1, tmp_path / "calibration.json").values()) == [PACE]
    assert json.loads((tmp_path / "calibration.json").read_text()) == {key_of(Recipe(), 1): asdict(PACE)}


def test_what_costs_nothing_makes_no_other_architecture():
    assert key_of(Recipe(), 2) == key_of(Recipe(seed=3, learning_rate=0.1, epochs=99, dropout=0.1), 2)
    assert len({key_of(r, 2) for r in (Recipe(), Recipe(norm="bn"), Recipe(batch_size=64), Recipe(threads=2))}) == 4


def test_a_pace_counts_what_the_data_and_the_network_have():
    pace = measure(Recipe(**TINY, batch_size=20))
    # 120 images: a fifth is the test, a fifth the validation, which leaves 72 for training
    assert (pace.steps_per_epoch, pace.validation_images, pace.test_images) == (72 // 20, 24, 24)
    assert 0 < pace.step_seconds < 10
    assert 0 < pace.evaluation_seconds < pace.step_seconds


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (Recipe(**TINY, image_size=20), "the smallest that works is"),
        (Recipe(**TINY, weights="absent.pth"), "absent.pth"),
        (Recipe(**TINY, batch_size=73), "batch size 73 is larger than the 72 training images"),
    ],
)
def test_what_cannot_be_built_or_trained_is_refused_by_the_calibration(recipe, message, tmp_path):
    with pytest.raises((ValueError, OSError), match=message):
        measure(recipe)


def test_a_mistake_that_a_calibrating_process_meets_is_raised_as_its_sentence(tmp_path):
    with pytest.raises(ValueError, match="^[^\n]*the smallest that works is[^\n]*$"):
        calibrate([Recipe(**TINY, image_size=20)], 1, tmp_path / "calibration.json")


def test_a_study_larger_than_the_disk_is_refused(tmp_path, monkeypatch):
    study = study_in(tmp_path / "new" / "study")
    monkeypatch.setattr(
        forecast, "calibrate", lambda recipes, jobs, _cache: {key_of(recipe, jobs): PACE for recipe in recipes}
    )
    found = forecast.forecast(study, 2, measured=True)
    # 12 runs keep their best weights; two at work hold two checkpoints of weights and momentum
    assert found.disk_bytes == 12 * (5_000_000 + 2**20) + 2 * 2 * 2 * 5_000_000
    assert found.seconds == pytest.approx(1.5 + 6 * PACE.seconds(Recipe(), is_forked=True))
    assert json.loads(json.dumps(found.facts(), allow_nan=False))["power"]["attainable_p"] == 0.25
    monkeypatch.setattr(forecast.shutil, "disk_usage", lambda _path: type("Usage", (), {"free": 10**7}))
    with pytest.raises(ValueError, match=r"needs about 113 MB of disk and .* has 10 MB free; free some, or choose"):
        forecast.forecast(study, 2, measured=True)


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("import os; os.kill(os.getpid(), 9)", "killed (SIGKILL), which is what a system does when memory runs out"),
        ("import os; os.kill(os.getpid(), 15)", "ended by SIGTERM"),
        ("import os; os._exit(7)", "ended with status 7"),
    ],
)
def test_a_calibrating_process_that_dies_is_one_sentence(program, said, tmp_path, monkeypatch):
    def start(_recipes):
        pipe = subprocess.PIPE
        return subprocess.Popen([sys.executable, "-c", program], stdin=pipe, stdout=pipe, stderr=pipe, text=True)

    monkeypatch.setattr(calibration, "_start", start)
    with pytest.raises(ValueError) as caught:
        calibrate([Recipe(**TINY)], 1, tmp_path / "calibration.json")
    assert said in str(caught.value)


def test_the_default_study_is_small_and_a_larger_one_is_calibrated(tmp_path):
    assert is_small(study_in(tmp_path).runs())
    assert not is_small(study_in(tmp_path, seeds=6).runs())
    assert not is_small(study_in(tmp_path, seeds=1, network="vgg11").runs())
    assert not is_small(study_in(tmp_path, seeds=1, batch_size="2000").runs())


def test_a_study_that_grows_expects_what_its_runs_took(tmp_path):
    study = study_in(tmp_path, norm="bn,none")
    assert forecast.forecast(study, 2, measured=False).seconds is None
    for run, state, seconds in zip(study.runs(), ("ok", "ok", "error"), (30.0, 50.0, 2.0), strict=False):
        run.folder.path.mkdir(parents=True)
        note_start(run.folder.path, "1")
        note_end(run.folder.path, state, seconds, 0)
    found = forecast.forecast(study, 2, measured=False)
    # Nine runs on two slots, seed by seed: 30, 50 and, for the one that failed, their mean. Ends by hand:
    # 30 | 50; 40 -> 70 | 50; 30 -> 70 | 80; 50 -> 120 | 80; 40 -> 120 | 120; 30, 50 -> 150 | 170; 40 -> 190 | 170
    assert found.seconds == 190
    assert "about 3 min, by the runs already there" in found.sentences()[0]


def test_times_are_said_in_round_numbers():
    said = [duration(s) for s in (3, 44, 110, 600, 12_000, 86_400, 200_000)]
    assert said == ["10 s", "40 s", "2 min", "10 min", "3 h 20 min", "24 h", "2 days 8 h"]
