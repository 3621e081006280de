"""Test set-up: the repository root is importable from wherever pytest is started."""
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder with the small reference arrays that the tests compare against."""
    return ROOT / "tests" / "data"
