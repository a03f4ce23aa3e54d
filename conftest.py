"""For every test of the repository: checks on real data are skipped, with the reason, where that data is not at hand."""

from __future__ import annotations

import os

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "MOE_TEST_DATA" in os.environ:
        return
    skip = pytest.mark.skip(reason="MOE_TEST_DATA does not name the folder of real data")
    for item in items:
        if "realdata" in item.keywords:
            item.add_marker(skip)
