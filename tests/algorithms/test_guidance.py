"""The posterior-sampling gradient against closed forms on a Gaussian prior, and against autograd on a network."""
import math

import pytest
import torch

from algorithms.guidance import dps
from algorithms.noise import noise_source
from algorithms.noise.independent import Independent
from algorithms.problem import Problem
from algorithms.renoise.ddim import DDIM
from algorithms.renoise.ddpm import DDPM
from algorithms.renoise.dds import DDSRule
from algorithms.renoise.diffpir import DiffPIR
from algorithms.sampler import noisy, sample
from models.checkpoint import load_weights
from models.ncsnpp import NCSNpp
from models.slice_score import SliceScore
from utils.io.config import load_config

SHAPE = (3, 1, 2, 2)
SIGMAS = [2.0, 1.0, 0.4]


def double(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Gaussian:
    """Score of the prior N(mean, C), the same for every slice: -(C + sigma^2 I)^-1 (x - mean)."""

    def __init__(self, seed=5):
        half = double(4, 4, seed=seed)
        self.C, self.mean, self.calls = half @ half.T, double(4, seed=seed + 1), 0

    def precision(self, sigma):
        return torch.linalg.inv(self.C + sigma**2 * torch.eye(4, dtype=torch.float64))

    def __call__(self, x, sigma):
        return -((x.flatten(1) - self.mean) @ self.precision(sigma)).view(x.shape)

    def vjp(self, x, sigma, v):
        self.calls += 1
        return -(v.flatten(1) @ self.precision(sigma)).view(x.shape)


class Dense:
    """A matrix between slices [n, 1, H, W] and [1, m]."""

    def __init__(self, matrix, domain_shape):
        self.matrix, self.domain_shape = matrix, domain_shape

    def A(self, x):
        return (self.matrix @ x.flatten())[None]

    def A_T(self, y):
        return (self.matrix.T @ y.flatten()).view(self.domain_shape)


def problem(m=7):
    return Dense(double(m, 12, seed=1), SHAPE), double(1, m, seed=2), double(*SHAPE, seed=3)


def measured(operator, y, weights=None):
    return Problem(operator=operator, y=y, weights=weights, initial=y.new_zeros(operator.domain_shape))


def keep(x0, sigma):
    return x0


def run(score, sigmas, renoise, data_step=keep, guidance=None):
    noise = source()
    return sample(score, data_step, noise, sigmas, renoise, noisy(noise, sigmas[0]), guidance=guidance)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("sigma", [0.1, 3.0])
def test_gaussian_prior_closed_form(sigma, weighted):
    """x0 = mean + J (x - mean) with J = C (C + sigma^2 I)^-1 in every slice."""
    operator, y, x = problem()
    score, M = Gaussian(), operator.matrix
    J = torch.block_diag(*[score.C @ score.precision(sigma)] * 3)
    mean = score.mean.repeat(3)
    r = M @ (mean + J @ (x.flatten() - mean)) - y[0]
    weights = double(1, 7, seed=4).square() if weighted else None
    W = torch.diag(weights[0]) if weighted else torch.eye(7, dtype=torch.float64)
    expected = 0.3 * J.T @ M.T @ W @ r / torch.sqrt(r @ W @ r)
    x0 = x + sigma**2 * score(x, sigma)
    step = dps(score, measured(operator, y, weights), 0.3)(x, x0, sigma)
    torch.testing.assert_close(step.flatten(), expected)
    assert expected.norm() > 1e-3


@pytest.fixture(scope="module")
def tiny_score(data_dir):
    network = NCSNpp(load_config(data_dir / "ncsnpp_tiny.yaml"))
    load_weights(network, data_dir / "ncsnpp_tiny.pth")
    return SliceScore(network.double(), 2, "cpu")


def autograd_step(score, operator, y, x, sigma, w_dps):
    """w_dps grad_x |y - A x0(x)|, all slices through the network at once and autograd through everything."""
    x = x.clone().requires_grad_()
    with torch.enable_grad():
        x0 = x + sigma**2 * score.network(x, torch.full((len(x),), sigma, dtype=x.dtype))
        misfit = (y - operator.A(x0)).norm()
    return w_dps * torch.autograd.grad(misfit, x)[0]


def test_through_the_network_as_autograd_has_it(tiny_score):
    shape = (3, 1, 16, 16)
    operator = Dense(double(40, 768, seed=1), shape)
    y, x, sigma = double(1, 40, seed=2), double(*shape, seed=3), 0.7
    x0 = x + sigma**2 * tiny_score(x, sigma)
    step = dps(tiny_score, measured(operator, y), 0.5)(x, x0, sigma)
    torch.testing.assert_close(step, autograd_step(tiny_score, operator, y, x, sigma, 0.5), rtol=1e-5, atol=1e-7)
    plain = 0.5 * operator.A_T(operator.A(x0) - y) / (operator.A(x0) - y).norm()
    assert (step - plain).norm() > 0.05 * step.norm()  # the network's part is no detail


def source(seed=0):
    draw = noise_source(Independent(), SHAPE, torch.Generator().manual_seed(seed), "cpu")
    return lambda: draw().double()


@pytest.mark.parametrize("rule", [DDPM(), DDIM(), DDSRule(), DiffPIR()], ids=lambda rule: type(rule).__name__)
def test_the_sampler_takes_the_steps_of_the_paper(rule):
    """Algorithm 1 of DPS: re-noise first, then subtract the gradient from the image of the next level."""
    operator, y, _ = problem()
    score, noise = Gaussian(), source()
    guidance = dps(score, measured(operator, y), 0.4)
    x = SIGMAS[0] * noise()
    for sigma, sigma_next in zip(SIGMAS, SIGMAS[1:] + [None]):
        s = score(x, sigma)
        x0 = x + sigma**2 * s
        following = x0 if sigma_next is None else rule(x0, s, noise(), sigma, sigma_next)
        x = following - guidance(x, x0, sigma)
    torch.testing.assert_close(run(score, SIGMAS, rule, guidance=guidance), x)


def test_consistency_has_the_last_word():
    operator, y, _ = problem()
    x = run(Gaussian(), SIGMAS, DDPM(), lambda x0, sigma: torch.zeros_like(x0),
            guidance=dps(Gaussian(), measured(operator, y), 0.4))
    assert not x.any()


def test_guidance_lowers_the_misfit():
    operator, y, _ = problem()
    misfit = [(operator.A(run(Gaussian(), [0.9**k for k in range(60)], DDIM(), guidance=guidance)) - y).norm().item()
              for guidance in (None, dps(Gaussian(), measured(operator, y), 0.05))]
    assert misfit[1] < 0.3 * misfit[0]


def test_one_derivative_a_level_and_none_without():
    operator, y, _ = problem()
    score = Gaussian()
    run(score, SIGMAS, DDPM())
    assert score.calls == 0
    run(score, SIGMAS, DDPM(), guidance=dps(score, measured(operator, y), 0.1))
    assert score.calls == 3


def test_a_measurement_that_is_met_asks_for_nothing():
    operator, _, x0 = problem()
    assert not dps(Gaussian(), measured(operator, operator.A(x0)), 1.0)(x0, x0, 0.5).any()


def test_inputs_are_left_alone():
    operator, y, x = problem()
    before = x.clone(), y.clone()
    x0 = x + 1
    dps(Gaussian(), measured(operator, y, torch.full_like(y, 2.0)), 1.0)(x, x0, 0.5)
    assert torch.equal(x, before[0]) and torch.equal(y, before[1]) and torch.equal(x0, before[0] + 1)


def test_refuses():
    operator, y, _ = problem()
    for bad in (0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="w_dps is"):
            dps(Gaussian(), measured(operator, y), bad)
