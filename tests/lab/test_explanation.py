"""Maps by hand and by their axioms, the checks by hand, and planted squares that a trained network must point at."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from pictures import write
from scipy.stats import spearmanr
from torch import nn

from alexnet_lab.evaluation.trained import load_run
from alexnet_lab.explanation.checks import border_area, border_share, fall_when_erased, rank_correlation
from alexnet_lab.explanation.explaining import Explained, Map, examined, explain
from alexnet_lab.explanation.maps import (
    METHODS,
    attributions,
    grad_cam,
    integrated_gradients,
    last_feature_layer,
    log_odds,
    occlusion,
)
from alexnet_lab.networks import build_network
from alexnet_lab.records import RunFolder
from alexnet_lab.reports.explanation_page import LABEL, write_explanations
from alexnet_lab.training.recipe import Recipe
from alexnet_lab.training.run import train_with_verdict

pytestmark = pytest.mark.usefixtures("torch_settings")


class Corner(nn.Module):
    """Scores that depend on the mean of the pixels of rows 4 to 7, columns 8 to 11 alone."""

    def forward(self, x):
        value = x[:, :, 4:8, 8:12].mean((1, 2, 3))
        return torch.stack([torch.zeros_like(value), 3 * value], 1)


def small_network(seed=0, classes=3):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, classes),
    ).eval()  # fmt: skip


def test_log_odds_are_those_of_softmax():
    scores = torch.randn(5, 4, dtype=torch.double)
    probability = scores.softmax(1)[:, 2]
    torch.testing.assert_close(log_odds(scores, 2), (probability / (1 - probability)).log())


def test_integrated_gradients_sum_to_what_the_image_adds():
    network, image = small_network(), torch.randn(1, 16, 16)
    with torch.no_grad():
        added = log_odds(network(image[None]), 1) - log_odds(network(torch.zeros(1, 1, 16, 16)), 1)
    assert attributions(network, image, 1, steps=400).sum().item() == pytest.approx(added.item(), rel=0.02)


def test_occlusion_and_integrated_gradients_are_hot_where_the_network_looks_and_cold_elsewhere():
    image = torch.full((1, 16, 16), 2.0)
    hidden = occlusion(Corner(), image, 1)
    row, column = divmod(int(hidden.argmax()), 16)
    assert 4 <= row <= 7
    assert 8 <= column <= 11
    assert hidden[12:].abs().max() == 0
    assert attributions(Corner(), image, 1)[0, 4:8, 8:12].sum().item() == pytest.approx(6, rel=1e-4)
    heat = integrated_gradients(Corner(), image, 1)
    assert heat[5:7, 9:11].min() > 0
    assert heat[10:].max() == 0


def test_grad_cam_is_the_sum_of_feature_maps_weighted_by_their_mean_gradient():
    network, image = small_network(3), torch.randn(1, 16, 16, generator=torch.Generator().manual_seed(1))
    features = network[:5](image[None])  # 1 6 8 8
    # Behind the features stand a mean over pixels and a linear layer, so the gradient is the same at every pixel.
    mean = features.mean((2, 3)).detach().requires_grad_()
    log_odds(network[7](mean), 1).sum().backward()
    expected = torch.einsum("f,fhw->hw", mean.grad[0] / 64, features[0]).relu()
    assert expected.max() > 0, "a map to compare"
    got = grad_cam(network, image, 1)
    whole = nn.functional.interpolate(expected[None, None], (16, 16), mode="bilinear")[0, 0]
    torch.testing.assert_close(got, whole.detach())


@pytest.mark.parametrize(
    ("name", "options", "layer"), [("alexnet", {"norm": "bn"}, "act5"), ("resnet18", {"width": 1 / 16}, None)]
)
def test_grad_cam_reads_the_last_features_before_pooling(name, options, layer):
    network = build_network(name, 3, image_size=96, in_channels=1, **{"width": 1 / 16, **options}).eval()
    found = last_feature_layer(network, torch.zeros(1, 96, 96))
    if layer:
        assert found is dict(network.named_modules())[layer]
    heat = grad_cam(network, torch.randn(1, 96, 96), 0)
    assert heat.shape == (96, 96)


def test_a_network_without_a_map_of_more_than_one_pixel_has_no_grad_cam():
    network = nn.Sequential(nn.Conv2d(1, 2, 8), nn.Flatten(), nn.Linear(2, 2))
    with pytest.raises(ValueError, match="Grad-CAM needs a convolution whose output has more than one pixel"):
        grad_cam(network, torch.zeros(1, 8, 8), 0)


def test_the_checks_are_those_of_their_definitions():
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 9, (20, 20)).astype(float), rng.integers(0, 9, (20, 20)) + 0.0
    assert rank_correlation(one, other) == pytest.approx(spearmanr(one.ravel(), other.ravel()).statistic)
    assert rank_correlation(one, -one) == pytest.approx(-1)
    assert np.isnan(rank_correlation(one, np.ones((20, 20))))
    assert border_area(20) == pytest.approx(1 - 16**2 / 20**2)
    assert border_share(np.ones((20, 20))) == pytest.approx(border_area(20))
    edge = np.zeros((20, 20))
    edge[0, 0], edge[10, 10], edge[11, 11] = 3, 1, -5
    assert border_share(edge) == pytest.approx(0.75)


def test_erasing_takes_the_hottest_tenth_and_nothing_else():
    image, heat = torch.full((1, 16, 16), 2.0), np.zeros((16, 16))
    heat[4:8, 8:12] = 1
    heat[0, :10] = 0.5  # the ten others of the 26 hottest
    assert fall_when_erased(Corner(), image, 1, heat) == pytest.approx(6)
    assert fall_when_erased(Corner(), image, 1, -heat) == pytest.approx(0)


def test_maps_of_random_weights_are_called_so():
    networks = [small_network(seed) for seed in range(30)]
    image = torch.randn(1, 16, 16, generator=torch.Generator().manual_seed(0))
    found = [examined("integrated-gradients", image, 0, networks[at], networks[10:]) for at in range(10)]
    assert sum(one.is_random for one in found) >= 9
    sharp = small_network(3)
    sharp[7].weight.data *= 50  # it has learned something of this image
    kind = int(sharp(image[None]).argmax())
    assert not examined("integrated-gradients", image, kind, sharp, networks[10:]).is_random


def squares(root, count, side=96, square=28):
    """Pictures of noise with a bright or a dark square somewhere: their paths, and where the squares are."""
    rng, places = np.random.default_rng(5), {}
    for number in range(count):
        kind = ("dark", "bright")[number % 2]
        pixels = rng.integers(60, 196, (side, side))
        row, column = rng.integers(0, side - square, 2)
        pixels[row : row + square, column : column + square] += 110 if kind == "bright" else -110
        path = root / kind / f"{number}.png"
        places[write(path, pixels.clip(0, 255).astype(np.uint8))] = (row, column)
    return places


@pytest.mark.long
def test_maps_point_at_planted_squares_and_those_of_an_untrained_run_are_labelled(tmp_path):
    places = squares(tmp_path / "data", 240)
    recipe = Recipe(
        data=str(tmp_path / "data"), norm="bn", width=1 / 8, image_size=96, epochs=4, batch_size=16, instruments="off",
    )  # fmt: skip
    assert train_with_verdict(recipe, RunFolder(tmp_path / "run")) == 0
    assert RunFolder(tmp_path / "run").verdict()["result"]["test"]["accuracy"] > 0.95
    shown = dict(list(places.items())[:20])
    found = explain(tmp_path / "run", list(shown), random_networks=9)
    for at, method in enumerate(METHODS):
        hits, near = 0, 19 if method == "grad-cam" else 0  # pixels: a cell of the last feature maps
        for image, (row, column) in zip(found, shown.values(), strict=True):
            down, along = np.divmod(int(image.maps[at].heat.argmax()), 96) - np.array([row, column])
            hits += -near <= down < 28 + near and -near <= along < 28 + near
        assert hits / len(shown) >= 0.9, method
    # The other class is answered where nothing bright is seen, so that hiding what is dark costs it little.
    bright = [image for image, path in zip(found, shown, strict=True) if path.parent.name == "bright"]
    for at, method in enumerate(METHODS):
        better = sum(not image.maps[at].is_random for image in bright) / len(bright)
        assert better >= (0.5 if method == "grad-cam" else 0.8), method
    untrained = replace(recipe, norm="none", epochs=1, learning_rate=1e-20, weight_decay=0.0)
    assert train_with_verdict(untrained, RunFolder(tmp_path / "untrained")) == 0
    labelled = [one.is_random for image in explain(tmp_path / "untrained", list(shown)[:8]) for one in image.maps]
    assert np.mean(labelled) >= 0.9


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("explained")
    places = squares(root / "data", 24, side=67)
    before = torch.get_num_threads()
    recipe = Recipe(data=str(root / "data"), norm="bn", width=1 / 16, epochs=1, batch_size=4, instruments="off")
    assert train_with_verdict(recipe, RunFolder(root / "run")) == 0
    torch.set_num_threads(before)
    return root / "run", list(places)


def test_an_image_is_explained_for_its_most_probable_class_or_the_one_that_is_asked_for(run, tmp_path):
    path, files = run
    predictions = load_run(path).predict(files[:2])
    found = explain(path, files[:2], methods=["grad-cam"], random_networks=1, seeds=[path])
    assert [image.kind for image in found] == list(predictions.most_probable)
    assert [image.probability for image in found] == pytest.approx(predictions.probabilities.max(1).tolist(), abs=1e-5)
    assert found[0].maps[0].repeatability in (pytest.approx(1), pytest.approx(float("nan"), nan_ok=True))
    assert found[0].pixels.shape == (1, 67, 67)
    (other,) = explain(path, files[0], methods=["grad-cam"], random_networks=1, kind="dark")
    assert other.kind == "dark"


def test_what_cannot_be_explained_is_refused_in_one_sentence(run, tmp_path):
    path, files = run
    for options, message in (
        ({"methods": ["gradcam"]}, "unknown map 'gradcam'. Did you mean 'grad-cam'"),
        ({"kind": "bird"}, "unknown class of the run 'bird'"),
        ({"random_networks": 0}, "at least 1 untrained network, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            explain(path, files[0], **options)
    (tmp_path / "torn.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"every image must be readable, and .*torn\.png is not"):
        explain(path, tmp_path / "torn.png")
    other = shutil.copytree(path, tmp_path / "other")
    fields = json.loads((other / "recipe.json").read_text())
    (other / "recipe.json").write_text(json.dumps({**fields, "data": "digits"}))
    RunFolder(other).end("ok", result=RunFolder(other).verdict()["result"])
    with pytest.raises(ValueError, match="differs from .* in data; give runs that differ in their seed alone"):
        explain(path, files[0], seeds=[other])
    (other / "state.json").unlink()
    with pytest.raises(ValueError, match="has not finished"):
        explain(other, files[0])


def a_map(method, fall):
    heat = np.random.default_rng(0).random((32, 32))
    return Map(method, heat, heat.T, 0.1, fall, 1.0, 0.5, 0.3, 0.36, None)


def test_the_page_labels_the_maps_that_are_no_better(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (1, 32, 32)).astype(np.uint8)
    image = Explained("scan <1>.png", "sick", 0.9, pixels, (a_map("grad-cam", 0.9), a_map("occlusion", 2.0)))
    page = write_explanations("run", [image], tmp_path / "out").read_text()
    assert f"grad-cam: {LABEL}" in page
    assert f"occlusion: {LABEL}" not in page
    facts = json.loads((tmp_path / "out" / "explanation.json").read_text())
    assert [one["no_better_than_random_weights"] for one in facts["images"][0]["maps"]] == [True, False]
    endings = ("", "-grad-cam", "-grad-cam-random", "-occlusion", "-occlusion-random")
    assert {path.name for path in (tmp_path / "out" / "maps").iterdir()} == {f"001-scan-1{end}.png" for end in endings}
