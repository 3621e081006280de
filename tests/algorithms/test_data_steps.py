"""Data consistency against closed forms, on a dense operator and on the average of neighbouring planes."""
import pytest
import torch

from algorithms.data_steps.ddnm import DDNM
from algorithms.data_steps.dds import DDS
from algorithms.differences import across_slices, across_slices_T
from algorithms.problem import Problem


def dds(operator, y, num_cg, w_tik, weights=None, **more):
    return DDS(measured(operator, y, weights), num_cg=num_cg, w_tik=w_tik, **more)


def ddnm(operator, y):
    return DDNM(measured(operator, y))


def measured(operator, y, weights=None):
    return Problem(operator=operator, y=y, weights=weights, initial=y.new_zeros(operator.domain_shape))


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


def test_the_weight_of_the_noise_is_its_variance():
    operator, y, x0 = dense(15)
    known = Problem(operator=operator, y=y, initial=y.new_zeros(operator.domain_shape), variance=0.5)
    assert torch.equal(DDS(known, num_cg=9, w_tik="noise")(x0, 0.7), dds(operator, y, 9, 0.5)(x0, 0.7))
    with pytest.raises(ValueError, match="w_tik is 'noise', and the problem does not say its variance"):
        dds(operator, y, 5, "noise")


def test_without_tikhonov_the_nearest_solution():
    operator, y, x0 = dense(10)
    torch.testing.assert_close(dds(operator, y, 100, 0.0)(x0, 1.0), ddnm(operator, y)(x0, 1.0))


def test_first_step_is_steepest_descent():
    operator, y, x0 = dense(15)
    M, r = operator.matrix, operator.A_T(y - operator.A(x0)).flatten()
    expected = x0 + (r @ r / (M @ r).square().sum() * r).view(SHAPE)
    torch.testing.assert_close(dds(operator, y, 1, 0.0)(x0, 3.0), expected)


def test_a_level_of_three_steps_applies_operator_and_adjoint_four_times():
    operator, y, x0 = dense(15)
    consistency = dds(operator, y, 3, 0.1)
    for sigma in (3.0, 2.0):
        consistency(x0, sigma)
    assert operator.calls == {"A": 8, "A_T": 8}


def test_consistent_input_comes_back_and_is_not_changed():
    operator, _, x0 = dense(15)
    before, y = x0.clone(), operator.A(x0)
    for step in (dds(operator, y, 20, 0.0), dds(operator, y, 20, 0.3), ddnm(operator, y)):
        torch.testing.assert_close(step(x0, 0.5), before, rtol=0, atol=1e-10)
    dds(operator, y + 1, 5, 0.1)(x0, 0.5)
    assert torch.equal(x0, before)


