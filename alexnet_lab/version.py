"""The version of the distribution: the build and provenance.json read it here."""

__version__ = "0.1.0"
