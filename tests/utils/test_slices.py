"""Training images: sizes, ranges, the balance of real and synthetic, reproducibility."""
import numpy as np
import pytest
import torch

from utils.slices import SliceSampler, ct_slices, mr_slices
from utils.volume import Volume


def test_ct_slices_are_axial_and_windowed():
    array = np.full((3, 4, 5), -3000, np.float32)
    array[1], array[2] = 300, 1600
    slices = ct_slices(Volume(array))
    assert slices.shape == (3, 4, 5) and slices.flatten(1).mean(1).tolist() == [0, 0.5, 1]


def test_mr_slices_contain_z_one_for_every_y():
    array = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    slices = mr_slices(Volume(array))
    assert slices.shape == (4, 5, 3)
    assert torch.allclose(slices[2, 3] * np.percentile(array, 99.9), torch.from_numpy(array[:, 2, 3]))


def test_bright_outliers_do_not_darken_the_tissue():
    array = np.random.default_rng(0).uniform(0, 100, (20, 20, 20)).astype(np.float32)
    array[3, 4, 5] = 1e5
    slices = mr_slices(Volume(array))
    assert slices.max() == 1 and slices.mean().item() == pytest.approx(0.5, abs=0.02)


def test_empty_mr_images_are_drawn_again():
    stack = torch.zeros(2, 16, 16)
    stack[1] = torch.rand(16, 16)
    batch = SliceSampler([[stack]], 16, "mr").batch(400, np.random.default_rng(0))
    assert (batch.flatten(1).amax(1) == 0).float().mean() == pytest.approx(0.5**5, abs=0.03)


@pytest.mark.parametrize("modality", ["ct", "mr"])
def test_batches_have_the_size_and_follow_the_seed(modality):
    stacks = [torch.rand(6, 30, 70), torch.rand(4, 9, 100)]
    sampler = SliceSampler([stacks, []], 24, modality)
    first = sampler.batch(5, np.random.default_rng(1))
    assert first.shape == (5, 1, 24, 24) and 0 <= first.min() and first.max() <= 1
    assert torch.equal(first, sampler.batch(5, np.random.default_rng(1)))
    assert not torch.equal(first, sampler.batch(5, np.random.default_rng(2)))


def test_groups_and_stacks_are_equally_likely_whatever_their_size():
    stacks = [[torch.full((1, 8, 8), 0.0)], [torch.full((100, 8, 8), 0.5), torch.full((3, 8, 8), 1.0)]]
    means = SliceSampler(stacks, 8, "ct").batch(2000, np.random.default_rng(0)).flatten(1).mean(1)
    for value, share in ((0.0, 0.5), (0.5, 0.25), (1.0, 0.25)):
        assert ((means - value).abs() < 1e-3).float().mean().item() == pytest.approx(share, abs=0.04)


def test_without_data_there_is_no_sampler():
    with pytest.raises(ValueError, match="no training data"):
        SliceSampler([[], []], 8, "ct")