def test_weighted_closed_form():
    operator, y, x0 = dense(30)
    w = torch.rand(1, 30, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 5
    M, W, rho = operator.matrix, torch.diag(w[0]), 0.3 / 0.5**2
    exact = torch.linalg.solve(M.T @ W @ M + rho * torch.eye(24, dtype=torch.float64),
                               M.T @ W @ y.flatten() + rho * x0.flatten()).view(SHAPE)
    torch.testing.assert_close(dds(operator, y, 100, 0.3, weights=w)(x0, 0.5), exact, rtol=0, atol=1e-8)
    assert (dds(operator, y, 100, 0.3)(x0, 0.5) - exact).norm() > 0.01


def test_weights_of_one_broadcast_and_change_nothing():
    operator, y, x0 = dense(15)
    for weights in (torch.ones(1), torch.ones_like(y)):
        assert torch.equal(dds(operator, y, 4, 0.1, weights)(x0, 1.0), dds(operator, y, 4, 0.1)(x0, 1.0))


def test_weight_zero_ignores_the_value():
    operator, y, x0 = dense(15)
    weights = torch.ones_like(y)
    weights[0, 4] = 0
    changed = y.clone()
    changed[0, 4] += 100
    results = [dds(operator, measured, 5, 0.1, weights)(x0, 1.0) for measured in (y, changed)]
    assert torch.equal(*results)


TV_SHAPE = (4, 1, 3, 2)  # 24 voxels, 6 a slice


def tv_problem():
    """Slices that differ by steps the size of TV_THRESHOLD, so that few iterations are enough."""
    operator, y, _ = dense(30, seed=3)
    operator.domain_shape = TV_SHAPE
    g = torch.Generator().manual_seed(1)
    weights = 0.5 + torch.rand(1, 30, generator=g, dtype=torch.float64)
    return operator, 0.03 * y, 0.03 * torch.randn(TV_SHAPE, generator=g, dtype=torch.float64), weights


def across_slices_matrix():
    eye = torch.eye(24, dtype=torch.float64)
    return eye[6:] - eye[:-6]


def in_plane_matrix():
    voxel = torch.eye(24, dtype=torch.float64).view(24, *TV_SHAPE)      # [row, slice, 1, y, x]
    return torch.cat([(torch.roll(voxel, 1, axis) - voxel).view(24, 24) for axis in (3, 4)])


def certified_tv(operator, y, x0, rho, weights, w_dz, D, iterations=8000):
    """Minimiser of 1/2 |A x - y|^2_W + rho/2 |x - x0|^2 + w_dz |D x|_1, its differences, and the duality gap.

    By projected gradient (FISTA) on the dual: p is bounded by w_dz, x(p) minimises the objective with <p, D x>
    for the last term, whose value is a lower bound of the minimum. D is written out as a matrix here.
    """
    A, eye = operator.matrix, torch.eye(24, dtype=torch.float64)
    M = A.T @ (weights.flatten()[:, None] * A) + rho * eye
    inverse, b = torch.linalg.inv(M), A.T @ (weights * y).flatten() + rho * x0.flatten()
    step, t = torch.linalg.eigvalsh(M)[0] / 8, 1.0  # |D|^2 <= 8
    p = q = torch.zeros(len(D), dtype=torch.float64)
    for _ in range(iterations):  # accelerated (FISTA)
        p_old, p = p, (q + step * D @ inverse @ (b - D.T @ q)).clamp(-w_dz, w_dz)
        t_old, t = t, (1 + (1 + 4 * t * t) ** 0.5) / 2
        q = p + (t_old - 1) / t * (p - p_old)
    x = inverse @ (b - D.T @ p)
    return x.view(TV_SHAPE), D @ x, w_dz * (D @ x).abs().sum() - p @ D @ x


@pytest.mark.parametrize("w_dz, flat", [(0.01, 1), (0.03, 6), (0.1, 10)])
def test_total_variation_reaches_the_certified_minimum(w_dz, flat):
    """At one level, again and again from the same x0: split and dual go on from call to call."""
    operator, y, x0, weights = tv_problem()
    exact, steps, gap = certified_tv(operator, y, x0, 0.8, weights, w_dz, across_slices_matrix())
    assert gap < 1e-9 and flat <= (steps.abs() < 1e-9).sum() < 18  # so many voxels are those of the slice below
    consistency = dds(operator, y, 30, 0.2, weights=weights, w_dz=w_dz)
    for _ in range(100):
        x = consistency(x0, 0.5)
    torch.testing.assert_close(x, exact, rtol=0, atol=1e-7)


def test_total_variation_vanishes_with_its_weight():
    operator, y, x0 = dense(15)
    tv, plain = dds(operator, y, 5, 0.1, w_dz=1e-9), dds(operator, y, 5, 0.1)
    for sigma in (2.0, 1.0, 0.5):
        torch.testing.assert_close(tv(x0, sigma), plain(x0, sigma), rtol=0, atol=1e-6)
        x0 = x0 + 0.1
    assert plain.state_dict() == {"v": [], "x": None, "d": None}


def test_heavy_total_variation_leaves_one_slice():
    operator, y, x0, weights = tv_problem()
    consistency = dds(operator, y, 30, 0.2, weights=weights, w_dz=30.0)
    for _ in range(100):
        x = consistency(x0, 0.5)
    torch.testing.assert_close(x, x[:1].expand(TV_SHAPE), rtol=0, atol=1e-6)


def test_split_carries_the_memory_from_level_to_level():
    operator, y, x0 = dense(15)
    whole = dds(operator, y, 5, 0.1, w_dz=0.3)
    whole(x0, 2.0)
    resumed = dds(operator, y, 5, 0.1, w_dz=0.3)
    resumed.load_state_dict(whole.state_dict())
    fresh = dds(operator, y, 5, 0.1, w_dz=0.3)
    expected = whole(x0, 1.0)
    assert torch.equal(resumed(x0, 1.0), expected) and not torch.allclose(fresh(x0, 1.0), expected)


def test_total_variation_of_a_single_slice_is_nothing():
    operator = Dense(torch.randn(9, 12, dtype=torch.float64), (1, 1, 4, 3))
    y, x0 = torch.randn(1, 9, dtype=torch.float64), torch.randn(1, 1, 4, 3, dtype=torch.float64)
    torch.testing.assert_close(dds(operator, y, 5, 0.1, w_dz=3.0)(x0, 1.0), dds(operator, y, 5, 0.1)(x0, 1.0))


def test_across_slices_and_their_adjoint():
    g = torch.Generator().manual_seed(0)
    x, p = (torch.randn(n, 1, 3, 2, generator=g, dtype=torch.float64) for n in (5, 4))
    torch.testing.assert_close((across_slices(x) * p).sum(), (x * across_slices_T(p)).sum())
    assert torch.equal(across_slices(x)[3], x[4] - x[3])


def test_refuses():
    operator, y, _ = dense(15)
    with pytest.raises(ValueError, match="num_cg is 0"):
        dds(operator, y, 0, 0.0)
    for bad in (-0.1, float("nan")):
        with pytest.raises(ValueError, match="w_tik is"):
            dds(operator, y, 5, bad)
    for bad in (-1, float("nan")):
        with pytest.raises(ValueError, match="w_dz is"):
            dds(operator, y, 5, 0.0, w_dz=bad)
    for bad in (torch.ones(2, 15), torch.ones(14)):
        with pytest.raises(ValueError, match="weights are"):
            dds(operator, y, 5, 0.0, bad)
    for bad in (-1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="finite and 0 or more"):
            dds(operator, y, 5, 0.0, torch.full_like(y, bad))


@pytest.mark.parametrize("w_tv", [0.01, 0.03])
def test_total_variation_within_slices_reaches_the_certified_minimum(w_tv):
    operator, y, x0, weights = tv_problem()
    exact, steps, gap = certified_tv(operator, y, x0, 0.8, weights, w_tv, in_plane_matrix())
    assert gap < 1e-8 and (steps.abs() < 1e-9).any()
    step = dds(operator, y, 30, 0.2, weights=weights, w_tv=w_tv)
    for _ in range(150):
        x = step(x0, 0.5)
    torch.testing.assert_close(x, exact, rtol=0, atol=1e-6)


def test_the_dual_variable_by_hand():
    """D <- g (d + x - x0); x solves the proximal problem around x0 - d; noise goes on x + d."""
    operator, y, _ = dense(15)
    g, rho = 0.6, 0.3 / 0.5**2
    initial = torch.randn(SHAPE, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    step = DDS(Problem(operator=operator, y=y, initial=initial), num_cg=100, w_tik=0.3, dual=g)
    M = operator.matrix
    inverse = torch.linalg.inv(M.T @ M + rho * torch.eye(24, dtype=torch.float64))
    x, d = initial, torch.zeros_like(initial)
    for seed in range(4):
        x0 = torch.randn(SHAPE, generator=torch.Generator().manual_seed(10 + seed), dtype=torch.float64)
        before = x0.clone()
        d = g * (d + x - x0)
        x = (inverse @ (M.T @ y.flatten() + rho * (x0 - d).flatten())).view(SHAPE)
        found = step(x0, 0.5)
        torch.testing.assert_close(found, x, rtol=0, atol=1e-8)
        torch.testing.assert_close(step.centre(found), x + d, rtol=0, atol=1e-8)
        assert torch.equal(x0, before)
    assert torch.equal(initial, torch.randn(SHAPE, generator=torch.Generator().manual_seed(4), dtype=torch.float64))


def test_a_dual_variable_stays_bounded():
    """Where data and prior never agree, it is at most g / (1 - g) times what they differ by."""
    operator, y, x0 = dense(15)
    step = dds(operator, y, 20, 0.3, dual=0.9)
    for _ in range(300):
        x = step(x0, 0.5)
    assert step.d.abs().max() <= 9 * (x - x0).abs().max() * (1 + 1e-6)


@pytest.mark.parametrize("gain", [-0.1, 1.0, float("nan")])
def test_refuses_a_gain_that_could_grow_without_end(gain):
    operator, y, _ = dense(10)
    with pytest.raises(ValueError, match="dual is"):
        dds(operator, y, 5, 0.0, dual=gain)
