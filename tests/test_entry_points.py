"""Both demos from the command line, on small volumes with a small random prior."""
import json
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
import yaml

import recon_CBCT
import recon_MRI_ZSR
from models.checkpoint import load_weights
from utils.io.config import load_config
from utils.io.files import save_tensors
from utils.io.read import read_volume
from utils.io.yaml_file import read_yaml, yaml_text
from utils.run.interval import calibration_for, local, settings_of

CT_SHAPE, MR_SHAPE = (8, 20, 24), (14, 18, 10)


@pytest.fixture(scope="module")
def prior(data_dir, tmp_path_factory):
    """A prior that hardly moves anything: the tiny network with a small output, so that the measurement decides."""
    from models.ncsnpp import NCSNpp

    network = NCSNpp(load_config(data_dir / "ncsnpp_tiny.yaml"))
    load_weights(network, data_dir / "ncsnpp_tiny.pth")
    for parameter in network.all_modules[-1].parameters():
        parameter.data *= 0.05
    path = tmp_path_factory.mktemp("prior") / "prior.pth"
    save_tensors(path, network.state_dict())
    return ["--checkpoint-path", str(path), "--config-path", str(data_dir / "ncsnpp_tiny.yaml")]


@pytest.fixture(scope="module")
def ct_scan(tmp_path_factory):
    """A water cylinder with bones, air around; RAS, anisotropic."""
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in CT_SHAPE), indexing="ij")
    array = np.where(x**2 + y**2 < 0.8, 0, -1000).astype(np.int16)
    array[(x - 0.3 * z) ** 2 + y**2 < 0.1] = 900
    array[:, :4] = -3024    # padding outside the field of view
    array[3, 10, 10] = 3000     # metal
    return write_scan(tmp_path_factory.mktemp("ct") / "chest.nii.gz", array)


@pytest.fixture(scope="module")
def mr_scan(tmp_path_factory):
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in MR_SHAPE), indexing="ij")
    return write_scan(tmp_path_factory.mktemp("mr") / "head.nii", (500 * np.exp(-2 * (x**2 + y**2 + z**2)) + 30)
                      .astype(np.float32))


def write_scan(path, array):
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((1.5, 2.0, 3.0))
    image.SetOrigin((10, -20, 30))
    image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))    # RAS
    sitk.WriteImage(image, str(path))
    return path


@pytest.fixture
def run(tmp_path, capsys, prior, ct_scan, mr_scan):
    """Run an entry point; returns its folder, whose path is the last line printed."""
    def call(problem, *flags):
        entry, scan = {"CT": (recon_CBCT, ct_scan), "MR": (recon_MRI_ZSR, mr_scan)}[problem]
        entry.main(["--data", str(scan), *prior, "--device", "cpu", "--output-dir", str(tmp_path),
                    "--sigma-max", "0.4", "--NFE", "2", *(["--recon-size", "16"] if problem == "CT" else []),
                    *map(str, flags)])
        return tmp_path / capsys.readouterr().out.splitlines()[-1]
    return call


def voxels(folder, name="recon"):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"{name}.nii.gz")))


def same_geometry(a, b):
    return all(np.allclose(getattr(a, name), getattr(b, name), atol=1e-4) for name in
               ("spacing", "origin", "direction")) and a.array.shape == b.array.shape


def test_ct_files_and_geometry(run, ct_scan):
    folder = run("CT", "--task", "SVCT", "--degree", 12, "--use-init")
    names = {p.name for p in folder.iterdir()}
    assert names == {"args.yaml", "geometry.yaml", "metrics.json", "panel.png", "report.html"} | {
        f"{name}.nii.gz" for name in ("GT", "measurement", "FBP-LV", "FBP-FV", "IR", "recon")}
    metrics = json.loads((folder / "metrics.json").read_text())
    assert list(metrics) == ["FBP-FV", "FBP-LV", "IR", "recon"]
    assert all(np.isfinite(value["psnr"]) and value["axial"]["psnr"] for value in metrics.values())
    truth, source = read_volume(folder / "GT.nii.gz"), read_volume(ct_scan, "LPS")
    assert same_geometry(read_volume(folder / "recon.nii.gz"), truth)
    clipped = source.with_array(source.array.clip(-1000, 1600)).resize(16)
    assert np.allclose(truth.array, clipped.array, atol=0.1)    # HU, clamped before they are averaged
    assert same_geometry(truth, source.resize(16))
    views, rows, columns = voxels(folder, "measurement").shape
    assert views == 12 and 8 < rows < 16 and 16 < columns < 32      # of 512 x 512 pixels, those that the volume shades
    assert yaml.safe_load((folder / "args.yaml").read_text())["degree"] == 12


