"""Several posterior samples: mean, spread, and going on within one of them."""
from types import SimpleNamespace

import pytest
import torch

from algorithms.observer import Observer
from algorithms.problem import Problem, Sampling, reconstruct
from utils.run.samples import posterior_mean

METHOD = Sampling(sigmas=[1.0, 0.5, 0.1], use_init=True)


class Run(Observer):
    """Keeps every state, and what is saved; starts from ``state``."""

    modality = "ct"

    def __init__(self, state=None):
        self.states, self.begun, self.state = [], [], state

    def begin(self, steps, label):
        self.begun.append(label)

    def keep(self, state):
        self.states.append({key: value.clone() if torch.is_tensor(value) else value for key, value in state().items()})

    def kept(self):
        return self.state

    def save_spread(self, std):
        self.std = std


@pytest.fixture(scope="module")
def problem():
    """The upper half of every slice is measured."""
    mask = torch.zeros(4, 1, 6, 6)
    mask[:, :, :3] = 1
    x = torch.rand(4, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    half = SimpleNamespace(A=lambda x: mask * x, A_T=lambda y: mask * y)
    return Problem(operator=half, y=mask * x, initial=mask * x)


def prior(x, sigma):
    return -(x - 0.5) / (0.04 + sigma**2)       # of a Gaussian image


prior.sigma_min, prior.sigma_max = 0.01, 10.0


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def test_mean_and_spread_are_those_of_runs_of_consecutive_seeds(problem):
    samples = torch.stack([reconstruct(problem, prior, METHOD, seeded(7 + k)) for k in range(4)])
    run = Run()
    mean = posterior_mean(problem, prior, METHOD, seeded(7), run, 4, 7)
    torch.testing.assert_close(mean, samples.mean(0))
    torch.testing.assert_close(run.std, samples.std(0))
    assert run.std[:, :, 3:].mean() > 10 * run.std[:, :, :3].mean()       # what is not measured is open
    assert run.begun[2] == "noise levels of sample 3 of 4"


def test_one_sample_is_the_plain_reconstruction_and_has_no_spread(problem):
    run = Run()
    x = posterior_mean(problem, prior, METHOD, seeded(7), run, 1, 7)
    assert torch.equal(x, reconstruct(problem, prior, METHOD, seeded(7)))
    assert not hasattr(run, "std")


@pytest.mark.parametrize("state", range(6), ids=lambda k: f"sample {k // 2 + 1}, level {k % 2 + 2}")
def test_an_interrupted_run_goes_on_within_the_sample(problem, state):
    whole = Run()
    mean = posterior_mean(problem, prior, METHOD, seeded(7), whole, 3, 7)
    run = Run(whole.states[state])
    assert torch.equal(posterior_mean(problem, prior, METHOD, seeded(0), run, 3, 7), mean)
    assert torch.equal(run.std, whole.std)
    assert len(run.begun) == 3 - state // 2
