"""What is searched for each cell: the words for it, its points, its choice, and what it may not be."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tuned_studies
from tuned_studies import START, study_in

from alexnet_ablations.conclude.conclusions import infer
from alexnet_ablations.declare.study import declare_study, read_study
from alexnet_ablations.tune.choice import (
    Tried,
    UnfinishedSearchError,
    choose,
    read_outcomes,
    with_choices,
    within_budget,
)
from alexnet_ablations.tune.points import points_of
from alexnet_ablations.tune.searches import every_run, searches_of, tuning_runs
from alexnet_ablations.tune.sentences import edge_sentences, plan_sentence


def tuned(words, factors=None, **start):
    return declare_study(factors or {"norm": "bn"}, start, Path("nowhere"), tune=words)


def points(words, **start):
    study = tuned(words, **start)
    return points_of(study.tuning, study.start)


@pytest.mark.parametrize(
    ("words", "start", "factors", "expected"),
    [
        ("learning_rate:8", {}, {"learning_rate": "0.1"}, "learning_rate is varied between the cells"),
        ("learning_rate=0.1..0.001", {}, None, "from the lower end to the higher, got 0.1..0.001; take learning_rate="),
        ("learning_rate=0.1..0.1", {}, None, "from the lower end to the higher"),
        ("norm", {}, {"act": "leaky"}, "norm cannot be tuned: it is not a number"),
        ("batch_size", {}, None, "batch_size cannot be tuned: it changes what a run costs"),
        ("lerning_rate", {}, None, "Did you mean 'learning_rate'?"),
        ("learning_rate:1", {}, None, "at least 2 points, the recipe's own value and another; got 1"),
        ("learning_rate:1000", {}, None, "at most 256 points, got 1000"),
        ("learning_rate:many", {}, None, "takes fields and then how many points, got 'learning_rate:many'"),
        ("learning_rate=low..high", {}, None, "the range of learning_rate is two numbers"),
        ("learning_rate=1e-3..inf", {}, None, "the range of learning_rate is two numbers"),
        ("learning_rate,learning-rate", {}, None, "names learning_rate twice"),
        ("", {}, None, "--tune names no field"),
        ("weight_decay=0..1", {}, None, "on a log scale, so its range begins above 0"),
        ("weight_decay", {"weight_decay": 0.0}, None, "weight_decay is 0 in the recipe"),
        ("momentum=0.5..1", {}, None, "momentum: must be less than 1"),
        ({"learning_rate": 3}, {}, None, 'learning_rate in [tune] must be "around"'),
        ({"learning_rate": "around", "points": "8"}, {}, None, "points in [tune] must be a whole number"),
        ({"learning_rate": "around", "once": 1}, {}, None, "once in [tune] must be true or false"),
        ({"points": 8}, {}, None, "[tune] names no field"),
    ],
)
def test_a_mistake_is_one_sentence_before_anything_runs(words, start, factors, expected):
    with pytest.raises(ValueError, match="^[^\n]+$") as error:
        tuned(words, factors, **start)
    assert expected in str(error.value)


@pytest.mark.parametrize("words", ["learning_rate", "learning_rate,weight_decay", "momentum", "warmup_epochs"])
def test_more_points_extend_a_search(words):
    few, more = points(f"{words}:8"), points(f"{words}:32")
    assert more[:8] == few
    assert len(more) == 32


def test_the_first_point_is_the_recipes_own_and_the_others_fill_the_range_evenly_on_its_scale():
    first, *others = points("learning_rate=1e-4..1:33", learning_rate=2.0)
    assert first == {"learning_rate": 2.0}  # in the range or not
    decades = np.sort([math.log10(point["learning_rate"]) + 4 for point in others])
    # A net: each thirty-second of the range holds one of 32 points, up to the rounding of the values.
    assert np.abs(decades - (np.arange(32) + 0.5) / 8).max() < 0.5 / 8 + 0.01


def test_around_is_a_decade_either_way_and_of_momentum_a_third_to_three_times_the_rest():
    rates = [point["learning_rate"] for point in points("learning_rate:64", learning_rate=0.02)]
    assert 0.002 <= min(rates) < 0.0025
    assert 0.16 < max(rates) <= 0.2
    momenta = [point["momentum"] for point in points("momentum:64")]
    assert 0.7 <= min(momenta) < 0.72
    assert 0.96 < max(momenta) <= 0.967


def test_flag_and_table_say_the_same():
    flag = tuned("learning_rate=1e-4..1e-1,weight_decay:16:once").tuning
    table = {"learning-rate": [1e-4, 1e-1], "weight_decay": "around", "points": 16, "once": True}
    assert tuned(table).tuning == flag


def test_without_a_number_there_are_eight_points_a_field():
    assert (tuned("learning_rate").tuning.points, tuned("learning_rate,momentum").tuning.points) == (8, 16)


def test_all_cells_are_tried_at_the_same_points_under_seeds_that_no_comparison_has(tmp_path):
    study = study_in(tmp_path, seeds=4)
    by_cell = {}
    for search in searches_of(study):
        by_cell.setdefault(search.cell.name, []).append([run.recipe.learning_rate for run in search.runs])
    assert by_cell["norm=lrn"] == by_cell["norm=bn"]
    assert len(by_cell["norm=bn"]) == 4
    assert not {run.seed for run in tuning_runs(searches_of(study))} & {run.seed for run in study.runs()}
    folders = [run.folder.path for run in every_run(study)]
    assert len(set(folders)) == len(folders)


def test_once_searches_a_cell_once_for_all_seeds(tmp_path):
    study = tuned_studies.make(study_in(tmp_path, seeds=4, tune="learning_rate=1e-4..1:4:once"))
    assert len(searches_of(study)) == 2
    assert len({run.recipe.learning_rate for run in study.runs() if run.cell.name == "norm=bn"}) == 1


def test_a_study_keeps_its_search_and_its_choices(tmp_path):
    study = tuned_studies.make(study_in(tmp_path))
    again = read_study(tmp_path / "study.toml", tmp_path)
    assert (again.tuning, again.chosen) == (study.tuning, study.chosen)
    assert again.runs() == study.runs() or [run.recipe for run in again.runs()] == [run.recipe for run in study.runs()]
    assert all(run.is_done for run in again.runs())


def test_a_study_is_saved_without_its_choices(tmp_path):
    study = tuned_studies.make(study_in(tmp_path / "study"))
    path = tmp_path / "saved.toml"
    path.write_text(study.to_toml(whole=False))
    saved = read_study(path, tmp_path / "elsewhere")
    assert saved.tuning == study.tuning
    assert not saved.chosen


def test_more_points_and_seeds_extend_a_study_and_another_search_is_refused(tmp_path):
    study_in(tmp_path, tune="learning_rate=1e-4..1:4").open_folder()
    grown = study_in(tmp_path, seeds=5, tune="learning_rate:16").open_folder()
    assert (grown.tuning.points, grown.tuning.fields[0].range, grown.seeds) == (16, (1e-4, 1.0), 5)
    kept = declare_study({"norm": "bn"}, START, tmp_path).open_folder()
    assert kept.tuning == grown.tuning
    with pytest.raises(ValueError, match=r"tunes learning_rate, and --tune asks for momentum"):
        study_in(tmp_path, tune="momentum").open_folder()
    with pytest.raises(ValueError, match=r"in the range 0.0001..1, and --tune asks for 0.001..1"):
        study_in(tmp_path, tune="learning_rate=1e-3..1").open_folder()


def test_a_study_that_is_tuned_later_keeps_its_runs_at_the_common_values(tmp_path):
    plain = declare_study({"norm": "bn"}, START, tmp_path, seeds=2).open_folder()
    for run in plain.runs():
        tuned_studies.end_by_formula(run)
    study = tuned_studies.make(study_in(tmp_path, seeds=2))
    assert all(run.is_done for run in plain.runs())
    assert study.runs()[1].folder.path.parts[-3] == "tuned"  # bn has another rate
    assert read_study(tmp_path / "study.toml", tmp_path).tuning is not None


def test_a_damaged_choice_is_one_sentence(tmp_path):
    tuned_studies.make(study_in(tmp_path))
    path = tmp_path / "study.toml"
    path.write_text(path.read_text().replace("{learning_rate = ", "{momentum = "))
    with pytest.raises(ValueError, match=r"in \[chosen\] must be a list with a value of learning_rate for each search"):
        read_study(path, tmp_path)


def test_a_study_too_large_to_search_is_refused():
    with pytest.raises(ValueError, match="at most 10,000 runs"):
        declare_study({"norm": "bn"}, {}, Path("nowhere"), seeds=100, tune="learning_rate:64")


def ok(metric, loss=0.5):
    return Tried({"learning_rate": 0.1}, "ok", metric, loss)


DIVERGED = Tried({"learning_rate": 0.1}, "diverged")


@pytest.mark.parametrize(
    ("tried", "metric", "best"),
    [
        ([ok(0.1), ok(0.3), ok(0.2)], "accuracy", 1),
        ([ok(0.3), ok(0.1), ok(0.2)], "loss", 1),
        ([ok(0.3, loss=0.5), ok(0.3, loss=0.4)], "accuracy", 1),  # of equal ones the lower loss
        ([ok(0.3), ok(0.3)], "accuracy", 0),  # and then the earlier
        ([DIVERGED, ok(0.01, loss=9.0)], "accuracy", 1),  # diverged is worse than chance
        ([DIVERGED, ok(math.nan, loss=math.nan)], "auroc", 1),
        ([ok(math.nan), ok(0.2)], "auroc", 1),
        ([DIVERGED, DIVERGED], "accuracy", 0),
    ],
)
def test_the_choice_follows_its_rule(tried, metric, best):
    assert choose(tried, metric) == best


def test_test_images_play_no_part_in_the_choice(tmp_path):
    study = study_in(tmp_path, seeds=1, tune="learning_rate=1e-4..1:3")
    for at, run in enumerate(tuning_runs(searches_of(study))):
        tuned_studies.end(run, accuracy=0.9 - at / 100, validation=0.1 + at / 100)  # in order of points, cells within
    for outcome in read_outcomes(study):
        assert outcome.chosen == 2
        assert within_budget(outcome, 2).chosen == 1


def test_nothing_is_chosen_before_every_point_has_a_result(tmp_path):
    study = study_in(tmp_path, seeds=1)
    *most, last = tuning_runs(searches_of(study))
    for run in most:
        tuned_studies.end_by_formula(run)
    with pytest.raises(UnfinishedSearchError, match="1 of 16 tuning runs have no result"):
        with_choices(study)
    tuned_studies.end(last, 0, state="oom")  # out of memory is no result of a rate
    with pytest.raises(UnfinishedSearchError):
        with_choices(study)
    last.folder.path.joinpath("state.json").unlink()
    tuned_studies.end(last, 0, state="diverged")
    assert set(with_choices(study).chosen) == {"norm=lrn", "norm=bn"}


def test_a_best_value_at_the_edge_is_warned_of_with_a_wider_range(tmp_path):
    study = tuned_studies.make(study_in(tmp_path, tune="learning_rate=1e-4..1e-2:8"))  # bn is best at .056
    told = edge_sentences(study, read_outcomes(study))
    assert any(
        "norm=bn: the best learning rate, 0.01, is the highest that was tried in 3 of 3" in text for text in told
    )
    assert any("--tune learning_rate=0.0001..0.1 in another folder" in text for text in told)
    inside = tuned_studies.make(study_in(tmp_path / "wide", tune="learning_rate=1e-4..1:16"))
    assert not edge_sentences(inside, read_outcomes(inside))


def test_the_plan_counts_the_runs_of_the_search(tmp_path):
    told = plan_sentence(study_in(tmp_path, seeds=3), missing=40)
    assert "learning_rate 0.0001 to 1, 8 points for each cell under each seed = 48 runs; 8 already done" in told
    assert "chosen by validation accuracy" in told


def test_without_tuning_a_study_says_what_all_cells_share_and_with_it_what_is_left():
    (told,) = declare_study({"norm": "bn"}, {}, Path("nowhere")).limitations
    assert told.startswith("All cells share learning rate 0.01, weight decay 0.0005, no warm-up: ")
    (told,) = declare_study({"norm": "bn"}, {"weight_decay": 0.0}, Path("nowhere"), tune="learning_rate").limitations
    assert told.endswith("chosen on validation; all cells share no weight decay, no warm-up.")
    assert "another search might choose others" in tuned("learning_rate:4:once").limitations[1]
    varied = declare_study({"learning_rate": "0.1"}, {}, Path("nowhere")).limitations
    assert "share weight decay 0.0005, no warm-up" in varied[0]


def simulated_differences(rng, curve, seeds, *, once):
    """Tune two identical cells with draws of their own, and return test differences under fresh seeds."""
    accuracies = []
    for _cell in range(2):
        seen = curve + rng.normal(0, 1, (1 if once else seeds, len(curve)))
        chosen = [choose([ok(value) for value in row]) for row in seen]
        accuracies.append(curve[np.resize(chosen, seeds)] + rng.normal(0, 1, seeds))
    return accuracies[1] - accuracies[0]


CURVES = {  # accuracy over eight values, in standard deviations of one run
    "flat": np.zeros(8),
    "a hill": -10 * (np.linspace(-1, 1, 8) - 0.13) ** 2,
    "two near the top": np.array([-50.0, -20, -5, 0, -2, -20, -50, -90]),
    "a cliff": np.array([-4.0, -3, -2, -1, 0, -50, -50, -50]),
}


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("seeds", [3, 6])
def test_identical_cells_that_are_tuned_are_told_apart_in_at_most_one_study_in_twenty(name, seeds):
    rng, studies = np.random.default_rng([2012, seeds, len(name)]), 400
    p = [infer(simulated_differences(rng, CURVES[name], seeds, once=False).tolist()).t_p for _ in range(studies)]
    false = np.mean(np.array(p) <= 0.05)
    assert false <= 0.05 + 2.5 * math.sqrt(0.05 * 0.95 / studies)


def test_one_search_for_all_seeds_would_find_differences_that_are_only_its_own():
    # Why each seed has a search of its own: the same cells, each with one choice, seem to differ far too often.
    rng = np.random.default_rng(2012)
    found = [infer(simulated_differences(rng, CURVES["a cliff"], 6, once=True).tolist()).t_p for _ in range(400)]
    assert np.mean(np.array(found) <= 0.05) > 0.08


def test_replacing_the_seeds_extends_the_choices(tmp_path):
    few = tuned_studies.make(study_in(tmp_path, seeds=2))
    more = tuned_studies.make(replace(few, seeds=4).open_folder())
    assert [values[:2] for values in more.chosen.values()] == list(few.chosen.values())
    assert all(len(values) == 4 for values in more.chosen.values())
