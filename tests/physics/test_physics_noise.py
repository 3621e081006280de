import math

import pytest
import torch

from physics.noise import add_noise, snr_db


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_level_zero_is_a_copy():
    y = torch.rand(1, 2, 3, 4)
    noisy = add_noise(y, 0)
    assert torch.equal(noisy, y) and noisy.data_ptr() != y.data_ptr()


@pytest.mark.parametrize("level", [0.25, 4, 99.9])
def test_gaussian_has_the_variance(level):
    y = torch.full((100_000,), 7.0)
    error = add_noise(y, level, generator()) - y
    assert abs(error.var().item() / level - 1) < 0.02 and abs(error.mean().item()) < 0.02 * math.sqrt(level)


@pytest.mark.parametrize("level", [100, 1e4, 1e6])
def test_poisson_has_the_mean_and_the_variance_of_its_counts(level):
    y = torch.full((100_000,), 50.0)
    counts = level * torch.exp(-0.01 * add_noise(y, level, generator()).double())
    expected = level * math.exp(-0.5) + 10
    assert torch.allclose(counts, counts.round(), atol=1e-5 * level)        # float32 of -ln
    assert abs(counts.mean().item() / expected - 1) < 0.01 and abs(counts.var().item() / expected - 1) < 0.03


def test_no_count_is_a_finite_line_integral():
    noisy = add_noise(torch.full((100_000,), 1e4), 100, generator())    # only the background of 10 photons
    assert noisy.isfinite().all() and noisy.max().item() == pytest.approx(100 * math.log(100), rel=1e-5)


def test_generator_decides():
    y = torch.rand(50) * 100
    for level in (1, 1e3):
        assert torch.equal(add_noise(y, level, generator(3)), add_noise(y, level, generator(3)))
        assert not torch.equal(add_noise(y, level, generator(3)), add_noise(y, level, generator(4)))


@pytest.mark.parametrize("level", [-1, -1e-9, math.nan, math.inf])
def test_bad_levels(level):
    with pytest.raises(ValueError, match="noise level"):
        add_noise(torch.zeros(3), level)


def test_snr():
    clean = torch.tensor([3.0, 4.0])
    assert snr_db(clean, clean + torch.tensor([0.3, 0.4])) == pytest.approx(20, abs=1e-4)
    assert snr_db(clean, clean) == math.inf
