"""What flags say for all cells: epochs, baseline, device, threads, and the folder's name."""

import pytest

from alexnet_ablations.cli import conditions
from alexnet_ablations.cli.conditions import divide, folder_name, on_this_machine
from alexnet_ablations.declare.study import declare_study


def test_one_number_of_epochs_is_for_all_cells_and_of_several_the_first_is_the_baseline():
    assert divide({"epochs": "5", "norm": "bn"}, None) == ({"norm": "bn"}, {"epochs": "5"})
    assert divide({"epochs": "5,10,20"}, None) == ({"epochs": "10,20"}, {"epochs": "5"})


def test_what_is_the_same_for_all_cells_is_no_factor_and_the_baseline_joins_it():
    factors, shared = divide({"norm": "bn", "data": "a.zip", "act": None, "threads": 2}, "norm=none,width=0.5")
    assert factors == {"norm": "bn"}
    assert shared == {"data": "a.zip", "threads": 2, "norm": "none", "width": "0.5"}
    with pytest.raises(
        ValueError, match=r"device: takes one value for all cells \(it is where and how.*got 'cpu,cuda'"
    ):
        divide({"norm": "bn", "device": "cpu,cuda"}, None)
    with pytest.raises(ValueError, match="data is named twice, in --baseline and by itself"):
        divide({"data": "a.zip"}, "data=b.zip")


@pytest.mark.parametrize(
    ("given", "baseline", "factors", "shared"),
    [
        ({"norm": "bn", "preset": "torchvision"}, None, {"norm": "bn"}, {"preset": "torchvision"}),
        ({"norm": "bn", "network": "resnet18"}, None, {"norm": "bn"}, {"network": "resnet18"}),
        ({"preset": "caffe,review"}, None, {"preset": "caffe,review"}, {}),
        ({"preset": "review"}, "preset=caffe", {"preset": "review"}, {"preset": "caffe"}),
        ({"epochs": "5"}, "epochs=6", {"epochs": "5"}, {"epochs": "6"}),
        ({"epochs": "5,10"}, "epochs=6", {"epochs": "5,10"}, {"epochs": "6"}),
        ({"width": "0.5"}, None, {"width": "0.5"}, {}),
    ],
)
def test_one_network_preset_or_number_of_epochs_is_set_and_what_the_baseline_names_too_is_varied(
    given, baseline, factors, shared
):
    assert divide(given, baseline) == (factors, shared)


def test_the_threads_of_a_run_are_its_share_of_the_cores_and_a_study_keeps_those_it_has(tmp_path, monkeypatch):
    monkeypatch.setattr("alexnet_ablations.run.slots.usable_cores", lambda: 8)
    monkeypatch.setattr(conditions, "_has_gpu", lambda: False)
    assert on_this_machine({}, tmp_path, None) == {"device": "cpu", "threads": 1}
    assert on_this_machine({}, tmp_path, 2) == {"device": "cpu", "threads": 4}
    assert on_this_machine({}, tmp_path, 16) == {"device": "cpu", "threads": 1}
    assert on_this_machine({"threads": 3}, tmp_path, 2) == {"device": "cpu", "threads": 3}
    declare_study({"norm": "bn"}, {"threads": 4, "device": "cpu"}, tmp_path).open_folder()
    # Elsewhere, with another number of jobs, or on a machine that has a GPU by now: its runs would not be comparable.
    monkeypatch.setattr(conditions, "_has_gpu", lambda: True)
    assert on_this_machine({}, tmp_path, 1) == {"device": "cpu", "threads": 4}
    assert on_this_machine({}, tmp_path / "new", None) == {"device": "cuda", "threads": 1}


def test_a_study_is_named_after_its_data_and_its_changes(tmp_path):
    study = declare_study({"norm": "bn,lrn:k=1", "act": "leaky"}, {"data": "some/xrays.zip"}, tmp_path)
    assert folder_name(study) == "xrays_norm-bn+lrn-k=1.0_act-leaky"
    long = declare_study({"dropout": ",".join(f"0.{at:03}" for at in range(60))}, {}, tmp_path)
    assert len(folder_name(long)) <= 120
