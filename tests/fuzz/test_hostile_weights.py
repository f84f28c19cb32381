"""Files of weights from elsewhere, changed at random: nothing is unpickled, and a wrong file is one sentence."""

import io
import os
import pickle
import zipfile

import pytest
import safetensors.torch
import torch
from hostile import Told, changed, fuzzed, told_by, watched
from hypothesis import given

from alexnet_lab.networks.pretrained import load_pretrained
from alexnet_lab.training import checkpoint
from alexnet_lab.training.recipe import Recipe
from alexnet_lab.training.trainer import network_of

RECIPE = Recipe(network="mobilenet_v3_small", width=1 / 16, image_size=32)
PICKLES = (
    b"cos\nsystem\n",
    b"\x85R",
    b"X\x02\0\0\0id",
    b"h\0",
    b"}",
    b"(",
    b"0",
    b"\x94",
    b"K\xff",
    b"ccollections\nOrderedDict\n",
)


def network():
    return network_of(RECIPE, 3, 3)


def as_torch(tensors, *, is_zip=True):
    content = io.BytesIO()
    torch.save(tensors, content, _use_new_zipfile_serialization=is_zip)
    return content.getvalue()


OWN = checkpoint.network_tensors(network())
FILES = {
    "run.safetensors": safetensors.torch.save({name: value.contiguous() for name, value in OWN.items()}),
    "zip.pth": as_torch(OWN),
    "old.pth": as_torch(OWN, is_zip=False),
}


@pytest.mark.parametrize("name", FILES)
def test_a_changed_file_of_weights(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(FILES[name])
    assert load_pretrained(network(), path) == []
    head, rest = FILES[name][:3000], FILES[name][3000:]

    @fuzzed
    @given(content=changed(head, tokens=PICKLES))
    def check(content):
        path.write_bytes(content + rest)
        with watched(tmp_path):
            told_by(lambda: load_pretrained(network(), path), names=path)

    check()


class Harmful:
    def __reduce__(self):
        return os.system, ("echo harm > harm.txt",)


@pytest.mark.parametrize("is_zip", [True, False])
def test_weights_that_would_run_a_program_are_refused(tmp_path, monkeypatch, is_zip):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.pth"
    path.write_bytes(as_torch({"a": Harmful()}, is_zip=is_zip))
    with watched(tmp_path):
        said = told_by(lambda: load_pretrained(network(), path), names=path)
    assert "such a file can run anything" in said
    path.write_bytes(pickle.dumps(Harmful()))
    with watched(tmp_path):
        assert isinstance(told_by(lambda: load_pretrained(network(), path), names=path), Told)
    assert not (tmp_path / "harm.txt").exists()


def test_compressed_tensors_are_refused_before_they_are_inflated(tmp_path):
    path = tmp_path / "weights.pth"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target,
        zipfile.ZipFile(io.BytesIO(FILES["zip.pth"])) as source,
    ):
        for member in source.infolist():
            target.writestr(member.filename, source.read(member))
    with watched(tmp_path):
        said = told_by(lambda: load_pretrained(network(), path), names=path)
    assert "compressed, as torch does not write it" in said
