"""Studies whose seeds divide the images into folds: each image is tested once a seed, and all count together."""

import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from alexnet_ablations.cli.application import application
from alexnet_ablations.conclude.budgets import effects_at_budgets
from alexnet_ablations.conclude.conclusions import conclude_study
from alexnet_ablations.conclude.outcomes import read_results
from alexnet_ablations.conclude.sentences import lacking_sentence, sentence_of
from alexnet_ablations.declare.study import declare_study, read_study
from alexnet_ablations.report import write_report
from alexnet_ablations.run.forecast import forecast
from alexnet_ablations.run.splits import check_splits
from alexnet_ablations.run.study import run_study
from alexnet_ablations.tune.choice import read_outcomes, with_choices
from alexnet_ablations.tune.searches import searches_of, tuning_runs
from alexnet_ablations.tune.sentences import plan_sentence
from alexnet_lab.data.splits import split_images
from alexnet_lab.predictions_file import PartPredictions, write_predictions

CLASSES = ("cat", "dog")
IMAGES = 90
LABELS = np.arange(IMAGES) % 2
FOLDS = 3


def declared(path, seeds=3, **how):
    return declare_study({"norm": "bn"}, {"norm": "lrn"}, path, seeds=seeds, **{"folds": FOLDS, **how})


def images_of(run):
    """Return the images that a run tests, by its recipe alone, as the run itself does."""
    return split_images(LABELS, CLASSES, seed=run.recipe.split_seed, fold=run.recipe.fold).test


def probabilities_of(run, ids):
    """Return what a run says of images: bn is right more often, and each run errs on images of its own."""
    generator = np.random.default_rng([run.seed, *run.cell.name.encode()])
    right = generator.random(len(ids)) > (0.1 if run.recipe.norm == "bn" else 0.3)
    sure = generator.uniform(0.55, 0.95, len(ids))
    of_own = np.where(right, sure, 1 - sure)
    return np.stack([np.where(LABELS[ids] == k, of_own, 1 - of_own) for k in range(2)], 1).astype(np.float32)


def end(run, ids=None, validation=None):
    """Write the folder of a run as a run that ended leaves it."""
    ids = images_of(run) if ids is None else ids
    run.folder.begin(run.recipe.to_json(), {"classes": list(CLASSES)}, json.dumps({}))
    probabilities = probabilities_of(run, ids)
    part = PartPredictions(ids, LABELS[ids], probabilities)
    write_predictions(run.folder.path / "predictions.npz", {"validation": part, "test": part}, CLASSES)
    run.folder.log({"epoch": 1, "step": 1, "train_loss": 0.5, "validation_accuracy": 0.8})
    test = {"accuracy": float(part.correct.mean()), "images": len(ids)}
    fold = int(run.recipe.fold[0]) if run.recipe.fold else 1
    validation = 0.5 + fold / 10 if validation is None else validation
    run.folder.end("ok", result={"test": test, "validation": {"accuracy": validation}, "train_seconds": 2.0**fold})


@pytest.fixture
def study(tmp_path):
    made = declared(tmp_path / "study").open_folder()
    for run in made.runs():
        end(run)
    return made


def test_each_seed_tests_every_image_once_in_folds_that_all_cells_share(tmp_path):
    runs = declared(tmp_path).runs()
    assert len({run.key for run in runs}) == len({run.folder.path for run in runs}) == len(runs) == 2 * 3 * FOLDS
    tested = {}
    for run in runs:
        tested.setdefault((run.compared.name, run.seed), []).append(images_of(run))
    for folds in tested.values():
        assert np.array_equal(np.sort(np.concatenate(folds)), np.arange(IMAGES))
    for seed in range(3):
        for lrn, bn in zip(tested["norm=lrn", seed], tested["norm=bn", seed], strict=True):
            assert np.array_equal(lrn, bn)
    assert not np.array_equal(tested["norm=bn", 0][0], tested["norm=bn", 1][0])


