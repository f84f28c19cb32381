"""A run folder as tidy tables: one row per observation, names where the records have indices.

    metrics      epoch                              what metrics.jsonl says
    result       part, metric[, class]              the verdict's figures on validation and test
    confusion    part, true class, predicted        counts; of more than 200 classes those above 0
    predictions  part, image                        true and predicted class, group, probability of every class
    steps        step, parameter                    norms of weight, gradient and update
    windows      window                             one histogram: kind, subject, steps, what the precision cannot hold
    histograms   window, sign, bin                  counts, in long form; bins that are empty have no row
    units        epoch, split, site, unit           inputs on which a unit was off (flow.py says what that means)
    cost         epoch                              what the instruments took of the time
    parameters   sites                              what was measured, in the order of the forward pass

Of more than 200 classes, predictions have the probability of the true and of the predicted class alone.

Only tables that have rows are made: a run without instruments has no steps, a run in progress no result.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from alexnet_lab.diagnosis.reading import checked_verdict
from alexnet_lab.instruments.flow import KINDS, SPLITS, Flow, has_records
from alexnet_lab.predictions_file import FILE, PartPredictions, read_classes, read_predictions
from alexnet_lab.records import RunFolder
from alexnet_lab.training.metrics import DENSE_UP_TO, read_confusion

if TYPE_CHECKING:
    import pandas as pd

PARTS = ("validation", "test")
ZERO, SUBNORMAL, FIRST_POWER = 0, 1, 2  # columns of a histogram; the last two are infinite and NaN
# Kinds whose subject is a parameter; of the others it is a site.
OF_PARAMETERS = tuple(KINDS.index(kind) for kind in ("weight", "gradient"))


def run_tables(run: Path) -> "dict[str, pd.DataFrame]":
    """Read a run folder into tables by name."""
    folder, flow = open_run(run), read_flow(run)
    tables = dict(_tables_of_records(folder))
    if (path := run / FILE).exists():
        tables["predictions"] = _table_of_predictions(path)
    if flow is not None:
        tables |= dict(_tables_of_flow(flow))
    return {name: frame for name, frame in tables.items() if len(frame)}


def open_run(path: Path) -> RunFolder:
    """Open a folder that holds a run or a Panel's records; anything else is refused."""
    run = RunFolder(path)
    if run.recipe() is None and not has_records(path):
        inside = sorted(path.glob("runs/*/seed-*")) or sorted(path.glob("*/recipe.json"))
        example = inside[0].parent if inside and inside[0].name == "recipe.json" else next(iter(inside), None)
        hint = f"; it holds runs, such as {example}: name one of them" if example else ""
        raise ValueError(f"{path} is no run folder: it has no recipe.json{hint}")
    return run


def read_flow(path: Path) -> Flow | None:
    """Read the records of a run's instruments, None if it carried none; ValueError names what is damaged."""
    return Flow.read(path)


def bin_edges(column: int, columns: int, first_exponent: int) -> tuple[str, float, float]:
    """Return the name of a histogram's column, and the magnitudes it holds: from, and below."""
    if column == ZERO:
        return "zero", 0.0, 0.0
    if column == SUBNORMAL:
        return "subnormal", 0.0, 2.0**first_exponent
    if column == columns - 2:
        return "infinite", np.inf, np.inf
    if column == columns - 1:
        return "nan", np.nan, np.nan
    exponent = first_exponent + column - FIRST_POWER
    return f"2^{exponent}", float(np.ldexp(1.0, exponent)), float(np.ldexp(1.0, min(exponent + 1, 1023)))


def _tables_of_records(folder: RunFolder) -> "Iterator[tuple[str, pd.DataFrame]]":
    import pandas as pd

    yield "metrics", pd.DataFrame(list(folder.metrics()))
    result = (checked_verdict(folder) or {}).get("result", {})
    figures = {part: result.get(part) or {} for part in PARTS}
    matrices = {
        part: read_confusion(of_part["confusion"]) for part, of_part in figures.items() if "confusion" in of_part
    }
    count = max((matrix.shape[0] for matrix in matrices.values()), default=0)
    count = max(count, *(len(of_part.get("recall") or ()) for of_part in figures.values()))
    # Without provenance the names of the classes are lost, not their counts.
    classes = (folder.provenance() or {}).get("classes", [])
    classes = [*classes, *(str(at) for at in range(len(classes), count))]
    rows: list[dict[str, Any]] = []
    confusion: list[dict[str, Any]] = []
    for part in PARTS:
        for metric, value in figures[part].items():
            if metric == "confusion":
                confusion += [
                    {"part": part, "true": classes[true], "predicted": classes[predicted], "count": count}
                    for true, predicted, count in _counts_of(matrices[part])
                ]
            elif isinstance(value, list):
                rows += [
                    {"part": part, "metric": metric, "class": name, "value": of_class}
                    for name, of_class in zip(classes, value, strict=False)
                ]
            else:
                rows.append({"part": part, "metric": metric, "class": None, "value": value})
    yield "result", pd.DataFrame(rows).astype({"value": float} if rows else {})
    yield "confusion", pd.DataFrame(confusion)


