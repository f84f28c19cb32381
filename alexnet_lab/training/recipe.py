"""A recipe is every setting of one run: network, slots, data, schedule, precision, seed.

Same recipe, same code, same data: same numbers, bit for bit on one machine. The defaults are the laptop recipe, with
which every level learns in seconds on a processor; docs/architecture.md says how they were chosen.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.dataclasses import dataclass

from alexnet_lab.choices import unknown_choice
from alexnet_lab.data.medmnist import has_findings
from alexnet_lab.instruments.schedule import parse_instruments
from alexnet_lab.levels import NORMS, parse_init, parse_level
from alexnet_lab.networks.catalogue import find_entry, preset_descriptions, published_level

# Fields that version 0.1.0 did not have, with the value at which a run is one of that version.
YOUNGER: Mapping[str, Any] = {
    "tf32": False,
    "freeze": "none",
    "unfreeze_at": 0,
    "layer_decay": 1.0,
    "head_lr": 0.0,
    "sampling": "uniform",
    "class_weights": "none",
    "group": "",
    "patient_from": "",
    "findings": "",
    "drop_duplicates": False,
    "allow_leaks": False,
    "processes": 1,
}
# Far beyond what anyone trains with, and what 32-bit floats still hold after a few multiplications.
LARGEST = 1e30
LARGEST_COUNT = 1_000_000


def _norm(text: str) -> str:
    return str(parse_level("norm", text))


def _act(text: str) -> str:
    return str(parse_level("act", text))


def _init(text: str) -> str:
    name, bias = parse_init(text)
    return name if bias is None else f"{name}:bias={bias:g}"


def _network(name: str) -> str:
    find_entry(name)
    return name


def _preset(name: str) -> str:
    presets = preset_descriptions()
    if name not in presets:
        raise unknown_choice("preset", name, presets)
    return name


def _augment(text: str) -> str:
    # Imported here: numpy, which it needs, would slow down every --help.
    from alexnet_lab.data.augment import parse_augmentation

    return str(parse_augmentation(text))


def _weights(text: str) -> str:
    return "" if text == "none" else text


def _freeze(text: str) -> str:
    name, _, tail = text.partition(":")
    if name not in ("none", "features", "probe", "until"):
        raise unknown_choice("freeze", name, ("none", "features", "probe", "until:5"))
    if name == "until":
        if not (tail.isdecimal() and 1 <= int(tail) <= LARGEST_COUNT):
            raise ValueError(f"until takes the number of the last frozen layer, as in until:5; got {text!r}")
        return f"until:{int(tail)}"
    if tail:
        raise ValueError(f"{name} takes no argument, got {text!r}")
    return text


def milestones_of(schedule: str) -> tuple[int, ...]:
    """Read the epochs out of `step:25+51`; every other schedule has none."""
    name, _, tail = schedule.partition(":")
    if name != "step":
        return ()
    return tuple(int(epoch) for epoch in tail.split("+"))


def _schedule(text: str) -> str:
    name, _, tail = text.partition(":")
    if name not in ("cosine", "constant", "step"):
        raise unknown_choice("schedule", name, ("cosine", "constant", "step:25+51"))
    if name == "step":
        try:
            is_right = all(1 <= epoch <= LARGEST_COUNT for epoch in milestones_of(text))
        except ValueError:
            is_right = False
        if not is_right:
            raise ValueError(f"step takes epochs after which the rate falls, as in step:25+51; got {text!r}")
    elif tail:
        raise ValueError(f"{name} takes no argument, got {text!r}")
    return text


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Recipe:
    """One run. None in a slot means as published."""

    network: Annotated[str, AfterValidator(_network), Field(description="network by name")] = "alexnet"
    preset: Annotated[
        Annotated[str, AfterValidator(_preset)] | None, Field(description="published variant of AlexNet")
    ] = None
    norm: Annotated[Annotated[str, AfterValidator(_norm)] | None, Field(description="bn, lrn:k=1, gn, none")] = None
    act: Annotated[Annotated[str, AfterValidator(_act)] | None, Field(description="relu, leaky:0.1, prelu")] = None
    dropout: Annotated[Annotated[float, Field(ge=0, lt=1)] | None, Field(description="dropout rate")] = None
    # A quarter of the channels at 67 pixels, the smallest side that every preset takes: 1 pixel is left behind pool5.
    width: Annotated[float, Field(gt=0, le=64, description="multiple of every channel count")] = 0.25
    image_size: Annotated[int, Field(ge=1, le=16_384, description="side of the images, pixels")] = 67
    # The 2012 start, N(0, .01), belongs to full width and inputs of 0 to 255; on these it stays at chance.
    init: Annotated[
        str, AfterValidator(_init), Field(description="initial values: published, he, torch, he:bias=-0.3")
    ] = "he"

    weights: Annotated[
        str,
        AfterValidator(_weights),
        Field(description="where to start: imagenet, a file, a run, a folder with a run of each network; or none"),
    ] = ""
    freeze: Annotated[
        str,
        AfterValidator(_freeze),
        Field(description="layers that keep their weights: none, features, probe (all but the last), until:5"),
    ] = "none"
    unfreeze_at: Annotated[
        int, Field(ge=0, le=LARGEST_COUNT, description="epoch from which frozen layers train too; 0: never")
    ] = 0
    layer_decay: Annotated[
        float, Field(gt=0, le=1, description="rate of each layer as a multiple of the next layer's")
    ] = 1.0
    head_lr: Annotated[
        float, Field(ge=0, le=LARGEST, description="learning rate of the last layer; 0: as the others")
    ] = 0.0

    data: Annotated[str, Field(description="where the images come from")] = "digits"
    fold: Annotated[str, Field(description="2/5: the second of five folds is the test set")] = ""
    split_seed: Annotated[
        int, Field(ge=-(2**63), lt=2**63, description="names the split where the data has none of its own")
    ] = 0
    skip_bad: Annotated[bool, Field(description="go on without unreadable images, and record them")] = False
    group: Annotated[
        str, Field(description="column that names the patient; all images of one are in one part of the split")
    ] = ""
    patient_from: Annotated[str, Field(description=r"where paths name the patient: 'person(\d+)'")] = ""
    findings: Annotated[
        str,
        Field(description="several labels an image: the table's column that joins them by |, or its 0/1 columns A|B|C"),
    ] = ""
    drop_duplicates: Annotated[bool, Field(description="leave out copies of images, and list them")] = False
    allow_leaks: Annotated[
        bool, Field(description="train although copies are in two parts of the split; reports repeat it")
    ] = False
    fit: Annotated[Literal["crop", "pad", "stretch"], Field(description="how a picture becomes a square")] = "crop"
    channels: Annotated[Literal["auto", "grey", "rgb"], Field(description="auto: grey if every picture is")] = "auto"
    input_scale: Annotated[
        Literal["unit", "pixels", "mean-image"],
        Field(description="mean 0 and spread 1; 0 to 255 less the mean of each channel; or less the mean image"),
    ] = "unit"
    augment: Annotated[
        str, AfterValidator(_augment), Field(description="flip, crop, colour, rotate:10, scale:0.1; or paper, xray")
    ] = "none"
    sampling: Annotated[
        Literal["uniform", "balanced"], Field(description="balanced: an epoch shows every class equally often")
    ] = "uniform"

    epochs: Annotated[int, Field(ge=1, le=LARGEST_COUNT, description="passes over the training images")] = 10
    batch_size: Annotated[int, Field(ge=1, le=LARGEST_COUNT, description="images per step")] = 32
    accumulate: Annotated[
        int, Field(ge=1, le=LARGEST_COUNT, description="parts that a batch is computed in, to save memory")
    ] = 1
    optimiser: Annotated[
        Literal["sgd", "krizhevsky", "adamw"],
        Field(description="krizhevsky: the 2012 rule, the rate inside the velocity"),
    ] = "sgd"
    learning_rate: Annotated[float, Field(gt=0, le=LARGEST, description="learning rate at the start")] = 0.01
    schedule: Annotated[str, AfterValidator(_schedule), Field(description="cosine, constant, step:25+51")] = "cosine"
    warmup_epochs: Annotated[
        float, Field(ge=0, le=LARGEST_COUNT, description="epochs over which the rate rises from 0")
    ] = 0.0
    momentum: Annotated[float, Field(ge=0, lt=1, description="of sgd and krizhevsky")] = 0.9
    weight_decay: Annotated[float, Field(ge=0, le=LARGEST_COUNT, description="not on biases and norms")] = (
        5e-4  # paper, 5
    )
    label_smoothing: Annotated[float, Field(ge=0, lt=1, description="share given to all classes alike")] = 0.0
    class_weights: Annotated[
        Literal["none", "balanced"], Field(description="balanced: the loss of rare classes counts as much")
    ] = "none"
    clip_norm: Annotated[float, Field(ge=0, le=LARGEST, description="largest norm of the gradient; 0: any")] = 0.0
    ema: Annotated[float, Field(ge=0, lt=1, description="decay of averaged weights, which are then tested; 0: off")] = (
        0.0
    )
    patience: Annotated[
        int, Field(ge=0, le=LARGEST_COUNT, description="epochs without a better validation before stopping; 0: off")
    ] = 0
    best_by: Annotated[
        Literal["accuracy", "balanced_accuracy", "auroc", "loss"],
        Field(description="validation metric that picks the checkpoint to test"),
    ] = "accuracy"
    ten_views: Annotated[bool, Field(description="test on corners and centre, mirrored, averaged (paper, 4.1)")] = False

    instruments: Annotated[
        str, AfterValidator(parse_instruments), Field(description="default, off, all, every:20 steps; change no number")
    ] = "default"

    precision: Annotated[Literal["fp32", "bf16", "fp16"], Field(description="of forward and backward")] = "fp32"
    tf32: Annotated[bool, Field(description="let a GPU round the factors of fp32 products to 10 bits, for speed")] = (
        False
    )
    channels_last: Annotated[bool, Field(description="memory layout N H W C")] = False
    compile: Annotated[bool, Field(description="torch.compile the network")] = False
    deterministic: Annotated[bool, Field(description="deterministic algorithms on a GPU")] = False
    device: Annotated[Literal["cpu", "cuda"], Field(description="where to compute")] = "cpu"
    # Part of the recipe: sums depend on it in the last bit.
    threads: Annotated[int, Field(ge=1, le=1024, description="processor threads")] = 1
    processes: Annotated[
        int, Field(ge=1, le=1024, description="processes that share a run, each on a GPU of its own if there are any")
    ] = 1
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63, description="names every random draw of the run")] = 0

    @model_validator(mode="after")
    def _processes_share_a_batch(self) -> "Recipe":
        """Refuse a batch that its processes cannot divide equally."""
        parts = self.processes * self.accumulate
        if self.processes > 1 and self.batch_size % parts:
            raise ValueError(
                f"batch_size {self.batch_size} does not split into {parts} equal parts (processes {self.processes} x "
                f"accumulate {self.accumulate}); take numbers that divide it"
            )
        return self

    @model_validator(mode="after")
    def _findings_are_no_classes(self) -> "Recipe":
        """Refuse what needs one class an image."""
        if self.has_findings and self.best_by not in ("auroc", "loss"):
            raise ValueError(
                f"best_by: with findings it must be auroc, the mean over findings, or loss; got {self.best_by}"
            )
        if self.has_findings and self.sampling != "uniform":
            raise ValueError(
                f"sampling: {self.sampling} needs one class an image, and findings are several; take class_weights "
                "balanced"
            )
        return self

    @property
    def has_findings(self) -> bool:
        """Return whether images have any number of findings: by columns of a table, or as their set is published."""
        return bool(self.findings) or has_findings(self.data)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse true and false where a number belongs; pydantic would take them for 1 and 0."""
        if isinstance(value, bool) and info.field_name not in SWITCHES:
            raise ValueError(f"must not be true or false (got {value})")
        return value

    def to_json(self) -> str:
        """Write every field."""
        return json.dumps(asdict(self), indent=2)

    def identity(self, data_fingerprint: str, weights_digest: str = "") -> str:
        """Return the digest that names this run: every field, the data's fingerprint, and the weights it starts from.

        Fields that version 0.1.0 did not have count only where they are set, so that its runs keep their names.
        """
        values = {name: value for name, value in asdict(self).items() if name not in YOUNGER or value != YOUNGER[name]}
        text = json.dumps(values, sort_keys=True) + data_fingerprint + weights_digest
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def warnings(self) -> list[str]:
        """Return warnings about settings that do not work well together, with the reason."""
        init = parse_init(self.init)[0]
        if init == "published":
            init = str(published_level(self.network, self.preset, "init"))
        published_norm = published_level(self.network, self.preset, "norm")
        warnings = []
        if init == "gaussian" and self.input_scale == "unit":
            warnings.append(
                "the 2012 initial values N(0, .01) assume pixels of 0 to 255 less their mean; on inputs of spread 1 "
                "such a network hardly trains: take input_scale mean-image or pixels, or init he"
            )
        # Measured: ablations/results/init-and-scale; there torch's values learn from pixels, and not from unit inputs.
        # Networks that are published with a norm that rescales were not measured without it.
        norms = {str(level).partition(":")[0] for level in (published_norm, self.norm) if level is not None}
        rescales = any(NORMS[name].rescales for name in norms)
        if init == "torch" and self.input_scale == "unit" and not self.weights and not rescales:
            warnings.append(
                "torch's own initial values let the signal shrink in every layer: on inputs of spread 1 "
                f"{self.network} learns late or not at all without batch normalisation; take init he, or norm bn"
            )
        if init == "he" and self.input_scale != "unit":
            warnings.append(
                f"init {self.init} keeps the spread of its input, and pixels have a spread of about 70: without a norm "
                "the loss may overflow in the first steps; take input_scale unit, or init published with a 2012 preset"
            )
        if init == "gaussian" and self.width < 1:
            warnings.append(
                f"the 2012 initial values do not grow as a network narrows: at width {self.width:g} the signal shrinks "
                "in every layer; take init he"
            )
        return [*warnings, *self._transfer_warnings()]

    def _transfer_warnings(self) -> list[str]:
        warnings = []
        if self.freeze != "none" and not self.weights:
            warnings.append(
                f"freeze {self.freeze} without weights keeps layers as initialised, at random, so that only the others "
                "learn: name weights, or take freeze none"
            )
        if self.unfreeze_at and self.freeze == "none":
            warnings.append(f"unfreeze_at {self.unfreeze_at} changes nothing: no layer is frozen; name freeze as well")
        elif self.unfreeze_at > self.epochs:
            warnings.append(
                f"unfreeze_at {self.unfreeze_at} is never reached in {self.epochs} epochs: frozen layers stay frozen"
            )
        if self.sampling == "balanced" and self.class_weights == "balanced":
            warnings.append(
                "sampling balanced and class_weights balanced correct for rare classes twice: such images count more "
                "than the others; take one of them"
            )
        return warnings

    def is_frozen_in(self, epoch: int) -> bool:
        """Return whether the layers that `freeze` names are frozen in that epoch, counted from 1."""
        return self.freeze != "none" and not 0 < self.unfreeze_at <= epoch


