"""Test set-up: the repository root is importable from wherever pytest is started."""
import os
import sys
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:     # processes share the cores: a thread each, and each program that they start
    os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder with the small reference arrays that the tests compare against."""
    return ROOT / "tests" / "data"
