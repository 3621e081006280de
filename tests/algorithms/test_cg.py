"""Conjugate gradients against dense algebra, and its behaviour where nothing is left to solve."""
from itertools import pairwise

import pytest
import torch

from algorithms.cg import cg


def problem(n=40, rank=None, dtype=torch.float64, seed=0):
    """(A, N = A^T A (+ I when of full rank), x, start)."""
    g = torch.Generator().manual_seed(seed)
    A = torch.randn(rank or n, n, generator=g, dtype=dtype)
    N = A.T @ A + (torch.eye(n, dtype=dtype) if rank is None else 0)
    return A, N, *torch.randn(2, n, generator=g, dtype=dtype)


def test_against_dense_solve():
    _, N, _, start = problem()
    b = torch.randn(40, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    x, info = cg(lambda v: N @ v, b, start, 200)
    exact = torch.linalg.solve(N, b)
    assert (x - exact).norm() <= 1e-8 * exact.norm()
    assert info.residual <= 1e-12


def test_shape_and_strides_do_not_matter():
    _, N, truth, start = problem()
    b = (N @ truth).view(4, 10).T
    x, _ = cg(lambda v: (N @ v.T.flatten()).view(4, 10).T, b, start.view(4, 10).T, 200)
    torch.testing.assert_close(x.T.flatten(), truth, rtol=1e-8, atol=1e-8)


def test_error_falls_in_the_energy_norm_and_info_tells_the_truth():
    _, N, truth, start = problem()
    b, errors = N @ truth, []
    for k in range(15):
        x, info = cg(lambda v: N @ v, b, start, k)
        errors.append(((x - truth) @ N @ (x - truth)).item())
        assert info.iterations == k
        assert info.residual == pytest.approx(((b - N @ x).norm() / b.norm()).item(), rel=1e-6)
    assert all(after < before for before, after in pairwise(errors))


def test_cost_and_untouched_start():
    _, N, truth, start = problem()
    calls, before = [], start.clone()
    _, info = cg(lambda v: (calls.append(1), N @ v)[1], N @ truth, start, 7)
    assert info.iterations == 7 and len(calls) == 8
    assert torch.equal(start, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exact_start_is_kept(dtype):
    _, N, truth, _ = problem(dtype=dtype)
    x, info = cg(lambda v: N @ v, N @ truth, truth, 10)
    assert torch.equal(x, truth) and info == (0, 0.0)


def test_zero_right_hand_side():
    _, N, _, start = problem()
    zero = torch.zeros(40, dtype=torch.float64)
    assert torch.equal(cg(lambda v: N @ v, zero, zero, 10)[0], zero)
    x, info = cg(lambda v: N @ v, zero, start, 200)
    assert x.norm() < 1e-8 * start.norm() and info.residual < 1e-8


def test_direction_in_the_null_space_is_not_followed():
    """N x = b has no solution here: b leaves the range of N."""
    x, info = cg(torch.zeros_like, torch.ones(3), torch.zeros(3), 10)
    assert torch.equal(x, torch.zeros(3)) and info == (0, 1.0)


@pytest.mark.parametrize("measured", [1, 0])
@pytest.mark.parametrize("rank", [1, 5, 20])
def test_null_space_keeps_the_start_however_many_steps(rank, measured):
    """In float32, steps along the rounding of a solved system run away into the null space of A."""
    A, _, truth, start = problem(n=64, rank=rank, dtype=torch.float32)
    y = measured * (A @ truth)
    x, _ = cg(lambda v: A.T @ (A @ v), A.T @ y, start, 60)
    nearest = start.double() + torch.linalg.pinv(A.double()) @ (y - A @ start).double()
    assert (x.double() - nearest).norm() <= 1e-4 * nearest.norm()


def test_nan_shows():
    x, _ = cg(lambda v: v * torch.nan, torch.ones(3), torch.zeros(3), 5)
    assert x.isnan().all()
    x, _ = cg(lambda v: v, torch.tensor([1.0, torch.nan]), torch.zeros(2), 5)
    assert x.isnan().any()


def test_refuses():
    with pytest.raises(ValueError, match=r"b is \[3\] and x is \[4\]"):
        cg(lambda v: v, torch.ones(3), torch.ones(4), 1)
