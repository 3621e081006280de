"""One place for all methods: what `reconstruct` hands to whom, and going on after an interruption."""
from functools import partial

import pytest
import torch

from algorithms.admm_tv import admm_tv
from algorithms.data_steps.ddnm import DDNM
from algorithms.data_steps.dds import DDS
from algorithms.noise.gaussian_process import GaussianProcess
from algorithms.noise.independent import Independent
from algorithms.noise.zero import Zero
from algorithms.problem import Problem, Sampling, TotalVariation, Unconditional, reconstruct
from algorithms.renoise.diffpir import DiffPIR
from tests.algorithms.resuming import Seen, assert_goes_on

SHAPE = (4, 1, 6, 5)
SIGMAS = [2.0, 1.0, 0.4, 0.1]


class Halves:
    """Keeps the first half of the columns: A A_dagger = I."""

    domain_shape, range_shape = SHAPE, (4, 1, 6, 2)

    def A(self, x):
        return x[..., :2]

    def A_T(self, y):
        return torch.cat([y, y.new_zeros(*y.shape[:-1], 3)], -1)

    A_dagger = A_T


class Gaussian:
    """Score of the prior N(0.3, 0.25)."""

    def __call__(self, x, sigma):
        return (0.3 - x) / (0.25 + sigma**2)

    def vjp(self, x, sigma, v):
        return -v / (0.25 + sigma**2)


def measured(**changes):
    y = torch.rand(Halves.range_shape, generator=torch.Generator().manual_seed(5))
    return Problem(**{"operator": Halves(), "y": y, "initial": Halves().A_dagger(y), "spacing": 2.0} | changes)


def test_a_problem_without_a_measurement_is_refused_where_one_is_needed():
    for make in (lambda: measured(y=None, weights=torch.ones(1)),
                 lambda: reconstruct(measured(y=None), None, TotalVariation())):
        with pytest.raises(ValueError, match="a measurement is needed"):
            make()


METHODS = {
    "DDS": Sampling(sigmas=SIGMAS, data_step=partial(DDS, num_cg=2, w_dz=0.1, w_tv=0.05, dual=0.5),
                    renoise=DiffPIR(), use_init=True),
    "DDNM": Sampling(sigmas=SIGMAS, data_step=DDNM, noise=GaussianProcess(3.0), w_dps=0.05),
    "uncondition": Unconditional(sigmas=SIGMAS, noise=Independent())}


@pytest.mark.parametrize("method", METHODS)
def test_going_on_from_any_level_gives_the_same_volume(method):
    assert_goes_on(measured(), Gaussian, METHODS[method])


def test_the_measurement_is_met_and_its_residual_seen():
    seen = Seen()
    problem = measured()
    x = reconstruct(problem, Gaussian(), Sampling(sigmas=SIGMAS, data_step=DDNM), observer=seen)
    torch.testing.assert_close(Halves().A(x), problem.y)
    assert max(seen.residuals) < 1e-6
    assert problem.residual(torch.zeros(SHAPE)) == pytest.approx(1)


def test_a_prior_alone_sees_no_measurement():
    other = measured(y=torch.zeros(Halves.range_shape))
    options = METHODS["uncondition"]
    assert torch.equal(reconstruct(measured(), Gaussian(), options), reconstruct(other, Gaussian(), options))
    seen = Seen()
    reconstruct(Problem(initial=torch.zeros(SHAPE)), Gaussian(), options, observer=seen)
    assert seen.residuals == [None] * 4


def test_the_image_to_start_from_is_used_where_it_is_asked_for():
    problem = measured(initial=torch.full(SHAPE, 7.0))
    images = [reconstruct(problem, lambda x, sigma: torch.zeros_like(x),
                          Sampling(sigmas=[1.0], data_step=DDNM, noise=Zero(), use_init=use)) for use in (True, False)]
    assert (images[0][..., 2:] == 7).all() and (images[1][..., 2:] == 0).all()


def test_total_variation_needs_no_prior():
    seen = Seen()
    x = reconstruct(measured(), None, TotalVariation(w_tv=0.2), observer=seen)
    assert torch.equal(x, admm_tv(Halves(), measured().y, lam=0.2)) and x.std() > 0.01
    assert seen.steps == (30, "ADMM steps") and len(seen.residuals) == 30


@pytest.mark.parametrize("weights, named", [(torch.ones(3), "must broadcast to y"), (-torch.ones(1), "finite and 0"),
                                            (torch.tensor(float("nan")), "finite and 0")])
def test_weights_that_are_none_are_refused(weights, named):
    with pytest.raises(ValueError, match=named):
        measured(weights=weights)


def test_without_a_generator_the_seed_is_zero():
    one, two, other = (reconstruct(measured(), Gaussian(), METHODS["DDS"], generator) for generator in (
        None, torch.Generator().manual_seed(0), torch.Generator().manual_seed(1)))
    assert torch.equal(one, two) and not torch.equal(one, other)
