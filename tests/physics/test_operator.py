"""What holds for every operator."""
import math

import pytest
import torch

from physics.ct import ConeBeam, ConeGeometry
from physics.zsr import ZAverage


def cone(shape, views, **changes):
    angles = tuple(2 * math.pi * i / views + 0.1 for i in range(views))
    settings = dict(angles=angles, src_dist=70, det_dist=50, det_shape=(40, 50), det_spacing=(2, 1.5))
    return lambda: ConeBeam(ConeGeometry(**settings | changes), shape)


OPERATORS = {
    "cone even": cone((8, 16, 16), 6),
    "cone odd": cone((7, 13, 17), 5),
    "cone non-cubic": cone((20, 9, 30), 7),
    "cone one view": cone((6, 10, 12), 1),
    "cone one slice": cone((1, 12, 12), 4),
    "cone anisotropic": cone((5, 12, 14), 6, voxel_size=(2.5, 0.7, 0.9)),
    "cone truncated": cone((24, 40, 40), 4, det_shape=(11, 9)),
    "average by 2": lambda: ZAverage((5, 1, 6, 8), 2),
    "average by 3": lambda: ZAverage((4, 1, 7, 15), 3),
    "average to one": lambda: ZAverage((3, 1, 5, 7), 7),
}


@pytest.fixture(params=OPERATORS)
def operator(request):
    return OPERATORS[request.param]()


def test_adjoint(operator):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(operator.domain_shape, generator=generator)
    y = torch.randn(operator.range_shape, generator=generator)
    there, back = operator.A(x).double(), operator.A_T(y).double()
    assert there.shape == operator.range_shape and back.shape == operator.domain_shape
    assert there.any()
    assert abs((there * y).sum() - (x * back).sum()) <= 1e-5 * there.norm() * y.norm()


def test_gradient_is_the_adjoint(operator):
    x = torch.randn(operator.domain_shape, requires_grad=True)
    y = torch.randn(operator.range_shape)
    gradient, = torch.autograd.grad((operator.A(x) * y).sum(), x)
    assert torch.allclose(gradient, operator.A_T(y), atol=1e-4)


def test_other_shapes_are_refused(operator):
    x, y = torch.zeros(operator.domain_shape), torch.zeros(operator.range_shape)
    for method, wrong in ((operator.A, x[0]), (operator.A, x.int()), (operator.A_T, y[0]),
                          (operator.A_dagger, y[..., 1:])):
        with pytest.raises(ValueError, match=type(operator).__name__):
            method(wrong)


def test_repr_shows_the_shapes(operator):
    for shape in (operator.domain_shape, operator.range_shape):
        assert str(list(shape)) in repr(operator)
