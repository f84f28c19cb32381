"""The training loop: from a recipe and a feed to a trained network, epoch by epoch, resumable at any step.

Batches, crops and masks are drawn from streams named by seed, epoch and step, so that a run which continues from a
checkpoint computes exactly what an uninterrupted one would have computed.
"""

import copy
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from alexnet_lab.data.feed import Feed
from alexnet_lab.data.preprocessing import preprocessing_of
from alexnet_lab.instruments.flow import read_columns
from alexnet_lab.networks import build_network
from alexnet_lab.networks.layers import frozen_layers
from alexnet_lab.networks.parts import Dropout
from alexnet_lab.predictions_file import FILE, PartPredictions, write_predictions
from alexnet_lab.randomness import derived_seed
from alexnet_lab.records import RunFolder
from alexnet_lab.training import checkpoint
from alexnet_lab.training.errors import DivergedError, InterruptedRunError, first_bad_layer, largest_weights
from alexnet_lab.training.evaluation import evaluation_batch, probabilities_of
from alexnet_lab.training.measuring import Measuring, peak_memory
from alexnet_lab.training.metrics import is_better, metrics_of
from alexnet_lab.training.optim import build_optimiser, scheduled_rate, set_rate
from alexnet_lab.training.parallel import Ranks
from alexnet_lab.training.recipe import Recipe
from alexnet_lab.training.reference import FILE as REFERENCE
from alexnet_lab.training.reference import reference_of, write_reference
from alexnet_lab.training.weight_loading import load_weights
from alexnet_lab.training.weight_sources import find_weights

Report = Callable[[str, dict[str, Any]], None]  # "begin" | "note" | "step" | "epoch", and its facts

# Seconds between checkpoints: at the end of an epoch, and within a long one. They change no number.
BETWEEN_EPOCHS, WITHIN_EPOCH = 10.0, 120.0
# Losses stay on a GPU for this many steps before they are read; reading one waits for everything queued before it.
STEPS_BETWEEN_READS = {"cpu": 1, "cuda": 20}
# Bytes of validation probabilities that are kept for the test; more are computed again.
MOST_KEPT = 64 * 2**20


