"""Synthetic patients: reproducible, plausible, coherent from slice to slice, written with geometry."""
import numpy as np
import pytest
import SimpleITK as sitk

from utils.phantoms import head, thorax
from utils.phantoms.__main__ import main

CHEST = (20, 48, 48), (8.0, 8.0, 8.0)
BRAIN = (28, 48, 40), (4.5, 4.5, 4.5)
MAKERS = [(thorax, *CHEST), (head, *BRAIN)]


@pytest.fixture(scope="module")
def chests():
    return [thorax(seed, *CHEST) for seed in range(4)]


@pytest.mark.parametrize("make, shape, spacing", MAKERS)
def test_seed_decides_everything(make, shape, spacing):
    first = make(3, shape, spacing)
    assert first.dtype == np.float32 and first.shape == shape and np.isfinite(first).all()
    np.testing.assert_array_equal(first, make(3, shape, spacing))
    other = make(4, shape, spacing)
    assert np.abs(first - other).mean() > 0.02 * np.ptp(first)


def test_thorax_has_the_tissues_of_a_chest(chests):
    for volume in chests:
        assert volume.min() == -1000 and 250 < volume.max() < 2500
        assert (volume[:, [0, -1], :] < -300).mean() > 0.8           # rim of the view: air, or the couch
        assert 0.02 < ((volume > -970) & (volume < -650)).mean() < 0.4          # lungs
        assert 0.01 < ((volume > -140) & (volume < -60)).mean() < 0.5           # fat
        assert 0.05 < ((volume > 0) & (volume < 150)).mean() < 0.6              # muscle and organs
        assert 0.001 < (volume > 250).mean() < 0.12                             # bone, contrast agent


def test_thorax_lies_as_an_lpi_image():
    volume = thorax(5, (40, 48, 48), (10, 8, 8))                      # neck to kidneys
    lung = ((volume > -970) & (volume < -650)).sum((1, 2))
    top, bottom = np.flatnonzero(lung > 0.2 * lung.max())[[0, -1]]
    soft = np.clip(volume, -150, 150)
    excess = soft[..., :24].mean((1, 2)) - soft[..., 24:].mean((1, 2))
    liver, shoulders = excess[bottom - 4 : bottom + 6].mean(), excess[top - 6 : top + 4].mean()
    assert liver > 5 and liver > shoulders + 5        # in the first columns, the last slices: columns to the
                                                      # left, slices down
    bone = np.maximum(volume[..., 20:28] - 150, 0).sum((0, 2))
    assert np.average(np.arange(48), weights=bone) > 24               # spine in the last rows: to the back


def test_head_is_bright_inside_and_dark_outside():
    volumes = [head(seed, *BRAIN) for seed in range(8)]
    stripped = [v for v in volumes if (v == 0).mean() > 0.3]
    assert 0 < len(stripped) < len(volumes)                           # both kinds occur
    for volume in volumes:
        assert volume.min() >= 0 and volume.max() <= 1
        assert volume[:, 0, 0].max() < 0.1 and np.median(volume[8:19, 18:30, 15:25]) > 0.3


@pytest.mark.parametrize("make, shape, spacing", MAKERS)
def test_neighbouring_slices_belong_together(make, shape, spacing):
    volume = make(5, shape, spacing)
    shuffled = volume[np.random.default_rng(0).permutation(shape[0])]
    jump, shuffled_jump = (np.abs(np.diff(v, axis=0)).mean() for v in (volume, shuffled))
    assert jump < 0.6 * shuffled_jump


@pytest.mark.parametrize("make", [thorax, head])
@pytest.mark.parametrize("shape, spacing", [((7, 33, 45), (5, 9, 7.5)), ((1, 40, 40), (3, 6, 6)),
                                            ((40, 16, 17), (1, 20, 20)), ((5, 1, 30), (4, 4, 8))])
def test_any_grid(make, shape, spacing):
    volume = make(1, shape, spacing)
    assert volume.shape == shape and np.isfinite(volume).all()


def test_body_fits_a_small_field_of_view():
    volume = thorax(2, (8, 64, 64), (6, 3, 3))
    assert (volume[:, :, [0, -1]] < -500).mean() > 0.9


@pytest.mark.parametrize("shape, spacing", [((4, 0, 4), (1, 1, 1)), ((4, 4), (1, 1, 1)),
                                            ((4, 4, 4), (1, -1, 1)), ((4, 4, 4), (1, 1))])
def test_refuses_what_is_no_grid(shape, spacing):
    for make in (thorax, head):
        with pytest.raises(ValueError, match="shape|spacing"):
            make(0, shape, spacing)


@pytest.mark.parametrize("kind, make, last, scale", [("thorax", thorax, -1, 1), ("head", head, 1, 1000)])
def test_command_writes_geometry(tmp_path, kind, make, last, scale):
    path = tmp_path / "new" / f"{kind}.nii.gz"
    grid = ["--shape", "5", "20", "24", "--spacing", "8", "15", "12.5"]
    main([kind, "--seed", "7", *grid, "--output", str(path)])
    image = sitk.ReadImage(str(path))
    assert image.GetPixelID() == sitk.sitkInt16 and image.GetSize() == (24, 20, 5)
    np.testing.assert_allclose(image.GetSpacing(), (12.5, 15, 8), rtol=1e-6)
    np.testing.assert_allclose(image.GetDirection(), np.diag([1, 1, last]).ravel(), atol=1e-6)
    centre = image.TransformContinuousIndexToPhysicalPoint([11.5, 9.5, 2])
    np.testing.assert_allclose(centre, 0, atol=1e-3)
    expected = np.rint(make(7, (5, 20, 24), (8, 15, 12.5)) * scale)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), expected)
    assert [p.name for p in path.parent.iterdir()] == [path.name]     # no partial file stays


@pytest.mark.parametrize("change", [["--shape", "4", "0", "4"], ["--seed", "-1"], ["--output", "volume.png"],
                                    ["--spacing", "1", "nan", "1"], ["--seed", "one"]])
def test_command_reports_errors_in_one_line(tmp_path, monkeypatch, capsys, change):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["thorax", "--shape", "4", "8", "8", "--output", "volume.nii.gz", *change])
    assert stop.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())
