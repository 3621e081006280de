"""Measured thick slices: what the simulation would give, in its place in the patient."""
from types import SimpleNamespace

import numpy as np
import pytest

import recon_MRI_ZSR
from models.checkpoint import load_weights
from models.ncsnpp import NCSNpp
from tests.utils.io.test_dicom import volume as dicom_volume
from tests.utils.io.test_dicom import write as write_dicom
from utils.io.config import load_config
from utils.io.files import save_tensors
from utils.io.nifti import write_volume
from utils.io.read import read_volume
from utils.io.volume import Volume
from utils.run.scan import read_mr, thickness


@pytest.fixture
def run(tmp_path, data_dir, capsys):
    network = NCSNpp(load_config(data_dir / "ncsnpp_tiny.yaml"))
    load_weights(network, data_dir / "ncsnpp_tiny.pth")
    save_tensors(tmp_path / "prior.pth", network.state_dict())

    def call(*flags):
        recon_MRI_ZSR.main(["--checkpoint-path", str(tmp_path / "prior.pth"), "--config-path",
                            str(data_dir / "ncsnpp_tiny.yaml"), "--device", "cpu", "--output-dir", str(tmp_path),
                            "--sigma-max", "0.4", "--NFE", "2", "--use-init", "--num-cg", "1", "--window", "min-max",
                            "--no-report", *map(str, flags)])
        return tmp_path / capsys.readouterr().out.splitlines()[-1]
    return call


def head(turn=None):
    """A volume [12, 16, 18] whose largest and smallest values are the same in all slices, as its thick slices' are."""
    rng = np.random.default_rng(0)
    array = rng.uniform(100, 900, (12, 16, 18)).astype(np.float32)
    array[:, 0, 0], array[:, -1, -1] = 1000, 0
    direction = tuple(np.eye(3).ravel()) if turn is None else turn
    return Volume(array, (1.5, 1.25, 2.0), (-10.0, 20.0, 5.0), direction)


def options(**changes):
    return SimpleNamespace(**{"thick": None, "data": None, "series": None, "slice_axis": None, "window": "percentile",
                              "slice_begin": 0, "slice_end": 0, "degree": 4, "slice_thickness": None,
                              "pixel_size": None} | changes)


def test_thick_slices_of_a_simulation_give_its_voxels(run, tmp_path):
    write_volume(tmp_path / "head.nii.gz", head())
    simulated = run("--data", tmp_path / "head.nii.gz", "--degree", 4)
    measured = run("--thick", simulated / "y.nii.gz", "--degree", 4, "--slice-axis", "z")
    assert {path.name for path in measured.iterdir()} == {"args.yaml", "panel.png", "recon.nii.gz", "y.nii.gz",
                                                          "ATy.nii.gz"}
    for name in ("recon", "ATy", "y"):
        found, expected = (read_volume(folder / f"{name}.nii.gz") for folder in (measured, simulated))
        assert np.abs(found.array - expected.array).max() < 1e-5 * 1000 and "measured" in measured.parts
        assert np.allclose(found.origin, expected.origin, atol=1e-4) and np.allclose(found.spacing, expected.spacing)
    with_reference = run("--thick", simulated / "y.nii.gz", "--degree", 4, "--slice-axis", "z", "--data",
                         tmp_path / "head.nii.gz")
    assert (with_reference / "metrics.json").read_text() == (simulated / "metrics.json").read_text() or np.allclose(
        read_volume(with_reference / "GT.nii.gz").array, head().array, atol=1e-2)
    soft = run("--thick", simulated / "y.nii.gz", "--degree", 4, "--slice-profile", "gauss", "--num-cg", 5)
    assert np.abs(read_volume(soft / "recon.nii.gz").array - expected.array.mean()).max() > 0


OBLIQUE = (0.8, -0.36, 0.48, 0.6, 0.48, -0.64, 0.0, 0.8, 0.6)