def test_the_images_of_a_patient_are_in_one_part_of_every_fold(tmp_path):
    generator = np.random.default_rng(0)
    patients = generator.integers(0, 24, IMAGES)
    labels = patients % 2
    names = np.array([f"p{number}" for number in patients])
    for run in declared(tmp_path).runs()[::2]:
        split = split_images(labels, CLASSES, groups=names, seed=run.recipe.split_seed, fold=run.recipe.fold)
        sides = [set(names[side]) for side in (split.train, split.validation, split.test)]
        assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])
        assert set(labels[split.test]) == {0, 1}


def test_a_row_is_of_all_test_predictions_of_its_folds(study):
    results = read_results(study.runs())
    assert len(results) == 2 * 3
    for row in results.itertuples():
        folds = [run for run in study.runs() if (run.compared.name, run.seed) == (row.cell, row.seed)]
        ids = [images_of(run) for run in folds]
        said = np.concatenate([probabilities_of(run, each) for run, each in zip(folds, ids, strict=True)])
        labels = LABELS[np.concatenate(ids)]
        assert row.test_accuracy == pytest.approx((said.argmax(1) == labels).mean())
        assert row.auroc == pytest.approx(roc_auc_score(labels, said[:, 1]))
        assert row.validation_accuracy == pytest.approx(np.mean([0.6, 0.7, 0.8]))
        assert row.train_seconds == pytest.approx(4.0)  # the geometric mean of 2, 4 and 8, as it is compared
    assert results.attrs == {"test_images": IMAGES, "folds": FOLDS}


def test_the_interval_is_over_all_images_and_says_in_how_many_folds_they_were_tested(study):
    conclusions = conclude_study(study, read_results(study.runs()))
    found = conclusions.headline[0]
    assert found.inference.images.groups == IMAGES
    assert found.inference.images.mean == pytest.approx(found.inference.mean)
    assert f"for images like these ([{found.inference.seeds_alone.low:+.1f}, " in sentence_of(found)
    assert f"on these {IMAGES} images by {FOLDS} folds), n=3 pairs" in sentence_of(found)
    assert lacking_sentence(conclusions) == ""
    assert conclusions.of("validation_accuracy")[0].population == f"on these validation images by {FOLDS} folds"


def test_a_seed_counts_where_every_fold_ended_well_and_the_fold_that_did_not_is_named(study):
    runs = {(run.recipe.norm, run.seed, run.recipe.fold): run for run in study.runs()}
    runs["bn", 1, "2/3"].folder.end("diverged", "the loss was nan")
    (runs["lrn", 2, "3/3"].folder.path / "state.json").unlink()
    results = read_results(study.runs()).set_index(["cell", "seed"])
    assert tuple(results.loc[("norm=bn", 1), ["state", "why"]]) == ("diverged", "fold 2/3: the loss was nan")
    assert results.loc[("norm=lrn", 2), "state"] == "lost"
    assert np.isnan(results.loc[("norm=bn", 1), "test_accuracy"])
    conclusions = conclude_study(study, read_results(study.runs()))
    assert list(conclusions.headline[0].values) == [0]
    assert conclusions.headline[0].left_out == ("norm=bn diverged under seed 1", "norm=lrn lost under seed 2")


def test_an_image_in_two_folds_is_no_set_of_folds(study):
    run = next(run for run in study.runs() if run.seed == 1)
    end(run, np.union1d(images_of(run), [0, 1, 2, 3]))
    conclusions = conclude_study(study, read_results(study.runs()))
    assert conclusions.answers.lacking == ((run.compared.name, 1),)
    assert "1 run has no predictions: norm=lrn under seed 1" in lacking_sentence(conclusions)


