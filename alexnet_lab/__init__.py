"""One run of AlexNet, whole: the network and its slots, the data, the training, and what stands in its records.

    from alexnet_lab import AlexNet, Panel, load_run, predict, train

    run = train(norm="bn", epochs=5)
    run.predict("scans/").table()
    load_run("runs/digits-alexnet-1f0c").network()

The names below are imported when they are first used, so that `alexnet-lab --help` does not need torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from alexnet_lab.version import __version__

if TYPE_CHECKING:
    from alexnet_lab.evaluation.trained import load_run, predict
    from alexnet_lab.instruments.panel import Panel
    from alexnet_lab.networks.alexnet import AlexNet
    from alexnet_lab.one_call import train
    from alexnet_lab.training.recipe import Recipe

__all__ = ["AlexNet", "Panel", "Recipe", "__version__", "load_run", "predict", "train"]

_HOMES = {
    "AlexNet": "networks.alexnet",
    "Panel": "instruments.panel",
    "Recipe": "training.recipe",
    "load_run": "evaluation.trained",
    "predict": "evaluation.trained",
    "train": "one_call",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
