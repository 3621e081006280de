"""Test set-up: the repository root is importable from wherever pytest is started."""
import logging
import os
import sys
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:     # processes share the cores: a thread each, and each program that they start
    os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
ROOMS = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}


@pytest.fixture(autouse=True)
def loudness():
    """What a program that ran within a test set for its messages ends with the test."""
    yield
    logging.disable(logging.NOTSET)
    logging.raiseExceptions = True
    for logger in list(logging.root.manager.loggerDict.values()):
        if isinstance(logger, logging.Logger) and logger.name.split(".")[0] in (*ROOMS, "__main__"):
            logger.setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder with the small reference arrays that the tests compare against."""
    return ROOT / "tests" / "data"
