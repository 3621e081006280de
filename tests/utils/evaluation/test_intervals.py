"""Calibrating an evaluation's means, and what it says that their intervals cover."""
import json
import re

import numpy as np
import pytest
import torch

from tests.study import Study
from utils.evaluation import intervals
from utils.io.nifti import write_volume
from utils.io.volume import Volume
from utils.io.yaml_file import yaml_text
from utils.run.interval import calibration_for
from utils.run.metrics import evaluate

ARGS = {"task": "LACT", "method": "DDS", "NFE": 30, "samples": 1, "intensities": {"low": -1000.0, "high": 1600.0},
        "digests": {"checkpoint_path": "aa", "data": "bb"}}
SPREAD, BIAS = 0.01, 0.03       # of samples about their mean, and of the mean about the truth: normal


@pytest.fixture
def study(tmp_path):
    """Three runs each of volumes of three, and of another one whose errors are twice those."""
    study = Study(tmp_path)
    study.tree["volumes"] = {}
    for seed, name in enumerate(("chest", "trunk", "head", "another")):
        random = np.random.default_rng(seed)
        truth = random.random((24, 24, 24), dtype=np.float32)
        middle = truth + (2 if name == "another" else 1) * BIAS * random.standard_normal(truth.shape)
        for k in (1, 2, 4):
            folder = tmp_path / name / str(k)
            folder.mkdir(parents=True)
            sample = (middle + SPREAD * random.standard_normal(truth.shape)).astype(np.float32)
            for file, array in (("GT", truth), ("recon", sample)):
                write_volume(folder / f"{file}.nii.gz", Volume((array * 2600 - 1000).astype(np.float32)))
            metrics = evaluate(torch.from_numpy(sample), torch.from_numpy(truth))
            (folder / "metrics.json").write_text(json.dumps({"recon": metrics}))
            (folder / "args.yaml").write_text(yaml_text(ARGS | {"seed": k}))
        study.tree["volumes"][name] = {"modality": "CT", "path": str(tmp_path / "scan.nii.gz"),
                                       "flags": {"prepared": str(tmp_path / name)}}
    study.tree |= {"variants": {"ISCS": {"samples": 3}}, "flags": {}}
    assert study.run() == 0
    return study


def test_factors_coverage_elsewhere_and_the_file_that_runs_read(study, tmp_path, capsys):
    checked = {**study.tree, "volumes": {"another": study.tree["volumes"].pop("another")}}
    grid = study.grid()
    (tmp_path / "check.yaml").write_text(yaml_text(checked))
    capsys.readouterr()
    intervals.main([grid, str(study.output), "--check", str(tmp_path / "check.yaml"), str(study.output),
                    "--write", str(tmp_path / "intervals.yaml")])
    lines = capsys.readouterr().out.splitlines()
    covered = {line.split(",")[0].strip(): float(re.search(r"whole ([\d.]+)", line)[1]) for line in lines[:4]}
    assert [covered[name] for name in ("chest", "trunk", "head")] == pytest.approx([90] * 3, abs=1.5)
    # 1.645 times the error of the others is .8225 times that of another: 59 % of a normal distribution.
    assert covered["another"] == pytest.approx(59, abs=2) and "(checked)" in lines[3]

    found = calibration_for(ARGS | {"samples": 3}, tmp_path / "intervals.yaml")
    # The error of a mean of three, over the spread of three samples, whose mean square is that of one.
    factor = 1.645 * (BIAS**2 + SPREAD**2 / 3)**0.5 / SPREAD
    assert found.factors == pytest.approx([factor] * 4, rel=0.05)
    assert calibration_for(ARGS, tmp_path / "intervals.yaml") is None       # a single sample
    whole = [covered[name] for name in ("chest", "trunk", "head")]
    assert found.measured.startswith("on chest, trunk, head, SVCT-20; by the others' factors "
                                     f"{min(whole):.0f} to {max(whole):.0f} % of the voxels and ")
    assert f"of other volumes {covered['another']:.0f} to {covered['another']:.0f} %" in found.measured


def test_one_volume_alone_calibrates_nothing(study, tmp_path, capsys):
    for name in ("trunk", "head", "another"):
        del study.tree["volumes"][name]
    capsys.readouterr()
    intervals.main([study.grid(), str(study.output), "--write", str(tmp_path / "intervals.yaml")])
    assert "chest alone; two volumes or more are needed" in capsys.readouterr().out
    assert calibration_for(ARGS | {"samples": 3}, tmp_path / "intervals.yaml") is None


def test_a_folder_without_runs_is_one_line_and_status_2(study, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        intervals.main([study.grid(), str(tmp_path / "chest")])
    assert caught.value.code == 2 and "no means of samples" in capsys.readouterr().err