def test_an_mri_whose_slices_are_stacked_along_another_axis_lies_over_its_input(run, mr_scan, tmp_path):
    sitk.WriteImage(sitk.PermuteAxes(sitk.ReadImage(str(mr_scan)), (2, 0, 1)), str(tmp_path / "sagittal.nii"))
    folder = run("MR", "--data", tmp_path / "sagittal.nii", "--degree", 4, "--use-init", "--num-cg", 1)
    source = read_volume(tmp_path / "sagittal.nii", "LPS").crop(0, 12)      # 14 slices: the last 2 are left out
    for name in ("GT", "recon"):
        assert same_geometry(read_volume(folder / f"{name}.nii.gz", "LPS"), source)
    assert np.allclose(read_volume(folder / "GT.nii.gz", "LPS").array, source.array, atol=1e-2)
    thick = read_volume(folder / "y.nii.gz", "LPS")
    assert np.allclose(thick.spacing, (1.5, 2, 12))
    assert np.allclose(thick.array, source.array.reshape(3, 4, 18, 10).mean(1), atol=1e-2)


def test_the_second_stack_of_an_mri_has_the_first_prior_by_a_word_or_by_its_path(run, prior, tmp_path):
    weights, config = (tmp_path / f"twin{suffix}" for suffix in (".pth", ".yaml"))
    weights.write_bytes(Path(prior[1]).read_bytes())
    config.write_bytes(Path(prior[3]).read_bytes())
    alone, word, path = (voxels(run("MR", "--degree", 4, "--use-init", "--num-cg", 1, "--NFE", 3, *more))
                         for more in ([], ["--prior-2", "same"], ["--prior-2", weights]))
    assert np.array_equal(word, path) and not np.array_equal(word, alone)


def test_mr_files_geometry_and_a_depth_that_the_factor_does_not_divide(run, mr_scan):
    folder = run("MR", "--degree", 4, "--slice-begin", 1, "--slice-end", 12, "--use-init", "--num-cg", 1)
    names = {p.name for p in folder.iterdir()}
    assert names == {"args.yaml", "metrics.json", "panel.png", "report.html"} | {
        f"{name}.nii.gz" for name in ("GT", "y", "ATy", "recon")}
    source = read_volume(mr_scan).crop(1, 9)     # 11 slices: the last 3 are left out
    truth = read_volume(folder / "GT.nii.gz")
    assert same_geometry(truth, source) and np.allclose(truth.array, source.array, atol=1e-2)
    assert same_geometry(read_volume(folder / "recon.nii.gz"), truth)
    thick = read_volume(folder / "y.nii.gz")
    assert thick.array.shape == (2, 18, 10) and np.allclose(thick.spacing, (1.5, 2, 12))
    assert np.allclose(thick.array, truth.array.reshape(2, 4, 18, 10).mean(1), atol=1e-2)
    # The reconstruction agrees with the measurement.
    assert np.allclose(voxels(folder).reshape(2, 4, 18, 10).mean(1), thick.array, atol=0.05)


@pytest.mark.parametrize("problem", ["CT", "MR"])
@pytest.mark.parametrize("control", ["SLERP", "None", "GP"])
def test_the_volume_depends_on_the_seed_not_on_the_batch_size(run, problem, control):
    task = ["--task", "SVCT", "--degree", 6] if problem == "CT" else []
    flags = [*task, "--noise-control", control]
    first = voxels(run(problem, *flags, "--batch-size", 1))
    for batch_size in (7, 100):
        other = voxels(run(problem, *flags, "--batch-size", batch_size))
        assert np.abs(other - first).max() <= 1e-4 * np.ptp(first)
    other = voxels(run(problem, *flags, "--seed", 43))
    assert np.abs(other - first).max() > 1e-2 * np.ptp(first)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("problem", ["CT", "MR"])
def test_volumes_on_the_host_and_slices_through_the_gpu(run, monkeypatch, problem):
    on_gpu = voxels(run(problem, "--device", "cuda"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 1))
    streamed = voxels(run(problem, "--device", "cuda"))
    assert np.abs(streamed - on_gpu).max() <= 1e-3 * np.ptp(on_gpu)


@pytest.mark.parametrize("flags", [
    ["--task", "LACT", "--degree", 90], ["--method", "DDNM", "--degree", 20], ["--renoise-method", "DDIM"],
    ["--sino-noise", 2, "--w-tik", "noise"], ["--sino-noise", 1e4, "--weights", "poisson"],
    ["--w-tik", 0.1, "--renoise-method", "DiffPIR", "--noise-control", "shared"],
    ["--w-dz", 0.1, "--w-dps", 1e-4, "--noise-control", "GP"], ["--NFE", 1, "--noise-control", "zero"],
    ["--save-intermediates"],
], ids=lambda flags: " ".join(map(str, flags)))
def test_ct_variants(run, flags):
    folder = run("CT", "--degree", 30, *flags)
    recon, truth = voxels(folder), voxels(folder, "GT")
    # The prior knows nothing: the mean, which every measurement holds, is what can be asked for.
    assert np.isfinite(recon).all() and abs(recon.mean() - truth.mean()) < 0.1 * np.ptp(truth)
    assert len(list(folder.glob("level-*"))) == (2 if "--save-intermediates" in flags else 0)