def test_the_report_names_the_folds_and_shows_each_run(study):
    page = write_report(study).read_text()
    assert f"on these {IMAGES} images by {FOLDS} folds" in page
    assert "3 seeds by 3 folds each" in page
    assert "each seed divided them into 3 folds of its own" in page
    assert "<td>2/3</td>" in page
    run = study.runs()[1]
    assert f"{100 * (run.folder.verdict()['result']['test']['accuracy']):.1f}%" in page


def test_folds_are_part_of_a_studys_identity_and_stay_in_its_file(study):
    assert read_study(study.folder / "study.toml", study.folder) == replace(study, tuning=None)
    assert "folds = 3\n" in (study.folder / "study.toml").read_text()
    assert declared(study.folder, seeds=4).open_folder().size == 2 * 4 * FOLDS
    for folds, said in ((None, 0), (5, 5)):
        with pytest.raises(ValueError, match=rf"holds another study, which differs in folds \(3, asked for {said}\)"):
            declared(study.folder, folds=folds).grown_from_folder()


def test_the_forecast_counts_runs_by_fold_and_all_images(study):
    power = forecast(study, 1, measured=None, test_images=IMAGES).power
    assert f"3 seeds and {IMAGES} images by 3 folds show effects of this size" in " ".join(power.sentences())
    assert not power.is_assumed
    wider = forecast(replace(study, seeds=4), 1, measured=None, test_images=IMAGES)
    assert (wider.runs, wider.missing) == (2 * 4 * FOLDS, 2 * FOLDS)


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ({"folds": 1}, "folds must be 2 to 1,000, got 1; for example --folds 5"),
        ({"resplit": True}, "folds and resplit both say how seeds divide the images; name one of them"),
        (
            {"tune": "learning_rate:4:once"},
            "one search for all seeds .* since folds divides the images anew for each seed",
        ),
    ],
)
def test_what_folds_cannot_be_is_refused(tmp_path, how, sentence):
    with pytest.raises(ValueError, match=sentence.replace("(", r"\(")):
        declared(tmp_path, **how)
    with pytest.raises(ValueError, match="the recipe names the fold 1/5"):
        declare_study({"norm": "bn"}, {"fold": "1/5"}, tmp_path, folds=5)
    with pytest.raises(ValueError, match="2 cells x 100 seeds x 90 folds are 18,000; take at most 55 seeds"):
        declared(tmp_path, seeds=100, folds=90)


