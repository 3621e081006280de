"""ADMM-TV against solutions certified by their duality gap."""
import pytest
import torch

from algorithms.admm_tv import admm_tv
from algorithms.differences import in_plane, in_plane_T


class Dense:
    """A matrix between slices [n, 1, H, W] and [m]."""

    def __init__(self, matrix, domain_shape):
        self.matrix, self.domain_shape, self.range_shape = matrix, domain_shape, (matrix.shape[0],)

    def A(self, x):
        return self.matrix @ x.flatten()

    def A_T(self, y):
        return (self.matrix.T @ y).view(self.domain_shape)


def objective(operator, y, lam, x):
    """The differences with wrap-around, written out with indices."""
    h, w = x.shape[-2:]
    down = x[..., [(i + 1) % h for i in range(h)], :] - x
    right = x[..., [(j + 1) % w for j in range(w)]] - x
    return (0.5 * (operator.A(x) - y).square().sum() + lam * (down.abs().sum() + right.abs().sum())).item()


def certified(operator, y, lam, iterations=2000):
    """(minimum to 1e-7, minimiser), for an invertible A^T A, by projected gradient on the dual.

    The dual variable p is bounded by lam; x(p) minimises 1/2 |A x - y|^2 + <p, D x>, whose value is a lower
    bound of the minimum. The primal value at x(p) is an upper bound: the gap proves the solution.
    """
    M = operator.matrix.T @ operator.matrix
    ATy, inverse = operator.A_T(y), torch.linalg.inv(M)
    p = q = in_plane(torch.zeros_like(ATy))
    step, t = torch.linalg.eigvalsh(M)[0] / 8, 1.0  # |D|^2 <= 8

    def x_of(p):
        return (inverse @ (ATy - in_plane_T(p)).flatten()).view(operator.domain_shape)

    for _ in range(iterations):  # accelerated (FISTA)
        p_old, p = p, (q + step * in_plane(x_of(q))).clamp(-lam, lam)
        t_old, t = t, (1 + (1 + 4 * t * t) ** 0.5) / 2
        q = p + (t_old - 1) / t * (p - p_old)
    x = x_of(p)
    lower = 0.5 * (operator.A(x) - y).square().sum() + (p * in_plane(x)).sum()
    upper = objective(operator, y, lam, x)
    assert upper - lower.item() < 1e-7
    return upper, x