def test_the_prior_or_the_data_have_the_last_word(run):
    last = {}
    for word in ("false", "true"):
        folder = run("CT", "--degree", 30, "--save-intermediates", "--denoise-last", word)
        level = max(path.name.split(".")[0] for path in folder.glob("level-*"))
        last[word] = np.abs(voxels(folder) - voxels(folder, level)).max()
    assert last["false"] == 0 < last["true"]


@pytest.mark.parametrize("flags", [["--method", "DDNM"], ["--degree", 3], ["--sino-noise", 1e-4],
                                   ["--noise-control", "gp", "--noise-length", 5, "--w-dz", 1e-3]],
                         ids=lambda flags: " ".join(map(str, flags)))
def test_mr_variants(run, flags):
    folder = run("MR", *flags)
    assert np.isfinite(voxels(folder)).all() and "ATy" in json.loads((folder / "metrics.json").read_text())


def test_admm_tv_needs_no_prior(tmp_path, capsys, ct_scan):
    recon_CBCT.main(["--data", str(ct_scan), "--method", "ADMM-TV", "--task", "SVCT", "--degree", "20",
                     "--recon-size", "16", "--output-dir", str(tmp_path)])
    folder = tmp_path / capsys.readouterr().out.splitlines()[-1]
    recon, truth = voxels(folder), voxels(folder, "GT")
    assert np.abs(recon - truth).mean() < 0.3 * np.abs(truth - np.median(truth)).mean()
    assert folder.is_relative_to(tmp_path / "no-prior")


def test_the_same_command_gives_the_same_voxels(run):
    flags = ["--task", "SVCT", "--degree", 6, "--sino-noise", 0.5]
    assert np.array_equal(voxels(run("CT", *flags)), voxels(run("CT", *flags)))


@pytest.mark.parametrize("problem", ["CT", "MR"])
def test_uncondition_never_sees_the_volume(run, problem):
    folder = run(problem, "--method", "uncondition", "--NFE", 3)
    assert {p.name for p in folder.iterdir()} == {"args.yaml", "recon.nii.gz", "panel.png", "report.html"}
    assert np.isfinite(voxels(folder)).all()


def test_noise_in_the_measurement_reaches_everything_after_it(run):
    """Baselines of the noisy run differ from the clean ones; the truth does not."""
    clean, noisy = (run("CT", "--task", "SVCT", "--degree", 12, "--sino-noise", level) for level in (0, 1))
    assert np.array_equal(voxels(clean, "GT"), voxels(noisy, "GT"))
    for name in ("measurement", "FBP-LV", "FBP-FV", "IR", "recon"):
        assert not np.allclose(voxels(clean, name), voxels(noisy, name), atol=1e-3), name
    difference = voxels(noisy, "measurement") - voxels(clean, "measurement")
    # Variance 1, where 1 attenuates by exp(-0.01), of few pixels, and drawn out by up to 2.5 / 2.25.
    assert difference.std() == pytest.approx(0.01, rel=0.1)


SCANNER = """
unit: mm
angles: {start: 10, stop: 370, views: 24}
src_dist: 150
det_dist: 100
det_shape: [30, 44]
det_spacing: [3, 2.5]
det_offset: [1.5, -2]
mu_water: 0.02
"""


@pytest.fixture
def scanned(run, tmp_path):
    """A run on a scanner in millimetres: its folder has the projections and the geometry of 24 views."""
    (tmp_path / "scanner.yaml").write_text(SCANNER)
    return run("CT", "--task", "SVCT", "--degree", 24, "--geometry", tmp_path / "scanner.yaml", "--use-init")


@pytest.fixture
def reconstruct(tmp_path, capsys, prior):
    """Reconstruct measured projections; returns the run's folder."""
    def call(projections, geometry, *flags):
        recon_CBCT.main(["--projections", str(projections), "--geometry", str(geometry), *prior, "--device", "cpu",
                         "--sigma-max", "0.4", "--NFE", "2", "--use-init", "--output-dir", str(tmp_path / "measured"),
                         *map(str, flags)])
        return tmp_path / capsys.readouterr().out.splitlines()[-1]
    return call


def difference(folder, other, name="recon"):
    return np.linalg.norm(voxels(folder, name) - voxels(other, name)) / np.linalg.norm(voxels(other, name))


