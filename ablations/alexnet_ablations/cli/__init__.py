"""The command line. Every --help answers without importing torch: heavy imports stand inside the commands."""

from alexnet_ablations.cli.application import main

__all__ = ["main"]
