"""What the records of a run say about its health, in words: findings, each with evidence and a contrary check."""

from alexnet_lab.diagnosis.examination import blind_spots, diagnose
from alexnet_lab.diagnosis.findings import Finding, Severity, describe
from alexnet_lab.diagnosis.health import health_of

__all__ = ["Finding", "Severity", "blind_spots", "describe", "diagnose", "health_of"]
