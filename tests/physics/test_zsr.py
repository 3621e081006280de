import pytest
import torch

from physics.zsr import ZAverage, thick_slices


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