class Trainer:
    """One run in progress."""

    def __init__(self, recipe: Recipe, folder: RunFolder, feed: Feed, ranks: Ranks, report: Report) -> None:
        self.recipe, self.folder, self.feed, self.ranks, self.report = recipe, folder, feed, ranks, report
        self._labels = feed.labels.cpu().numpy()
        self.steps_per_epoch = feed.steps_per_epoch(recipe.batch_size)
        self.parts = ranks.count * recipe.accumulate
        if recipe.batch_size % self.parts:
            raise ValueError(
                f"batch_size {recipe.batch_size} does not split into {self.parts} equal parts "
                f"(processes {ranks.count} x accumulate {recipe.accumulate}); take numbers that divide it"
            )
        self.weights = find_weights(recipe)
        self.notes: list[str] = []  # about the weights
        self.network = self._build_network()
        # Frozen for good from here on; what trains later is frozen at the start of its epochs (_freeze).
        self.frozen = frozen_layers(self.network, recipe.freeze)
        self._set_frozen(recipe.is_frozen_in(recipe.epochs))
        self.class_weights = feed.balanced_class_weights() if recipe.class_weights == "balanced" else None
        self.optimiser = build_optimiser(recipe, self.network)
        self.averaged = copy.deepcopy(self.network).eval() if recipe.ema else None
        self.scaler = torch.amp.GradScaler(recipe.device, enabled=recipe.precision == "fp16")
        self.forward = self._wrapped()
        self.measuring = Measuring(
            recipe, folder, self.network, self.optimiser, self.scaler, ranks, self.steps_per_epoch
        )
        self.dropouts = {name: layer for name, layer in self.network.named_modules() if isinstance(layer, Dropout)}
        self.part_index = torch.zeros(1, dtype=torch.long, device=recipe.device)  # what compiled dropout reads
        if not recipe.compile:
            for layer in self.dropouts.values():
                layer.generator = torch.Generator(recipe.device)
        # How far the run is. `pending` holds what has not been read from the device: loss and hits of each step.
        self.epoch, self.step_in_epoch = 1, 0
        self.loss_sum, self.hits = 0.0, 0.0
        self.pending: list[Tensor] = []
        self.read_every = STEPS_BETWEEN_READS[recipe.device]
        self.largest: list[Tensor] = []  # after each pending step, of each parameter; where losses are read late
        self.best: float | None = None
        self.best_epoch = 0
        self.is_trained = False  # no step is left
        self.best_validation: NDArray[np.float64] | None = None  # probabilities of the best epoch, where kept
        self.stop_asked = False
        self._saved_at = time.monotonic()
        # What the run cost. Checkpoints keep it: a resumed run adds its earlier part, without the time in between.
        # Steps after the last checkpoint are repeated, and counted once.
        self.seconds_before, self._went_on_at = 0.0, time.perf_counter()  # of this epoch, before it was resumed
        self.train_seconds, self.final_loss, self.peak_memory = 0.0, math.nan, 0

    @property
    def step(self) -> int:
        """Count the steps taken since the run began."""
        return (self.epoch - 1) * self.steps_per_epoch + self.step_in_epoch

    def resume(self) -> bool:
        """Continue from the newest checkpoint that can be used, if there is one."""
        saved, passed_over = checkpoint.load_latest(
            self.folder.path / "checkpoints", lambda one: self._check(one, self.folder)
        )
        for complaint in passed_over:
            self.report("note", {"text": f"{complaint}; the one before it is used" if saved else complaint})
        if saved is None:
            if passed_over:
                self.report("note", {"text": "no checkpoint can be used; the run starts again"})
            return False
        facts = saved.facts
        self.epoch, self.step_in_epoch = facts["epoch"], facts["step_in_epoch"]
        self.loss_sum, self.hits = facts["loss_sum"], facts["hits"]
        self.best, self.best_epoch = facts["best"], facts["best_epoch"]
        self.seconds_before, self.train_seconds = facts["seconds_in_epoch"], facts["train_seconds"]
        self.final_loss = math.nan if facts["final_loss"] is None else facts["final_loss"]
        self.peak_memory = facts["peak_memory"]
        self.is_trained = facts.get("trained", False)
        if not self.is_trained:
            checkpoint.restore_network(self.network, saved.tensors)
            checkpoint.restore_optimiser(self.optimiser, saved.tensors)
            if self.averaged is not None:
                checkpoint.restore_network(self.averaged, saved.tensors, "averaged.")
            self.scaler.load_state_dict(facts["scaler"])
            self.measuring.restore(saved.tensors, facts["panel"], self.epoch)
        if self.ranks.is_first:
            self.folder.resume_after(self.epoch - 1)
        where = "the test" if self.is_trained else f"epoch {self.epoch}, step {self.step_in_epoch}"
        self.report("note", {"text": f"going on at {where}"})
        return True

    def can_resume_from(self, folder: RunFolder) -> bool:
        """Say whether a checkpoint in this folder can be used; it may be of another attempt at the same run."""
        saved, _ = checkpoint.load_latest(folder.path / "checkpoints", lambda one: self._check(one, folder))
        return saved is not None

    def _check(self, saved: checkpoint.Checkpoint, folder: RunFolder) -> None:
        """Raise ValueError for a checkpoint that does not fit what stands beside it in the folder."""
        facts = saved.facts
        if "history" not in facts:
            raise ValueError("an earlier version of alexnet-lab wrote it")
        now = folder.history(facts["epoch"] - 1)
        changed = [name for name, digest in facts["history"].items() if now.get(name) != digest]
        if changed:
            raise ValueError(f"{', '.join(changed)} changed after it was written")
        if facts["best_epoch"] or facts.get("trained"):
            best = checkpoint.facts_of(folder.path / "checkpoints", checkpoint.BEST)
            if best["epoch"] < facts["best_epoch"]:
                raise ValueError(f"the best weights are of epoch {best['epoch']}, not {facts['best_epoch']}")
        if facts["panel"] is not None and folder.path.joinpath("flow", "filters.npz").exists():
            read_columns(folder.path / "flow" / "filters.npz")

    def run(self) -> dict[str, Any]:
        """Train to the end of the recipe, test the best checkpoint, and return the result that the verdict carries."""
        recipe = self.recipe
        self.report("begin", {"epochs": recipe.epochs, "steps_per_epoch": self.steps_per_epoch, "done": self.step})
        if not self.is_trained:
            self._train()
        self.ranks.wait()
        epoch = self._take_best_weights()
        self.report("note", {"text": f"testing the weights of epoch {epoch}"})
        split, of = self.feed.split, f"weights of epoch {epoch}"
        validation = self.best_validation
        if validation is None:
            validation = self._predict(self.network, split.validation, f"validation, {of}")
        test = self._predict(self.network, split.test, f"test, {of}", recipe.ten_views)
        predicted = {"validation": validation, "test": test}
        self._keep_predictions(predicted)
        result = {
            "tested_epoch": epoch,
            "epochs": self.epoch - 1,
            "steps": self.step,
            "final_train_loss": self.final_loss,
            "train_seconds": self.train_seconds,
            "images_per_second": self.step * recipe.batch_size / self.train_seconds,
            "peak_memory_bytes": max(self.peak_memory, peak_memory(recipe.device)),
            "measuring_share": self.measuring.share(),
            **{part: self._metrics(probabilities, getattr(split, part)) for part, probabilities in predicted.items()},
        }
        self._keep_reference()
        return result

    def _train(self) -> None:
        """Take all steps that are left; what the test needs is on disk then."""
        recipe = self.recipe
        part = (recipe.batch_size // self.parts, self.feed.channels, recipe.image_size, recipe.image_size)
        with self.measuring.on(torch.zeros(part, device=recipe.device)):
            while self._is_step_left():
                self._train_epoch()
                # The first process's clock decides for all: a checkpoint adds up what every process counted.
                if self._is_step_left() and self.ranks.any(self._is_save_due(BETWEEN_EPOCHS), recipe.device):
                    self._save()
        if self.ranks.is_first:
            self._save_best_unless_there()
            self._write_checkpoint({}, {"trained": True, "panel": None})

    def _is_step_left(self) -> bool:
        return self.epoch <= self.recipe.epochs and not self._is_patience_over()

    def _take_best_weights(self) -> int:
        """Give the network the weights to be tested, and their memory back that only training needed.

        Returns the epoch of the weights.
        """
        self.optimiser.zero_grad(set_to_none=True)
        self.optimiser.state.clear()
        self.averaged = None
        best = checkpoint.load_checkpoint(self.folder.path / "checkpoints", checkpoint.BEST)
        checkpoint.restore_network(self.network, best.tensors)
        epoch: int = best.facts["epoch"]
        return epoch

    def _train_epoch(self) -> None:
        recipe, first = self.recipe, self.step_in_epoch
        began = self._went_on_at = time.perf_counter()
        self.network.train()
        self._freeze()
        batches = self.feed.training_batches(
            recipe.batch_size,
            recipe.seed,
            self.epoch,
            start=first,
            share=(self.ranks.rank, self.ranks.count),
            sampling=recipe.sampling,
        )
        for pixels, labels in batches:
            set_rate(self.optimiser, scheduled_rate(recipe, self.step, self.steps_per_epoch))
            self.pending.append(self._take_step(pixels, labels))
            self.step_in_epoch += 1
            if len(self.pending) >= self.read_every or self.step_in_epoch == self.steps_per_epoch:
                self._read_pending(pixels)
                rate = (self.step_in_epoch - first) * recipe.batch_size / (time.perf_counter() - began)
                images = self.step_in_epoch * recipe.batch_size
                facts = {
                    "epoch": self.epoch,
                    "loss": self.loss_sum / self.step_in_epoch,
                    "accuracy": self.hits / images,
                }
                self.report("step", {**facts, "step": self.step, "images_per_second": rate})
        self._end_epoch()

    def _take_step(self, pixels: Tensor, labels: Tensor) -> Tensor:
        """Take one step on this process's share of the batch; return its loss and hits, still on the device."""
        recipe, accumulate = self.recipe, self.recipe.accumulate
        self.optimiser.zero_grad(set_to_none=True)
        outcome = torch.zeros(2, device=pixels.device)
        for micro in range(accumulate):
            part = self.ranks.rank * accumulate + micro
            size = recipe.batch_size // self.parts
            x, y = pixels[micro * size : (micro + 1) * size], labels[micro * size : (micro + 1) * size]
            if recipe.channels_last:
                x = x.contiguous(memory_format=torch.channels_last)
            self._seed_masks(part)
            last = micro == accumulate - 1
            # Gradients of the earlier parts stay here; the last one's backward averages them over the processes.
            apart = self.forward.no_sync() if self.ranks.count > 1 and not last else nullcontext()  # type: ignore[attr-defined]
            with apart:
                with self._autocast():
                    scores = self.forward(x)
                    loss = self._loss(scores, y) / accumulate
                self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            outcome += torch.stack([loss.detach().float(), _hits(scores.detach(), y)])
        self.scaler.unscale_(self.optimiser)
        self.measuring.gradients_ready()
        if recipe.clip_norm:
            nn.utils.clip_grad_norm_(self.network.parameters(), recipe.clip_norm)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.measuring.step()
        if self.read_every > 1:
            self.largest.append(largest_weights(self.network))
        if self.averaged is not None:
            self._average_weights(self.averaged)
        return outcome

    def _loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        smoothing = self.recipe.label_smoothing
        if labels.ndim == 2:
            targets = labels.to(scores.dtype) * (1 - smoothing) + smoothing / 2
            return F.binary_cross_entropy_with_logits(scores, targets, pos_weight=self.class_weights)
        if self.class_weights is None:
            return F.cross_entropy(scores, labels, label_smoothing=smoothing)
        # Divided by the number of images and not by their weights, so that a batch may be computed in parts.
        losses = F.cross_entropy(scores, labels, label_smoothing=smoothing, reduction="none")
        return (losses * self.class_weights[labels]).mean()

    def _freeze(self) -> None:
        """Freeze layers, or let them train, as the epoch wants it; the statistics of frozen norms stay as they are."""
        is_frozen = self.recipe.is_frozen_in(self.epoch)
        if is_frozen != self.is_frozen:
            self._set_frozen(is_frozen)
            # What averages gradients over processes is told of parameters that train when it is made.
            self.forward = self._wrapped()
        if is_frozen:
            for layer in self.frozen:
                for norm in layer.norms_with_statistics:
                    norm.eval()

    def _set_frozen(self, is_frozen: bool) -> None:
        self.is_frozen = is_frozen
        for layer in self.frozen:
            for parameter in layer.parameters:
                parameter.requires_grad_(not is_frozen)

    def _wrapped(self) -> Callable[..., Tensor]:
        wrapped = self.ranks.wrap(self.network)
        return torch.compile(wrapped) if self.recipe.compile else wrapped

    def _read_pending(self, pixels: Tensor) -> None:
        """Read losses and hits from the device.

        All processes see a bad loss in any of them at the same step. They save at the same step, by the first one's
        clock.
        """
        if not self.pending:
            return
        requests = torch.tensor([float(self.stop_asked), float(self._is_save_due(WITHIN_EPOCH))], device=pixels.device)
        read = self.ranks.sum(torch.cat([torch.stack(self.pending).flatten(), requests])).cpu()
        outcomes, (stop, due) = read[:-2].view(-1, 2), (read[-2:] > 0).tolist()
        first = self.step - len(self.pending) + 1
        largest = self.largest
        self.pending, self.largest = [], []
        for offset, (loss, hits) in enumerate((outcomes / torch.tensor([self.ranks.count, 1])).tolist()):
            if not math.isfinite(loss):
                # Later updates have made every weight NaN since, so what counts is how the bad step left them.
                where = first_bad_layer(self.network, pixels, largest[offset] if largest else None)
                raise DivergedError(f"the loss was {loss} at step {first + offset}, epoch {self.epoch}: {where}")
            self.loss_sum += loss
            self.hits += hits
        if stop:
            self._save()
            raise InterruptedRunError(f"stopped at epoch {self.epoch}, step {self.step_in_epoch}, and saved there")
        if due and self.step_in_epoch < self.steps_per_epoch:
            self._save()

    def _end_epoch(self) -> None:
        recipe, seconds = self.recipe, self._seconds_in_epoch()
        judged = self.averaged if self.averaged is not None else self.network
        with self.measuring.probing(judged):
            validation = self.feed.split.validation
            predicted = self._predict(judged, validation, f"validation after epoch {self.epoch}")
        metrics = self._metrics(predicted, validation)
        self.measuring.end_epoch()
        self.train_seconds += seconds
        self.final_loss = self.loss_sum / self.steps_per_epoch
        scalars = {f"validation_{k}": v for k, v in metrics.items() if not isinstance(v, list | dict) and k != "images"}
        row = {
            "epoch": self.epoch,
            "step": self.step,
            "train_loss": self.final_loss,
            "train_accuracy": self.hits / (self.steps_per_epoch * recipe.batch_size),
            **scalars,
            "learning_rate": scheduled_rate(recipe, self.step - 1, self.steps_per_epoch),
            "seconds": seconds,
            "images_per_second": self.steps_per_epoch * recipe.batch_size / seconds,
        }
        if is_better(recipe.best_by, metrics[recipe.best_by], self.best):
            self.best, self.best_epoch = metrics[recipe.best_by], self.epoch
            self._save_best(judged)
            # Elsewhere the same weights need not give the same numbers twice, to the last bit.
            is_exact = recipe.device == "cpu" or recipe.deterministic
            self.best_validation = predicted if is_exact and predicted.nbytes <= MOST_KEPT else None
        if self.ranks.is_first:
            self.folder.log(row)
        self.report("epoch", row)
        self.epoch, self.step_in_epoch, self.loss_sum, self.hits = self.epoch + 1, 0, 0.0, 0.0
        self.seconds_before = 0.0

    def _seconds_in_epoch(self) -> float:
        return self.seconds_before + time.perf_counter() - self._went_on_at

    def _is_save_due(self, after: float) -> bool:
        return self.ranks.is_first and time.monotonic() - self._saved_at > after

    def _is_patience_over(self) -> bool:
        return 0 < self.recipe.patience <= self.epoch - 1 - self.best_epoch

    def _seed_masks(self, part: int) -> None:
        """Give each dropout layer the stream of (seed, layer, step), whatever other layers the network has."""
        self.part_index.fill_(part)
        for name, layer in self.dropouts.items():
            layer.part = (self.part_index if self.recipe.compile else part, self.parts)
            if layer.generator is not None:
                layer.generator.manual_seed(derived_seed(self.recipe.seed, "dropout", name, self.step))
        if self.recipe.compile:  # compiled code draws from the global generator only
            torch.manual_seed(derived_seed(self.recipe.seed, "dropout", "compiled", self.step))

    @torch.no_grad()
    def _average_weights(self, averaged: nn.Module) -> None:
        keep = self.recipe.ema
        torch._foreach_lerp_(list(averaged.parameters()), list(self.network.parameters()), 1 - keep)
        for mean, value in zip(averaged.buffers(), self.network.buffers(), strict=True):
            mean.copy_(value)

    def _autocast(self) -> torch.autocast:
        dtype = torch.float16 if self.recipe.precision == "fp16" else torch.bfloat16
        return torch.autocast(self.recipe.device, dtype, enabled=self.recipe.precision != "fp32")

    def _predict(
        self, network: nn.Module, indices: NDArray[np.int64], what: str, ten_views: bool = False
    ) -> NDArray[np.float64]:
        """Return the probabilities; an output that is not finite is a divergence, as a loss in training is."""
        try:
            batch = evaluation_batch(self.recipe.batch_size, self.parts)
            return probabilities_of(network, self.feed, indices, batch, ten_views)
        except DivergedError as finding:
            raise DivergedError(f"in {what}, {finding}") from None

    def _metrics(self, probabilities: NDArray[np.float64], indices: NDArray[np.int64]) -> dict[str, Any]:
        return metrics_of(probabilities, self._labels[indices])

    def _keep_predictions(self, predicted: dict[str, NDArray[np.float64]]) -> None:
        if not self.ranks.is_first:
            return
        groups = self.feed.groups
        parts = {}
        for part, probabilities in predicted.items():
            ids = getattr(self.feed.split, part)
            owners = None if groups is None else groups[ids]
            parts[part] = PartPredictions(ids, self._labels[ids], probabilities, owners)
        write_predictions(self.folder.path / FILE, parts, self.feed.classes)

    def _keep_reference(self) -> None:
        if self.ranks.is_first:
            reference = reference_of(self.network, self.feed, evaluation_batch(self.recipe.batch_size, self.parts))
            if reference is not None:
                write_reference(self.folder.path / REFERENCE, reference)

    def _save(self) -> None:
        counted, panel = self.measuring.saved()
        if self.ranks.is_first:
            tensors = checkpoint.network_tensors(self.network) | checkpoint.optimiser_tensors(self.optimiser) | counted
            if self.averaged is not None:
                tensors |= checkpoint.network_tensors(self.averaged, "averaged.")
            self._write_checkpoint(tensors, {"scaler": self.scaler.state_dict(), "panel": panel})
        self._saved_at = time.monotonic()

    def _write_checkpoint(self, tensors: dict[str, Tensor], more: dict[str, Any]) -> None:
        facts = {
            "epoch": self.epoch,
            "step_in_epoch": self.step_in_epoch,
            "loss_sum": self.loss_sum,
            "hits": self.hits,
            "best": self.best,
            "best_epoch": self.best_epoch,
            "seconds_in_epoch": self._seconds_in_epoch() if self.step_in_epoch else 0.0,
            "train_seconds": self.train_seconds,
            "final_loss": None if math.isnan(self.final_loss) else self.final_loss,
            "peak_memory": max(self.peak_memory, peak_memory(self.recipe.device)),
            "history": self.folder.history(self.epoch - 1),
            **more,
        }
        checkpoint.save_step(self.folder.path / "checkpoints", self.step, tensors, facts)

    def _save_best(self, network: nn.Module) -> None:
        if self.ranks.is_first:
            facts = {
                "epoch": self.epoch,
                "metric": self.recipe.best_by,
                "value": self.best,
                "preprocessing": preprocessing_of(self.feed).facts(),
            }
            checkpoint.save_best(self.folder.path / "checkpoints", checkpoint.network_tensors(network), facts)

    def _save_best_unless_there(self) -> None:
        """Where the metric was never defined, such as AUROC of one class, the last weights are those to test."""
        if not self.best_epoch:
            self.epoch -= 1
            self._save_best(self.averaged if self.averaged is not None else self.network)
            self.epoch += 1

    def _build_network(self) -> nn.Module:
        recipe = self.recipe
        network = network_of(recipe, len(self.feed.classes), self.feed.channels)
        if self.weights is not None:
            self.notes = load_weights(network, self.weights, recipe, self.feed)
            for text in self.notes:
                self.report("note", {"text": text})
        network.to(recipe.device)
        if recipe.channels_last:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stub
        return network


def _hits(scores: Tensor, labels: Tensor) -> Tensor:
    """Count the images whose class is right; with findings each image counts by its share of right answers."""
    if labels.ndim == 2:
        return ((scores > 0) == (labels > 0)).float().mean(1).sum()
    return (scores.argmax(1) == labels).sum().float()


def network_of(recipe: Recipe, classes: int, channels: int) -> nn.Module:
    """Build the network that a recipe describes, for so many classes and image channels."""
    network: nn.Module = build_network(
        recipe.network,
        classes,
        preset=recipe.preset,
        norm=recipe.norm,
        act=recipe.act,
        dropout=recipe.dropout,
        width=recipe.width,
        image_size=recipe.image_size,
        in_channels=channels,
        init=recipe.init,
        seed=recipe.seed,
    )
    return network
