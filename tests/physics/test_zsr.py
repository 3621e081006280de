import pytest
import torch

from physics.zsr import ZAverage, ZProfile, slice_operator, thick_slices


@pytest.mark.parametrize("factor", [2, 3, 4, 6, 12])
def test_averages_neighbouring_planes(factor):
    x = torch.randn(3, 1, 5, 12)
    operator = ZAverage(x.shape, factor)
    y = operator.A(x)
    assert y.shape == operator.range_shape == (3, 1, 5, 12 // factor)
    for k in range(12 // factor):
        assert torch.allclose(y[..., k], x[..., k * factor:(k + 1) * factor].mean(-1), atol=1e-6)


def test_pseudo_inverse():
    operator = ZAverage((3, 1, 5, 12), 4)
    x, y = torch.randn(operator.domain_shape), torch.randn(operator.range_shape)
    assert torch.allclose(operator.A(operator.A_dagger(y)), y, atol=1e-6)
    assert torch.equal(operator.A_dagger(y)[..., :4], y[..., :1].expand(-1, -1, -1, 4))
    assert torch.allclose(operator.A_T(y), operator.A_dagger(y) / 4)
    projection = operator.A_dagger(operator.A(x))       # orthogonal, since A_dagger is Moore-Penrose
    assert torch.allclose((x - projection).flatten() @ projection.flatten(), torch.tensor(0.0), atol=1e-4)


@pytest.mark.parametrize("profile, thickness", [("box", 1.0), ("box", 0.6), ("box", 1.5), ("gauss", 1.0),
                                                ("gauss", 0.7)])
def test_profiles(profile, thickness):
    """The adjoint is exact, the inverse is Moore-Penrose, rows are means, and of a line what is in the middle."""
    operator = ZProfile((3, 1, 5, 24), 4, profile, thickness)
    x, y = torch.randn(operator.domain_shape), torch.randn(operator.range_shape)
    assert torch.allclose((operator.A(x) * y).sum(), (x * operator.A_T(y)).sum(), rtol=1e-4, atol=1e-4)
    assert torch.allclose(operator.A(operator.A_dagger(y)), y, atol=1e-4)
    assert torch.allclose(operator.A(torch.ones_like(x)), torch.ones_like(y))
    line = operator.A(torch.arange(24.0).expand(operator.domain_shape))
    assert torch.allclose(line[..., 1:-1], torch.arange(5.5, 20, 4).expand(3, 1, 5, 4), atol=1e-5)


def test_a_box_that_fills_its_distance_is_the_average_and_one_with_a_gap_sees_less():
    x = torch.randn(3, 1, 5, 24)
    assert torch.allclose(ZProfile(x.shape, 4).A(x), ZAverage(x.shape, 4).A(x), atol=1e-6)
    assert isinstance(slice_operator(x.shape, 4), ZAverage)
    assert isinstance(slice_operator(x.shape, 4, "gauss"), ZProfile)
    half = ZProfile(x.shape, 4, thickness=0.5).A(x)
    assert torch.allclose(half, x.unflatten(-1, (6, 4))[..., 1:3].mean(-1), atol=1e-6)
    spread = ZProfile(x.shape, 4, "gauss").weights[2]
    assert spread[6:13].sum() > 0.9 and spread[7] < spread[8] < spread[9] and spread[6] > 0
    assert spread[8:12].sum() == pytest.approx(0.761, abs=5e-3)     # of a Gaussian, what lies within its half width


@pytest.mark.parametrize("profile, thickness", [("hat", 1), ("box", 0), ("box", 5)])
def test_other_profiles_are_refused(profile, thickness):
    with pytest.raises(ValueError, match="profile 'hat'|thickness"):
        ZProfile((3, 1, 5, 24), 4, profile, thickness)


def test_thick_slices_of_a_finer_grid_are_alike_where_the_volume_is_linear():
    line = torch.arange(12.0).expand(3, 1, 5, 12)
    y = thick_slices(line, 3)
    assert torch.equal(y, ZAverage(line.shape, 3).A(line))
    finer = thick_slices(line, 3, oversample=4)
    assert finer.shape == y.shape and torch.allclose(finer[..., 1:-1], y[..., 1:-1], atol=1e-5)
    edge = torch.zeros(1, 1, 1, 12)
    edge[..., 6:] = 1
    assert thick_slices(edge, 3)[..., 1] == 0 and 0 < thick_slices(edge, 3, oversample=2)[..., 1] < 0.1


@pytest.mark.parametrize("shape, factor", [((2, 1, 3, 8), 1), ((2, 1, 3, 8), 0), ((2, 1, 3, 8), 2.5),
                                           ((2, 1, 3, 8), float("nan")),
                                           ((2, 1, 3, 8), 3), ((2, 1, 3, 0), 2)])
def test_bad_arguments(shape, factor):
    with pytest.raises(ValueError):
        ZAverage(shape, factor)