@pytest.mark.parametrize("direction", [None, OBLIQUE], ids=["upright", "oblique"])
@pytest.mark.parametrize("axis", [0, 1, 2], ids=["sagittal", "coronal", "axial"])
def test_thin_slices_lie_where_the_thick_ones_are(tmp_path, direction, axis):
    spacing = [1.0, 1.2, 1.1]
    spacing[axis] = 6.0
    thick = Volume(np.random.default_rng(0).random((5, 6, 7)).astype(np.float32), tuple(spacing), (10.0, -20.0, 30.0),
                   direction or tuple(np.eye(3).ravel()))
    write_volume(tmp_path / "thick.nii.gz", thick)
    place, _, source = read_mr(options(thick=tmp_path / "thick.nii.gz", degree=3))
    stacked = thick.with_axis_first(axis)
    assert place.array.shape == (3 * len(source), *source.shape[1:]) and np.isclose(place.spacing[2], 2)
    for k, j, i in ((0, 0, 0), (1, 2, 3), (4, 1, 2)):
        middle = np.mean([np.add(place.origin, place.axes @ (i, j, 3 * k + part)) for part in range(3)], axis=0)
        assert np.allclose(middle, np.add(stacked.origin, stacked.axes @ (i, j, k)), atol=1e-4)
    part, _, few = read_mr(options(thick=tmp_path / "thick.nii.gz", degree=3, slice_begin=1, slice_end=3))
    assert np.array_equal(few.shape, (2, *source.shape[1:]))
    assert np.allclose(part.origin, np.add(place.origin, place.axes @ (0, 0, 3)), atol=1e-4)


def test_a_reference_lies_on_the_grid(tmp_path):
    thin = head()
    write_volume(tmp_path / "thin.nii.gz", thin)
    thick = thin.thicken(thin.array.reshape(3, 4, 16, 18).mean(1), 4)
    write_volume(tmp_path / "thick.nii.gz", thick)
    place, window, _ = read_mr(options(thick=tmp_path / "thick.nii.gz", data=tmp_path / "thin.nii.gz"))
    assert np.allclose(place.array * (window[1] - window[0]) + window[0], thin.array, atol=1e-2)
    write_volume(tmp_path / "moved.nii.gz", Volume(thin.array, thin.spacing, (-10.0, 20.0, 5.5)))
    with pytest.raises(ValueError, match="moved.nii.gz: up to 0.5 mm from where the result lies"):
        read_mr(options(thick=tmp_path / "thick.nii.gz", data=tmp_path / "moved.nii.gz"))
    with pytest.raises(ValueError, match="thick.nii.gz: 3 x 16 x 18 voxels .* are no reference for the 12 x 16 x 18"):
        read_mr(options(thick=tmp_path / "thick.nii.gz", data=tmp_path / "thick.nii.gz"))


def test_gaps_are_those_of_dicom_or_given(tmp_path):
    image = dicom_volume()
    spacing = image.GetSpacing()[2]
    write_dicom(tmp_path / "series", image, **{"0018|0050": f"{0.8 * spacing:.6g}", "0008|0060": "MR"})
    folder = options(thick=tmp_path / "series")
    assert thickness(folder, spacing) == pytest.approx(0.8, rel=1e-4)
    assert thickness(options(thick=tmp_path / "series", slice_thickness=1.5), 3.0) == 0.5
    assert thickness(options(), 3.0) == 1 and thickness(options(thick=tmp_path / "a.nii"), 3.0) == 1
    write_dicom(tmp_path / "series", image, change=lambda k, tags: tags.update({"0018|0050": str(1 + k)}),
                **{"0008|0060": "MR"})
    assert thickness(folder, spacing) == 1       # not the same in all slices
    with pytest.raises(ValueError, match="slice-thickness 30"):
        thickness(options(thick=tmp_path / "series", slice_thickness=30), 3.0)


@pytest.mark.parametrize("flags, reason", [
    (["--slice-profile", "gauss", "--data", "a.nii"], "they need --thick"),
    (["--thick", "a.nii", "--sino-noise", "1"], "measured slices have their own noise"),
    (["--thick", "a.nii", "--oversample", "2"], "is for simulated slices"),
    (["--w-tik", "noise", "--data", "a.nii"], "--w-tik noise: is found in projections"),
    ([], "--data or --thick is missing")])
def test_flags_that_do_not_go_together(run, tmp_path, capsys, flags, reason):
    (tmp_path / "a.nii").write_bytes(b"")
    with pytest.raises(SystemExit) as stop:
        run(*(str(tmp_path / flag) if "." in flag else flag for flag in flags))
    message = capsys.readouterr().err
    assert stop.value.code == 2 and reason in message and message.count("\n") == 1
