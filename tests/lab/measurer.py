"""What flows in a network, measured with plain hooks and numpy, and written as a run's records.

Independent of the instruments, so that the diagnosis is tested without them, and they are compared with it.
"""

import numpy as np
import torch
from torch import nn

from alexnet_lab.instruments.flow import FlowWriter, Layout, Parameter, Site

ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.Tanh, nn.Sigmoid, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU, nn.SiLU)


def exponents_of(values):
    """Return counts by sign: zero, subnormal, each power of two of float32, infinite, NaN."""
    x = values.astype(np.float32).ravel()
    counts = np.zeros((2, 258), np.int64)
    sign = np.signbit(x).astype(int)
    finite = np.isfinite(x) & (x != 0)
    column = np.zeros(x.shape, int)
    column[finite] = np.maximum(np.frexp(np.abs(x[finite]))[1] - 1 + 126 + 2, 1)
    column[np.isinf(x)] = 256
    column[np.isnan(x)] = 257
    np.add.at(counts, (sign, column), 1)
    return counts


class Measurer:
    """Watches any sequential network with plain hooks; call step() in place of optimiser.step()."""

    def __init__(self, model, optimiser, folder, lose_below=0.0, hold_below=np.inf):
        self.model, self.optimiser, self.bounds = model, optimiser, (lose_below, hold_below)
        self.parameters = list(model.named_parameters())
        modules = list(model.named_modules())
        self.activations = [(name, module) for name, module in modules if isinstance(module, ACTIVATIONS)]
        sites = []
        for name, module in self.activations:
            at = [module_name for module_name, _ in modules].index(name)
            fed_by = next(before for before in reversed(modules[:at]) if isinstance(before[1], nn.Linear | nn.Conv2d))
            conv = isinstance(fed_by[1], nn.Conv2d)
            units = fed_by[1].out_channels if conv else fed_by[1].out_features
            sites.append(Site(name, fed_by[0], type(module).__name__, "channel" if conv else "neuron", units))
        self.layout = Layout(
            tuple(
                Parameter(name, name.rpartition(".")[0], tuple(value.shape), value.requires_grad)
                for name, value in self.parameters
            ),
            tuple(sites),
            precision="fp32" if self.bounds == (0.0, np.inf) else "fp16",
        )
        self.writer = FlowWriter(folder)
        self.writer.begin(self.layout)
        for index, (_, module) in enumerate(self.activations):
            module.register_forward_pre_hook(lambda _module, inputs, index=index: self.look(index, inputs[0]))
        self.count, self.blind = 0, False
        self.forget()

    def forget(self):
        self.rows, self.counts, self.lost, self.first_step = [], {}, {}, self.count + 1
        self.off = {
            split: [np.zeros((3, site.units), np.int64) for site in self.layout.sites]
            for split in ("training", "probe")
        }
        self.inputs = {"training": 0, "probe": 0}

    def unwatched(self, x):
        self.blind = True
        scores = self.model(x)
        self.blind = False
        return scores

    def look(self, index, x):
        if self.blind:
            return
        split = "training" if self.model.training else "probe"
        if index == 0:
            self.inputs[split] += len(x)
        below = (x.detach() <= 0).flatten(2).numpy() if x.dim() > 2 else (x.detach() <= 0).numpy()[:, :, None]
        self.off[split][index] += np.stack(
            [below.all(2).sum(0), below.sum((0, 2)), np.full(below.shape[1], len(x) * below.shape[2])]
        )
        if self.model.training:
            self.add(2, index, x.detach().numpy())
            if x.requires_grad:
                x.register_hook(lambda gradient: self.add(3, index, gradient.numpy()))

    def add(self, kind, subject, values):
        nothing = (np.zeros((2, 258), np.int64), 0, np.zeros(2))
        counts, tensors, lost = self.counts.get((kind, subject), nothing)
        size = np.abs(values)
        shares = [((values != 0) & (size < self.bounds[0])).mean(), (size >= self.bounds[1]).mean()]
        self.counts[kind, subject] = (counts + exponents_of(values), tensors + 1, lost + shares)

    def step(self):
        self.count += 1
        before = [value.detach().clone() for _, value in self.parameters]
        gradients = [np.zeros(1) if value.grad is None else value.grad.numpy().copy() for _, value in self.parameters]
        self.optimiser.step()
        for index, ((_, value), old, gradient) in enumerate(zip(self.parameters, before, gradients, strict=True)):
            update = (value.detach() - old).norm().item()
            self.rows.append((self.count, index, old.norm().item(), np.linalg.norm(gradient), update))
            if self.count == self.first_step:  # weights are counted once a window
                self.add(0, index, old.numpy())
            self.add(1, index, gradient)

    def end_epoch(self, epoch, probe=None):
        if probe is not None:
            was = self.model.training
            self.model.eval()
            with torch.no_grad():
                self.model(probe)
            self.model.train(was)
        rows = np.array(self.rows, float).reshape(-1, 5)
        names = ("step", "parameter", "weight_norm", "gradient_norm", "update_norm")
        types = (np.int32, np.int16, np.float32, np.float32, np.float32)
        steps = {name: rows[:, at].astype(kind) for at, (name, kind) in enumerate(zip(names, types, strict=True))}
        keys = sorted(self.counts)
        tensors = np.array([self.counts[key][1] for key in keys], np.int32)
        windows = {
            "kind": np.array([key[0] for key in keys], np.int8),
            "subject": np.array([key[1] for key in keys], np.int16),
            "first_step": np.full(len(keys), self.first_step, np.int32),
            "last_step": np.full(len(keys), self.count, np.int32),
            "tensors": tensors,
            "stride": np.ones(len(keys), np.int32),
            "underflow": np.array([self.counts[key][2][0] for key in keys], np.float32) / tensors,
            "overflow": np.array([self.counts[key][2][1] for key in keys], np.float32) / tensors,
            "signal_to_noise": np.full(len(keys), np.nan, np.float32),
        }
        histograms = {"counts": np.array([self.counts[key][0] for key in keys])}
        units = {name: [] for name in ("site", "unit", "split", "inputs", "off", "elements", "elements_off")}
        for number, split in enumerate(("training", "probe")):
            for index, (off, elements_off, elements) in enumerate(self.off[split]):
                if self.inputs[split]:
                    width = len(off)
                    parts = (index, np.arange(width), number, self.inputs[split], off, elements, elements_off)
                    for name, part in zip(units, parts, strict=True):
                        units[name].append(np.broadcast_to(part, width))
        tables = {"steps": steps, "windows": windows, "histograms": histograms}
        if units["site"]:
            tables["units"] = {name: np.concatenate(parts) for name, parts in units.items()}
        self.writer.write_epoch(epoch, tables)
        self.forget()
