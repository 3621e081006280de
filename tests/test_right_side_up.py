"""A point of the patient stays where it is: from analytic projections and from stored volumes to what a run writes."""
import json
from functools import partial

import nibabel as nib
import numpy as np
import pytest

import recon_CBCT
from algorithms.admm_tv import admm_tv
from utils.io.geometry_file import read_geometry

BALLS = (((20.0, -8.0, 12.0), 10.0), ((-18.0, 6.0, -10.0), 8.0), ((0.0, 24.0, 0.0), 7.0))   # (L, P, S) and radius, mm
MU = 0.02
SCAN = """
unit: mm
angles: {start: 0, stop: 360, views: 60}
src_dist: 500
det_dist: 300
det_shape: [44, 72]
det_spacing: [3.0, 3.0]
mu_water: 0.02
volume_shape: [16, 32, 32]
voxel_size: [3.0, 3.0, 3.0]
"""
ORIENTATIONS = ("RAS", "LPS", "LPI", "SAR", "PIL")


def projections(scan):
    """Line integrals [views, v, u] of the balls of water, by the lengths of chords."""
    source, centre, step_u, step_v = scan.vectors.reshape(-1, 4, 3).transpose(1, 0, 2)
    v, u = (np.arange(n) - (n - 1) / 2 for n in scan.det_shape)
    pixel = centre[:, None, None] + v[:, None, None] * step_v[:, None, None] + u[:, None] * step_u[:, None, None]
    ray = pixel - source[:, None, None]
    ray /= np.linalg.norm(ray, axis=-1, keepdims=True)
    total = np.zeros(ray.shape[:3])
    for middle, radius in BALLS:
        to_middle = np.array(middle) - source[:, None, None]
        distance = np.linalg.norm(to_middle - (to_middle * ray).sum(-1, keepdims=True) * ray, axis=-1)
        total += 2 * np.sqrt(np.maximum(radius**2 - distance**2, 0))
    return (MU * total).astype(np.float32)


def stored(folder, code, fine=3):
    """The balls as a NIfTI file in HU whose axes run towards ``code``, averaged from a finer grid."""
    size, shape = 3.0, np.array([32, 32, 16])
    place = [(np.arange(n * fine) - (n * fine - 1) / 2) * size / fine for n in shape]
    x, y, z = np.meshgrid(*place, indexing="ij")
    inside = sum(((x - a)**2 + (y - b)**2 + (z - c)**2 < r**2).astype(float) for (a, b, c), r in BALLS)
    array = inside.reshape(32, fine, 32, fine, 16, fine).mean((1, 3, 5)) * 1000 - 1000
    affine = np.diag([-size, -size, size, 1])
    affine[:3, 3] = [size * 15.5, size * 15.5, -size * 7.5]
    image = nib.Nifti1Image(array.astype(np.float32), affine)      # L, P, S
    transform = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(code))
    nib.save(image.as_reoriented(transform), folder / f"{code}.nii.gz")
    return folder / f"{code}.nii.gz"


def at(path, point):
    """The value of a NIfTI file at a point (L, P, S) of the patient."""
    image = nib.load(path)
    index = np.linalg.inv(image.affine) @ [-point[0], -point[1], point[2], 1]
    return float(image.get_fdata()[tuple(np.rint(index[:3]).astype(int))])


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr("algorithms.problem.admm_tv", partial(admm_tv, outer=3, inner=8))


def run(tmp_path, capsys, *flags):
    recon_CBCT.main(["--method", "ADMM-TV", "--w-tv", "0.05", "--task", "SVCT", "--degree", "60", "--no-report",
                     "--geometry", str(tmp_path / "scan.yaml"), "--output-dir", str(tmp_path / "out"),
                     *map(str, flags)])
    return tmp_path / capsys.readouterr().out.splitlines()[-1]


def check(path):
    for middle, _ in BALLS:
        assert abs(at(path, middle)) < 150                                              # water
        assert at(path, (*middle[:2], -middle[2] - (middle[2] == 0) * 15)) < -850       # its mirror image in z: air
        assert at(path, (-middle[0] - (middle[0] == 0) * 15, *middle[1:])) < -850


@pytest.mark.parametrize("code", ORIENTATIONS)
def test_a_simulated_scan(tmp_path, capsys, code):
    (tmp_path / "scan.yaml").write_text("\n".join(SCAN.splitlines()[:-2]))
    folder = run(tmp_path, capsys, "--data", stored(tmp_path, code), "--recon-size", 32)
    for name in ("GT", "FBP-LV", "IR", "recon"):
        check(folder / f"{name}.nii.gz")
    lines = nib.load(folder / "measurement.nii.gz").get_fdata().T
    exact = projections(read_geometry(folder / "geometry.yaml"))
    assert np.linalg.norm(lines - exact) < 0.2 * np.linalg.norm(exact)          # of voxels of 3 mm
    assert np.linalg.norm(lines[:, ::-1] - exact) > 0.8 * np.linalg.norm(exact)


@pytest.mark.parametrize("code", [None, *ORIENTATIONS])
def test_a_measured_scan_and_its_reference(tmp_path, capsys, code):
    (tmp_path / "scan.yaml").write_text(SCAN)
    np.save(tmp_path / "p.npy", projections(read_geometry(tmp_path / "scan.yaml")))
    reference = ["--data", stored(tmp_path, code)] if code else []
    folder = run(tmp_path, capsys, "--projections", tmp_path / "p.npy", *reference)
    for name in ("FBP-LV", "IR", "recon", *["GT"] * bool(code)):
        check(folder / f"{name}.nii.gz")
    if code:
        assert json.loads((folder / "metrics.json").read_text())["recon"]["psnr"] > 28


def test_a_detector_that_is_read_from_the_top(tmp_path, capsys):
    (tmp_path / "scan.yaml").write_text(SCAN.replace("det_spacing: [3.0, 3.0]", "det_spacing: [-3.0, 3.0]"))
    np.save(tmp_path / "p.npy", projections(read_geometry(tmp_path / "scan.yaml")))
    check(run(tmp_path, capsys, "--projections", tmp_path / "p.npy") / "recon.nii.gz")
