"""Training: the loss falls, checkpoints load as priors, a resumed run is the uninterrupted one."""
import csv

import numpy as np
import pytest
import SimpleITK as sitk
import torch

import train
from models.ncsnpp import NCSNpp
from utils.checkpoint import load_weights, read_checkpoint
from utils.config import load_config
from utils.slices import SliceSampler


@pytest.fixture(scope="module")
def config_path(data_dir, tmp_path_factory):
    text = (data_dir / "ncsnpp_tiny.yaml").read_text()
    text = text.replace("image_size: 32", "image_size: 16").replace("nf: 16", "nf: 8").replace("sigma_max: 378",
                                                                                               "sigma_max: 5")
    path = tmp_path_factory.mktemp("config") / "small.yaml"
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, 20),) * 3, indexing="ij")
    image = sitk.GetImageFromArray(np.where(x**2 + y**2 + 0.3 * z < 0.6, 40, -1000).astype(np.int16))
    path = tmp_path_factory.mktemp("scan") / "scan.nii"
    sitk.WriteImage(image, str(path))
    return path


@pytest.fixture
def run(config_path, scan, tmp_path):
    def call(name, *flags, modality="ct"):
        train.main(["--config-path", str(config_path), "--modality", modality, "--data", str(scan), "--device", "cpu",
                    "--output", str(tmp_path / name), "--batch-size", "4", *map(str, flags)])
        return tmp_path / name
    return call


def weights(folder, config_path, name="checkpoint.pth"):
    network = NCSNpp(load_config(config_path))
    load_weights(network, folder / name)
    return network.state_dict()


@pytest.mark.parametrize("modality", ["ct", "mr"])
def test_the_loss_falls_and_the_checkpoints_load(run, config_path, modality):
    folder = run("out", "--steps", 150, modality=modality)
    rows = [(int(step), float(loss)) for step, loss, _ in csv.reader((folder / "loss.csv").open())]
    assert [step for step, _ in rows] == [50, 100, 150] and rows[-1][1] < 0.7 * rows[0][1]
    checkpoint = read_checkpoint(folder / "checkpoint.pth")
    assert set(checkpoint) == {"optimizer", "model", "ema", "step"} and checkpoint["step"] == 150
    assert set(checkpoint["ema"]) == {"decay", "num_updates", "shadow_params"}
    full, small = weights(folder, config_path), weights(folder, config_path, "prior.pth")
    for name, value in full.items():
        torch.testing.assert_close(small[name], value, rtol=1e-3, atol=1e-4)
    assert torch.equal(full["all_modules.0.W"], small["all_modules.0.W"])    # too large for half precision


def test_a_resumed_run_equals_an_uninterrupted_one(run, config_path, monkeypatch):
    whole = weights(run("whole", "--steps", 12), config_path)
    batch, calls = SliceSampler.batch, []

    def interrupt(self, *arguments):
        calls.append(arguments)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return batch(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(SliceSampler, "batch", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run("cut", "--steps", 12, "--save-every", 5)
    resumed = run("cut", "--steps", 12, "--resume")
    for name, value in weights(resumed, config_path).items():
        torch.testing.assert_close(value, whole[name], rtol=1e-6, atol=1e-7)


def test_phantoms_alone_are_enough(config_path, tmp_path):
    train.main(["--config-path", str(config_path), "--modality", "ct", "--phantoms", "1", "--steps", "1",
                "--output", str(tmp_path / "out"), "--device", "cpu"])
    assert (tmp_path / "out" / "prior.pth").exists()


@pytest.mark.parametrize("flags, reason", [
    (["--steps", "0"], "--steps: '0'; accepted"),
    (["--lr", "0"], "--lr: '0'; accepted: a number above 0"),
    (["--data"], "nothing to train on"),
    (["--data", "nowhere.nii"], "nowhere.nii: no such file"), (["--config-path", "nowhere.yaml"], "nowhere.yaml"),
    (["--resume"], "checkpoint.pth"), (["--device", "cuda:77"], "--device cuda:77"),
])
def test_bad_flags_are_one_line_and_status_2(run, capsys, flags, reason):
    with pytest.raises(SystemExit) as stop:
        run("out", *flags)
    message = capsys.readouterr().err
    assert stop.value.code == 2 and reason in message and message.count("\n") == 1
