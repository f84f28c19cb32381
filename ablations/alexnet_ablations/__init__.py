"""Ablation studies: declare them, run them, conclude from them, report.

    from alexnet_ablations import conclude_study, run_study, sentence_of
    from alexnet_ablations.declare.study import declare

    study = declare({"norm": "bn"}, {"data": "digits"}, Path("runs/norm"), seeds=6)
    results = run_study(study, jobs=2)
    for conclusion in conclude_study(study, results).headline:
        print(sentence_of(conclusion))

The names below are imported when they are first used, so that `alexnet-lab --help` needs neither pandas nor torch.
`conclude` and `declare` are not among them: here they name the subpackages.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alexnet_ablations.conclude.conclusions import conclude_study
    from alexnet_ablations.conclude.outcomes import read_results
    from alexnet_ablations.conclude.sentences import sentence_of
    from alexnet_ablations.declare.study import Study, read_study
    from alexnet_ablations.run.executors.ray import Ray
    from alexnet_ablations.run.executors.slurm import Slurm
    from alexnet_ablations.run.study import run_study

__all__ = ["Ray", "Slurm", "Study", "conclude_study", "read_results", "read_study", "run_study", "sentence_of"]

_HOMES = {
    "Ray": "run.executors.ray",
    "Slurm": "run.executors.slurm",
    "Study": "declare.study",
    "conclude_study": "conclude.conclusions",
    "read_results": "conclude.outcomes",
    "read_study": "declare.study",
    "run_study": "run.study",
    "sentence_of": "conclude.sentences",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
