"""Two planes by turns: whose level it is, what the second prior sees, and that a run goes on with the same volume."""
from types import SimpleNamespace

import pytest
import torch

from algorithms.noise.slerp import Slerp
from algorithms.planes import Planes, SecondPlane
from algorithms.problem import Problem, Sampling, reconstruct
from algorithms.renoise.dds import DDSRule
from tests.algorithms.resuming import assert_goes_on

SHAPE = (4, 1, 5, 6)


class Recorder:
    """A prior of zero mean and unit variance that notes the shapes and levels that it sees."""

    def __init__(self):
        self.seen = []

    def __call__(self, x, sigma):
        self.seen.append((tuple(x.shape), round(sigma, 6)))
        return -x / (1 + sigma**2)


@pytest.mark.parametrize("order, shape", [((2, 1, 0, 3), (5, 1, 4, 6)), ((3, 1, 0, 2), (6, 1, 4, 5))])
def test_levels_go_by_turns_and_each_prior_sees_its_own_slices(order, shape):
    first, second = Recorder(), Recorder()
    problem = Problem(operator=SimpleNamespace(A=lambda x: x, A_T=lambda y: y), y=torch.rand(SHAPE),
                      initial=torch.zeros(SHAPE))
    sigmas = [4.0, 3.0, 2.0, 1.0]
    result = reconstruct(problem, first, Sampling(sigmas=sigmas, second=SecondPlane(prior=second, order=order)))
    assert result.shape == SHAPE
    assert first.seen == [(SHAPE, 4.0), (SHAPE, 2.0)] and second.seen == [(shape, 3.0), (shape, 1.0)]


@pytest.mark.parametrize("share, second", [(0, []), (1, [0, 1, 2, 3, 4, 5]), (1 / 3, [2, 5]), (0.5, [1, 3, 5])])
def test_the_share_is_spread_evenly(share, second):
    second_plane = SecondPlane(prior=None, share=share + 1e-12 * (share < 1))
    planes = Planes(None, lambda: torch.zeros(SHAPE), second_plane, Slerp(), torch.Size(SHAPE), torch.Generator(),
                    torch.device("cpu"))
    found = []
    for level in range(6):
        planes.noise()
        found += [level] * planes.is_second
    assert found == second


def test_noise_is_consistent_along_the_stack_of_the_prior_that_is_next():
    generator = torch.Generator().manual_seed(0)
    shape = (40, 1, 30, 20)
    planes = Planes(None, lambda: Slerp()(shape, generator), SecondPlane(prior=None), Slerp(), torch.Size(shape),
                    generator, torch.device("cpu"))
    for along, across in ((0, 2), (2, 0)):
        noise = planes.noise()
        near = [(noise.narrow(axis, 1, noise.shape[axis] - 1) - noise.narrow(axis, 0, noise.shape[axis] - 1)).std()
                for axis in (along, across)]
        assert near[0] < 0.2 < 1 < near[1]


def test_a_run_with_two_planes_goes_on_as_if_it_had_not_stopped():
    problem = Problem(operator=SimpleNamespace(A=lambda x: x, A_T=lambda y: y), y=torch.rand(SHAPE),
                      initial=torch.zeros(SHAPE))
    options = Sampling(sigmas=[4.0, 3.0, 2.0, 1.0, 0.5], renoise=DDSRule(), second=SecondPlane(prior=Recorder()))
    assert_goes_on(problem, Recorder, options)


@pytest.mark.parametrize("wrong", [{"order": (1, 0, 2, 3)}, {"order": (0, 1, 2)}, {"share": 1.5}])
def test_a_plane_that_is_none_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SecondPlane(prior=None, **wrong)
