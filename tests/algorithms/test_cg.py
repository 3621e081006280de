"""Conjugate gradients against dense algebra, and their behaviour where nothing is left to solve."""
from itertools import pairwise

import pytest
import torch

from algorithms.cg import cgls


class Dense:
    """A matrix as an operator, which counts how often it is applied."""

    def __init__(self, matrix):
        self.matrix, self.calls = matrix, 0

    def A(self, x):
        self.calls += 1
        return self.matrix @ x

    def A_T(self, y):
        return self.matrix.T @ y


def problem(n=40, rows=None, dtype=torch.float64, seed=0):
    """An operator of ``rows`` rows, x, and a start."""
    g = torch.Generator().manual_seed(seed)
    return Dense(torch.randn(rows or n + 20, n, generator=g, dtype=dtype)), *torch.randn(2, n, generator=g, dtype=dtype)


def terms(n=40):
    """M and c of a quadratic."""
    g = torch.Generator().manual_seed(5)
    root = torch.randn(n, n, generator=g, dtype=torch.float64)
    return root @ root.T, torch.randn(n, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("quadratic", [False, True], ids=["", "quadratic"])
def test_against_a_dense_solve(weighted, quadratic):
    operator, _, start = problem()
    A, g = operator.matrix, torch.Generator().manual_seed(9)
    y = torch.randn(60, generator=g, dtype=torch.float64)
    W = torch.rand(60, generator=g, dtype=torch.float64) if weighted else None
    M, c = terms()
    x, info = cgls(operator, y, start, 300, weights=W,
                   **({"quadratic": lambda v: M @ v, "linear": c} if quadratic else {}))
    weight = torch.diag(W) if weighted else torch.eye(60, dtype=torch.float64)
    exact = torch.linalg.solve(A.T @ weight @ A + quadratic * M, A.T @ weight @ y + quadratic * c)
    assert (x - exact).norm() <= 1e-9 * exact.norm()
    assert info.gradient <= 1e-11 * (A.T @ y).norm()


def test_shape_and_strides_do_not_matter():
    operator, truth, start = problem()

    class Turned:
        def A(self, x):
            return operator.A(x.T.flatten()).view(6, 10).T

        def A_T(self, y):
            return operator.A_T(y.T.flatten()).view(4, 10).T

    x, _ = cgls(Turned(), Turned().A(truth.view(4, 10).T), start.view(4, 10).T, 200)
    torch.testing.assert_close(x.T.flatten(), truth, rtol=1e-8, atol=1e-8)


def test_error_falls_in_the_energy_norm_and_info_tells_the_truth():
    operator, truth, start = problem()
    y, errors = operator.A(truth), []
    for k in range(15):
        x, info = cgls(operator, y, start, k)
        errors.append((operator.A(x) - y).norm().item())
        assert info.iterations == k
        assert info.gradient == pytest.approx(operator.A_T(y - operator.A(x)).norm().item(), rel=1e-6)
    assert all(after < before for before, after in pairwise(errors))


def test_cost_and_untouched_start():
    operator, truth, start = problem()
    y, before = operator.A(truth), start.clone()
    operator.calls = 0
    _, info = cgls(operator, y, start, 7)
    assert info.iterations == 7 and operator.calls == 8
    assert torch.equal(start, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exact_start_is_kept(dtype):
    operator, truth, _ = problem(dtype=dtype)
    x, info = cgls(operator, operator.A(truth), truth, 10)
    assert torch.equal(x, truth) and info == (0, 0.0)


def test_zero_measurement():
    operator, _, start = problem()
    zero, nothing = torch.zeros(60, dtype=torch.float64), torch.zeros(40, dtype=torch.float64)
    assert torch.equal(cgls(operator, zero, nothing, 10)[0], nothing)
    x, _ = cgls(operator, zero, start, 300)
    assert x.norm() < 1e-8 * start.norm()


def test_direction_in_the_null_space_is_not_followed():
    """A quadratic without curvature, pulled by a linear term: there is no minimum."""
    x, info = cgls(Dense(torch.zeros(2, 3)), torch.zeros(2), torch.zeros(3), 10, quadratic=torch.zeros_like,
                   linear=torch.ones(3))
    assert torch.equal(x, torch.zeros(3)) and info == (0, pytest.approx(3**0.5))


@pytest.mark.parametrize("measured", [1, 0])
@pytest.mark.parametrize("rank", [1, 5, 20])
def test_null_space_keeps_the_start_however_many_steps(rank, measured):
    """In float32, steps along the rounding of a solved system run away into the null space of A."""
    operator, truth, start = problem(n=64, rows=rank, dtype=torch.float32)
    A, y = operator.matrix, measured * operator.A(truth)
    x, _ = cgls(operator, y, start, 60)
    nearest = start.double() + torch.linalg.pinv(A.double()) @ (y - A @ start).double()
    assert (x.double() - nearest).norm() <= 1e-4 * nearest.norm()


def test_a_measurement_that_nothing_explains_is_fitted_no_further_than_it_can_be():
    operator, _, start = problem(n=64, rows=200, dtype=torch.float32)
    operator.matrix[:, 32:] = operator.matrix[:, :32]       # a null space of 32 dimensions
    y = torch.randn(200, generator=torch.Generator().manual_seed(3))
    x, _ = cgls(operator, y, start, 400)
    A = operator.matrix.double()
    nearest = start.double() + torch.linalg.pinv(A) @ (y.double() - A @ start.double())
    assert (x.double() - nearest).norm() <= 1e-4 * nearest.norm()


@pytest.mark.parametrize("seed", range(4))
def test_rounding_stays_rounding(seed):
    """In float32, of a condition of 100: 1e-7 to 4e-7 beside float64; on the normal equations 2e-6 to 6e-6."""
    g = torch.Generator().manual_seed(seed)
    left, _ = torch.linalg.qr(torch.randn(120, 60, generator=g, dtype=torch.float64))
    right, _ = torch.linalg.qr(torch.randn(60, 60, generator=g, dtype=torch.float64))
    A = (left * torch.logspace(1, -1, 60, dtype=torch.float64)) @ right
    truth = torch.rand(60, generator=g, dtype=torch.float64)
    start = truth + 0.02 * torch.randn(60, generator=g, dtype=torch.float64)
    exact, _ = cgls(Dense(A), A @ truth, start, 10)
    single, _ = cgls(Dense(A.float()), (A @ truth).float(), start.float(), 10)
    assert (single - exact).norm() <= 1e-6 * exact.norm()


def test_nan_shows():
    x, _ = cgls(Dense(torch.full((3, 3), torch.nan)), torch.ones(3), torch.zeros(3), 5)
    assert x.isnan().all()
    x, _ = cgls(Dense(torch.eye(2)), torch.tensor([1.0, torch.nan]), torch.zeros(2), 5)
    assert x.isnan().any()


def test_refuses():
    with pytest.raises(ValueError, match=r"y is \[4\] and A x is \[3\]"):
        cgls(Dense(torch.eye(3)), torch.ones(4), torch.zeros(3), 1)
