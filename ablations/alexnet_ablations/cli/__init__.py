"""The command line. Every --help answers without importing torch: commands import heavy modules when they run."""

from alexnet_ablations.cli.application import main

__all__ = ["main"]