def test_measured_projections_give_the_volume_of_the_simulation(scanned, reconstruct):
    folder = reconstruct(scanned / "measurement.nii.gz", scanned / "geometry.yaml")
    assert {p.name for p in folder.iterdir()} == {"args.yaml", "geometry.yaml", "panel.png", "report.html"} | {
        f"{name}.nii.gz" for name in ("FBP-LV", "IR", "recon")}
    assert all(difference(folder, scanned, name) < 1e-5 for name in ("FBP-LV", "IR", "recon"))
    assert same_geometry(read_volume(folder / "recon.nii.gz"), read_volume(scanned / "recon.nii.gz"))
    with_reference = reconstruct(scanned / "measurement.nii.gz", scanned / "geometry.yaml", "--data",
                                 scanned / "GT.nii.gz")
    assert same_geometry(read_volume(with_reference / "recon.nii.gz"), read_volume(scanned / "GT.nii.gz"))
    found, expected = (json.loads((f / "metrics.json").read_text())["recon"] for f in (with_reference, scanned))
    assert found["psnr"] == pytest.approx(expected["psnr"], abs=1e-3)


def test_a_scan_whose_unit_is_the_voxel_is_given_back_in_mm_at_the_same_place(run, reconstruct):
    """Voxels of 2.25 x 2.5 x 3 mm count as cubes in it: what is written is drawn out to them, and so are its rays."""
    simulated = run("CT", "--task", "SVCT", "--degree", 24, "--use-init", "--slice-begin", 2, "--slice-end", 7)
    folder = reconstruct(simulated / "measurement.nii.gz", simulated / "geometry.yaml")
    assert yaml.safe_load((folder / "geometry.yaml").read_text())["voxel_size"] == [3, 2.5, 2.25]
    for name, most in (("FBP-LV", 0.01), ("IR", 0.01), ("recon", 0.02)):
        assert same_geometry(*(read_volume(run / f"{name}.nii.gz") for run in (folder, simulated)))
        assert difference(folder, simulated, name) < most


@pytest.mark.parametrize("problem", ["CT", "MR"])
def test_a_measurement_that_is_simulated_on_a_finer_grid(run, problem):
    task = ["--task", "SVCT", "--degree", 24] if problem == "CT" else ["--degree", 2]
    same, finer = (run(problem, *task, "--use-init", "--oversample", times) for times in (1, 2))
    assert finer.parent.name == "clean-oversample-2" and same.parent.name == "clean"
    assert np.array_equal(voxels(finer, "GT"), voxels(same, "GT"))
    name = "measurement" if problem == "CT" else "y"
    assert same_geometry(*(read_volume(folder / f"{name}.nii.gz") for folder in (same, finer)))
    assert 1e-3 < difference(finer, same, name) < 0.1       # it is of the same patient, and not the same


def test_counts_with_flat_and_dark_fields(scanned, reconstruct, tmp_path):
    p, rng = voxels(scanned, "measurement").astype(float), np.random.default_rng(0)
    dark, gain = rng.uniform(90, 110, p.shape[1:]), rng.uniform(0.8, 1.2, p.shape[1:])
    flat = dark + 1e6 * gain
    np.save(tmp_path / "dark.npy", np.stack([dark - 1, dark + 1]))      # two frames
    np.save(tmp_path / "flat.npy", flat)
    fields = ["--flat", tmp_path / "flat.npy", "--dark", tmp_path / "dark.npy"]
    np.save(tmp_path / "exact.npy", dark + (flat - dark) * np.exp(-p))
    exact = reconstruct(tmp_path / "exact.npy", scanned / "geometry.yaml", *fields)
    assert difference(exact, scanned) < 1e-3            # counts are float32
    np.save(tmp_path / "photons.npy", dark + rng.poisson((flat - dark) * np.exp(-p)))
    noisy = reconstruct(tmp_path / "photons.npy", scanned / "geometry.yaml", *fields, "--weights", "poisson")
    assert 1e-3 < difference(noisy, scanned) < 0.15
    np.save(tmp_path / "open.npy", (5e4 * np.exp(-p)).astype(np.float32))
    assert difference(reconstruct(tmp_path / "open.npy", scanned / "geometry.yaml", "--i0", 5e4), scanned) < 1e-3


def test_the_report_of_a_measured_scan_names_a_bad_view_and_a_bad_region(scanned, reconstruct, tmp_path):
    p = voxels(scanned, "measurement")
    p[5] = np.roll(p[5], 5, 1)              # something moved
    p[:, 12:15, 20:24] *= 1.5               # another gain
    np.save(tmp_path / "faulty.npy", p)
    folder = reconstruct(tmp_path / "faulty.npy", scanned / "geometry.yaml", "--method", "ADMM-TV")
    text = (folder / "report.html").read_text(encoding="utf-8")
    regions = re.findall(r"rows (\d+) to \d+, columns (\d+) to \d+ \(", text)
    assert any(12 <= int(row) < 15 and 20 <= int(column) < 24 for row, column in regions)
    for part in ("1 view of 24 stands out: view 5 (", "Geometry of the scan, from above and from the side",
                 "<dt>bad pixels</dt><dd>none</dd>",
                 "direction, left and right, and the first angle are as the files have them"):
        assert part in text, part
    assert "does not explain" not in (scanned / "report.html").read_text(encoding="utf-8")      # a simulation


