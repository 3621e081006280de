"""A prior that sees the volume mirrored by turns."""
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from algorithms.data_steps.dds import DDS
from algorithms.mirrored import Mirrored
from algorithms.problem import Problem, Sampling, reconstruct
from tests.algorithms.resuming import assert_goes_on

SHAPE = (3, 1, 4, 5)
RAMP = torch.arange(5.0)


class OneSided:
    """A prior whose score is larger to the right."""

    def __call__(self, x, sigma):
        return -x * RAMP

    def vjp(self, x, sigma, v):
        return -v * RAMP


def test_every_other_pair_of_levels_is_mirrored_and_so_is_its_derivative():
    x, v = torch.rand(SHAPE), torch.rand(SHAPE)
    prior = Mirrored(OneSided(), (3,))
    for ramp in (RAMP, RAMP, RAMP.flip(0), RAMP.flip(0), RAMP):
        assert torch.equal(prior(x, 1.0), -x * ramp)
        assert torch.equal(prior.vjp(x, 1.0, v), -v * ramp)


@pytest.mark.parametrize("axes", [(3,), (0, 2)])
def test_a_prior_without_sides_gives_the_same_volume(axes):
    problem = Problem(operator=SimpleNamespace(A=lambda x: x[..., ::2], A_T=lambda y: torch.stack(
        (y, torch.zeros_like(y)), -1).flatten(-2)[..., :5]), y=torch.rand(3, 1, 4, 3), initial=torch.zeros(SHAPE))
    options = partial(Sampling, sigmas=[4.0, 3.0, 2.0, 1.0, 0.5], data_step=partial(DDS, num_cg=2))
    plain, turned = (reconstruct(problem, lambda x, sigma: -x / (1 + sigma**2), options(mirror=mirror))
                     for mirror in ((), axes))
    assert torch.equal(plain, turned)


def test_a_mirrored_run_goes_on_as_if_it_had_not_stopped():
    problem = Problem(operator=SimpleNamespace(A=lambda x: x, A_T=lambda y: y), y=torch.rand(SHAPE),
                      initial=torch.zeros(SHAPE))
    options = Sampling(sigmas=[.5, .4, .3, .2, .1, .05], data_step=partial(DDS, num_cg=1, w_tik=1.0), mirror=(3,))
    assert_goes_on(problem, OneSided, options)
