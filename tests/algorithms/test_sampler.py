"""The diffusion loop, by hand on a few levels and in distribution on a prior with a known score."""
import math

import pytest
import torch

from algorithms.consistency import ddnm
from algorithms.noise import noise_source
from algorithms.renoise import METHODS
from algorithms.sampler import sample
from algorithms.schedule import sigma_levels

MU, S = 0.3, 0.5  # the prior N(MU, S^2) of every voxel


def gaussian_score(x, sigma):
    return (MU - x) / (S**2 + sigma**2)


def keep(x0, sigma):
    return x0


def source(shape, control="None", seed=0):
    return noise_source(control, shape, torch.Generator().manual_seed(seed), "cpu")


def rule(method, x0, score, eps, sigma, sn):
    """The four re-noising rules as the papers print them."""
    e = -sigma * score
    if method == "DDPM":
        return x0 + sn * eps
    if method == "DDIM":
        ss = min(sn, math.sqrt(sigma**2 - sn**2))
        return x0 + math.sqrt(sn**2 - ss**2) * e + ss * eps
    if method == "DDS":
        return x0 + math.sqrt(1 - 0.85**2) * sn * e + 0.85 * sn * eps
    return x0 + 0.5 * sn * e + 0.5 * sn * eps


@pytest.mark.parametrize("with_init", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_three_levels_by_hand(method, with_init):
    shape, sigmas = (2, 1, 3, 4), [3.0, 2.0, 0.5]
    x_init = torch.rand(shape) if with_init else None
    eps = source(shape)
    x = sigmas[0] * eps() + (x_init if with_init else 0)
    seen_by_hand = []
    for sigma, sigma_next in zip(sigmas, sigmas[1:] + [None]):
        s = gaussian_score(x, sigma)
        x0 = 0.7 * (x + sigma**2 * s) + 0.1 * sigma
        seen_by_hand.append((sigma, x0))
        if sigma_next:
            x = rule(method, x0, s, eps(), sigma, sigma_next)
    seen = []
    noise, draws = source(shape), []
    result = sample(gaussian_score, lambda x0, sigma: 0.7 * x0 + 0.1 * sigma,
                    lambda: (draws.append(1), noise())[1], torch.tensor(sigmas, dtype=torch.float64),
                    renoise_method=method, x_init=x_init, callback=seen.append)
    torch.testing.assert_close(result, x0)
    assert len(draws) == 3  # the start and two re-noisings: none after the last level
    assert [state["level"] for state in seen] == [0, 1, 2]
    for state, (sigma, x0) in zip(seen, seen_by_hand):
        assert state["sigma"] == sigma
        torch.testing.assert_close(state["x0"], x0)


def test_x_init_is_left_alone():
    x_init = torch.rand(2, 1, 3, 4)
    before = x_init.clone()
    sample(gaussian_score, keep, source(x_init.shape), [2.0, 1.0], renoise_method="DDPM", x_init=x_init)
    assert torch.equal(x_init, before)


def test_the_estimate_is_denoised_once_more_at_the_final_sigma():
    shape, sigmas = (2, 1, 3, 4), [2.0, 0.4]
    run = [sample(gaussian_score, keep, source(shape), sigmas, renoise_method="DDPM", final_sigma=final)
           for final in (None, 0.3)]
    torch.testing.assert_close(run[1], run[0] + 0.3**2 * gaussian_score(run[0], 0.3))


@pytest.mark.parametrize("method", METHODS)
def test_distribution_at_every_step_count(method):
    """With this score a run is a linear recursion, whose mean and variance are known exactly."""
    shape = (16, 1, 64, 64)
    sigmas = sigma_levels(12, 0.01, 5).tolist()
    mean, var = -MU, sigmas[0] ** 2  # of x - MU
    for sigma, sn in zip(sigmas, sigmas[1:] + [None]):
        shrink = S**2 / (S**2 + sigma**2)
        if sn is None:
            mean, var = shrink * mean, shrink**2 * var
            break
        keep_e = rule(method, 0, -1, 0, sigma, sn) / (S**2 + sigma**2)  # weight of x - MU through e
        mean = (shrink + keep_e) * mean
        var = (shrink + keep_e) ** 2 * var + rule(method, 0, 0, 1, sigma, sn) ** 2
    x = sample(gaussian_score, keep, source(shape), sigmas, renoise_method=method)
    assert x.mean().item() == pytest.approx(MU + mean, abs=4 * math.sqrt(var / x.numel()) + 1e-4)
    assert x.var().item() == pytest.approx(var, rel=0.03)


def test_ddim_samples_the_prior():
    x = sample(gaussian_score, keep, source((16, 1, 64, 64)), sigma_levels(1000, 0.01, 20),
               renoise_method="DDIM")
    assert x.mean().item() == pytest.approx(MU, abs=0.02)
    assert x.var().item() == pytest.approx(S**2, rel=0.03)


class Mask:
    """Keeps the first `n` slices: the simplest operator with A A_dagger = I and a null space."""

    def __init__(self, n, shape):
        self.n, self.domain_shape, self.range_shape = n, shape, (n, *shape[1:])

    def A(self, x):
        return x[:self.n]

    def A_dagger(self, y):
        return torch.cat([y, y.new_zeros(self.domain_shape[0] - self.n, *self.domain_shape[1:])])


def test_posterior_measured_slices_are_met_and_the_others_follow_the_prior():
    shape = (18, 1, 64, 64)
    operator, y = Mask(2, shape), torch.rand(2, 1, 64, 64)
    x = sample(gaussian_score, ddnm(operator, y), source(shape), sigma_levels(1000, 0.01, 20),
               renoise_method="DDIM")
    torch.testing.assert_close(x[:2], y)
    assert x[2:].mean().item() == pytest.approx(MU, abs=0.02)
    assert x[2:].var().item() == pytest.approx(S**2, rel=0.03)


def test_identity_operator_returns_the_measurement():
    y = torch.rand(3, 1, 5, 5)
    x = sample(gaussian_score, ddnm(Mask(3, y.shape), y), source(y.shape), sigma_levels(5, 0.01, 20),
               renoise_method="DDPM")
    torch.testing.assert_close(x, y)


def test_correlated_noise_keeps_neighbouring_slices_together():
    shape, step = (8, 1, 32, 32), {}
    for control in ("SLERP", "None"):
        x = sample(gaussian_score, keep, source(shape, control), sigma_levels(50, 0.01, 5),
                   renoise_method="DDPM")
        step[control] = (x[1:] - x[:-1]).square().mean()
    assert step["SLERP"] < 0.1 * step["None"]  # 2 - 2 cos(16/129 pi/2) against 2


def test_slices_correlate_as_the_gaussian_process_of_the_noise_does():
    """Everything is linear here, so that the sample's deviation from its mean has the noise's correlation."""
    shape = (6, 1, 128, 128)
    noise = noise_source("GP", shape, torch.Generator().manual_seed(0), "cpu", spacing=2.0, length=3.0)
    x = sample(gaussian_score, keep, noise, sigma_levels(30, 0.01, 5), renoise_method="DDS").flatten(1)
    d = 2.0 * (torch.arange(6)[:, None] - torch.arange(6))
    torch.testing.assert_close(torch.corrcoef(x), torch.exp(-d**2 / 18), rtol=0, atol=0.03)


def test_without_any_noise_the_run_is_plug_and_play_denoising():
    x_init, sigmas = torch.rand(2, 1, 3, 4), [2.0, 1.0, 0.5]
    x = x_init
    for sigma in sigmas:
        x = 0.5 * (x + sigma**2 * gaussian_score(x, sigma))
    result = sample(gaussian_score, lambda x0, sigma: 0.5 * x0, source(x_init.shape, "zero"), sigmas,
                    renoise_method="DDPM", x_init=x_init)
    torch.testing.assert_close(result, x)


@pytest.mark.parametrize("batch", [1, 7])
def test_batches_of_the_score_do_not_matter(batch):
    net = torch.nn.Conv2d(1, 1, 3, padding=1)

    def score(x, sigma):
        return (0.2 * net(x) - x) / (1 + sigma**2)

    def in_batches(x, sigma):
        return torch.cat([score(part, sigma) for part in x.split(batch)])

    shape, sigmas = (10, 1, 8, 8), sigma_levels(6, 0.01, 5)
    whole = sample(score, keep, source(shape, "SLERP"), sigmas, renoise_method="DDS")
    parts = sample(in_batches, keep, source(shape, "SLERP"), sigmas, renoise_method="DDS")
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-5)
    assert not whole.requires_grad


@pytest.mark.parametrize("changed, named", [
    ({"sigmas": []}, "sigmas are"), ({"sigmas": [1.0, 2.0]}, "must fall"),
    ({"renoise_method": "ddim"}, "'ddim'; choose from"),
    ({"x_init": torch.zeros(1, 1, 4, 4)}, r"x_init is \[1, 1, 4, 4\]"),
])
def test_refuses(changed, named):
    arguments = {"sigmas": [2.0, 1.0], "renoise_method": "DDPM", **changed}
    with pytest.raises(ValueError, match=named):
        sample(gaussian_score, keep, source((2, 1, 4, 4)), **arguments)


def test_eta_of_one_is_all_new_noise():
    shape, sigmas = (3, 1, 8, 8), [2.0, 1.0, 0.5]
    fresh = sample(gaussian_score, keep, source(shape), sigmas, renoise_method="DDPM")
    same = sample(gaussian_score, keep, source(shape), sigmas, renoise_method="DDS", eta=1)
    torch.testing.assert_close(same, fresh)
    assert not torch.equal(sample(gaussian_score, keep, source(shape), sigmas, renoise_method="DDS"), fresh)
