"""The diffusion loop, by hand on a few levels and in distribution on a prior with a known score."""
import math

import pytest
import torch

from algorithms.data_steps.ddnm import DDNM
from algorithms.noise import noise_source
from algorithms.noise.gaussian_process import GaussianProcess
from algorithms.noise.independent import Independent
from algorithms.noise.slerp import Slerp
from algorithms.noise.zero import Zero
from algorithms.observer import Observer
from algorithms.problem import Problem
from algorithms.renoise.ddim import DDIM
from algorithms.renoise.ddpm import DDPM
from algorithms.renoise.dds import DDSRule
from algorithms.renoise.diffpir import DiffPIR
from algorithms.sampler import noisy, sample
from algorithms.schedule import sigma_levels

RULES = {"DDPM": DDPM(), "DDIM": DDIM(), "DDS": DDSRule(), "DiffPIR": DiffPIR()}
MU, S = 0.3, 0.5  # the prior N(MU, S^2) of every voxel


def gaussian_score(x, sigma):
    return (MU - x) / (S**2 + sigma**2)


def keep(x0, sigma):
    return x0


def source(shape, control=None, seed=0):
    return noise_source(control or Independent(), shape, torch.Generator().manual_seed(seed), "cpu")


def run(noise, sigmas, renoise, data_step=keep, x_init=None, score=gaussian_score, **options):
    """A whole run, from noise or from an image."""
    sigmas = [float(sigma) for sigma in sigmas]
    return sample(score, data_step, noise, sigmas, renoise, noisy(noise, sigmas[0], x_init), **options)


class Seen(Observer):
    def __init__(self):
        self.estimates = []

    def estimate(self, level, x0, sigma=None, residual=None):
        self.estimates.append((level, sigma, x0))

    def keep(self, level, x):
        pass


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
@pytest.mark.parametrize("method", RULES)
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
    noise, draws, seen = source(shape), [], Seen()
    result = run(lambda: (draws.append(1), noise())[1], torch.tensor(sigmas, dtype=torch.float64), RULES[method],
                 lambda x0, sigma: 0.7 * x0 + 0.1 * sigma, x_init, observer=seen)
    torch.testing.assert_close(result, x0)
    assert len(draws) == 3  # the start and two re-noisings: none after the last level
    assert [(level, sigma) for level, sigma, _ in seen.estimates] == list(enumerate(sigmas))
    for (_, _, found), (_, x0) in zip(seen.estimates, seen_by_hand):
        torch.testing.assert_close(found, x0)


def test_x_init_is_left_alone():
    x_init = torch.rand(2, 1, 3, 4)
    before = x_init.clone()
    run(source(x_init.shape), [2.0, 1.0], DDPM(), x_init=x_init)
    assert torch.equal(x_init, before)


def test_the_estimate_is_denoised_once_more_at_the_final_sigma():
    shape, sigmas = (2, 1, 3, 4), [2.0, 0.4]
    plain, again = (run(source(shape), sigmas, DDPM(), final_sigma=final) for final in (None, 0.3))
    torch.testing.assert_close(again, plain + 0.3**2 * gaussian_score(plain, 0.3))


@pytest.mark.parametrize("method", RULES)
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
    x = run(source(shape), sigmas, RULES[method])
    assert x.mean().item() == pytest.approx(MU + mean, abs=4 * math.sqrt(var / x.numel()) + 1e-4)
    assert x.var().item() == pytest.approx(var, rel=0.03)


def test_ddim_samples_the_prior():
    x = run(source((16, 1, 64, 64)), sigma_levels(1000, 0.01, 20), DDIM())
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


def measured(operator, y):
    return Problem(operator=operator, y=y, initial=torch.zeros(operator.domain_shape))


def test_posterior_measured_slices_are_met_and_the_others_follow_the_prior():
    shape = (18, 1, 64, 64)
    operator, y = Mask(2, shape), torch.rand(2, 1, 64, 64)
    x = run(source(shape), sigma_levels(1000, 0.01, 20), DDIM(), DDNM(measured(operator, y)))
    torch.testing.assert_close(x[:2], y)
    assert x[2:].mean().item() == pytest.approx(MU, abs=0.02)
    assert x[2:].var().item() == pytest.approx(S**2, rel=0.03)


