"""The instruments and the tests' own measurer, which share no code, write the same records."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from measurer import Measurer
from planted import pictures, small_network
from torch import nn

from alexnet_lab.instruments.flow import Flow
from alexnet_lab.instruments.panel import Panel


@pytest.mark.parametrize("act", [nn.ReLU, nn.LeakyReLU])
def test_the_instruments_and_the_measurer_write_the_same_records(tmp_path, act):
    network = small_network(act, norm=True)
    optimiser = torch.optim.SGD(network.parameters(), 0.05, momentum=0.9)
    own = Measurer(network, optimiser, tmp_path / "own")
    (x, y), (probe, _) = pictures(96, 1), pictures(50, 2)
    with Panel(network, optimiser, every=1, window=100, folder=tmp_path / "panel") as panel:
        for start in range(0, 96, 32):
            optimiser.zero_grad()
            F.cross_entropy(network(x[start : start + 32]), y[start : start + 32]).backward()
            panel.gradients_ready()
            own.step()
            panel.step()
        with panel.probing():
            own.end_epoch(1, probe)
    ours, theirs = Flow.read(tmp_path / "own"), Flow.read(tmp_path / "panel")
    assert [site.fed_by for site in theirs.layout.sites] == [site.fed_by for site in ours.layout.sites]
    assert [site.word for site in theirs.layout.sites] == [site.word for site in ours.layout.sites]

    def steps(flow):
        table, name = flow.table("steps"), [parameter.name for parameter in flow.layout.parameters]
        columns = (table[column] for column in ("weight_norm", "gradient_norm", "update_norm"))
        return {
            (name[at], int(step)): numbers
            for at, step, *numbers in zip(table["parameter"], table["step"], *columns, strict=True)
        }

    assert steps(theirs).keys() == steps(ours).keys()
    for key, numbers in steps(ours).items():
        assert steps(theirs)[key] == pytest.approx(numbers, rel=1e-4, abs=1e-7), key

    def units(flow):
        columns = ("site", "unit", "split", "inputs", "off", "elements", "elements_off")
        return sorted(zip(*(flow.table("units")[name].tolist() for name in columns), strict=True))

    assert units(theirs) == units(ours)

    def histograms(flow):
        table, names = flow.table("windows"), [parameter.name for parameter in flow.layout.parameters]
        counts = flow.table("histograms")["counts"]
        return {
            (int(kind), names[subject] if kind < 2 else int(subject)): counts[row]
            for row, (kind, subject) in enumerate(zip(table["kind"], table["subject"], strict=True))
        }

    counted = histograms(theirs)
    assert {kind for kind, _ in counted} == {0, 1, 2, 3}
    for key, counts in counted.items():
        assert np.array_equal(counts, histograms(ours)[key]), key
