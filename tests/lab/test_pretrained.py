"""Published weight files, read and written by name: fitting files fit, others are refused in words, none runs code."""

import os
import pickle
import re
from collections import OrderedDict
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from alexnet_lab.networks import pretrained
from alexnet_lab.networks.alexnet import AlexNet
from alexnet_lab.networks.mobilenet import MobileNetV2, MobileNetV3Large, MobileNetV3Small
from alexnet_lab.networks.pretrained import (
    from_torchvision_state_dict,
    load_pretrained,
    to_torchvision_state_dict,
)
from alexnet_lab.networks.resnet import ResNet18
from alexnet_lab.networks.vgg import VGG11

# Small networks with the names of the published ones.
BUILDERS = {
    "alexnet": lambda **s: AlexNet(**{"num_classes": 7, "preset": "torchvision", "width": 0.125, **s}),
    "resnet18": lambda **s: ResNet18(**{"num_classes": 7, "width": 0.125, **s}),
    "vgg11": lambda **s: VGG11(**{"num_classes": 7, "width": 0.125, **s}),
    "vgg11_bn": lambda **s: VGG11(**{"num_classes": 7, "width": 0.125, "norm": "bn", **s}),
    "mobilenet_v2": lambda **s: MobileNetV2(**{"num_classes": 7, "width": 0.25, **s}),
    "mobilenet_v3_small": lambda **s: MobileNetV3Small(**{"num_classes": 7, "width": 0.25, **s}),
    "mobilenet_v3_large": lambda **s: MobileNetV3Large(**{"num_classes": 7, "width": 0.25, **s}),
}
every_network = pytest.mark.parametrize("name", BUILDERS)


def file_content(name: str, **settings: object) -> dict[str, Tensor]:
    """Return what a published file of a small network would hold, with random values."""
    generator = torch.Generator().manual_seed(5)
    names = to_torchvision_state_dict(BUILDERS[name](**settings))
    return {
        key: torch.randn(value.shape, generator=generator) if value.is_floating_point() else torch.tensor(9)
        for key, value in names.items()
    }


@pytest.fixture(scope="module")
def resnet_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(file_content("resnet18"), path)
    return path


# --- names -----------------------------------------------------------------------------------------------------------


@every_network
def test_every_network_maps_there_and_back(name: str) -> None:
    content = file_content(name)
    network = BUILDERS[name]()
    network.load_state_dict(from_torchvision_state_dict(network, content))
    back = to_torchvision_state_dict(network)
    assert list(back) == list(content)
    assert all(torch.equal(back[key], content[key]) for key in content)


def test_older_files_without_batch_counts_fit() -> None:
    content = {k: v for k, v in file_content("resnet18").items() if not k.endswith("num_batches_tracked")}
    network = BUILDERS["resnet18"]()
    network.load_state_dict(from_torchvision_state_dict(network, content))
    assert torch.equal(network.get_parameter("classifier.bias"), content["fc.bias"])


def test_a_slot_without_tensors_takes_the_published_weights() -> None:
    network = BUILDERS["vgg11"](norm="lrn", act="leaky")
    assert load_content(network, file_content("vgg11")) is network


def load_content(network: nn.Module, content: dict[str, Tensor]) -> nn.Module:
    network.load_state_dict(from_torchvision_state_dict(network, content))
    return network


# --- what does not fit -----------------------------------------------------------------------------------------------


def refused(network: nn.Module, content: dict[str, Tensor]) -> str:
    with pytest.raises(ValueError, match="do not fit") as caught:
        from_torchvision_state_dict(network, content)
    return str(caught.value)


def test_another_preset_is_told_which_one_fits() -> None:
    message = refused(AlexNet(7, preset="paper", width=0.125), file_content("alexnet"))
    assert "features.0.weight is (8, 3, 11, 11), expected (12, 3, 11, 11)" in message
    assert "this network is of preset paper: take preset torchvision and the width of the file" in message


def test_another_networks_tensors_are_recognised() -> None:
    message = refused(BUILDERS["resnet18"](), file_content("mobilenet_v2"))
    assert "missing: conv1.weight" in message
    assert "not in the network: features.0.0.weight" in message
    assert "they are the tensors of mobilenet_v2: take network mobilenet_v2, or the file of resnet18" in message
    assert "take network vgg11 with norm bn" in refused(BUILDERS["vgg11"](), file_content("vgg11_bn"))
    message = refused(BUILDERS["mobilenet_v2"](), file_content("alexnet"))
    assert "take network alexnet with preset torchvision, or the file of mobilenet_v2" in message


def test_unknown_names_are_shown() -> None:
    message = refused(BUILDERS["resnet18"](), {"backbone.stem.weight": torch.ones(3)})
    assert "not in the network: backbone.stem.weight" in message
    assert "no torchvision file that is known here has such tensors; known are those of alexnet, resnet18" in message


