"""What the records of a run say about its health, in words: findings, each with evidence and a contrary check."""

from alexnet_lab.diagnosis.examination import blind_spots, diagnose
from alexnet_lab.diagnosis.findings import Finding, Severity, describe
from alexnet_lab.diagnosis.health import health_of
from alexnet_lab.diagnosis.limitations import Limitation, describe_limitations, limitations

__all__ = [
    "Finding",
    "Limitation",
    "Severity",
    "blind_spots",
    "describe",
    "describe_limitations",
    "diagnose",
    "health_of",
    "limitations",
]
