"""What a panel cannot count: each limit is warned of once, and listed in the panel's summary."""

import warnings
from collections.abc import Sequence

NAMES_IN_A_WARNING = 3

# A sentence takes the names of the places that it is about.
INSIDE = "{} are not looked into: what their units do inside is not counted"
OWN_CLASS = "{} may be activations, of classes that call no activation function of torch: their inputs are not counted"
WIDTH = "the width of {} changes: counted only where it is that of the first batch"
TENSOR = "{} got tensors that cannot be counted: sparse, nested, empty, on another device, or inside of torch.func"
GRADIENT = "gradients that arrived at {} cannot be counted: inside of torch.func, or several at once"
NO_GRADIENT = (
    "{} ran without gradients in the whole epoch (torch.no_grad, or torch.utils.checkpoint with use_reentrant=True) "
    "and are not counted as training; panel.probing() counts such passes"
)
EVAL = "training steps in eval mode are not counted ({}); call model.train() before them"
BATCH = "the first dimension of {} is not that of the batch: its rows are counted as the inputs"
SEQUENCE_FIRST = "{} take sequences first (batch_first=False): positions are counted as inputs, and inputs as positions"
UNITS = (
    "the units of {} are taken along dimension 1, which does not have the width of the layer that ran before: "
    "they may be rows or positions"
)
EITHER = "two dimensions of {} have the width of the layer that ran before, and some were exchanged: units may be rows"
BLIND = "no activation was seen in {} training steps, and no unit counted"
COMPILED_BEFORE = (
    "no module was seen to run in {} training steps: a network that was compiled and ran before the panel was entered "
    "calls no hooks; enter the panel first"
)
UNSURVEYED = "what torch.compile compiled of {} is not counted: call panel.survey(batch) before the first pass"
FUSED = (
    "gradients were still scaled when {} began, which unscales them itself: they are not measured; call "
    "scaler.unscale_(optimiser) and panel.gradients_ready() before scaler.step(optimiser)"
)
PROCESSES = "the processes met different activations ({}): only the first one's counts are recorded"
PARAMETERS = "{} are not measured: not of floating point, or added after the first measured step"


def listed(names: Sequence[str], most: int | None = None) -> str:
    """Join names with commas, and give the number of those above `most`."""
    first = names if most is None or len(names) <= most + 1 else names[:most]
    more = f" and {len(names) - len(first)} more" if len(first) < len(names) else ""
    return ", ".join(first) + more


class Limits:
    """The limits that a panel came upon, and the places that each is about."""

    def __init__(self) -> None:
        self.names: dict[str, dict[str, None]] = {}
        self._warned: set[str] = set()

    def add(self, sentence: str, name: str) -> None:
        """Note a limit at one place."""
        self.names.setdefault(sentence, {}).setdefault(name)

    def warn(self) -> None:
        """Warn of each limit that was not warned of before."""
        for sentence, names in self.names.items():
            if sentence not in self._warned:
                self._warned.add(sentence)
                warnings.warn(sentence.format(listed(list(names), NAMES_IN_A_WARNING)), stacklevel=4)

    def sentences(self) -> list[str]:
        """Return a sentence for each limit, with all its names."""
        return [sentence.format(listed(list(names))) for sentence, names in self.names.items()]
