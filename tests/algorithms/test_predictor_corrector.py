"""Predictor-corrector sampling, by hand on a few levels and in distribution on a prior with a known score."""
import math

import pytest
import torch

from algorithms.noise import noise_source
from algorithms.noise.independent import Independent
from algorithms.noise.slerp import Slerp
from algorithms.observer import Observer
from algorithms.predictor_corrector import predictor_corrector
from algorithms.sampler import noisy
from algorithms.schedule import sigma_levels

MU, S = 0.3, 0.5  # the prior N(MU, S^2) of every voxel


def gaussian_score(x, sigma):
    return (MU - x) / (S**2 + sigma**2)


def source(shape, control=None, seed=0):
    return noise_source(control or Independent(), shape, torch.Generator().manual_seed(seed), "cpu")


def draw(score, noise, sigmas, **options):
    sigmas = [float(sigma) for sigma in sigmas]
    return predictor_corrector(score, noise, sigmas, noisy(noise, sigmas[0]), **options)


class Seen(Observer):
    def __init__(self):
        self.estimates = []

    def estimate(self, level, x0, sigma=None, residual=None):
        self.estimates.append((level, sigma, x0))

    def keep(self, level, x):
        pass


@pytest.mark.parametrize("corrections", [0, 1, 2])
def test_three_levels_by_hand(corrections):
    """Corrector first, then predictor; slices of unlike size, so that the mean of their norms matters."""
    shape, sigmas, snr = (2, 1, 3, 4), [3.0, 2.0, 0.5], 0.2
    scale = torch.tensor([1.0, 4.0]).view(2, 1, 1, 1)

    def score(x, sigma):
        return scale * gaussian_score(x, sigma)

    eps, estimates = source(shape), []
    x = sigmas[0] * eps()
    for sigma, sigma_next in zip(sigmas, [2.0, 0.5, 0.0]):
        for _ in range(corrections):
            s, z = score(x, sigma), eps()
            z_norm = (z[0].norm() + z[1].norm()) / 2
            s_norm = (s[0].norm() + s[1].norm()) / 2
            step = 2 * (snr * z_norm / s_norm) ** 2
            x = x + step * s + torch.sqrt(2 * step) * z
        s = score(x, sigma)
        estimates.append(x + sigma**2 * s)
        x = x + (sigma**2 - sigma_next**2) * s
        if sigma_next:
            x = x + math.sqrt(sigma**2 - sigma_next**2) * eps()
    seen, draws, noise = Seen(), [], source(shape)
    result = draw(score, lambda: (draws.append(1), noise())[1], torch.tensor(sigmas),
                  snr=snr, n_steps_each=corrections, observer=seen)
    torch.testing.assert_close(result, x)
    assert len(draws) == 3 + 3 * corrections
    assert [(level, sigma) for level, sigma, _ in seen.estimates] == list(enumerate(sigmas))
    for (_, _, found), estimate in zip(seen.estimates, estimates):
        torch.testing.assert_close(found, estimate)


def test_distribution_of_the_predictor_alone():
    """With this score the predictor is a linear recursion, whose mean and variance are known exactly."""
    sigmas = sigma_levels(40, 0.01, 10).tolist()
    mean, var = -MU, sigmas[0] ** 2  # of x - MU
    for sigma, sigma_next in zip(sigmas, sigmas[1:] + [0.0]):
        G2 = sigma**2 - sigma_next**2
        shrink = 1 - G2 / (S**2 + sigma**2)
        mean, var = shrink * mean, shrink**2 * var + (G2 if sigma_next else 0)
    x = draw(gaussian_score, source((16, 1, 64, 64)), sigmas, n_steps_each=0)
    assert x.mean().item() == pytest.approx(MU + mean, abs=0.01)
    assert x.var().item() == pytest.approx(var, rel=0.03)


def test_samples_the_prior():
    x = draw(gaussian_score, source((16, 1, 64, 64)), sigma_levels(400, 0.01, 20))
    assert x.mean().item() == pytest.approx(MU, abs=0.02)
    assert x.var().item() == pytest.approx(S**2, rel=0.05)


def test_correlated_noise_keeps_neighbouring_slices_together():
    step = {}
    for control in (Slerp(), Independent()):
        x = draw(gaussian_score, source((8, 1, 32, 32), control), sigma_levels(50, 0.01, 5))
        step[type(control)] = (x[1:] - x[:-1]).square().mean()
    assert step[Slerp] < 0.1 * step[Independent]


def test_no_gradient_is_recorded():
    gain = torch.ones(1, requires_grad=True)
    x = draw(lambda x, sigma: gain * gaussian_score(x, sigma), source((1, 1, 4, 4)),
                            [2.0, 1.0])
    assert not x.requires_grad


@pytest.mark.parametrize("changed, named", [
    ({"snr": 0}, "snr is 0"), ({"n_steps_each": -1}, "n_steps_each is -1"),
    ({"sigmas": [1.0, 2.0]}, "must fall"),
])
def test_refuses(changed, named):
    with pytest.raises(ValueError, match=named):
        draw(gaussian_score, source((1, 1, 4, 4)), **{"sigmas": [2.0, 1.0], **changed})
