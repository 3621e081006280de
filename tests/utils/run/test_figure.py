"""The static picture of a run."""
import resource

import numpy as np
import pytest
import SimpleITK as sitk
from matplotlib.figure import Figure
from matplotlib.text import Text

from utils.io.volume import Volume
from utils.run.figure import save_panel


def volumes(names=("GT", "recon"), shape=(6, 8, 10), **place):
    generator = np.random.default_rng(0)
    return {name: Volume(generator.random(shape, np.float32), **place) for name in names}


def pixels(path):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def test_a_panel_shows_every_volume(tmp_path):
    both = volumes(spacing=(1, 1, 2))
    save_panel(tmp_path / "panel.png", both, {}, "HU")
    save_panel(tmp_path / "single.png", {"recon": both["recon"]}, {})
    panel, single = pixels(tmp_path / "panel.png"), pixels(tmp_path / "single.png")
    assert panel.std() > 10 and panel.shape[1] > 1.5 * single.shape[1]
    assert np.unique(single).size > 100      # the grey values of the slices, not only frames and letters
    assert len(list(tmp_path.iterdir())) == 2


def test_names_are_words_and_quality_and_unit_are_said(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: (
        said.extend(text.get_text() for text in figure.findobj(Text)), path.write_bytes(b"")))
    metrics = {"IR": {"psnr": 20.126}, "recon": {"psnr": None}}
    save_panel(tmp_path / "panel.png", volumes(("GT", "IR", "recon")), metrics, "HU")
    assert {"truth", "SIRT\nof the views used\n20.13 dB", "reconstruction", "axial", "axial\nerror", "values (HU)",
            "error (HU)"} <= set(said)


@pytest.mark.parametrize("spacing", [(0.01, 0.01, 100.0), (0.001, 0.001, 9999.0), (9999.0, 0.001, 0.001)])
def test_a_panel_of_extreme_voxels_is_bounded(tmp_path, spacing):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    save_panel(tmp_path / "panel.png", volumes(shape=(8, 16, 16), spacing=spacing), {})
    height, width = pixels(tmp_path / "panel.png").shape[:2]
    assert height < 6000 and width < 1500
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000      # KiB


def test_constant_volumes_can_be_shown(tmp_path):
    save_panel(tmp_path / "panel.png", {name: Volume(np.zeros((2, 3, 4), np.float32)) for name in ("GT", "recon")}, {})
    assert (tmp_path / "panel.png").exists()


def test_views_are_those_of_the_patient(tmp_path):
    """A bright block in the head's half is above in the coronal view, however the volume is stored."""
    image = sitk.GetImageFromArray(np.repeat([0, 0, 0, 0, 1, 1, 1, 1], 80).reshape(8, 8, 10).astype(np.float32))
    found = []
    for code in ("LPS", "LPI", "PSL", "SRP"):
        turned = sitk.DICOMOrient(image, code)
        volume = Volume(sitk.GetArrayFromImage(turned), turned.GetSpacing(), turned.GetOrigin(), turned.GetDirection())
        save_panel(tmp_path / "panel.png", {"recon": volume}, {})
        found.append(pixels(tmp_path / "panel.png"))
    assert all(np.array_equal(picture, found[0]) for picture in found)
