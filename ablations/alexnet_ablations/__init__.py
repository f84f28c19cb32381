"""Ablation studies: declare them, run them, conclude from them, report.

    from alexnet_ablations import conclude_study, declare_study, run_study, sentence_of

    study = declare_study({"norm": "bn"}, {"data": "digits"}, "runs/norm", seeds=6)
    results = run_study(study, jobs=2)
    for conclusion in conclude_study(study, results).headline:
        print(sentence_of(conclusion))

In a notebook, `study` by itself shows its answer, its figures and its cells. The names below are imported when they are
first used, so that `alexnet-lab --help` needs neither pandas nor torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alexnet_ablations.conclude.conclusions import conclude_study, conclusions_of
    from alexnet_ablations.conclude.outcomes import read_results
    from alexnet_ablations.conclude.sentences import sentence_of
    from alexnet_ablations.declare.study import Study, declare_study, read_study
    from alexnet_ablations.report.writing import write_report
    from alexnet_ablations.run.executors.ray import Ray
    from alexnet_ablations.run.executors.slurm import Slurm
    from alexnet_ablations.run.study import run_study

__all__ = [
    "Ray",
    "Slurm",
    "Study",
    "conclude_study",
    "conclusions_of",
    "declare_study",
    "read_results",
    "read_study",
    "run_study",
    "sentence_of",
    "write_report",
]

_HOMES = {
    "Ray": "run.executors.ray",
    "Slurm": "run.executors.slurm",
    "Study": "declare.study",
    "conclude_study": "conclude.conclusions",
    "conclusions_of": "conclude.conclusions",
    "declare_study": "declare.study",
    "read_results": "conclude.outcomes",
    "read_study": "declare.study",
    "run_study": "run.study",
    "sentence_of": "conclude.sentences",
    "write_report": "report.writing",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
