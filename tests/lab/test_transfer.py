"""Transfer: where weights come from, which layers keep them, and how fast the others learn."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from alexnet_lab.data.feed import open_feed
from alexnet_lab.networks import build_network, load_pretrained
from alexnet_lab.networks.catalogue import CATALOGUE
from alexnet_lab.networks.layers import frozen_layers, layers_of
from alexnet_lab.records import RunFolder
from alexnet_lab.training import checkpoint
from alexnet_lab.training.errors import InterruptedRunError
from alexnet_lab.training.optim import build_optimiser
from alexnet_lab.training.parallel import Ranks
from alexnet_lab.training.recipe import Recipe
from alexnet_lab.training.run import train_with_verdict
from alexnet_lab.training.trainer import Trainer, network_of
from alexnet_lab.training.weight_sources import find_weights

DATA = "synthetic:classes=3,side=16,count=90"
SMALL = Recipe(
    network="resnet18", width=1 / 16, image_size=32, data=DATA, epochs=1, batch_size=8, instruments="off", threads=1
)
PRETRAINED_CLASSES = ("cat", "dog", "frog", "ship")

pytestmark = pytest.mark.usefixtures("own_cache", "torch_settings")


def make_run(path, recipe, classes=PRETRAINED_CLASSES, channels=3, state="ok", fingerprint="other data", train=()):
    """Write the folder of a run that ended, with random weights, and return them."""
    folder = RunFolder(path)
    split = json.dumps({"train": list(train), "validation": [], "test": []})
    folder.begin(recipe.to_json(), {"classes": list(classes), "data_fingerprint": fingerprint}, split)
    network = network_of(recipe, len(classes), channels)
    generator = torch.Generator().manual_seed(recipe.seed + 100)
    tensors = {
        name: torch.rand(value.shape, generator=generator) if value.is_floating_point() else torch.tensor(7)
        for name, value in network.state_dict().items()
    }
    network.load_state_dict(tensors)
    checkpoint.save_best(path / "checkpoints", checkpoint.network_tensors(network), {"epoch": 1})
    folder.end(state, "" if state == "ok" else "the loss was nan", {"test": {"accuracy": 0.25}})
    return tensors


def trainer_of(recipe, path, report=lambda _kind, _facts: None):
    feed = open_feed(recipe.data, image_size=recipe.image_size, channels=recipe.channels)
    folder = RunFolder(path)
    if not (path / "recipe.json").exists():
        folder.begin(recipe.to_json(), {}, feed.split.to_json())
    return Trainer(recipe, folder, feed, Ranks(), report)


def notes_of(recipe, path):
    return " | ".join(trainer_of(recipe, path).notes)


def copies_of(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


# --- where weights come from -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["folder", "file", "copied file"])
def test_a_run_starts_from_the_weights_of_another_with_a_new_head(form, tmp_path):
    tensors = make_run(tmp_path / "pre", SMALL)
    source = {"folder": "pre", "file": "pre/checkpoints/best.safetensors", "copied file": "copy.safetensors"}[form]
    (tmp_path / "copy.safetensors").write_bytes((tmp_path / "pre/checkpoints/best.safetensors").read_bytes())
    recipe = replace(SMALL, weights=str(tmp_path / source))
    network = trainer_of(recipe, tmp_path / "run").network
    fresh = network_of(SMALL, 3, 3).state_dict()
    for name, value in network.state_dict().items():
        assert torch.equal(value, fresh[name] if name.startswith("classifier.") else tensors[name]), name


def test_a_head_is_kept_for_the_same_classes_and_only_for_them(tmp_path):
    classes = open_feed(DATA, image_size=32).classes
    kept = make_run(tmp_path / "same", SMALL, classes)
    make_run(tmp_path / "others", SMALL, ("a", "b", "c"))
    heads = {
        name: trainer_of(
            replace(SMALL, weights=str(tmp_path / name)), tmp_path / f"run-{name}"
        ).network.classifier.weight
        for name in ("same", "others")
    }
    assert torch.equal(heads["same"], kept["classifier.weight"])
    assert torch.equal(heads["others"], network_of(SMALL, 3, 3).classifier.weight)


@pytest.mark.parametrize("network", CATALOGUE)
def test_every_network_sees_grey_as_its_weights_saw_colour_and_the_other_way_round(network, tmp_path):
    preset = {"preset": "torchvision"} if network == "alexnet" else {}
    recipe = replace(SMALL, network=network, width=1 / 8, image_size=64, data=f"{DATA[:-2]}30", **preset)
    classes = open_feed(recipe.data, image_size=64).classes
    grey = torch.randn(2, 1, 64, 64)
    for trained, now in ((3, 1), (1, 3)):
        make_run(tmp_path / f"pre-{trained}", recipe, classes, trained)
        before = network_of(recipe, 3, trained)
        tensors = checkpoint.load_checkpoint(tmp_path / f"pre-{trained}/checkpoints", "best").tensors
        checkpoint.restore_network(before, tensors)
        start = replace(recipe, weights=str(tmp_path / f"pre-{trained}"), channels="grey" if now == 1 else "rgb")
        after = trainer_of(start, tmp_path / f"run-{now}").network
        first_before, first_after = (next(m for m in n.modules() if isinstance(m, nn.Conv2d)) for n in (before, after))
        expected = first_before(grey.expand(-1, trained, -1, -1))
        torch.testing.assert_close(first_after(grey.expand(-1, now, -1, -1)), expected, rtol=1e-4, atol=1e-4)


def test_a_folder_of_runs_gives_each_network_its_own_and_seeds_take_turns(tmp_path):
    vgg = replace(SMALL, network="vgg11")
    for cell, recipe in (("network=resnet18", SMALL), ("network=vgg11", vgg)):
        for seed in (0, 1):
            make_run(tmp_path / "study/runs" / cell / f"seed-{seed}", replace(recipe, seed=seed))
    (tmp_path / "study/study.toml").write_text("")
    make_run(tmp_path / "plain/of-resnet18", SMALL)

    def chosen(recipe, folder):
        return find_weights(replace(recipe, weights=str(tmp_path / folder))).run.relative_to(tmp_path).as_posix()

    runs = [chosen(replace(vgg, seed=seed), "study") for seed in (0, 1, 2, 3)]
    assert runs == [f"study/runs/network=vgg11/seed-{seed}" for seed in (0, 1, 0, 1)]
    assert chosen(replace(SMALL, seed=1), "study") == "study/runs/network=resnet18/seed-1"
    assert chosen(replace(SMALL, seed=1), "plain") == "plain/of-resnet18"


def test_of_several_runs_the_one_that_is_built_alike_is_taken(tmp_path):
    make_run(tmp_path / "all/gn", replace(SMALL, norm="gn"))
    make_run(tmp_path / "all/bn", SMALL)
    # `bn` is what ResNet18 was published with: written out or not, it is the same network.
    for norm, expected in ((None, "bn"), ("bn", "bn"), ("gn", "gn")):
        assert find_weights(replace(SMALL, norm=norm, weights=str(tmp_path / "all"))).run == tmp_path / "all" / expected


def refusal(recipe, tmp_path):
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        trainer_of(recipe, tmp_path / "run")
    message = str(caught.value)
    assert message.startswith("weights: ")
    assert "\n" not in message
    return message


def test_weights_that_cannot_serve_are_refused_in_one_sentence(tmp_path):
    make_run(tmp_path / "runs/bad", SMALL, state="diverged")
    make_run(tmp_path / "fine/vgg", replace(SMALL, network="vgg11"))
    make_run(tmp_path / "several/a", SMALL)
    make_run(tmp_path / "several/b", replace(SMALL, learning_rate=0.5))
    make_run(tmp_path / "unfinished", SMALL)
    (tmp_path / "unfinished/state.json").unlink()
    (tmp_path / "empty").mkdir()

    def of(name, **change):
        return refusal(replace(SMALL, weights=str(tmp_path / name), **change), tmp_path)

    assert "absent does not exist; give a run's folder, a folder of runs, a .pth or .safetensors file" in of("absent")
    assert "ended as diverged (the loss was nan); only one that ended as ok" in of("runs/bad")
    assert "ended as diverged" in of("runs")
    assert "unfinished has not finished; the command that started it continues it" in of("unfinished")
    assert "is a run of vgg11, and this network is resnet18; give a run of resnet18" in of("fine/vgg")
    assert "holds no run of resnet18; its runs are of vgg11" in of("fine")
    assert "holds 2 runs of resnet18 that differ in learning_rate; name one of them" in of("several")
    assert "empty holds no run; give a run's folder" in of("empty")
    message = of("several/a", width=1 / 8, norm="gn")
    assert "was trained with norm bn, width 0.0625, and this network has norm gn, width 0.125; take norm bn" in message
    damaged = tmp_path / "several/a/checkpoints/best.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    assert "is damaged" in of("several/a")


def test_other_conditions_and_images_seen_before_are_said(tmp_path):
    feed = open_feed(DATA, image_size=32)
    seen = feed.split.test[:4].tolist()
    make_run(tmp_path / "pre", replace(SMALL, act="leaky"), fingerprint=feed.fingerprint, train=seen)
    notes = notes_of(replace(SMALL, weights=str(tmp_path / "pre"), input_scale="pixels"), tmp_path / "run")
    assert "as initialised: classifier.weight, classifier.bias" in notes
    assert "trained with act leaky" in notes
    assert "input_scale unit, and this run has act relu, input_scale pixels" in notes
    assert f"4 of the {len(feed.split.test)} test images were training images of {tmp_path / 'pre'}" in notes
    make_run(tmp_path / "clean", SMALL, fingerprint=feed.fingerprint, train=feed.split.train.tolist())
    assert "training images" not in notes_of(replace(SMALL, weights=str(tmp_path / "clean")), tmp_path / "other")


def test_the_digest_of_the_weights_is_part_of_a_runs_identity(tmp_path):
    recipe = replace(SMALL, weights=str(tmp_path / "pre"))
    digests, identities = [], []
    for seed in (0, 1):
        make_run(tmp_path / "pre", replace(SMALL, seed=seed))  # made anew in the same place
        assert train_with_verdict(recipe, RunFolder(tmp_path / f"run-{seed}")) == 0
        provenance = RunFolder(tmp_path / f"run-{seed}").provenance()
        digests.append(provenance["weights_digest"])
        identities.append(provenance["identity"])
        assert provenance["weights"] == f"{tmp_path / 'pre'} (resnet18 trained on {DATA}, test accuracy 25.0%)"
        assert any("as initialised: classifier" in note for note in provenance["notes"])
    assert digests[0] != digests[1]
    assert identities[0] != identities[1]


# --- layers, numbered and frozen -------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", CATALOGUE)
def test_numbered_layers_hold_every_parameter_once_and_end_with_the_head(network):
    built = build_network(network, 3, width=0.25, act="prelu", norm="bn:after")
    layers = layers_of(built)
    held = [id(parameter) for layer in layers for parameter in layer.parameters]
    assert sorted(held) == sorted(map(id, built.parameters()))
    assert layers[-1].modules[0].weight.shape[0] == 3
    convolutions = [layer.is_convolution for layer in layers]
    assert convolutions == sorted(convolutions, reverse=True)  # linear layers come last
    assert len(frozen_layers(built, "features")) == sum(convolutions)
    assert len(frozen_layers(built, "probe")) == len(layers) - 1
    with pytest.raises(ValueError, match=f"until:{len(layers)}: this network has {len(layers)} layers"):
        frozen_layers(built, f"until:{len(layers)}")


def test_layers_are_numbered_as_norms_number_convolutions():
    built = build_network("mobilenet_v3_small", 3, width=0.25, norm="bn:layers=1+4")
    numbered = layers_of(built)
    with_norm = [at for at, layer in enumerate(numbered, 1) if layer.norms_with_statistics]
    assert with_norm == [1, 4]
    # Squeeze-excitation has convolutions of its own, which belong to the layer before it.
    assert any("SqueezeExcite" in str(type(module)) for layer in numbered for module in layer.modules)


@pytest.mark.parametrize(
    ("network", "freeze", "learns"),
    [
        ("resnet18", "until:3", None),
        ("resnet18", "features", ["classifier"]),
        ("alexnet", "features", ["fc6", "fc7", "fc8"]),
        ("alexnet", "probe", ["fc8"]),
        ("vgg11", "until:9", ["classifier.hidden2", "classifier.output"]),
        ("mobilenet_v3_small", "probe", ["classifier.output"]),
    ],
)
def test_frozen_layers_keep_weights_and_statistics_and_the_others_learn(network, freeze, learns, tmp_path):
    recipe = replace(SMALL, network=network, width=1 / 8, image_size=67, norm="bn", freeze=freeze)
    trainer = trainer_of(recipe, tmp_path)
    before = copies_of(trainer.network)
    trainer.run()
    moved = {name for name, value in trainer.network.state_dict().items() if not torch.equal(value, before[name])}
    if learns is None:
        frozen = ("stem.", "stage1.block1.")
        assert moved == {name for name in before if not name.startswith(frozen)}
    else:
        assert {name.rpartition(".")[0] for name in moved} == set(learns)


def test_frozen_layers_train_from_the_epoch_that_the_recipe_names(tmp_path):
    states = []

    def watch(kind, _facts):
        if kind == "epoch":
            states.append(copies_of(trainer.network))

    trainer = trainer_of(replace(SMALL, freeze="features", unfreeze_at=2, epochs=2), tmp_path, watch)
    before = copies_of(trainer.network)
    trainer.run()
    assert {name for name in before if not torch.equal(states[0][name], before[name])} == {
        "classifier.weight",
        "classifier.bias",
    }
    assert not any(torch.equal(states[1][name], before[name]) for name in before)


@pytest.mark.parametrize("optimiser", ["sgd", "adamw", "krizhevsky"])
@pytest.mark.parametrize("stopped_in", [1, 2])
def test_a_run_that_unfreezes_goes_on_to_the_bit_wherever_it_was_stopped(optimiser, stopped_in, tmp_path):
    recipe = replace(SMALL, freeze="features", unfreeze_at=2, epochs=2, optimiser=optimiser, learning_rate=1e-3)
    whole = trainer_of(recipe, tmp_path / "whole")
    whole.run()

    def stop(kind, facts):
        if kind == "step" and facts["epoch"] == stopped_in:
            first.stop_asked = True

    first = trainer_of(recipe, tmp_path / "stopped", stop)
    with pytest.raises(InterruptedRunError):
        first.run()
    second = trainer_of(recipe, tmp_path / "stopped")
    assert second.resume()
    second.run()
    mine, theirs = whole.network.state_dict(), second.network.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.long
def test_two_processes_unfreeze_as_one_does(tmp_path, run_in_two_processes):
    recipe = replace(SMALL, norm="gn:groups=2", freeze="features", unfreeze_at=2, epochs=3)
    assert train_with_verdict(recipe, RunFolder(tmp_path / "one")) == 0
    run_in_two_processes(recipe, tmp_path / "two")
    one, two = (checkpoint.load_checkpoint(tmp_path / name / "checkpoints", "best").tensors for name in ("one", "two"))
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-3, atol=1e-5)


# --- learning rates by depth -----------------------------------------------------------------------------------------


def rates_of(recipe):
    network = build_network("alexnet", 3, width=1 / 8, norm="bn", image_size=67)
    optimiser = build_optimiser(recipe, network)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    return {names[id(p)]: group["rate"] for group in optimiser.param_groups for p in group["params"]}


def test_each_layer_has_a_share_of_the_next_layers_rate_and_the_head_its_own():
    rates = rates_of(Recipe(layer_decay=0.5))
    for depth, name in enumerate(["fc8", "fc7", "fc6", "conv5", "conv4", "conv3", "conv2", "conv1"]):
        assert rates[f"{name}.weight"] == rates[f"{name}.bias"] == 0.5**depth
    assert rates["norm1.weight"] == rates["conv1.weight"]
    rates = rates_of(Recipe(learning_rate=0.01, head_lr=0.1, optimiser="krizhevsky"))
    assert (rates["fc8.weight"], rates["fc8.bias"]) == pytest.approx((10, 20))
    assert (rates["fc7.weight"], rates["fc7.bias"]) == (1, 2)


def test_without_them_the_optimiser_has_the_two_groups_that_it_always_had():
    network = build_network("alexnet", 3, width=1 / 8, image_size=67)
    groups = build_optimiser(Recipe(), network).param_groups
    assert [len(group["params"]) for group in groups] == [8, 8]
    assert [p.shape for p in groups[0]["params"]] == [p.shape for p in network.parameters() if p.dim() > 1]


# --- files of ours through the Python interface ----------------------------------------------------------------------


def test_load_pretrained_reads_the_weights_of_a_run(tmp_path):
    tensors = make_run(tmp_path / "pre", SMALL)
    network = network_of(SMALL, 4, 3)
    assert load_pretrained(network, tmp_path / "pre/checkpoints/best.safetensors") == []
    assert all(torch.equal(value, tensors[name]) for name, value in network.state_dict().items())
    with pytest.raises(ValueError, match=r"^weights: .*do not fit this VGG11; .*missing: layer1.conv.weight"):
        load_pretrained(build_network("vgg11", 4, width=1 / 16), tmp_path / "pre/checkpoints/best.safetensors")
