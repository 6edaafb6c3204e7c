"""Shared fixtures."""

import os
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repo() -> Path:
    """Root of the checkout."""
    return REPO


@pytest.fixture(scope="session")
def real_root() -> Path:
    """Real photographs for trying things (`INDUS_REAL`, or shared/real beside the checkout); skips without them."""
    for root in (os.environ.get("INDUS_REAL"), REPO.parent / "shared" / "real"):
        if root and Path(root).is_dir():
            return Path(root)
    pytest.skip("no real photographs: set INDUS_REAL to the folder that holds them")
