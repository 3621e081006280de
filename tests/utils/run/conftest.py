"""A run of nothing: options, a small template, and files that it names."""
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from utils.io.volume import Volume
from utils.run.run import Run

TEMPLATE = Volume(np.zeros((12, 16, 14), np.float32), (1.5, 2, 3), (4, 5, 6))


@pytest.fixture
def options(tmp_path, monkeypatch):
    """A function that gives the options of a run, in a working folder with the files that they name."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    for name in ("a/scan.nii.gz", "c/prior.yaml"):
        Path(name).parent.mkdir()
        Path(name).write_text("content")

    def make(**changes):
        values = dict(task="SVCT", degree=20, method="DDS", data=Path("a/scan.nii.gz"),
                      config_path=Path("c/prior.yaml"), sino_noise=0.0, oversample=1, output_dir=tmp_path / "results",
                      output=None,
                      save_intermediates=False, resume=None, source=None, no_report=True, samples=1, device="auto",
                      precision="auto", debug=False, verbosity=0)
        return SimpleNamespace(**values | changes)
    return make


@pytest.fixture
def make_run(options):
    """A function that gives a `Run`, to be used in a with statement."""
    def make(modality="ct", **changes):
        given = changes.pop("options", None) or options(**changes)
        return Run(given, modality=modality, template=TEMPLATE, to_volume=lambda x: x[:, 0], window=(-1000, 1600),
                   slice_axis=0, device="cpu")
    return make
