"""A Panel as a callback of Lightning and of the Hugging Face Trainer measures what it measures in a loop by hand."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from alexnet_lab.instruments.flow import Flow
from alexnet_lab.instruments.panel import Panel

BATCHES, SIZE, EPOCHS, RATE = 6, 8, 2, 0.1


def network():
    """A network with one dead unit, the same at every call."""
    torch.manual_seed(3)
    made = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 2))
    with torch.no_grad():
        made[0].weight[4].zero_()
        made[0].bias[4] = -1.0
    return made


def images():
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(BATCHES * SIZE, 5, generator=generator)
    return x, (x.sum(1) > 0).long()


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory):
    """The records of a loop that does what the trainers do, batches in order."""
    folder = tmp_path_factory.mktemp("by-hand")
    model, (x, y) = network(), images()
    optimiser = torch.optim.SGD(model.parameters(), lr=RATE)
    with Panel(model, optimiser, every=2, window=2, folder=folder) as panel:
        for _ in range(EPOCHS):
            model.train()
            for at in range(0, len(x), SIZE):
                optimiser.zero_grad()
                nn.functional.cross_entropy(model(x[at : at + SIZE]), y[at : at + SIZE]).backward()
                panel.gradients_ready()
                optimiser.step()
                panel.step()
            with panel.probing(), torch.no_grad():
                model.eval()(x)
            panel.end_epoch()
    return Flow.read(folder)


def assert_same(flow, expected, split=None):
    """Compare the steps and the units of one split, or of both."""
    steps, wanted = flow.table("steps"), expected.table("steps")
    assert list(steps["step"]) == list(wanted["step"])
    for norm in ("weight_norm", "gradient_norm", "update_norm"):
        np.testing.assert_allclose(steps[norm], wanted[norm], rtol=1e-5, atol=1e-7)
    units, wanted = flow.table("units"), expected.table("units")
    mine = np.full(len(wanted["split"]), True) if split is None else wanted["split"] == split
    for column in ("epoch", "unit", "inputs", "off"):
        assert list(units[column]) == list(wanted[column][mine])
    assert (units["off"][units["unit"] == 4] == units["inputs"][units["unit"] == 4]).all()


@pytest.mark.long
@pytest.mark.parametrize("parts", [1, 2])
def test_lightning_s_callback_records_what_a_loop_by_hand_records(by_hand, parts, tmp_path):
    lightning = pytest.importorskip("lightning.pytorch")
    from alexnet_lab.instruments.callbacks.lightning import PanelCallback

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = network()

        def training_step(self, batch, _at):
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def validation_step(self, batch, _at):
            self.net(batch[0])

        def configure_optimizers(self):
            return torch.optim.SGD(self.net.parameters(), lr=RATE)

    watch = PanelCallback(tmp_path, every=2, window=2)
    loader = DataLoader(TensorDataset(*images()), batch_size=SIZE // parts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice on workers and clusters
        trainer = lightning.Trainer(
            max_epochs=EPOCHS,
            callbacks=[watch],
            accumulate_grad_batches=parts,
            gradient_clip_val=0.01 if parts == 2 else None,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(Module(), loader, DataLoader(TensorDataset(*images()), batch_size=BATCHES * SIZE))
    flow = Flow.read(tmp_path)
    assert flow.layout.parameters[0].name == "net.0.weight"
    assert "before clipping" in flow.layout.read_at
    if parts == 1:
        assert_same(flow, by_hand)
    else:  # gradients are read before clipping, once per step and not per part
        first = flow.table("steps")["gradient_norm"][:4], by_hand.table("steps")["gradient_norm"][:4]
        np.testing.assert_allclose(*first, rtol=1e-5)
        assert list(flow.table("steps")["step"]) == list(by_hand.table("steps")["step"])
    assert "1" in watch.panel.summary()


class Pairs(Dataset):
    """Inputs and labels as the Trainer wants them."""

    def __init__(self):
        self.x, self.y = images()

    def __len__(self):
        return len(self.x)

    def __getitem__(self, at):
        return {"x": self.x[at], "labels": self.y[at]}


class WithLoss(nn.Module):
    """A network that returns its loss, as the Trainer wants it."""

    def __init__(self):
        super().__init__()
        self.net = network()

    def forward(self, x, labels):
        scores = self.net(x)
        return {"loss": nn.functional.cross_entropy(scores, labels), "logits": scores}


@pytest.mark.long
def test_the_trainer_s_callback_records_what_a_loop_by_hand_records(by_hand, tmp_path):
    transformers = pytest.importorskip("transformers")
    from alexnet_lab.instruments.callbacks.transformers import PanelCallback

    class InOrder(transformers.Trainer):
        def _get_train_sampler(self, *_):
            return torch.utils.data.SequentialSampler(self.train_dataset)

        def create_optimizer(self, *_):
            self.optimizer = torch.optim.SGD(self.model.parameters(), lr=RATE)
            return self.optimizer

    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path / "out"),
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=SIZE,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )
    watch = PanelCallback(tmp_path / "records", every=2, window=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the Trainer's own about memory that is not pinned
        InOrder(model=WithLoss(), args=arguments, train_dataset=Pairs(), callbacks=[watch]).train()
    flow = Flow.read(tmp_path / "records")
    assert "as the optimiser's step begins" in flow.layout.read_at
    assert_same(flow, by_hand, split=0)


def test_importing_the_lab_imports_no_trainer():
    program = (
        "import sys, alexnet_lab.instruments.callbacks, alexnet_lab.instruments.panel\n"
        "assert not {'lightning', 'transformers', 'IPython'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