BETTER = {"1/3": 0, "2/3": 1, "3/3": 1}  # which of two points is better on the validation images of a fold


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A tuned study that nobody trained: folds choose differently, and a run tests as its rate and fold say."""
    study = declared(tmp_path_factory.mktemp("tuned"), tune="learning_rate:2").open_folder()
    for search in searches_of(study):
        for place, run in enumerate(search.runs):
            end(run, validation=0.9 if place == BETTER[search.fold] else 0.6)
    study = with_choices(study).open_folder()
    for run in study.runs():
        end(run)
    return study


def test_each_fold_is_tuned_on_images_that_it_is_not_tested_on(tuned):
    tested = {(run.compared.name, run.seed, run.recipe.fold): images_of(run) for run in tuned.runs()}
    searches = searches_of(tuned)
    assert len(searches) == 2 * 3 * FOLDS
    for search in searches:
        for run in search.runs:
            own = split_images(LABELS, CLASSES, seed=run.recipe.split_seed, fold=run.recipe.fold)
            ids = tested[search.cell.name, search.number, search.fold]
            assert np.array_equal(own.test, ids)
            assert not np.isin(ids, np.concatenate([own.train, own.validation])).any()
    assert len({run.folder.path for run in tuning_runs(searches)}) == 2 * len(searches)


def test_the_runs_of_a_fold_have_the_values_that_its_search_chose(tuned):
    rates = [point["learning_rate"] for point in searches_of(tuned)[0].points]
    for run in tuned.runs():
        assert run.recipe.learning_rate == rates[BETTER[run.recipe.fold]]
        assert run.is_done
    assert read_study(tuned.folder / "study.toml", tuned.folder).chosen == tuned.chosen
    assert "2 points for each cell under each seed and in each fold = 36 runs" in plan_sentence(tuned, 0)


def test_effects_over_the_budget_have_every_image_once_each_fold_at_its_own_choice(tuned):
    common, best = effects_at_budgets(tuned, read_outcomes(tuned))
    runs = {(s.cell.name, s.number, s.fold): s.runs for s in searches_of(tuned)}
    for budget, place_in in ((common, dict.fromkeys(BETTER, 0)), (best, BETTER)):
        (effect,) = budget.conclusions
        for seed in range(3):
            right = {
                norm: sum(
                    (probabilities_of(run, images_of(run)).argmax(1) == LABELS[images_of(run)]).sum()
                    for fold in BETTER
                    for run in [runs[f"norm={norm}", seed, fold][place_in[fold]]]
                )
                for norm in ("lrn", "bn")
            }
            assert effect.values[seed] == pytest.approx(100 * (right["bn"] - right["lrn"]) / IMAGES)
    assert common.conclusions[0].values != best.conclusions[0].values
    assert "searched 9 times, once for each seed and fold" in write_report(tuned).read_text()


def made_table(folder, rows):
    """Write a table of small pictures: class, patient, part."""
    from PIL import Image

    folder.mkdir()
    generator = np.random.default_rng(0)
    has_parts = any(part for *_, part in rows)
    lines = ["path,label,group" + ",split" * has_parts]
    for at, (label, patient, part) in enumerate(rows):
        Image.fromarray(generator.integers(0, 255, (12, 12), np.uint8)).save(folder / f"{at}.png")
        lines.append(f"{at}.png,{label},{patient}" + f",{part}" * has_parts)
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    return folder / "table.csv"


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (
            [(f"c{at % 2}", f"p{at % 2}-{at % (8 if at % 2 else 6)}", "") for at in range(40)],
            "5 folds need 5 patients of each class, since a patient is in one fold only, and c0 has 3; "
            "take at most 3 folds",
        ),
        (
            [(("a", "b")[at % 2], f"p{at}", "train" if at < 30 else "test") for at in range(40)],
            "has test images of its own",
        ),
    ],
)
def test_data_that_cannot_be_divided_is_refused_before_a_run(tmp_path, monkeypatch, rows, sentence):
    monkeypatch.setenv("ALEXNET_LAB_CACHE", str(tmp_path / "cache"))
    table = made_table(tmp_path / "data", rows)
    out = CliRunner().invoke(
        application, ["ablate", "--norm", "bn", "--data", str(table), "--folds", "5", "--out", str(tmp_path / "study")]
    )
    assert out.exit_code != 0
    assert sentence in str(out.exception)
    assert not (tmp_path / "study").exists()


def test_more_folds_than_images_of_a_class_are_refused(tmp_path):
    study = declare_study({"norm": "bn"}, {"data": "synthetic:classes=4,side=16,count=40"}, tmp_path, seeds=1, folds=20)
    with pytest.raises(ValueError, match="each class needs at least 20 images"):
        check_splits(study)


@pytest.mark.long
def test_a_study_by_folds_is_trained_and_concluded(tmp_path):
    start = {"data": "synthetic:classes=2,side=16,count=60", "epochs": 1, "batch_size": 8, "width": 0.1, "norm": "lrn"}
    results = run_study(declare_study({"norm": "bn"}, start, tmp_path / "study", seeds=2, folds=2), jobs=1, quiet=True)
    assert results["state"].tolist() == ["ok"] * 4
    assert results.attrs == {"test_images": 60, "folds": 2}
    study = read_study(tmp_path / "study" / "study.toml", tmp_path / "study")
    ids = [json.loads((run.folder.path / "split.json").read_text())["test"] for run in study.runs()[:4:2]]
    assert sorted(ids[0] + ids[1]) == list(range(60))