def steps_and_noise(shape, seed=0):
    """A few plateaus along both axes plus noise, float64."""
    g = torch.Generator().manual_seed(seed)
    x = torch.zeros(shape, dtype=torch.float64)
    x[..., shape[-1] // 3:] += 1
    x[..., shape[-2] // 2:, :] += 0.5
    return x + 0.2 * torch.randn(shape, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("shape", [(1, 1, 1, 24), (2, 1, 5, 4)])
def test_denoising_reaches_the_certified_minimum(shape):
    noisy = steps_and_noise(shape)
    operator = Dense(torch.eye(noisy.numel(), dtype=torch.float64), shape)
    minimum, exact = certified(operator, noisy.flatten(), 0.3)
    x = admm_tv(operator, noisy.flatten(), lam=0.3, rho=1.0, outer=300, inner=10)
    assert objective(operator, noisy.flatten(), 0.3, x) - minimum < 1e-6
    torch.testing.assert_close(x, exact, rtol=0, atol=1e-3)
    assert (x - noisy).norm() > 0.1 * noisy.norm()  # and it did denoise


def test_general_operator_reaches_the_certified_minimum():
    shape = (2, 1, 4, 3)
    g = torch.Generator().manual_seed(1)
    operator = Dense(torch.randn(40, 24, generator=g, dtype=torch.float64), shape)
    y = operator.A(steps_and_noise(shape)) + torch.randn(40, generator=g, dtype=torch.float64)
    minimum, exact = certified(operator, y, 3.0)
    x = admm_tv(operator, y, lam=3.0, rho=10.0, outer=200, inner=20)
    assert objective(operator, y, 3.0, x) - minimum < 1e-5
    torch.testing.assert_close(x, exact, rtol=0, atol=1e-4)


@pytest.mark.parametrize("rho", [1.0, 50.0])
def test_rho_sets_the_speed_and_not_the_solution(rho):
    shape = (1, 1, 4, 5)
    noisy = steps_and_noise(shape)
    operator = Dense(3 * torch.eye(20, dtype=torch.float64), shape)
    y = operator.A(noisy)
    minimum, _ = certified(operator, y, 1.0)
    x = admm_tv(operator, y, lam=1.0, rho=rho, outer=500, inner=20)
    assert objective(operator, y, 1.0, x) - minimum < 1e-5


def test_inner_solver_goes_on_where_it_stopped():
    """One CG step an iteration is enough only because x is kept."""
    shape = (1, 1, 4, 5)
    noisy = steps_and_noise(shape)
    scale = torch.linspace(0.5, 4, 20, dtype=torch.float64)
    operator = Dense(torch.diag(scale), shape)
    y = operator.A(noisy)
    minimum, _ = certified(operator, y, 0.3)
    x = admm_tv(operator, y, lam=0.3, rho=1.0, outer=1000, inner=1)
    assert objective(operator, y, 0.3, x) - minimum < 1e-5


class Seen:
    def __init__(self, objective):
        self.objective, self.values = objective, []

    def estimate(self, level, x):
        self.values.append((level, self.objective(x)))


def test_objective_falls_and_an_observer_sees_it():
    shape = (2, 1, 6, 6)
    noisy = steps_and_noise(shape)
    operator = Dense(5 * torch.eye(72, dtype=torch.float64), shape)
    y = operator.A(noisy)
    seen = Seen(lambda x: objective(operator, y, 3.0, x))
    x = admm_tv(operator, y, lam=3.0, rho=50.0, outer=30, inner=20, observer=seen)
    levels, values = zip(*seen.values)
    assert list(levels) == list(range(30))
    start, end = objective(operator, y, 3.0, torch.zeros_like(x)), objective(operator, y, 3.0, x)
    assert end == pytest.approx(values[-1]) and end == pytest.approx(min(values), rel=1e-3)
    assert end < values[4] < values[0] < start


def test_constant_image_is_returned():
    shape = (3, 1, 4, 4)
    operator = Dense(torch.eye(48), shape)
    x = admm_tv(operator, torch.full((48,), 0.7), lam=1.0, rho=1.0, outer=40, inner=20)
    torch.testing.assert_close(x, torch.full(shape, 0.7), rtol=0, atol=1e-5)


def test_no_weight_is_least_squares():
    shape = (1, 1, 3, 4)
    operator = Dense(torch.eye(12, dtype=torch.float64) * 2, shape)
    y = torch.arange(12, dtype=torch.float64)
    x = admm_tv(operator, y, lam=0.0, rho=0.1, outer=50, inner=12)
    torch.testing.assert_close(x, (y / 2).view(shape), rtol=0, atol=1e-5)


def test_differences_and_their_adjoint():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, 1, 4, 5, generator=g, dtype=torch.float64)
    p = torch.randn(2, 2, 1, 4, 5, generator=g, dtype=torch.float64)
    torch.testing.assert_close((in_plane(x) * p).sum(), (x * in_plane_T(p)).sum())
    assert in_plane(x)[0, 1, 0, 3, 2] == x[1, 0, 0, 2] - x[1, 0, 3, 2]  # periodic, in the plane
    assert in_plane(x)[1, 1, 0, 3, 4] == x[1, 0, 3, 0] - x[1, 0, 3, 4]


@pytest.mark.parametrize("changed", [{"lam": -1}, {"rho": 0}, {"outer": 0}, {"inner": 0}])
def test_refuses(changed):
    name, value = next(iter(changed.items()))
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        admm_tv(Dense(torch.eye(4), (1, 1, 2, 2)), torch.ones(4), **changed)
