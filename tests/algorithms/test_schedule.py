"""Noise levels: the published formula, its ends, and what is refused."""
import math

import numpy as np
import pytest
import torch

from algorithms.schedule import as_levels, sigma_levels


def test_ends_and_constant_ratio():
    sigmas = sigma_levels(1000, 0.01, 378)
    assert sigmas.dtype == torch.float64 and sigmas.shape == (1000,)
    assert sigmas[0] == 378
    assert sigmas[-1].item() == pytest.approx(0.01, rel=1e-8)
    ratio = sigmas[1:] / sigmas[:-1]
    torch.testing.assert_close(ratio, torch.full_like(ratio, (0.01 / 378) ** (1 / 999)), rtol=1e-9, atol=0)


def test_times_of_the_published_run(data_dir):
    t = np.load(data_dir / "renoise.npz")["t"].astype(np.float64)
    expected = torch.from_numpy(0.01 * (5 / 0.01) ** t)
    torch.testing.assert_close(sigma_levels(len(t), 0.01, 5), expected, rtol=1e-6, atol=0)


def test_one_level_is_sigma_max():
    assert sigma_levels(1, 0.01, 5).tolist() == [5]


@pytest.mark.parametrize("nfe, sigma_min, sigma_max, named", [
    (0, 0.01, 5, "nfe is 0"), (-3, 0.01, 5, "nfe is -3"),
    (10, 5, 0.01, "sigma_min is 5"), (10, 0, 5, "sigma_min is 0"), (10, -1, 5, "sigma_min is -1"),
    (10, 0.01, math.inf, "sigma_max is inf"), (10, math.nan, 5, "sigma_min is nan"),
])
def test_refuses(nfe, sigma_min, sigma_max, named):
    with pytest.raises(ValueError, match=named):
        sigma_levels(nfe, sigma_min, sigma_max)


def test_levels_a_sampler_can_walk():
    assert as_levels(torch.tensor([3.0, 2.0, 2.0])) == [3.0, 2.0, 2.0]
    for bad in ([], [1.0, 0.0], [1.0, -1.0], [1.0, math.nan], [math.inf, 1.0], [1.0, 2.0]):
        with pytest.raises(ValueError, match="sigmas are"):
            as_levels(bad)
