"""Studies in which each seed draws its own split: intervals for other training images too, corrected for overlap."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from alexnet_ablations.conclude.budgets import effects_at_budgets
from alexnet_ablations.conclude.conclusions import conclude_study, infer
from alexnet_ablations.conclude.outcomes import outcome_named, population_of, read_results
from alexnet_ablations.conclude.paper_tables import effects_table
from alexnet_ablations.conclude.sentences import lacking_sentence, notes_of, reach_of, sentence_of
from alexnet_ablations.declare.study import declare_study, read_study
from alexnet_ablations.report import write_report
from alexnet_ablations.run.forecast import forecast
from alexnet_ablations.run.splits import check_splits
from alexnet_ablations.tune.choice import read_outcomes
from alexnet_ablations.tune.searches import searches_of, tuning_runs
from alexnet_lab.data.splits import split_images

IMAGES = 100
OVERLAP = 20 / 60
GAINS = (0.05, 0.10, 0.0, 0.05, 0.15)  # of bn over lrn, by seed


def declared(path, seeds=5, **how):
    return declare_study({"norm": "bn"}, {"norm": "lrn"}, path, seeds=seeds, **{"resplit": True, **how})


def end(run, seed):
    """Write the folder of a run as a run that ended leaves it."""
    split = split_images(np.arange(IMAGES) % 2, ("cat", "dog"), seed=run.recipe.split_seed)
    run.folder.begin(run.recipe.to_json(), {}, split.to_json())
    result = {"accuracy": 0.7 + GAINS[seed] * (run.recipe.norm == "bn"), "images": len(split.test)}
    seconds = 10.0 + seed + GAINS[seed]
    run.folder.end("ok", result={"test": result, "validation": result, "train_seconds": seconds})


@pytest.fixture
def study(tmp_path):
    made = declared(tmp_path / "study").open_folder()
    for run in made.runs():
        end(run, run.seed)
    return made


def concluded(study, margin=None):
    return conclude_study(replace(study, margin=margin), read_results(study.runs()))


def test_each_seed_has_a_split_that_all_cells_share(study):
    tested = {}
    for run in study.runs():
        tested.setdefault(run.seed, []).append(tuple(json.loads((run.folder.path / "split.json").read_text())["test"]))
    assert all(len(set(cells)) == 1 for cells in tested.values())
    assert len({cells[0] for cells in tested.values()}) == len(GAINS)


def test_the_interval_has_the_variance_of_splits_that_overlap(study):
    found = concluded(study).headline[0]
    d = 100 * np.array(GAINS)
    n, error = len(d), d.std(ddof=1) * math.sqrt(1 / len(d) + OVERLAP)
    half = stats.t.ppf(0.975, n - 1) * error
    assert (found.low, found.high) == pytest.approx((d.mean() - half, d.mean() + half))
    assert found.inference.t_p == pytest.approx(2 * stats.t.sf(d.mean() / error, n - 1))
    assert found.inference.sign_flip_p is None
    assert found.inference.sign_flip is None
    # Two one-sided tests, and the interval that lies within the margin where both reject.
    of_margin = infer(d.tolist(), margin=40.0, overlap=OVERLAP)
    assert of_margin.equivalence_p == pytest.approx(stats.t.sf((40 - d.mean()) / error, n - 1))
    # What is no number of images has the interval of its pairs.
    seconds = concluded(study).of("train_seconds")[0].inference
    assert seconds.overlap == 0
    assert seconds.sign_flip_p is not None


def test_the_population_is_named_wherever_the_effect_is(study):
    conclusions = concluded(study)
    said = sentence_of(conclusions.headline[0])
    assert "for training and test images like these (on 5 splits of these 100 images), n=5 pairs" in said
    assert "times 1/5 + 0.33, test over training images (Nadeau and Bengio)" in " ".join(
        notes_of(conclusions.headline[0])
    )
    assert lacking_sentence(conclusions) == ""
    caption = effects_table(conclusions).caption
    assert "for training and test images like these, seen on 5 splits of these 100 images" in caption
    assert "does not hold of splits that overlap" in caption
    page = write_report(study).read_text()
    assert "for training and test images like these" in page
    assert "sign-flip test on" not in page
    results = read_results(study.runs())
    assert population_of(results, outcome_named("test_accuracy")) == "on the test images of 5 splits"


def test_no_number_of_seeds_takes_the_overlap_away(study):
    found = concluded(study, margin=0.5).headline[0]
    known = found.sensitivity
    assert known.seeds_for_margin is None
    spread = 100 * np.std(GAINS, ddof=1)
    level = found.level
    # With so many seeds the normal distribution: found four times in five at 2.8 standard errors or so.
    least = (stats.norm.ppf(1 - level / 2) + stats.norm.ppf(0.8)) * spread * math.sqrt(OVERLAP)
    assert known.least == pytest.approx(least, rel=0.01)
    assert f"(no number of seeds less than {known.least:.1f} points)" in reach_of(found)


def test_the_plan_says_what_so_many_splits_show(study):
    sentences = " ".join(forecast(study, 1, measured=None, test_images=20, overlap=OVERLAP).power.sentences())
    assert "sign-flip" not in sentences
    assert "5 seeds and 20 test images in each of their splits show effects of this size" in sentences
    assert "no number of seeds shows less than about" in sentences
    assert "for training and test images like these" in sentences


def test_a_split_of_its_own_is_part_of_the_studys_identity_and_file(study):
    assert "resplit = true\n" in (study.folder / "study.toml").read_text()
    assert read_study(study.folder / "study.toml", study.folder).splitting == study.splitting
    with pytest.raises(ValueError, match="differs in resplit"):
        declared(study.folder, resplit=False).grown_from_folder()


def test_a_search_is_made_within_the_split_of_the_seed_it_chooses_for(tmp_path):
    study = declared(tmp_path, seeds=3, tune="learning_rate:2")
    assert {(run.seed - 10_000, run.recipe.split_seed) for run in tuning_runs(searches_of(study))} == {
        (0, 0),
        (1, 1),
        (2, 2),
    }
    with pytest.raises(ValueError, match="one search for all seeds .* would choose on images that other seeds"):
        declared(tmp_path, tune="learning_rate:2:once")


def test_the_effects_at_the_common_values_are_over_splits_that_overlap_too(tmp_path):
    study = declared(tmp_path, tune="learning_rate:2").open_folder()
    for run in tuning_runs(searches_of(study)):
        end(run, run.seed - 10_000)
    for budget in effects_at_budgets(study, read_outcomes(study)):
        (found,) = budget.conclusions
        assert found.inference.overlap == pytest.approx(OVERLAP)
        assert found.population == "for training and test images like these"


def test_splits_are_counted_before_a_run_and_one_named_fold_is_refused(tmp_path):
    tested = check_splits(declare_study({"norm": "bn"}, {}, tmp_path, seeds=2, resplit=True))
    assert tested.images == 359
    assert tested.overlap == pytest.approx(359 / (1797 - 2 * 359))
    with pytest.raises(ValueError, match="the recipe names the fold 2/5"):
        declare_study({"norm": "bn"}, {"fold": "2/5"}, tmp_path, resplit=True)