@pytest.mark.parametrize("slots", [{"norm": "none"}, {"norm": "gn"}, {"act": "prelu"}])
def test_slots_with_other_tensors_are_told_so(slots: dict[str, str]) -> None:
    network = BUILDERS["resnet18"](**slots)
    assert "leave norm out" in refused(network, file_content("resnet18"))
    with pytest.raises(ValueError, match=r"no counterpart in torchvision.*leave norm out"):
        to_torchvision_state_dict(network)


def test_the_advice_for_a_vgg_with_batch_norm_keeps_its_norm() -> None:
    message = refused(BUILDERS["vgg11_bn"](act="prelu"), file_content("vgg11_bn"))
    assert "take norm bn, keep width 1, and take an act without weights" in message


def test_another_width_names_the_shapes() -> None:
    message = refused(BUILDERS["resnet18"](width=0.25), file_content("resnet18"))
    assert "conv1.weight is (8, 3, 7, 7), expected (16, 3, 7, 7)" in message
    assert "take the width of the file, 1 in torchvision's own; load_pretrained takes other classes" in message


def test_two_towers_have_no_torchvision_names() -> None:
    with pytest.raises(ValueError, match='only preset="torchvision" has'):
        to_torchvision_state_dict(AlexNet(7, preset="paper", width=0.125))


def test_unknown_networks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"known for AlexNet, ResNet18, .* not for Linear"):
        load_pretrained(nn.Linear(2, 2), "imagenet")


# --- files -----------------------------------------------------------------------------------------------------------


@every_network
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_files_load_whole(name: str, suffix: str, tmp_path: Path) -> None:
    content = file_content(name)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(OrderedDict(content), path)
    else:
        save_file(content, path)
    network = BUILDERS[name]()
    assert load_pretrained(network, path) == []
    loaded = to_torchvision_state_dict(network)
    assert all(torch.equal(loaded[key], content[key]) for key in content)


def test_files_of_torch_before_1_6_load(tmp_path: Path) -> None:
    path = tmp_path / "old.pth"
    torch.save(file_content("resnet18"), path, _use_new_zipfile_serialization=False)
    assert load_pretrained(BUILDERS["resnet18"](), str(path)) == []


