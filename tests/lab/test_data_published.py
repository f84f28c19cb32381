"""Fashion-MNIST and MedMNIST: fetched from a server, read as published, refused with a reason where they are not."""

import gzip
import io
import struct
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from quick_runs import SMALL
from sklearn.metrics import roc_auc_score

from alexnet_lab.audit.examination import examine
from alexnet_lab.data import published
from alexnet_lab.data.feed import open_feed
from alexnet_lab.data.medmnist import MEDMNIST, SIDES, published_set
from alexnet_lab.data.sources import load_images
from alexnet_lab.evaluation.evaluating import evaluate_run
from alexnet_lab.predictions_file import read_predictions
from alexnet_lab.records import RunFolder
from alexnet_lab.training.recipe import Recipe
from alexnet_lab.training.run import train_with_verdict

pytestmark = pytest.mark.usefixtures("own_cache")

RNG = np.random.default_rng(0)


def idx(array):
    return gzip.compress(struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes())


def test_fashion_mnist_is_downloaded_and_read(server, monkeypatch, tmp_path):
    kept = {}
    for part, count in (("train", 60), ("test", 20)):
        images = RNG.integers(0, 256, (count, 28, 28)).astype(np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        kept[part] = images
        pair = [server.publish(f"{part}-{k}.gz", idx(a)) for k, a in (("images", images), ("labels", labels))]
        monkeypatch.setitem(published.FASHION, part, tuple(pair))
    images = load_images("fashion-mnist")
    assert np.array_equal(images.pixels[:, 0], np.concatenate([kept["train"], kept["test"]]))
    assert images.labels[:12].tolist() == [*range(10), 0, 1]
    assert images.classes[9] == "ankle boot"
    assert (images.parts[-20:] == "test").all()
    for name, content in server.files.items():
        (tmp_path / name).write_bytes(content)
    again = load_images(f"fashion-mnist:{tmp_path}")
    assert again.fingerprint == images.fingerprint
    (tmp_path / "train-images.gz").write_bytes(gzip.compress(b"\0\0\x0d\x03" + bytes(20)))
    with pytest.raises(ValueError, match="cannot be read as fashion-mnist: it does not begin as an .idx file"):
        load_images(f"fashion-mnist:{tmp_path}")


def medical_arrays(side=28, colour=True, several=False):
    shape = (side, side, 3) if colour else (side, side)
    arrays = {}
    for part, count in (("train", 40), ("val", 16), ("test", 24)):
        arrays[f"{part}_images"] = RNG.integers(0, 256, (count, *shape)).astype(np.uint8)
        arrays[f"{part}_labels"] = (np.arange(count) % 8).astype(np.uint8).reshape(-1, 1).repeat(2 if several else 1, 1)
    return arrays


def npz(arrays, save=np.savez_compressed):
    content = io.BytesIO()
    save(content, **arrays)
    return content.getvalue()


def test_a_medmnist_set_is_downloaded_and_keeps_its_parts(server, monkeypatch):
    arrays = medical_arrays(64)
    file = server.publish("bloodmnist_64.npz", npz(arrays))
    asked = []
    monkeypatch.setattr(published, "published_set", lambda text: asked.append(text) or ("bloodmnist", file))
    images = load_images("medmnist:bloodmnist@64")
    assert set(asked) == {"bloodmnist@64"}
    assert images.pixels.shape == (80, 3, 64, 64)
    for part, rows in (("train", slice(0, 40)), ("val", slice(40, 56)), ("test", slice(56, 80))):
        assert np.array_equal(images.pixels[rows].transpose(0, 2, 3, 1), arrays[f"{part}_images"])
    assert images.classes == MEDMNIST["bloodmnist"].classes
    feed = open_feed("medmnist:bloodmnist@64", image_size=32)
    assert [len(side) for side in (feed.split.train, feed.split.validation, feed.split.test)] == [40, 16, 24]
    assert feed.geometry.stored == 32


@pytest.mark.parametrize(("colour", "save"), [(True, np.savez), (False, np.savez_compressed)])
def test_a_medmnist_copy_is_read_a_block_at_a_time(tmp_path, colour, save, monkeypatch):
    arrays = medical_arrays(28, colour)
    (tmp_path / "own.npz").write_bytes(npz(arrays, save))
    original = published.ArchivedArray.blocks
    monkeypatch.setattr(published.ArchivedArray, "blocks", lambda self, rows=7: original(self, rows))
    images = load_images(f"medmnist:{tmp_path / 'own.npz'}")
    assert images.classes == tuple(map(str, range(8)))
    expected = np.concatenate([arrays[f"{part}_images"] for part in ("train", "val", "test")])
    assert np.array_equal(images.pixels.transpose(0, 2, 3, 1).squeeze(), expected)


def chest_arrays(findings=14):
    """Return arrays as those of ChestMNIST: images N H W, labels N K of 0 and 1, some with none of them."""
    counts = {"train": 60, "val": 24, "test": 28}
    arrays = {
        f"{part}_images": RNG.integers(0, 256, (count, 28, 28)).astype(np.uint8) for part, count in counts.items()
    }
    return arrays | {
        f"{part}_labels": (np.arange(count)[:, None] % 15 == np.arange(findings)).astype(np.uint8)
        | (RNG.random((count, findings)) < 0.1).astype(np.uint8)
        for part, count in counts.items()
    }


def test_chestmnist_trains_as_findings_on_its_own_parts(tmp_path):
    arrays = chest_arrays()
    (tmp_path / "chestmnist.npz").write_bytes(npz(arrays))
    data = f"medmnist:{tmp_path / 'chestmnist.npz'}"
    recipe = replace(SMALL, data=data, best_by="auroc", epochs=1)
    assert recipe.has_findings
    assert train_with_verdict(recipe, RunFolder(tmp_path / "run")) == 0
    kept = read_predictions(tmp_path / "run" / "predictions.npz")
    for part, name in (("validation", "val"), ("test", "test")):
        assert np.array_equal(kept[part].labels, arrays[f"{name}_labels"])
        assert ((kept[part].probabilities > 0) & (kept[part].probabilities < 1)).all()
    result = RunFolder(tmp_path / "run").verdict()["result"]["test"]
    areas = [
        roc_auc_score(has, says) for has, says in zip(kept["test"].labels.T, kept["test"].probabilities.T, strict=True)
    ]
    assert result["finding_auroc"] == pytest.approx(areas, abs=1e-6)
    evaluation = evaluate_run(tmp_path / "run", replicates=200)
    assert [one.name for one in evaluation.test.classes] == list(MEDMNIST["chestmnist"].classes)
    found = examine(data)
    assert found.balance()["hernia"]["test, with"] == arrays["test_labels"][:, 13].sum()
    assert found.survey.parts.tolist() == ["train"] * 60 + ["validation"] * 24 + ["test"] * 28


def test_what_chestmnist_cannot_be_is_said(tmp_path):
    with pytest.raises(ValueError, match="best_by: with findings it must be auroc"):
        Recipe(data="medmnist:chestmnist@64")
    for arrays, message in (
        (chest_arrays(findings=13), "train_labels must be whole numbers, 60 x 14, for 60 images"),
        ({**chest_arrays(), "val_labels": np.full((24, 14), 2, np.uint8)}, "a finding is 0 or 1; 2 is neither"),
    ):
        (tmp_path / "chestmnist_28.npz").write_bytes(npz(arrays))
        with pytest.raises(ValueError, match=message):
            load_images(f"medmnist:{tmp_path / 'chestmnist_28.npz'}")


def claiming(rows):
    """Return a file whose test images claim to be so many more than they are."""
    labels = np.zeros((24 + rows, 1), np.uint8)
    content = io.BytesIO(npz({**without(medical_arrays(), "test_images"), "test_labels": labels}))
    with zipfile.ZipFile(content, "a") as archive, archive.open("test_images.npy", "w") as file:
        header = {"shape": (24 + rows, 28, 28, 3), "fortran_order": False, "descr": "|u1"}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(bytes(24 * 28 * 28 * 3))
    return content.getvalue()


def without(arrays, name):
    return {key: value for key, value in arrays.items() if key != name}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: npz(medical_arrays(several=True)), "several labels each"),
        (lambda: npz(medical_arrays())[:-3000], "was a download cut short"),
        (lambda: claiming(rows=3), "it ends too early"),
        (lambda: npz(without(medical_arrays(), "val_images")), "no item named 'val_images.npy'"),
        (
            lambda: npz({**medical_arrays(), "test_labels": np.array([[None]])}),
            "of objects or without axes are not read",
        ),
        (
            lambda: npz({**medical_arrays(), "test_labels": np.zeros((3, 1), np.uint8)}),
            "test_labels must be whole numbers, 24 x 1, for 24 images; it has uint8, .3, 1.",
        ),
    ],
)
def test_a_medmnist_file_that_cannot_be_used_says_why(tmp_path, content, message):
    (tmp_path / "own.npz").write_bytes(content())
    with pytest.raises(ValueError, match=f"own.npz cannot be read as medmnist own: .*{message}"):
        load_images(f"medmnist:{tmp_path / 'own.npz'}")


def test_every_medmnist_set_has_an_address_and_a_checksum_of_its_own():
    files = [published_set(f"{name}@{side}")[1] for name in MEDMNIST for side in SIDES]
    assert len(files) == len({file.md5 for file in files}) == 4 * len(MEDMNIST)
    assert all(len(file.md5) == 32 and set(file.md5) <= set("0123456789abcdef") for file in files)
    assert files[0].name == "pathmnist.npz"
    assert published_set("bloodmnist@224")[1].address.endswith("/bloodmnist_224.npz?download=1")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("medmnist:bloodminst", "unknown MedMNIST set 'bloodminst'. Did you mean 'bloodmnist'"),
        ("medmnist:bloodmnist@32", "unknown side of bloodmnist '32'.*Choices: 28, 64, 128, 224"),
        ("medmnist:chestmnist@32", "unknown side of chestmnist '32'"),
        ("medmnist", "unknown MedMNIST set ''"),
    ],
)
def test_an_unknown_medmnist_set_says_which_are_known(data, message):
    with pytest.raises(ValueError, match=message):
        load_images(data)
