"""The run's folder: names, settings, volumes in the input's units and place, metrics, figure."""
import json
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
import yaml

from utils.run import result
from utils.run.figure import save_panel
from utils.run.result import Run, noise_label
from utils.io.read import read_volume
from utils.io.volume import Volume

TEMPLATE = Volume(np.zeros((12, 16, 14), np.float32), (1.5, 2, 3), (4, 5, 6))


@pytest.fixture(autouse=True)
def inputs(tmp_path_factory, monkeypatch):
    """A working folder with the files that a run names, whose content it notes."""
    monkeypatch.chdir(tmp_path_factory.mktemp("inputs"))
    for name in ("a/scan.nii.gz", "c/prior.yaml"):
        Path(name).parent.mkdir()
        Path(name).write_text("content")


def options(tmp_path, **changes):
    values = dict(task="SVCT", degree=20, method="DDS", data=Path("a/scan.nii.gz"), config_path=Path("c/prior.yaml"),
                  sino_noise=0.0, output_dir=tmp_path, save_intermediates=False, resume=None, source=None,
                  no_report=False, device="cpu")
    return Namespace(**values | changes)


def make(tmp_path, problem="CBCT", **changes):
    return Run(options(tmp_path, **changes), problem, TEMPLATE, lambda x: x[:, 0], (-1000, 1600), slice_axis=0)


def test_the_folder_names_what_was_run(tmp_path):
    run = make(tmp_path)
    assert run.folder.parent == tmp_path / "prior" / "scan" / "CBCT" / "SVCT-20" / "DDS" / "clean"
    other = make(tmp_path, "ZSR", sino_noise=1e4, config_path=None)
    assert other.folder.parent == tmp_path / "no-prior" / "scan" / "SVCT-20" / "DDS" / "poisson-10000"
    settings = yaml.safe_load((run.folder / "args.yaml").read_text())
    assert settings["degree"] == 20 and settings["data"] == str(Path("a/scan.nii.gz").absolute())
    assert settings["versions"]["torch"] == str(torch.__version__) and settings["machine"]["gpu"] is None
    programs = {yaml.safe_load((each.folder / "args.yaml").read_text())["versions"]["program"] for each in (run, other)}
    assert len(programs) == 2 and all(len(program) == 12 for program in programs)    # two entry points


def test_two_runs_in_the_same_second_do_not_share_a_folder(tmp_path):
    folders = [make(tmp_path).folder for _ in range(5)]
    assert len(set(folders)) == 5


@pytest.mark.parametrize("level, label", [(0, "clean"), (0.5, "gaussian-0.5"), (99.0, "gaussian-99"),
                                          (100.0, "poisson-100"), (1e5, "poisson-100000")])
def test_noise_labels(level, label):
    assert noise_label(level) == label


def test_volumes_are_in_the_inputs_units_and_place(tmp_path, capsys):
    run = make(tmp_path)
    truth = torch.rand(12, 1, 16, 14)
    run.save("GT", truth)
    run.save("recon", truth + 0.01)
    run.finish()
    saved = read_volume(run.folder / "GT.nii.gz")
    assert np.allclose(saved.array, truth[:, 0] * 2600 - 1000, atol=1e-3)
    assert (saved.spacing, saved.origin) == (TEMPLATE.spacing, TEMPLATE.origin)
    metrics = json.loads((run.folder / "metrics.json").read_text())
    assert list(metrics) == ["recon"]
    assert set(metrics["recon"]) == {"psnr", "ssim", "inter_slice_error", "sharpness", "axial", "coronal", "sagittal"}
    assert metrics["recon"]["psnr"] == pytest.approx(40, abs=0.1)
    assert capsys.readouterr().out.splitlines()[-1] == str(run.folder)
    assert sorted(p.name for p in run.folder.iterdir()) == ["GT.nii.gz", "args.yaml", "metrics.json", "panel.png",
                                                            "recon.nii.gz", "report.html"]


@pytest.mark.parametrize("wanted", [False, True])
def test_intermediates_only_on_request(tmp_path, caplog, wanted):
    caplog.set_level("INFO")
    run = make(tmp_path, save_intermediates=wanted)
    callback = run.watch(2)
    for level in range(2):
        callback({"level": level, "sigma": 1 / (level + 1), "x0": torch.zeros(12, 1, 16, 14)})
    found = sorted(p.name for p in run.folder.glob("level-*"))
    assert found == (["level-0001.nii.gz", "level-0002.nii.gz"] if wanted else [])
    assert "noise levels: 2 of 2, sigma 0.5" in caplog.text     # not a terminal: lines, no bar


def test_a_panel_shows_every_volume(tmp_path):
    volumes = {"GT": torch.rand(6, 8, 10), "recon": torch.rand(6, 8, 10)}
    save_panel(tmp_path / "panel.png", volumes, (1, 1, 2), TEMPLATE.direction)
    save_panel(tmp_path / "single.png", {"recon": volumes["recon"]}, (1, 1, 2), TEMPLATE.direction)
    pixels = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "panel.png")))
    single = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "single.png")))
    assert pixels.std() > 10 and pixels.shape[1] > 1.5 * single.shape[1]
    assert np.unique(single).size > 100      # the grey values of the slices, not only frames and letters
    assert len(list(tmp_path.iterdir())) == 2


def test_keeping_the_state_takes_a_small_share_of_the_time(tmp_path, monkeypatch):
    """Levels of a second, and a disk that takes 0.09 s for a state."""
    run, clock, kept = make(tmp_path), [0.0], []

    def slow_disk(path, content):
        clock[0] += 0.09
        kept.append(content["level"])

    monkeypatch.setattr(result, "save", slow_disk)
    monkeypatch.setattr(result.time, "perf_counter", lambda: clock[0])
    _, keep = run.resumable(torch.Generator(), "cpu")
    for level in range(1, 17):
        clock[0] += 1
        keep(level, torch.zeros(1))
    assert kept == [1, 6, 11, 16]
