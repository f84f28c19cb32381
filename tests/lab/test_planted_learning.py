"""A healthy network has no finding; what is planted in a learning curve is found."""

import pytest
from planted import kill, names, run_of, small_network
from torch import nn

from alexnet_lab.diagnosis import diagnose
from alexnet_lab.diagnosis.evidence import Evidence


@pytest.mark.parametrize(
    ("act", "norm"), [(nn.ReLU, False), (nn.LeakyReLU, False), (nn.Tanh, False), (nn.ELU, False), (nn.ReLU, True)]
)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_healthy_network_has_no_finding(tmp_path, act, norm, seed):
    run = run_of(tmp_path, small_network(act, norm, seed))
    assert Evidence(run).curve("validation_accuracy")[-1] > 0.9  # it did learn
    assert names(run) == []


def test_random_labels_are_learned_by_heart_and_called_overfitting(tmp_path):
    run = run_of(tmp_path, small_network(), epochs=40, images=64, shuffled=True)
    assert Evidence(run).curve("train_accuracy")[-1] > 0.9
    assert names(run) == ["overfitting"]
    assert diagnose(run)[0].severity == "serious"


def test_planted_findings_each_carry_evidence_threshold_contrary_check_and_remedy(tmp_path):
    network = small_network()
    kill(network)
    network[2].requires_grad_(False)
    found = diagnose(run_of(tmp_path, network, rate=1e-6))
    assert len(found) >= 3
    for finding in found:
        assert all((finding.evidence, finding.threshold, finding.contrary, finding.remedy, finding.sentence))
        assert any(digit in finding.evidence for digit in "0123456789")