def test_slices_and_views_of_a_measured_volume(scanned, reconstruct):
    whole = reconstruct(scanned / "measurement.nii.gz", scanned / "geometry.yaml", "--data", scanned / "GT.nii.gz")
    part = reconstruct(scanned / "measurement.nii.gz", scanned / "geometry.yaml", "--data", scanned / "GT.nii.gz",
                       "--slice-begin", 3, "--slice-end", 6)
    assert same_geometry(read_volume(part / "recon.nii.gz"), read_volume(whole / "recon.nii.gz").crop(3, 6))
    # What the rays met outside these slices is taken out, up to what SIRT knows of it.
    error = np.abs(voxels(part) - voxels(whole)[3:6]).mean() / np.ptp(voxels(whole))
    assert error < 0.04
    few = reconstruct(scanned / "measurement.nii.gz", scanned / "geometry.yaml", "--task", "SVCT", "--degree", 6)
    assert (few / "FBP-FV.nii.gz").exists() and "SVCT-6" in few.parts
    assert np.array_equal(voxels(few, "FBP-FV"), voxels(whole, "FBP-LV"))


@pytest.mark.parametrize("change, flags, reason", [
    (lambda p, text: (p[1:], text), [], "23 x 21 x 41 (views, v, u); the geometry has 24 x 21 x 41"),
    (lambda p, text: (p, text.replace("src_dist: 150.0\n", "")), [], "src_dist: missing"),
    (lambda p, text: (p, text.replace("src_dist: 150", "src_distance: 150")), [], "src_distance: unknown key"),
    (lambda p, text: (p, "geometry: ["), [], "not a YAML file"),
    (lambda p, text: (p * np.nan, text), [], "NaN"),
    (lambda p, text: (p, text), ["--flat", "zero.npy"], "pixels are not above zero"),
    (lambda p, text: (p, text), ["--flat", "large.npy"], "flat of shape (1, 30, 44) for views of shape (21, 41)"),
    (lambda p, text: (p, text), ["--flat", "bad.tif"], "bad.tif"),
    (lambda p, text: (p, text), ["--slice-begin", "5", "--slice-end", "9"], "begin 5, end 9: accepted"),
    (lambda p, text: (p, text), ["--task", "SVCT", "--degree", "25"], "--degree 25"),
    (lambda p, text: (p, text), ["--data", "small.nii"], "are no reference for the 8 x 16 x 16"),
    (lambda p, text: (p, text), ["--projector", "astra"], "projector: astra"),
], ids=lambda value: " ".join(value) if isinstance(value, list) else None)
def test_bad_measurements_are_one_line_status_2_and_leave_nothing(scanned, reconstruct, tmp_path, capsys, change,
                                                                 flags, reason):
    p, text = change(voxels(scanned, "measurement"), (scanned / "geometry.yaml").read_text())
    np.save(tmp_path / "p.npy", p)
    (tmp_path / "scan.yaml").write_text(text)
    np.save(tmp_path / "zero.npy", np.zeros((21, 41)))
    np.save(tmp_path / "large.npy", np.zeros((30, 44)))
    (tmp_path / "bad.tif").write_bytes(b"II*\0 no image")
    image = sitk.GetImageFromArray(np.arange(-1000, -616, dtype=np.int16).reshape(6, 8, 8))
    sitk.WriteImage(image, str(tmp_path / "small.nii"))
    with pytest.raises(SystemExit) as stop:
        reconstruct(tmp_path / "p.npy", tmp_path / "scan.yaml",
                    *(tmp_path / flag if "." in flag else flag for flag in flags))
    message = capsys.readouterr().err
    assert stop.value.code == 2 and reason in message and message.count("\n") == 1
    assert not (tmp_path / "measured").exists()