def _table_of_predictions(path: Path) -> "pd.DataFrame":
    import pandas as pd

    classes = np.array(read_classes(path), object)
    tables = []
    for name, part in read_predictions(path).items():
        if part.labels.ndim == 2:
            tables.append(_table_of_findings(name, part, classes))
            continue
        predicted = part.probabilities.argmax(1)
        columns = {"part": name, "image": part.ids, "true": classes[part.labels], "predicted": classes[predicted]}
        if part.groups is not None:
            columns["group"] = part.groups.astype(object)
        if len(classes) > DENSE_UP_TO:
            rows = np.arange(len(part.ids))
            columns["probability of the true class"] = part.probabilities[rows, part.labels]
            columns["probability of the predicted class"] = part.probabilities[rows, predicted]
        else:
            columns |= {f"probability of {name}": part.probabilities[:, at] for at, name in enumerate(classes)}
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def _table_of_findings(name: str, part: PartPredictions, findings: NDArray[np.object_]) -> "pd.DataFrame":
    import pandas as pd

    columns: dict[str, Any] = {"part": name, "image": part.ids}
    if part.groups is not None:
        columns["group"] = part.groups.astype(object)
    for at, finding in enumerate(findings):
        columns |= {f"has {finding}": part.labels[:, at], f"probability of {finding}": part.probabilities[:, at]}
    return pd.DataFrame(columns)


def _counts_of(matrix: Any) -> Iterator[tuple[int, int, int]]:
    """Yield true class, predicted class and count: of every cell, or of those above 0 where classes are many."""
    if isinstance(matrix, np.ndarray):
        for (true, predicted), count in np.ndenumerate(matrix):
            yield true, predicted, int(count)
    else:
        for true, predicted in zip(*matrix.nonzero(), strict=True):
            yield int(true), int(predicted), int(matrix[true, predicted])


def _tables_of_flow(flow: Flow) -> "Iterator[tuple[str, pd.DataFrame]]":
    import pandas as pd

    layout = flow.layout
    parameters = np.array([parameter.name for parameter in layout.parameters], object)
    sites = np.array([site.name for site in layout.sites], object)
    layers = {"parameters": [p.layer for p in layout.parameters], "sites": [site.fed_by for site in layout.sites]}
    yield (
        "parameters",
        pd.DataFrame(
            {
                "parameter": parameters,
                "layer": layers["parameters"],
                "shape": ["x".join(map(str, p.shape)) for p in layout.parameters],
                "trainable": [p.trainable for p in layout.parameters],
            }
        ),
    )
    yield (
        "sites",
        pd.DataFrame(
            {
                "site": sites,
                "layer": layers["sites"],
                "activation": [site.activation for site in layout.sites],
                "unit": [site.unit for site in layout.sites],
                "units": [site.units for site in layout.sites],
                "counted": [site.word for site in layout.sites],
            }
        ),
    )
    steps = flow.table("steps")
    if steps:
        at = steps.pop("parameter")
        yield "steps", _framed(steps, parameter=parameters[at], layer=np.array(layers["parameters"], object)[at])
    windows = flow.table("windows")
    if windows:
        named = _named_windows(windows, parameters, sites, layers)
        yield "windows", named
        yield "histograms", _long(named, flow.table("histograms")["counts"], layout.first_exponent)
    units = flow.table("units")
    if units:
        at, split = units.pop("site"), units.pop("split")
        words = np.array([site.word for site in layout.sites], object)
        names = {"split": np.array(SPLITS, object)[split], "site": sites[at], "counted": words[at]}
        yield "units", _framed(units, **names)
    cost = flow.table("cost")
    if cost:
        yield "cost", _framed(cost)


def _framed(columns: dict[str, NDArray[Any]], **names: NDArray[Any]) -> "pd.DataFrame":
    import pandas as pd

    return pd.DataFrame({"epoch": columns.pop("epoch"), **names, **columns})


def _named_windows(
    windows: dict[str, NDArray[Any]], parameters: NDArray[Any], sites: NDArray[Any], layers: dict[str, list[str]]
) -> "pd.DataFrame":
    kind, subject = windows.pop("kind"), windows.pop("subject")
    of_parameters = np.isin(kind, OF_PARAMETERS)
    names, places = np.empty(len(kind), object), np.empty(len(kind), object)
    for mine, names_of, above in (
        (of_parameters, parameters, layers["parameters"]),
        (~of_parameters, sites, layers["sites"]),
    ):
        names[mine], places[mine] = names_of[subject[mine]], np.array(above, object)[subject[mine]]
    numbers = np.arange(len(kind), dtype=np.int32)
    return _framed(windows, window=numbers, kind=np.array(KINDS, object)[kind], subject=names, layer=places)


def _long(windows: "pd.DataFrame", counts: NDArray[np.int64], first_exponent: int) -> "pd.DataFrame":
    """Lay histograms out in long form: one row per bin that holds anything."""
    import pandas as pd

    edges = [bin_edges(column, counts.shape[2], first_exponent) for column in range(counts.shape[2])]
    row, minus, column = np.nonzero(counts)
    shared = windows[["epoch", "window", "kind", "subject", "layer", "last_step"]].iloc[row].reset_index(drop=True)
    return shared.assign(
        sign=np.where(minus, -1, 1).astype(np.int8),
        bin=pd.Series([name for name, _, _ in edges], dtype=object).iloc[column].to_numpy(),
        magnitude_from=np.array([low for _, low, _ in edges])[column],
        magnitude_below=np.array([high for _, _, high in edges])[column],
        count=counts[row, minus, column],
    )
