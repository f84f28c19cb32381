"""The predictions that a run keeps: of the tested weights, and enough to compute its metrics again."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from alexnet_lab.data.feed import open_feed
from alexnet_lab.evaluation.trained import load_run
from alexnet_lab.predictions_file import read_classes, read_predictions
from alexnet_lab.records import RunFolder
from alexnet_lab.training.evaluation import evaluation_batch, probabilities_of
from alexnet_lab.training.recipe import Recipe
from alexnet_lab.training.run import train_with_verdict

QUICK = Recipe(norm="bn", width=1 / 16, epochs=1, batch_size=128, seed=1)

pytestmark = pytest.mark.usefixtures("torch_settings")


def kept_by(path, recipe):
    assert train_with_verdict(recipe, RunFolder(path)) == 0
    return read_predictions(path / "predictions.npz"), RunFolder(path).verdict()


@pytest.mark.parametrize("ten_views", [False, True])
def test_the_metrics_of_the_verdict_come_out_of_the_predictions(ten_views, tmp_path):
    kept, verdict = kept_by(tmp_path, replace(QUICK, ten_views=ten_views))
    feed = open_feed("digits", image_size=67)
    assert read_classes(tmp_path / "predictions.npz") == feed.classes
    for part, predictions in kept.items():
        recorded = verdict["result"][part]
        assert predictions.ids.tolist() == getattr(feed.split, part).tolist()
        assert predictions.labels.tolist() == feed.labels[predictions.ids].tolist()
        probabilities, labels = predictions.probabilities.astype(float), predictions.labels
        assert (probabilities.argmax(1) == labels).mean() == recorded["accuracy"]
        confusion = np.zeros((10, 10), int)
        np.add.at(confusion, (labels, probabilities.argmax(1)), 1)
        assert confusion.tolist() == recorded["confusion"]
        assert -np.log(probabilities[np.arange(len(labels)), labels]).mean() == pytest.approx(
            recorded["loss"], rel=1e-5
        )
        areas = [roc_auc_score(labels == k, probabilities[:, k]) for k in range(10)]
        assert np.mean(areas) == pytest.approx(recorded["auroc"], abs=1e-6)
    # Computed anew with the weights that were tested, as the recipe tests them.
    run = load_run(tmp_path)
    batch = evaluation_batch(run.recipe.batch_size, 1)
    anew = probabilities_of(run.network(), feed, feed.split.test, batch, ten_views)
    assert np.allclose(kept["test"].probabilities, anew, atol=1e-6)


def test_predictions_are_among_the_files_that_damage_is_noticed_in(tmp_path):
    kept_by(tmp_path, QUICK)
    path = tmp_path / "predictions.npz"
    path.write_bytes(path.read_bytes()[:-1])
    assert RunFolder(tmp_path).damages() == ("predictions.npz",)


def test_predictions_name_the_patient_of_each_image(tmp_path):
    generator = np.random.default_rng(0)
    rows = ["path,label,group"]
    for at in range(60):
        Image.fromarray(generator.integers(0, 256, (16, 16), np.uint8)).save(tmp_path / f"{at}.png")
        rows.append(f"{at}.png,{'ab'[at % 2]},patient {at // 4}")
    (tmp_path / "scans.csv").write_text("\n".join(rows))
    recipe = replace(QUICK, data=str(tmp_path / "scans.csv"), batch_size=8)
    kept, _ = kept_by(tmp_path / "run", recipe)
    for part in kept.values():
        owners = part.ids // 4
        assert (part.groups[:, None] == part.groups).tolist() == (owners[:, None] == owners).tolist()
    assert not set(kept["test"].groups) & set(kept["validation"].groups)