@pytest.mark.parametrize("problem, spoil, reason", [
    ("CT", {"--data": "text.nii.gz"}, "text.nii.gz: cannot be read"),
    ("CT", {"--data": "flat.nii"}, "flat.nii: 2D image"),
    ("CT", {"--slice-begin": 6, "--slice-end": 99}, "begin 6, end 99: accepted is"),
    ("CT", {"--checkpoint-path": "other.pth"}, "other.pth: tensor sigmas is missing; is the checkpoint of another"),
    ("CT", {"--config-path": "other.yaml"}, "other.yaml: model.resblock_type: 'ddpm' is not supported"),
    ("CT", {"--sigma-max": 400}, "sigma_max 400: this prior knows 0.01 to 378"),
    ("CT", {"--device": "cuda:77"}, "--device: device 'cuda:77'"),
    ("CT", {"--device": "tpu"}, "--device: device 'tpu'"),
    ("CT", {"--recon-size": 900}, "--recon-size 900"),
    ("MR", {"--degree": 99}, "--degree 99: more than the 14 slices"),
    ("MR", {"--data": "constant.nii"}, "constant.nii: all voxels have one value"),
    ("CT", {"--data": "air.nii"}, "air.nii: all voxels have one value in the window from -1000 to 1600"),
    ("CT", {"--checkpoint-path": "other.yaml"}, "other.yaml: not a checkpoint"),
    ("MR", {"--data": "top.nii", "--slice-begin": 4, "--slice-end": 8}, "top.nii: all voxels have one value"),
], ids=str)
def test_bad_input_is_one_line_status_2_and_leaves_nothing(tmp_path, capsys, prior, ct_scan, mr_scan, data_dir,
                                                           problem, spoil, reason):
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    (inputs / "text.nii.gz").write_text("no image")
    sitk.WriteImage(sitk.Image(4, 5, sitk.sitkInt16), str(inputs / "flat.nii"))
    sitk.WriteImage(sitk.GetImageFromArray(np.full((4, 4, 4), 3, np.int16)), str(inputs / "constant.nii"))
    sitk.WriteImage(sitk.GetImageFromArray(np.full((4, 4, 4), -2000, np.int16)), str(inputs / "air.nii"))
    top = np.zeros((8, 4, 4), np.int16)
    top[:4] = np.arange(16).reshape(4, 4)
    sitk.WriteImage(sitk.GetImageFromArray(top), str(inputs / "top.nii"))
    torch.save({"a": torch.ones(1)}, inputs / "other.pth")
    text = (data_dir / "ncsnpp_tiny.yaml").read_text()
    (inputs / "other.yaml").write_text(text.replace("resblock_type: biggan", "resblock_type: ddpm"))
    flags = {"--data": ct_scan if problem == "CT" else mr_scan, "--output-dir": tmp_path / "results",
             **dict(zip(prior[::2], prior[1::2]))}
    flags |= {flag: inputs / str(value) if "." in str(value) else value for flag, value in spoil.items()}
    entry = recon_CBCT if problem == "CT" else recon_MRI_ZSR
    with pytest.raises(SystemExit) as stop:
        entry.main([str(part) for flag in flags.items() for part in flag])
    message = capsys.readouterr().err
    assert stop.value.code == 2 and reason in message and message.count("\n") == 1
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("script, flag, expected", [
    ("recon_CBCT.sh", "--NFE", {"degree": 6, "NFE": 1, "task": "SVCT", "use_init": True, "recon_size": 16}),
    ("recon_ZSR.sh", "--NFE", {"degree": 6, "NFE": 1, "task": "ZSR", "use_init": True, "num_cg": 1}),
])
def test_the_shell_scripts_forward_settings_and_flags(tmp_path, prior, ct_scan, mr_scan, script, flag, expected):
    """Through a link, as from ~/bin, with a file that begins with a dash, and with PYTHONSAFEPATH."""
    root = os.path.dirname(recon_CBCT.__file__)
    scan = ct_scan if "CBCT" in script else mr_scan
    name = "-x" + "".join(scan.suffixes)
    (tmp_path / name).write_bytes(scan.read_bytes())
    (tmp_path / "link").symlink_to(os.path.join(root, script))
    settings = {"DATA": name, "CHECKPOINT_PATH": prior[1], "CONFIG_PATH": prior[3], "RECON_SIZE": "16", "DEGREE": "6",
                "NFE": "9", "PYTHON": sys.executable, "PYTHONSAFEPATH": "1"}
    shown = subprocess.run(["bash", str(tmp_path / "link"), flag, "1", "--output-dir", str(tmp_path)],
                           capture_output=True, text=True, env=os.environ | settings, cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    with open(os.path.join(shown.stdout.splitlines()[-1], "args.yaml")) as file:
        found = yaml.safe_load(file)
    assert {key: found[key] for key in expected} == expected


@pytest.fixture
def cut(monkeypatch, capsys):
    """Run an entry point that is interrupted once its state of a level is kept; returns its folder."""
    def call(run, level, problem, *flags):
        from utils.run import resume

        def save_and_stop(path, content):
            save_tensors(path, content)
            if content["level"] == level:
                raise KeyboardInterrupt
        with monkeypatch.context() as patch:
            patch.setattr(resume, "save_tensors", save_and_stop)
            patch.setattr(resume, "STATE_SHARE", float("inf"))      # at every level
            with pytest.raises(SystemExit) as stop:
                run(problem, *flags)
        message = capsys.readouterr().err
        assert stop.value.code == 130 and "Traceback" not in message      # what is odd about the prior may stand before
        assert "interrupted; go on with --resume" in message.splitlines()[-1]
        return message.split()[-1]
    return call


@pytest.mark.parametrize("problem, flags", [
    ("CT", ["--w-dz", "0.1", "--sino-noise", "1e5", "--degree", "30"]), ("CT", ["--method", "uncondition"]),
    ("MR", ["--noise-control", "GP", "--renoise-method", "DiffPIR"]), ("CT", ["--method", "DDNM", "--degree", "30"]),
])
def test_a_resumed_run_gives_the_volume_of_an_uninterrupted_one(run, cut, capsys, problem, flags):
    whole = run(problem, "--NFE", 4, *flags)
    folder = cut(run, 2, problem, "--NFE", 4, *flags)
    entry = recon_CBCT if problem == "CT" else recon_MRI_ZSR
    capsys.readouterr()
    entry.main(["--resume", folder])
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == folder and "going on at level 3" in printed
    assert np.array_equal(voxels(whole), sitk.GetArrayFromImage(sitk.ReadImage(f"{folder}/recon.nii.gz")))
    assert sorted(os.listdir(folder)) == sorted(os.listdir(whole))
    with pytest.raises(SystemExit):
        entry.main(["--resume", folder])
    assert f"--resume {folder}: that run is complete" in capsys.readouterr().err


def test_a_killed_run_goes_on(run, capsys, tmp_path, prior, ct_scan):
    """SIGKILL once the first state is there: at any moment of the levels that follow, or while one is being written."""
    flags = ["--task", "SVCT", "--degree", "6", "--NFE", "60", "--use-init", "--sino-noise", "1e5"]
    whole = run("CT", *flags)
    killed = subprocess.Popen(
        [sys.executable, recon_CBCT.__file__, "--data", str(ct_scan), *prior, "--device", "cpu", "--output-dir",
         str(tmp_path / "killed"), "--sigma-max", "0.4", "--recon-size", "16", *flags], stdout=subprocess.DEVNULL)
    while not (states := list((tmp_path / "killed").rglob("state.pt"))):
        assert killed.poll() is None
        time.sleep(0.01)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    folder = states[0].parent
    assert not (folder / "recon.nii.gz").exists()
    recon_CBCT.main(["--resume", str(folder)])
    assert "going on at level" in capsys.readouterr().out
    assert np.array_equal(voxels(whole), voxels(folder)) and sorted(os.listdir(folder)) == sorted(os.listdir(whole))


def test_a_run_is_repeated_from_its_args_yaml(run, capsys, tmp_path):
    first = run("CT", "--task", "SVCT", "--degree", 6, "--noise-control", "shared", "--seed", 7)
    settings = (first / "args.yaml").read_text()
    assert "device: cpu" in settings
    (first / "args.yaml").write_text(settings.replace("program: ", "program: another-"))
    recon_CBCT.main(["--from", str(first / "args.yaml")])
    printed, said = capsys.readouterr()
    assert "args.yaml: made with other versions" in said and "another-" in said
    (first / "args.yaml").write_text(settings)
    again = printed.splitlines()[-1]
    assert str(first) != again and np.array_equal(voxels(first), voxels(type(first)(again)))
    recon_CBCT.main(["--from", str(first / "args.yaml"), "--seed", "8", "-q"])
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1 and not np.array_equal(voxels(first), voxels(type(first)(printed.strip())))


@pytest.mark.parametrize("flags, reason", [
    (["--resume", "RUN", "--seed", "3"], "goes on with the flags of that run; --seed is not accepted"),
    (["--resume", "RUN", "--from", "RUN/args.yaml"], "--from and --resume are both given"),
    (["--resume", "nowhere"], "nowhere: no such file"), (["--from", "other.yaml"], "other.yaml: not the args.yaml"),
    (["--from", "RUN/args.yaml"], "scan.nii.gz: its content has changed since"),
])
def test_what_cannot_be_repeated_is_one_line_and_status_2(run, tmp_path, capsys, ct_scan, flags, reason):
    scan = tmp_path / "scan.nii.gz"
    scan.write_bytes(ct_scan.read_bytes())
    folder = run("CT", "--data", scan, "--task", "SVCT", "--degree", 6)
    (folder / "panel.png").unlink()
    image = sitk.ReadImage(str(scan))
    image[3, 3, 3] = 77
    sitk.WriteImage(image, str(scan))
    (tmp_path / "other.yaml").write_text("a: 1")
    places = {"RUN": str(folder), "other.yaml": str(tmp_path / "other.yaml")}
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as stop:
        recon_CBCT.main([places.get(flag, flag.replace("RUN", str(folder))) for flag in flags])
    *warnings, message = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and reason in message and not any(": error:" in line for line in warnings)
    assert sorted(tmp_path.rglob("*")) == before


def test_debug_shows_where_an_error_came_from(run, capsys):
    with pytest.raises(SystemExit):
        run("CT", "--degree", "x", "--debug")
    assert "Traceback" not in capsys.readouterr().err       # a flag's own check
    with pytest.raises(SystemExit):
        run("CT", "--slice-begin", "90", "--slice-end", "99", "--debug")
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("redirection", [">&-", "2>&-", "| true"])
def test_output_that_nobody_reads_ends_no_run(tmp_path, ct_scan, redirection):
    command = (f"{sys.executable} {recon_CBCT.__file__} --data {ct_scan} --method ADMM-TV --task SVCT --degree 4 "
               f"--recon-size 16 --no-report --output-dir {tmp_path / 'out'} {redirection}")
    shown = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True)
    assert shown.returncode == 0 and "Error" not in shown.stderr and "Traceback" not in shown.stderr
    assert len(list((tmp_path / "out").rglob("panel.png"))) == 1