def test_identity_operator_returns_the_measurement():
    y = torch.rand(3, 1, 5, 5)
    x = run(source(y.shape), sigma_levels(5, 0.01, 20), DDPM(), DDNM(measured(Mask(3, y.shape), y)))
    torch.testing.assert_close(x, y)


def test_correlated_noise_keeps_neighbouring_slices_together():
    shape, step = (8, 1, 32, 32), {}
    for control in (Slerp(), Independent()):
        x = run(source(shape, control), sigma_levels(50, 0.01, 5), DDPM())
        step[type(control)] = (x[1:] - x[:-1]).square().mean()
    assert step[Slerp] < 0.1 * step[Independent]  # 2 - 2 cos(16/129 pi/2) against 2


def test_slices_correlate_as_the_gaussian_process_of_the_noise_does():
    """Everything is linear here, so that the sample's deviation from its mean has the noise's correlation."""
    shape = (6, 1, 128, 128)
    noise = noise_source(GaussianProcess(3.0), shape, torch.Generator().manual_seed(0), spacing=2.0)
    x = run(noise, sigma_levels(30, 0.01, 5), DDSRule()).flatten(1)
    d = 2.0 * (torch.arange(6)[:, None] - torch.arange(6))
    torch.testing.assert_close(torch.corrcoef(x), torch.exp(-d**2 / 18), rtol=0, atol=0.03)


def test_without_any_noise_the_run_is_plug_and_play_denoising():
    x_init, sigmas = torch.rand(2, 1, 3, 4), [2.0, 1.0, 0.5]
    x = x_init
    for sigma in sigmas:
        x = 0.5 * (x + sigma**2 * gaussian_score(x, sigma))
    result = run(source(x_init.shape, Zero()), sigmas, DDPM(), lambda x0, sigma: 0.5 * x0, x_init)
    torch.testing.assert_close(result, x)


@pytest.mark.parametrize("batch", [1, 7])
def test_batches_of_the_score_do_not_matter(batch):
    net = torch.nn.Conv2d(1, 1, 3, padding=1)

    def score(x, sigma):
        return (0.2 * net(x) - x) / (1 + sigma**2)

    def in_batches(x, sigma):
        return torch.cat([score(part, sigma) for part in x.split(batch)])

    shape, sigmas = (10, 1, 8, 8), sigma_levels(6, 0.01, 5)
    whole, parts = (run(source(shape, Slerp()), sigmas, DDSRule(), score=each) for each in (score, in_batches))
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-5)
    assert not whole.requires_grad


@pytest.mark.parametrize("sigmas, named", [([1.0, 2.0], "must fall"), ([1.0, 0.0], "each above 0")])
def test_refuses(sigmas, named):
    with pytest.raises(ValueError, match=named):
        run(source((2, 1, 4, 4)), sigmas, DDPM())


def test_an_image_to_start_from_has_the_shape_of_the_noise():
    with pytest.raises(ValueError, match=r"image to start from is \[1, 1, 4, 4\]"):
        noisy(source((2, 1, 4, 4)), 1.0, torch.zeros(1, 1, 4, 4))


def test_eta_of_one_is_all_new_noise():
    shape, sigmas = (3, 1, 8, 8), [2.0, 1.0, 0.5]
    fresh, same, other = (run(source(shape), sigmas, rule) for rule in (DDPM(), DDSRule(eta=1), DDSRule()))
    torch.testing.assert_close(same, fresh)
    assert not torch.equal(other, fresh)


def test_the_noise_of_the_next_level_is_put_on_the_centre_of_the_data_step():
    class Shifted:
        def __call__(self, x0, sigma):
            return 0.5 * x0

        def centre(self, x):
            return x + 3

    shape, sigmas, eps = (2, 1, 3, 4), [2.0, 1.0], source((2, 1, 3, 4))
    x = sigmas[0] * eps()
    x = 0.5 * (x + 4 * gaussian_score(x, 2.0)) + 3 + eps()
    torch.testing.assert_close(run(source(shape), sigmas, DDPM(), Shifted()), 0.5 * (x + gaussian_score(x, 1.0)))
