"""The patient's planes by the direction of a volume."""
import numpy as np
import pytest
import SimpleITK as sitk

from utils.run.views import patient_axes, upright


@pytest.mark.parametrize("code", ["LPS", "LPI", "RAI", "PSL", "SRP", "ASR", "IAL", "LSA"])
def test_upright_is_head_down_back_and_left(code):
    image = sitk.GetImageFromArray(np.random.default_rng(0).random((3, 4, 5)))
    wanted = sitk.GetArrayFromImage(sitk.DICOMOrient(image, "LPI"))
    turned = sitk.DICOMOrient(image, code)
    assert np.array_equal(upright(sitk.GetArrayFromImage(turned), turned.GetDirection()), wanted)


def test_an_oblique_volume_has_three_different_views():
    c, s = np.cos(np.pi / 4), np.sin(np.pi / 4)
    axes, _ = patient_axes((c, -s, 0, s, c, 0, 0, 0, 1))
    assert sorted(axes) == [0, 1, 2] and axes[0] == 0