def test_sigterm_is_said_and_leaves_what_it_takes_to_go_on(run, monkeypatch, capsys):
    from utils.run import resume

    def save_and_end(path, content):
        save_tensors(path, content)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(resume, "save_tensors", save_and_end)
    with pytest.raises(SystemExit) as stop:
        run("CT", "--degree", "30")
    message = capsys.readouterr().err
    assert stop.value.code == 143 and "terminated; go on with --resume" in message and "Traceback" not in message


@pytest.mark.parametrize("script", ["recon_CBCT.py", "recon_MRI_ZSR.py"])
def test_ctrl_c_while_the_program_is_imported_shows_no_traceback(script):
    path = os.path.join(os.path.dirname(recon_CBCT.__file__), script)
    program = subprocess.Popen([sys.executable, "-X", "importtime", path, "--help"], stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, text=True)
    while "utils.cli.types" not in program.stderr.readline():
        pass
    program.send_signal(signal.SIGINT)
    assert "Traceback" not in program.stderr.read()
    assert program.wait() in (0, -signal.SIGINT)


def test_a_run_that_stops_being_finite_ends_with_one_line(run, monkeypatch, capsys):
    monkeypatch.setattr("models.slice_score.SliceScore._score", lambda self, x, sigma: x / 0)
    with pytest.raises(SystemExit) as stop:
        run("CT", "--degree", "30")
    *warnings, message = capsys.readouterr().err.splitlines()
    assert stop.value.code == 1 and "level" in message and not any("level" in line for line in warnings)