@every_network
def test_other_classes_leave_only_the_last_layer_as_initialised(name: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    content = file_content(name)
    torch.save(content, path)
    network = BUILDERS[name](num_classes=3, seed=1)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    untouched = load_pretrained(network, path)
    assert sorted(key.rpartition(".")[2] for key in untouched) == ["bias", "weight"]
    unchanged = [key for key, value in network.state_dict().items() if torch.equal(value, before[key])]
    assert unchanged == untouched
    assert network.state_dict()[untouched[0]].shape[0] == 3


@every_network
def test_one_channel_sees_grey_as_the_file_sees_colour(name: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(file_content(name), path)
    colour, grey = BUILDERS[name](), BUILDERS[name](in_channels=1)
    assert load_pretrained(colour, path) == load_pretrained(grey, path) == []
    first_colour, first_grey = (next(m for m in n.modules() if isinstance(m, nn.Conv2d)) for n in (colour, grey))
    pixels = torch.randn(1, 1, 32, 32)
    torch.testing.assert_close(first_grey(pixels), first_colour(pixels.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-4)
    others = [key for key in grey.state_dict() if key != next(iter(grey.state_dict()))]
    assert all(torch.equal(grey.state_dict()[key], colour.state_dict()[key]) for key in others)


def test_neither_other_classes_nor_one_channel_hide_another_mismatch(resnet_file: Path) -> None:
    network = BUILDERS["resnet18"](num_classes=3, in_channels=1, width=0.25)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    # A user of the command line typed --weights, and knows nothing of load_pretrained.
    with pytest.raises(ValueError, match=r"^weights: .*shapes differ(?!.*load_pretrained)"):
        load_pretrained(network, resnet_file)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"^weights: .*absent.pth does not exist; .* imagenet or imagenet-v2$"):
        load_pretrained(BUILDERS["mobilenet_v2"](), tmp_path / "absent.pth")
    with pytest.raises(FileNotFoundError, match="is a folder"):
        load_pretrained(BUILDERS["resnet18"](), tmp_path)


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_truncated_files_are_called_so_wherever_they_end(kind: str, tmp_path: Path) -> None:
    whole = tmp_path / ("whole.safetensors" if kind == "safetensors" else "whole.pth")
    content = file_content("resnet18")
    if kind == "safetensors":
        save_file(content, whole)
    else:
        torch.save(content, whole, _use_new_zipfile_serialization=kind == "zip")
    data = whole.read_bytes()
    broken = tmp_path / f"broken{whole.suffix}"
    for size in (0, 1, 3, 4, 9, 20, 60, 300, 4_000, 9_000, len(data) // 2, len(data) - 3_000, len(data) - 1):
        broken.write_bytes(data[:size])
        with pytest.raises(ValueError, match="incomplete"):
            load_pretrained(BUILDERS["resnet18"](), broken)


class Payload:
    """Unpickled, this would create a file: the sign that code ran."""

    def __init__(self, sign: Path) -> None:
        self.sign = sign

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.mkdir, (str(self.sign),)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle", "renamed"])
def test_code_in_a_file_is_refused_and_never_runs(form: str, tmp_path: Path) -> None:
    sign, path = tmp_path / "ran", tmp_path / "weights.pth"
    content = {**file_content("resnet18"), "payload": Payload(sign)}
    if form == "pickle":
        path.write_bytes(pickle.dumps(content))
    elif form == "renamed":
        path = tmp_path / "weights.safetensors"
        torch.save(content, path)
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
        load_pretrained(BUILDERS["resnet18"](), path)
    if form in ("zip", "legacy"):
        assert "refused, because it needs posix.mkdir, which is code" in str(caught.value)
    assert not sign.exists()


def test_a_whole_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save(nn.Linear(2, 2), path)
    with pytest.raises(
        ValueError, match=r"needs torch.nn.modules.linear.Linear.*save the network's state_dict\(\) alone"
    ):
        load_pretrained(BUILDERS["resnet18"](), path)


@pytest.mark.parametrize(
    ("content", "held"), [({"model": {"a": 1}, "epoch": 3}, "'model', 'epoch'"), ([1], "a list"), ({}, "nothing")]
)
def test_checkpoints_are_told_from_state_dicts(content: object, held: str, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    torch.save(content, path)
    with pytest.raises(ValueError, match=f"should hold a state dict, tensors by name, and holds {held}"):
        load_pretrained(BUILDERS["resnet18"](), path)


def test_what_is_no_weight_file_at_all_is_called_so(tmp_path: Path) -> None:
    for name, data in (("page.pth", b"<html>404</html>" * 50), ("page.safetensors", b"<html>404</html>" * 50)):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=f"{name}.*incomplete"):
            load_pretrained(BUILDERS["resnet18"](), tmp_path / name)


# --- the published files ---------------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in for torch.hub's folder, empty, on a machine without a network."""

    def no_network(_address: str, *_arguments: object, **_options: object) -> None:
        raise URLError("no network here")

    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


@pytest.mark.parametrize(
    ("source", "file"), [("imagenet", "mobilenet_v2-b0353104.pth"), ("imagenet-v2", "mobilenet_v2-7ebf99e0.pth")]
)
def test_published_files_come_from_the_cache_of_torch_hub(source: str, file: str, hub: Path) -> None:
    content = file_content("mobilenet_v2", num_classes=1000, width=1.0)
    torch.save(content, hub / file)
    network = MobileNetV2(3)
    assert load_pretrained(network, source) == ["classifier.weight", "classifier.bias"]
    assert torch.equal(network.get_parameter("widen.conv.weight"), content["features.18.0.weight"])


def test_without_a_network_the_error_says_where_the_file_belongs(hub: Path) -> None:
    expected = f"put it at {re.escape(str(hub / 'resnet18-f37072fd.pth'))}"
    with pytest.raises(ConnectionError, match=f"no network here.*{expected}"):
        load_pretrained(ResNet18(3), "imagenet")


@pytest.mark.parametrize(
    "network", [lambda: AlexNet(3), lambda: ResNet18(3, norm="gn"), lambda: MobileNetV2(3, width=0.5)]
)
def test_a_network_that_cannot_take_the_published_file_is_told_before_the_download(network: object, hub: Path) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        load_pretrained(network(), "imagenet")


def test_a_broken_file_in_the_cache_is_named(hub: Path) -> None:
    (hub / "resnet18-f37072fd.pth").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(ValueError, match=r"resnet18-f37072fd.pth is broken or incomplete"):
        load_pretrained(ResNet18(3), "imagenet")


def test_hashes_are_asked_for_and_nothing_is_unpickled(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, object] = {}

    def record(address: str, **options: object) -> dict[str, Tensor]:
        asked.update(options, address=address)
        return file_content("resnet18", num_classes=1000, width=1.0)

    monkeypatch.setattr(pretrained.torch.hub, "load_state_dict_from_url", record)
    assert load_pretrained(ResNet18(1000), "imagenet") == []
    assert asked == {
        "address": "https://download.pytorch.org/models/resnet18-f37072fd.pth",
        "map_location": "cpu",
        "check_hash": True,
        "weights_only": True,
    }
