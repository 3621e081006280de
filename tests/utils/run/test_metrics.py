"""Metrics against their formulas."""
import math

import pytest
import torch

from utils.run.metrics import by_slice, evaluate, inter_slice_error, sharpness, ssim


def volumes(shape=(12, 16, 20)):
    generator = torch.Generator().manual_seed(3)
    truth = torch.rand(shape, generator=generator)
    return truth + 0.1 * torch.randn(shape, generator=generator), truth


def test_psnr_of_the_volume_and_by_view():
    volume, truth = volumes()
    span = truth.max() - truth.min()
    result = evaluate(volume, truth)
    error = (volume - truth).square()
    assert result["psnr"] == pytest.approx(10 * torch.log10(span**2 / error.mean()).item(), rel=1e-5)
    for axis, view in enumerate(("axial", "coronal", "sagittal")):
        others = [a for a in range(3) if a != axis]
        expected = (10 * torch.log10(span**2 / error.mean(others))).mean().item()
        assert result[view]["psnr"] == pytest.approx(expected, rel=1e-5)
        assert 0 < result[view]["ssim"] < 1
    assert result["ssim"] == pytest.approx(sum(result[v]["ssim"] for v in ("axial", "coronal", "sagittal")) / 3)


def test_slices_where_the_truth_is_constant_are_left_out():
    volume, truth = volumes()
    padded_volume = torch.cat([volume, torch.full((5, 16, 20), 0.3)])
    padded_truth = torch.cat([truth, torch.zeros(5, 16, 20)])
    for key in ("psnr", "ssim"):
        expected = evaluate(volume, truth)["axial"][key]
        scale = (padded_truth.max() - padded_truth.min()) / (truth.max() - truth.min())
        found = evaluate(padded_volume, padded_truth)["axial"][key]
        assert found == pytest.approx(expected + (20 * math.log10(scale) if key == "psnr" else 0), rel=2e-3)


def test_ssim_of_many_slices_is_the_mean_of_single_ones():
    volume, truth = volumes((35, 16, 16))
    truth[:, 0, 0], truth[:, 0, 1] = 0, 1      # the same range for every slice
    singles = [evaluate(volume[k:k + 1], truth[k:k + 1])["axial"]["ssim"] for k in range(35)]
    assert evaluate(volume, truth)["axial"]["ssim"] == pytest.approx(sum(singles) / 35, rel=1e-5)


@pytest.mark.parametrize("shape", [(3, 11, 11), (2, 40, 25)])
def test_ssim_is_that_of_torchmetrics(shape):
    known = pytest.importorskip("torchmetrics.functional.image").structural_similarity_index_measure
    volume, truth = volumes(shape)
    volume[0, :8], truth[0, :8] = 0.3, 0.7      # constant in a whole window
    expected = known(volume[:, None], truth[:, None], data_range=0.9, reduction="none")
    assert torch.allclose(ssim(volume, truth, 0.9), expected.view(-1), atol=1e-4)
    assert torch.allclose(ssim(truth, truth, 0.9), torch.ones(shape[0]))


def test_inter_slice_error_sees_jumps_not_offsets():
    truth = volumes()[1]
    assert inter_slice_error(truth + 0.5, truth) == pytest.approx(0, abs=1e-6)
    jumps = torch.tensor([0.0, 0.2] * 6)[:, None, None]
    assert inter_slice_error(truth + jumps, truth) == pytest.approx(0.2, rel=1e-5)
    assert inter_slice_error(truth + jumps, truth, axis=1) == pytest.approx(0, abs=1e-6)
    assert inter_slice_error(truth[:1], truth[:1]) is None


def test_slices_thinner_than_the_window_have_no_ssim():
    volume, truth = volumes((4, 16, 20))
    result = evaluate(volume, truth)
    assert result["coronal"]["ssim"] is None and result["axial"]["ssim"] is not None
    assert result["ssim"] == result["axial"]["ssim"]


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="truth"):
        evaluate(torch.zeros(3, 4, 4), torch.zeros(3, 4, 5))


def test_what_has_no_figure_is_none():
    truth = torch.zeros(12, 16, 20)
    truth[6:] = 1      # every axial slice is constant
    result = evaluate(truth.clone(), truth)
    assert result["psnr"] is None and result["axial"] == {"psnr": None, "ssim": None}
    assert result["coronal"] == {"psnr": None, "ssim": pytest.approx(1)}


def test_sharpness_falls_with_blur_and_not_with_noise():
    z = torch.linspace(-1, 1, 48)
    truth = torch.where(z[:, None, None]**2 + z[:, None]**2 + z**2 < 0.5, 0.7, 0.1)
    assert sharpness(truth, truth) == pytest.approx(1) and sharpness(0.4 * truth + 3, truth) == pytest.approx(0.4)
    blurred = torch.nn.functional.avg_pool3d(truth[None, None], 3, 1, 1, count_include_pad=False)[0, 0]
    assert 0.2 < sharpness(blurred, truth) < 0.5
    noisy = truth + 0.2 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    assert sharpness(noisy, truth) == pytest.approx(1, abs=0.1)
    assert sharpness(truth, torch.zeros_like(truth)) is None
    assert evaluate(blurred, truth)["sharpness"] == sharpness(blurred, truth)


def test_a_hot_voxel_of_the_truth_moves_nothing():
    volume, truth = volumes()
    before = evaluate(volume, truth)
    for value in (20.0, -2.0):
        hot_volume, hot = volume.clone(), truth.clone()
        hot[5, 6, 7] = hot_volume[5, 6, 7] = value
        found = evaluate(hot_volume, hot)
        span = truth.max().item() - truth.min().item()
        assert found["psnr"] == pytest.approx(before["psnr"] - 20 * math.log10(span), abs=0.02)     # the range is 1 now
        assert found["axial"]["psnr"] == pytest.approx(before["axial"]["psnr"] - 20 * math.log10(span), abs=0.05)


@pytest.mark.parametrize("direction, order", [
    ((1, 0, 0, 0, 1, 0, 0, 0, 1), (0, 1, 2)), ((1, 0, 0, 0, 1, 0, 0, 0, -1), (0, 1, 2)),
    ((0, 0, 1, 1, 0, 0, 0, 1, 0), (1, 2, 0)),      # x to the back, y to the head, z to the left: sagittal slices
    ((1, 0, 0, 0, 0, -1, 0, 1, 0), (1, 0, 2))])    # coronal slices
def test_views_are_those_of_the_patient(direction, order):
    volume, truth = volumes()
    arrays = evaluate(volume, truth)
    by_axis = [arrays[view] for view in ("axial", "coronal", "sagittal")]
    found = evaluate(volume, truth, direction=direction)
    assert [found[view] for view in ("axial", "coronal", "sagittal")] == [by_axis[axis] for axis in order]
    assert found["inter_slice_error"] == arrays["inter_slice_error"]


@pytest.mark.parametrize("axis", [0, 1])
def test_figures_slice_by_slice_add_up_to_those_of_the_volume(axis):
    volume, truth = volumes()
    found = by_slice(volume, truth, axis)
    assert len(found["psnr"]) == truth.shape[axis] == len(found["inter_slice_error"]) + 1
    mean = sum(found["inter_slice_error"]) / len(found["inter_slice_error"])
    assert mean == pytest.approx(inter_slice_error(volume, truth, axis), rel=1e-5)
    view = evaluate(volume, truth)[("axial", "coronal")[axis]]
    assert sum(found["psnr"]) / len(found["psnr"]) == pytest.approx(view["psnr"], rel=1e-5)
    assert by_slice(truth, truth, axis)["psnr"] == [None] * truth.shape[axis]
