"""Data consistency against closed forms, on a dense operator and on the average of neighbouring planes."""
import pytest
import torch

from algorithms.consistency import ddnm, dds


class Dense:
    """A matrix between slices [n, 1, H, W] and [1, m]; counts its calls."""

    def __init__(self, matrix, domain_shape):
        self.matrix, self.domain_shape, self.range_shape = matrix, domain_shape, (1, matrix.shape[0])
        self.calls = {"A": 0, "A_T": 0}

    def A(self, x):
        self.calls["A"] += 1
        return (self.matrix @ x.flatten()).view(self.range_shape)

    def A_T(self, y):
        self.calls["A_T"] += 1
        return (self.matrix.T @ y.flatten()).view(self.domain_shape)

    def A_dagger(self, y):
        return (torch.linalg.pinv(self.matrix) @ y.flatten()).view(self.domain_shape)


class Average:
    """Mean of `factor` neighbouring planes of the last axis."""

    def __init__(self, shape, factor):
        self.domain_shape, self.factor = shape, factor
        self.range_shape = (*shape[:-1], shape[-1] // factor)

    def A(self, x):
        return x.unflatten(-1, (-1, self.factor)).mean(-1)

    def A_T(self, y):
        return self.A_dagger(y) / self.factor

    def A_dagger(self, y):
        return y.repeat_interleave(self.factor, -1)


SHAPE = (2, 1, 4, 3)


def dense(m, seed=0):
    g = torch.Generator().manual_seed(seed)
    operator = Dense(torch.randn(m, 24, generator=g, dtype=torch.float64), SHAPE)
    y = torch.randn(1, m, generator=g, dtype=torch.float64)
    return operator, y, torch.randn(SHAPE, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("num_cg", [1, 5])
@pytest.mark.parametrize("factor", [2, 3, 4])
def test_dds_on_averages_is_ddnm(factor, num_cg):
    """A^T A is a multiple of a projection: the first step is exact, and further ones change nothing."""
    operator = Average((5, 1, 6, 24), factor)
    g = torch.Generator().manual_seed(factor)
    x0, y = torch.rand(operator.domain_shape, generator=g), torch.rand(operator.range_shape, generator=g)
    expected = x0 + operator.A_dagger(y - operator.A(x0))
    torch.testing.assert_close(dds(operator, y, num_cg, 0.0)(x0, 1.0), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(ddnm(operator, y)(x0, 1.0), expected, rtol=0, atol=0)
    torch.testing.assert_close(operator.A(expected), y, rtol=0, atol=1e-5)


@pytest.mark.parametrize("w_tik, sigma", [(0.5, 1.0), (0.5, 0.1), (20.0, 2.0)])
def test_tikhonov_closed_form(w_tik, sigma):
    operator, y, x0 = dense(15)
    M, rho = operator.matrix, w_tik / sigma**2
    exact = torch.linalg.solve(M.T @ M + rho * torch.eye(24, dtype=torch.float64),
                               M.T @ y.flatten() + rho * x0.flatten()).view(SHAPE)
    x = dds(operator, y, 100, w_tik)(x0, sigma)
    torch.testing.assert_close(x, exact, rtol=0, atol=1e-8)
    assert (x - dds(operator, y, 100, 0.0)(x0, sigma)).norm() > 0.01


def test_without_tikhonov_the_nearest_solution():
    operator, y, x0 = dense(10)
    torch.testing.assert_close(dds(operator, y, 100, 0.0)(x0, 1.0), ddnm(operator, y)(x0, 1.0))


def test_first_step_is_steepest_descent():
    operator, y, x0 = dense(15)
    M, r = operator.matrix, operator.A_T(y - operator.A(x0)).flatten()
    expected = x0 + (r @ r / (M @ r).square().sum() * r).view(SHAPE)
    torch.testing.assert_close(dds(operator, y, 1, 0.0)(x0, 3.0), expected)


def test_adjoint_of_the_measurement_once():
    operator, y, x0 = dense(15)
    consistency = dds(operator, y, 3, 0.1)
    assert operator.calls == {"A": 0, "A_T": 1}
    for sigma in (3.0, 2.0):
        consistency(x0, sigma)
    assert operator.calls == {"A": 8, "A_T": 9}


def test_consistent_input_comes_back_and_is_not_changed():
    operator, _, x0 = dense(15)
    before, y = x0.clone(), operator.A(x0)
    for step in (dds(operator, y, 20, 0.0), dds(operator, y, 20, 0.3), ddnm(operator, y)):
        torch.testing.assert_close(step(x0, 0.5), before, rtol=0, atol=1e-10)
    dds(operator, y + 1, 5, 0.1)(x0, 0.5)
    assert torch.equal(x0, before)


def test_refuses():
    operator, y, _ = dense(15)
    with pytest.raises(ValueError, match="num_cg is 0"):
        dds(operator, y, 0, 0.0)
    for bad in (-0.1, float("nan")):
        with pytest.raises(ValueError, match="w_tik is"):
            dds(operator, y, 5, bad)