def test_samples_give_their_mean_their_standard_deviation_and_a_calibrated_interval(prior, ct_scan, tmp_path, capsys,
                                                                                   monkeypatch):
    def volume(*flags):
        recon_CBCT.main(["--data", str(ct_scan), "--recon-size", "16", "--task", "SVCT", "--degree", "4", "--NFE", "2",
                         "--sigma-max", "1", "--use-init", "--output-dir", str(tmp_path), *prior, *flags])
        folder = capsys.readouterr().out.strip().splitlines()[-1]
        return folder, read_volume(f"{folder}/recon.nii.gz").array

    singles = [volume("--seed", seed, "--no-report")[1] for seed in ("3", "4", "5")]
    folder, mean = volume("--seed", "3", "--samples", "3")
    std = read_volume(f"{folder}/std.nii.gz").array
    np.testing.assert_allclose(mean, np.mean(singles, 0), atol=0.05)                # HU
    np.testing.assert_allclose(std, np.std(singles, 0, ddof=1), atol=0.05)
    assert std.max() > 1
    with open(f"{folder}/report.html", encoding="utf-8") as file:
        text = file.read()
    assert "Where samples differ" in text and "It is no interval" in text
    assert not Path(folder, "interval.nii.gz").exists()

    # The same run, once the errors of such runs are known: three classes, 12, 2 and 4 times the spread.
    entry = {"settings": settings_of(read_yaml(f"{folder}/args.yaml")), "edges": [0.2, 0.5], "factors": [12, 2, 4],
             "measured": "on a chest"}
    (tmp_path / "intervals.yaml").write_text(yaml_text({"ct": entry}))
    monkeypatch.setattr("utils.run.run.calibration_for",
                        partial(calibration_for, path=tmp_path / "intervals.yaml"))
    folder, mean = volume("--seed", "3", "--samples", "3")
    half, truth = (read_volume(f"{folder}/{name}.nii.gz").array for name in ("interval", "GT"))
    spread = local(torch.from_numpy(std)).numpy()
    factors = np.select([mean < -1000 + 0.2 * 2600, mean < -1000 + 0.5 * 2600], [12, 2], 4)
    np.testing.assert_allclose(half, factors * spread, rtol=1e-3, atol=0.05)
    inside, foreground = abs(mean - truth) <= half, truth > -1000 + 0.15 * 2600
    parts = json.loads(Path(folder, "metrics.json").read_text())["recon"]["coverage"]
    assert parts == pytest.approx({"whole": inside.mean(), "foreground": inside[foreground].mean()}, abs=2e-3)
    with open(f"{folder}/report.html", encoding="utf-8") as file:
        text = file.read()
    assert f"calibrated on a chest. Here it holds the truth of {100 * parts['whole']:.1f} % of the whole" in text


@pytest.mark.parametrize("flags, said", [
    (["--method", "ADMM-TV"], "not part of ADMM-TV; accepted with --method DDS, DDNM"),
    (["--noise-control", "zero"], "without noise all are the same")])
def test_samples_that_would_all_be_the_same_are_refused(prior, ct_scan, capsys, flags, said):
    with pytest.raises(SystemExit) as caught:
        recon_CBCT.main(["--data", str(ct_scan), "--samples", "3", *prior, *flags])
    assert caught.value.code == 2 and said in capsys.readouterr().err
