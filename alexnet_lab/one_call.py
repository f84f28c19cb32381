"""A run in one call, for scripts and notebooks.

from alexnet_lab import train

run = train(norm="bn", act="leaky:0.1", epochs=5)   # digits, a minute; shows how far it is
run.network(), run.metrics(), run.predict("scans/").table()
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alexnet_lab.evaluation.trained import Run, load_run
from alexnet_lab.live import Interrupted, screen
from alexnet_lab.progress import Quiet, reporter_on
from alexnet_lab.training.errors import DivergedError
from alexnet_lab.training.measuring import forget_peak_memory
from alexnet_lab.training.recipe import Recipe, named_recipe
from alexnet_lab.training.run import torch_set_as_in
from alexnet_lab.training.single import Stopped, finished, make_run, recipe_on_this_machine, run_place


def train(
    recipe: Recipe | Mapping[str, Any] | str = "laptop",
    folder: str | Path | None = None,
    *,
    quiet: bool = False,
    **fields: Any,
) -> Run:
    """Train one network, test its best epoch, keep everything in a folder, and return the finished run.

    >>> run = train(norm="bn", epochs=5)
    >>> run = train("modern", "runs/xrays", data="xrays.zip", width=0.5)
    >>> run = train(Recipe(norm="none", seed=1), quiet=True)

    `recipe` is a Recipe, a mapping of its fields, or the name of one: laptop, paper, modern. `fields` are fields of the
    recipe that differ from it, as `alexnet-lab train --help` lists them. `folder` is named after the data, the network
    and the recipe below runs/ unless given. Without a word on `threads` and `device`, all threads are used, and the GPU
    if there is one.

    Trains in this process, with the numbers of `alexnet-lab train` to the last bit. Ctrl-C, or a notebook's stop
    button, ends it after the step under way, saved; the same call goes on from there, after a kill too. A run that is
    done is not made again. Torch's settings (threads, determinism, precision of products) are the recipe's meanwhile,
    and yours again afterwards. The memory that the run records is that of the whole process.

    Raises ValueError for a mistake in the recipe, the data or the folder, and DivergedError for a run that diverged:
    its records are kept, and `alexnet-lab inspect` shows where.
    """
    chosen = recipe_on_this_machine({**_fields_of(recipe), **fields})
    place, is_named = run_place(chosen, None if folder is None else Path(folder).expanduser()), folder is not None
    verdict, note = finished(chosen, place, is_named=is_named)
    if verdict is None:
        reporter = Quiet() if quiet else reporter_on(screen())
        forget_peak_memory(chosen.device)
        try:
            with torch_set_as_in(chosen):
                verdict = make_run(chosen, place, reporter, note, is_named=is_named)
        except Stopped:
            raise Interrupted(f"stopped, and saved in {place.path}; the same call goes on from there") from None
    if verdict["state"] == "diverged":
        raise DivergedError(f"{verdict['why']}; its records are in {place.path}")
    return load_run(place.path)


def _fields_of(recipe: Recipe | Mapping[str, Any] | str) -> dict[str, Any]:
    if isinstance(recipe, str):
        return named_recipe(recipe)
    return dict(vars(recipe) if isinstance(recipe, Recipe) else recipe)