SWITCHES = tuple(name for name, annotation in Recipe.__annotations__.items() if get_args(annotation)[0] is bool)

# Starting points by name; any field can be changed on top.
NAMED: Mapping[str, Mapping[str, Any]] = {
    "laptop": {},
    # Rates as in the 2012 source: divided by 10 after epochs 25 and 51 of about 90. Its last part (colour noise off,
    # conv1 slowed and frozen by hand) is not imitated.
    "paper": {
        "preset": "paper",
        "width": 1.0,
        "image_size": 227,
        "init": "published",
        "input_scale": "mean-image",
        "augment": "paper",
        "epochs": 90,
        "batch_size": 128,
        "optimiser": "krizhevsky",
        "schedule": "step:25+51",
        "ten_views": True,
    },
    "modern": {
        "preset": "review",
        "norm": "bn",
        "width": 1.0,
        "image_size": 227,
        "augment": "flip,crop",
        "epochs": 30,
        "batch_size": 128,
        "optimiser": "adamw",
        "learning_rate": 1e-3,
        "warmup_epochs": 2.0,
        "weight_decay": 0.05,
        "label_smoothing": 0.1,
    },
}


_adapter = TypeAdapter(Recipe)
# What must hold, where pydantic says it in the words of its parser.
_PLAIN_WORDS: Mapping[str, str] = {
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_type": "must be a whole number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "string_type": "must be text",
}


def named_recipe(name: str) -> dict[str, Any]:
    """Return the fields that a named recipe sets."""
    if name not in NAMED:
        raise unknown_choice("recipe", name, NAMED)
    return dict(NAMED[name])


def read_recipe(values: Mapping[str, Any]) -> Recipe:
    """Check values from a file or a command line; an error names the field, what was received, and what would do."""
    names = [field.name for field in fields(Recipe)]
    for name in values:
        if name not in names:
            raise unknown_choice("recipe field", name, names)
    try:
        return _adapter.validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "value_error":  # ours, and it says what was received
            message = first["msg"].removeprefix("Value error, ")
            if not first["loc"]:  # of several fields; it names the one to change
                raise ValueError(message) from None
        else:
            requirement = _PLAIN_WORDS.get(first["type"], first["msg"].replace("Input should be", "must be"))
            message = f"{requirement} (got {_short(first['input'])})"
        raise ValueError(f"{first['loc'][0]}: {message}") from None


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
