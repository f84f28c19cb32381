"""Small pictures, networks for them, and runs of these whose records the measurer writes: cases are planted in them."""

import json

import numpy as np
import torch
import torch.nn.functional as F
from measurer import Measurer
from torch import nn

from alexnet_lab.diagnosis import diagnose
from alexnet_lab.records import RunFolder


def pictures(count, seed, shuffled=False):
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 4
    x = torch.randn(count, 1, 8, 8, generator=rng)
    for label in range(4):
        down, right = divmod(label, 2)
        x[labels == label, :, 4 * down : 4 * down + 4, 4 * right : 4 * right + 4] += 2
    x = (x - x.mean()) / x.std()
    return x, labels[torch.randperm(count, generator=rng)] if shuffled else labels


def small_network(act=nn.ReLU, norm=False, seed=0):
    torch.manual_seed(seed)
    layers = [nn.Conv2d(1, 12, 3), act(), nn.Conv2d(12, 16, 3), act(), nn.Flatten()]
    layers += [nn.Linear(16 * 16, 20), act(), nn.Linear(20, 4)]
    if norm:
        layers[1:1] = [nn.BatchNorm2d(12)]
    network = nn.Sequential(*layers)
    for layer in network:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
    return network


def stack(act, gain, depth=12, width=32):
    """Layers of one width whose weights have `gain` times the spread that keeps the variance (without the act)."""
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(64, width), act()]
    for _ in range(depth - 2):
        layers += [nn.Linear(width, width), act()]
    network = nn.Sequential(*layers, nn.Linear(width, 4))
    for layer in network:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=gain / layer.in_features**0.5)
            nn.init.zeros_(layer.bias)
    return network


def run_of(
    folder,
    network,
    rate=0.02,
    epochs=3,
    images=256,
    shuffled=False,
    trained=None,
    scale=1.0,
    between=None,
    recipe=(),
    **watching,
):
    """Train and leave a run folder with metrics and the measurer's records."""
    (x, y), (probe, probe_y) = pictures(images, 1, shuffled), pictures(200, 2, shuffled)
    x, probe = x * scale, probe * scale
    run = RunFolder(folder)
    split = {"train": list(range(images)), "validation": list(range(200)), "test": [], "notes": []}
    asked = {"learning_rate": rate, **dict(recipe)}
    run.begin(json.dumps(asked), {"classes": list("abcd"), "notes": []}, json.dumps(split))
    optimiser = torch.optim.SGD(trained or network.parameters(), rate, momentum=0.9)
    watch = Measurer(network, optimiser, folder, **watching)
    for epoch in range(1, epochs + 1):
        total, hits = 0.0, 0
        network.train()
        for start in range(0, images, 32):
            part, labels = x[start : start + 32], y[start : start + 32]
            optimiser.zero_grad()
            scores = network(part)
            loss = F.cross_entropy(scores, labels)
            loss.backward()
            watch.step()
            total, hits = total + loss.item() * len(part), hits + int((scores.argmax(1) == labels).sum())
        watch.end_epoch(epoch, probe)
        network.eval()
        with torch.no_grad():
            scores = watch.unwatched(probe)
        right = (scores.argmax(1) == probe_y).float()
        balanced = np.mean([right[probe_y == label].mean().item() for label in range(4)])
        row = {"epoch": epoch, "train_loss": total / images, "train_accuracy": hits / images}
        row |= {"validation_loss": F.cross_entropy(scores, probe_y).item(), "validation_accuracy": right.mean().item()}
        run.log({**row, "validation_balanced_accuracy": balanced})
        if between:
            between(epoch, network)
    return run


def names(run):
    return [finding.name for finding in diagnose(run)]


def the(name, run):
    found = [finding for finding in diagnose(run) if finding.name == name]
    assert len(found) == 1, names(run)
    return found[0]


PLANTED = {"1": (0, 3, 7, 11), "3": (1, 2, 8, 9, 15), "6": tuple(range(4, 14))}  # site to units, by their index


def kill(network, planted=PLANTED):
    """Give units a bias that nothing lifts above zero; a site's name is its activation's, one after its layer."""
    with torch.no_grad():
        for site, units in planted.items():
            network[int(site) - 1].bias[list(units)] = -1e4
