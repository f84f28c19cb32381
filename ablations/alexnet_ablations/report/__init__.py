"""The report of a study: one page that says what was found and how sure it is, and everything to judge it by."""

from alexnet_ablations.report.writing import read_runs, write_report

__all__ = ["read_runs", "write_report"]
