"""Predictions of a finished run: new files go through the run's own test, to the last bit."""

import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from pictures import write, zip_of
from PIL import Image

import alexnet_lab
from alexnet_lab import load_run, predict
from alexnet_lab.data.feed import open_feed
from alexnet_lab.data.preprocessing import restored
from alexnet_lab.data.sources import load_images
from alexnet_lab.evaluation.trained import Run
from alexnet_lab.records import RunFolder
from alexnet_lab.training import checkpoint
from alexnet_lab.training.metrics import classification_metrics
from alexnet_lab.training.recipe import Recipe
from alexnet_lab.training.run import train_with_verdict

TINY = Recipe(norm="bn", width=1 / 16, epochs=1, batch_size=8, instruments="off", threads=1)


@pytest.fixture(autouse=True)
def threads():
    """Give back the thread count that a run sets for its process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


FACTS = {
    "seen": 8, "stored": 8, "whole": 8, "stored_channels": 1, "channels": 1, "deep_bits": 8,
    "mean": [[[0.5]]], "spread": [[[0.25]]], "colours": [[0.0]],
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seen": 0}, "seen of the preprocessing must be 1 to 32,768, got 0"),
        ({"stored": 10**9}, "stored of the preprocessing must be 1 to 32,768, got 1000000000"),
        ({"channels": True}, "channels of the preprocessing must be 1 to 3, got True"),
        ({"deep_bits": "8"}, "deep_bits of the preprocessing must be 1 to 16, got '8'"),
        ({"mean": [["x"]]}, "mean, spread, colours of the preprocessing must be lists of numbers"),
        ({"spread": None}, "mean, spread, colours of the preprocessing must be lists of numbers"),
        ({"mean": 0.5}, "mean and spread of the preprocessing must have three axes"),
    ],
)
def test_a_preprocessing_that_no_run_has_is_refused(change, message):
    assert restored(FACTS).facts() == FACTS
    with pytest.raises(ValueError, match=message):
        restored({**FACTS, **change})
    with pytest.raises(ValueError, match="the preprocessing must have seen, stored"):
        restored({name: value for name, value in FACTS.items() if name not in change})


def trained(path, recipe):
    assert train_with_verdict(recipe, RunFolder(path)) == 0
    return path


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    """One run on digits, and its test images as files, in the order of the split."""
    root = tmp_path_factory.mktemp("digits")
    before = torch.get_num_threads()
    path = trained(root / "run", TINY)
    torch.set_num_threads(before)
    images = load_images("digits")
    test = RunFolder(path).split()["test"]
    files = [root / "files" / f"{place:04}-{index}.png" for place, index in enumerate(test)]
    for file, index in zip(files, test, strict=True):
        write(file, images.pixels[index, 0])
    return path, files


@pytest.fixture
def run(digits_run, tmp_path):
    """A copy of the run, to be damaged."""
    return shutil.copytree(digits_run[0], tmp_path / "copy")


def picture_of(kind, rng, label):
    """An image of a kind that decoding treats in its own way, brighter where the label is 1."""
    height, width = rng.integers(20, 90, 2)
    low, high = (0, 160) if label == 0 else (96, 256)
    grey = rng.integers(low, high, (height, width)).astype(np.uint8)
    colour = rng.integers(low, high, (height, width, 3)).astype(np.uint8)
    match kind:
        case "grey":
            return Image.fromarray(grey)
        case "grey stored as colour":
            return Image.fromarray(np.repeat(grey[:, :, None], 3, 2))
        case "grey and transparent":
            return Image.fromarray(np.stack([grey, rng.integers(0, 256, grey.shape).astype(np.uint8)], 2), "LA")
        case "12 bits":
            return Image.fromarray(grey.astype(np.uint16) * 16)
        case "palette":
            return Image.fromarray(colour).quantize(16)
        case _:
            return Image.fromarray(colour)


@pytest.mark.parametrize(
    ("kinds", "changes"),
    [
        (["grey"], {}),
        (["grey", "grey stored as colour", "grey and transparent"], {"fit": "pad"}),
        (["12 bits", "grey"], {"input_scale": "pixels", "fit": "stretch"}),
        (["colour", "grey", "palette"], {"augment": "crop,flip", "input_scale": "mean-image", "ten_views": True}),
        (["colour"], {"channels": "grey", "channels_last": True, "ten_views": True}),
        (["grey"], {"channels": "rgb", "ema": 0.9, "network": "resnet18", "norm": None, "accumulate": 2}),
    ],
)
def test_predictions_for_the_files_of_the_test_give_the_metrics_of_the_verdict(kinds, changes, tmp_path, own_cache):
    rng = np.random.default_rng(1)
    for label in (0, 1):
        for number in range(40):
            path = tmp_path / "data" / f"class {label}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture_of(kinds[number % len(kinds)], rng, label).save(path)
    recipe = replace(TINY, data=str(tmp_path / "data"), **changes)
    path = trained(tmp_path / "run", recipe)
    images = load_images(recipe.data)
    test = RunFolder(path).split()["test"]
    shutil.rmtree(own_cache)  # a file alone must do
    predictions = load_run(path).predict([tmp_path / "data" / images.names[index] for index in test])
    assert not predictions.unreadable
    metrics = classification_metrics(predictions.probabilities, images.labels[test])
    assert metrics == RunFolder(path).verdict()["result"]["test"]


def test_predictions_are_those_of_the_network_on_the_feed_of_the_run(digits_run):
    path, files = digits_run
    finished = load_run(path)
    feed = open_feed("digits", image_size=67)
    with torch.no_grad():
        own = torch.cat([finished.network()(pixels).softmax(1) for pixels, _ in feed.batches_of(feed.split.test, 32)])
    predictions = finished.predict(files)
    np.testing.assert_allclose(predictions.probabilities, own.numpy(), rtol=1e-5, atol=1e-7)
    assert predictions.files == tuple(map(str, files))
    assert predictions.most_probable == tuple(finished.classes[k] for k in own.argmax(1))
    metrics = classification_metrics(predictions.probabilities, feed.labels.numpy()[feed.split.test])
    assert metrics == RunFolder(path).verdict()["result"]["test"]


def test_a_folder_and_an_archive_predict_what_their_files_do(digits_run, tmp_path):
    path, files = digits_run
    archive = zip_of(files[0].parent, tmp_path / "more.zip", "below/")
    alone, in_folder, in_archive = (predict(path, images) for images in (files, files[0].parent, archive))
    assert in_folder.files == alone.files
    assert in_archive.files == tuple(str(archive / "below" / file.name) for file in files)
    assert (in_folder.probabilities == alone.probabilities).all()
    assert (in_archive.probabilities == alone.probabilities).all()


def test_the_table_has_a_row_per_file_and_a_column_per_class(digits_run):
    path, files = digits_run
    table = predict(path, files[:3]).table()
    assert list(table.columns) == ["file", "predicted", *(f"probability of {digit}" for digit in range(10)), "warning"]
    assert table["file"].tolist() == list(map(str, files[:3]))
    assert np.allclose(table.filter(like="probability").sum(axis=1), 1)


def test_what_cannot_be_read_is_named_and_the_others_are_predicted(digits_run, tmp_path):
    path, files = digits_run
    torn = tmp_path / "torn.png"
    torn.write_bytes(files[1].read_bytes()[:60])
    deep = tmp_path / "deep.png"
    Image.fromarray(np.full((8, 8), 4000, np.uint16)).save(deep)
    absent = tmp_path / "nowhere" / "absent.png"
    predictions = predict(path, [files[0], torn, absent, deep, files[2]])
    assert predictions.files == (str(files[0]), str(files[2]))
    assert predictions.unreadable.keys() == {str(torn), str(absent), str(deep)}
    assert predictions.unreadable[str(absent)] == "there is no such file"
    assert "needs 12 bits, and the images of the run had 8" in predictions.unreadable[str(deep)]
    nothing = predict(path, torn)
    assert nothing.probabilities.shape == (0, 10)
    assert nothing.table().empty


def test_a_coloured_image_for_a_network_of_grey_ones_is_noted(digits_run, tmp_path):
    path, _ = digits_run
    brightness = np.asarray(Image.fromarray(np.full((8, 8, 3), (200, 40, 90), np.uint8)).convert("L"))
    coloured = write(tmp_path / "coloured.png", np.full((8, 8, 3), (200, 40, 90), np.uint8))
    grey = write(tmp_path / "grey.png", brightness)
    predictions = predict(path, coloured)
    assert predictions.notes[0] == "1 of 1 images is coloured, those of the run were grey: brightness was used"
    assert predictions.warnings[0]["mode"] == "coloured, expected grey"
    assert (predictions.probabilities == predict(path, grey).probabilities).all()
    assert "mode" not in predict(path, grey).warnings[0]


def test_a_run_shows_its_recipe_its_classes_and_its_metrics(digits_run):
    finished = load_run(digits_run[0])
    assert isinstance(finished, Run)
    assert finished.recipe == TINY
    assert finished.classes == tuple("0123456789")
    metrics = finished.metrics()
    assert metrics["epoch"].tolist() == [1]
    assert metrics["validation_accuracy"].tolist() == [
        RunFolder(finished.path).verdict()["result"]["validation"]["accuracy"]
    ]
    network = finished.network()
    assert not network.training
    assert network is not finished.network()


def test_predicting_gives_back_the_settings_of_torch(digits_run):
    path, files = digits_run
    torch.set_num_threads(2)
    torch.set_float32_matmul_precision("high")
    try:
        predict(path, files[:2])
        assert torch.get_num_threads() == 2
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_a_run_that_did_not_end_well_is_refused(run, tmp_path):
    with pytest.raises(ValueError, match=r"holds no run: it has no recipe\.json"):
        load_run(tmp_path)
    verdict = run / "state.json"
    verdict.unlink()
    with pytest.raises(ValueError, match="has not finished; the command that started it continues it"):
        load_run(run)
    RunFolder(run).end("diverged", "the loss was nan at step 3, epoch 1")
    with pytest.raises(ValueError, match=r"ended as diverged \(the loss was nan at step 3, epoch 1\)"):
        load_run(run)


@pytest.mark.parametrize("name", ["checkpoints/best.safetensors", "recipe.json", "provenance.json", "state.json"])
def test_damaged_files_are_refused_by_name(name, run):
    content = bytearray((run / name).read_bytes())
    content[len(content) // 2] ^= 1
    (run / name).write_bytes(content)
    with pytest.raises(ValueError, match=name) as refusal:
        load_run(run)
    assert "\n" not in str(refusal.value)


def test_missing_weights_are_refused(run):
    (run / "checkpoints" / "best.safetensors").unlink()
    with pytest.raises(ValueError, match=r"best\.safetensors .* changed after the run ended"):
        load_run(run)


def test_a_folder_without_images_and_an_unknown_device_are_refused(digits_run, tmp_path):
    path, files = digits_run
    (tmp_path / "empty").mkdir()
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as archive:
        archive.writestr("readme.txt", "no images")
    for place in ("empty", "empty.zip"):
        with pytest.raises(ValueError, match="holds no images; expected files such as"):
            predict(path, tmp_path / place)
    with pytest.raises(ValueError, match="at least one image, got none"):
        predict(path, [])
    with pytest.raises(ValueError, match="device must be cpu or cuda, got 'gpu'"):
        predict(path, files, "gpu")


def without_statistics(run, data="digits"):
    """Take from the weights what version 0.1.0 did not record, and name the data."""
    folder = run / "checkpoints"
    best = checkpoint.load_checkpoint(folder, checkpoint.BEST)
    checkpoint.save_best(folder, best.tensors, {"epoch": best.facts["epoch"]})
    (run / "recipe.json").write_text(replace(TINY, data=str(data)).to_json())
    RunFolder(run).end("ok", result=RunFolder(run).verdict()["result"])
    return run


def test_a_run_that_recorded_no_statistics_measures_them_again(digits_run, run):
    path, files = digits_run
    older = predict(without_statistics(run), files[:9])
    assert (older.probabilities == predict(path, files[:9]).probabilities).all()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            "folder/gone",
            "did not record the mean and spread .* cannot be opened to measure them .no data at folder/gone",
        ),
        ("synthetic:count=100", "did not record .* synthetic:count=100 has changed since"),
    ],
)
def test_without_statistics_and_without_the_data_there_is_one_sentence(data, message, run):
    with pytest.raises(ValueError, match=message) as refusal:
        load_run(without_statistics(run, data))
    assert "\n" not in str(refusal.value)


def test_the_exported_names_are_imported_when_they_are_used():
    code = "import sys, alexnet_lab; assert 'torch' not in sys.modules; from alexnet_lab import AlexNet, Panel"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert all(hasattr(alexnet_lab, name) for name in alexnet_lab.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        alexnet_lab.nothing  # noqa: B018
