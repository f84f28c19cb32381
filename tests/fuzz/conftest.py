"""Hostile input, drawn by hypothesis: fixed examples in every run of the tests, many new ones with `-m campaign`."""

import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

sys.path.insert(0, str(Path(__file__).parent))

FEW, MANY = 15, 400
# A test makes its valid file once, and every example changes a copy of it.
CHECKS = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]


def pytest_configure(config):
    is_campaign = config.getoption("markexpr") == "campaign"
    settings.register_profile(
        "hostile",
        max_examples=MANY if is_campaign else FEW,
        derandomize=not is_campaign,
        database=None,
        phases=[Phase.explicit, Phase.generate],  # looking for a smaller example takes minutes where files are read
        deadline=None,
        suppress_health_check=CHECKS,
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Let `-m campaign` take these tests too, with more examples."""
    if config.getoption("markexpr") == "campaign":
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker("campaign")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ALEXNET_LAB_CACHE", str(tmp_path / "cache"))
