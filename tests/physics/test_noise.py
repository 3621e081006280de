import math

import pytest
import torch

from physics.noise import add_noise, noise_variance, poisson_weights, snr_db


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


@pytest.mark.parametrize("level, attenuation", [(100, 0.01), (1e4, 0.01), (1e6, 0.01), (1e5, 0.05)])
def test_poisson_has_the_mean_and_the_variance_of_its_counts(level, attenuation):
    y = torch.full((100_000,), 50.0)
    settings = {} if attenuation == 0.01 else {"attenuation": attenuation}         # 0.01 is the default
    noisy = add_noise(y, level, generator(), **settings).double()
    counts = level * torch.exp(-attenuation * noisy)
    expected = level * math.exp(-50 * attenuation) + 10
    assert torch.allclose(counts, counts.round(), atol=1e-5 * level)        # float32 of -ln
    assert abs(counts.mean().item() / expected - 1) < 0.01 and abs(counts.var().item() / expected - 1) < 0.03


def test_poisson_weights_are_inverse_to_the_variance():
    y = torch.tensor([0.0, 20, 60])[:, None].repeat(1, 100_000)
    weights = poisson_weights(y, 0.02)
    assert weights.shape == y.shape and weights.mean().item() == pytest.approx(1, abs=1e-5)
    error = add_noise(y, 1e6, generator(), attenuation=0.02) - y
    products = error.square().mean(1) * weights[:, 0]
    assert torch.allclose(products / products[0], torch.ones(3), atol=0.03)
    assert poisson_weights(torch.full((4,), 1e5)).tolist() == [1, 1, 1, 1]
    assert poisson_weights(torch.tensor([0.0, 100]))[1].item() == pytest.approx(2 / (1 + math.e), rel=1e-5)


def test_no_count_is_a_finite_line_integral():
    noisy = add_noise(torch.full((100_000,), 1e4), 100, generator())    # only the background of 10 photons
    assert noisy.isfinite().all() and noisy.max().item() == pytest.approx(100 * math.log(100), rel=1e-5)


def test_generator_decides():
    y = torch.rand(50) * 100
    for level in (1, 1e3):
        assert torch.equal(add_noise(y, level, generator(3)), add_noise(y, level, generator(3)))
        assert not torch.equal(add_noise(y, level, generator(3)), add_noise(y, level, generator(4)))


def projections(columns=160):
    """Line integrals [1, 40, 12, columns] of a ball with an insert that goes round, in voxels."""
    u = torch.arange(columns) - (columns - 1) / 2
    turn = torch.linspace(0, 2 * math.pi, 40)[:, None]
    ball, insert = 60**2 - u**2, 15**2 - (u - 30 * torch.cos(turn))**2
    lines = 2 * ball.clamp(min=0).sqrt() * 0.4 + 2 * insert.clamp(min=0).sqrt() * 0.3
    return lines[None, :, None].repeat(1, 1, 12, 1)


@pytest.mark.parametrize("level", [0.01, 0.1, 4, 1e4, 1e5])
def test_the_variance_is_found_in_a_measurement(level):
    y = projections()
    noisy = add_noise(y, level, generator())
    assert noise_variance(noisy) == pytest.approx((noisy - y).square().mean().item(), rel=0.15)


def test_hardly_any_variance_is_found_without_noise():
    assert noise_variance(projections()) < 1e-3                     # of lines of up to 60 voxels
    assert noise_variance(projections()[:, :, :1]) < 0.2            # one row, which edges cross again and again


def test_bad_views_and_thinning_hardly_change_the_variance(monkeypatch):
    y = add_noise(projections(), 0.5, generator())
    found = noise_variance(y)
    bad = y.clone()
    bad[:, :4] = 1e4 * torch.rand(y[:, :4].shape, generator=generator())
    # The median of all is where 1 / 1.8 of the nine tenths that are good lie below: 1.134 times as high.
    assert noise_variance(bad) == pytest.approx(1.134**2 * found, rel=0.05)
    monkeypatch.setattr("physics.noise.SEEN", y.numel() // 3)
    thinned = noise_variance(y)
    assert thinned == pytest.approx(found, rel=0.05) and thinned != found


def test_a_detector_of_four_columns_is_refused():
    with pytest.raises(ValueError, match="4 columns; the noise is found from five or more"):
        noise_variance(torch.rand(1, 5, 6, 4))


@pytest.mark.parametrize("level", [-1, -1e-9, math.nan, math.inf])
def test_bad_levels(level):
    with pytest.raises(ValueError, match="level: expected"):
        add_noise(torch.zeros(3), level)


def test_snr():
    clean = torch.tensor([3.0, 4.0])
    assert snr_db(clean, clean + torch.tensor([0.3, 0.4])) == pytest.approx(20, abs=1e-4)
    assert snr_db(clean, clean) == math.inf
