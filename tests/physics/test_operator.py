"""What holds for every operator."""
import numpy as np
import pytest
import torch

from physics.cone_beam import ConeBeam
from physics.geometry import ConeGeometry
from physics.zsr import ZAverage


def cone(shape, views, **changes):
    settings = dict(angles=np.arange(views) * 360 / views + 6, src_dist=70, det_dist=50, det_shape=(40, 50),
                    det_spacing=(2, 1.5), volume_shape=shape, voxel_size=(1, 1, 1))
    return lambda: ConeBeam(ConeGeometry(**settings | changes))


def random_cone(seed, by_vectors=False):
    """A scan that is odd in every respect; by vectors, each view is so in its own way."""
    rng = np.random.default_rng(seed)
    size = rng.uniform(0.5, 2, 3)
    scan = ConeGeometry(angles=rng.uniform(-400, 400, 4), src_dist=rng.uniform(50, 80), det_dist=rng.uniform(40, 60),
                        det_shape=rng.integers(20, 50, 2), det_spacing=rng.uniform(0.8, 2.5, 2),
                        det_offset=rng.uniform(-8, 8, 2), voxel_size=size, volume_centre=rng.uniform(-5, 5, 3),
                        volume_shape=np.ceil(rng.uniform(5, 30, 3) / size))
    if by_vectors:
        wobble = rng.normal(size=(4, 12)) * np.repeat([2, 4, 0.1, 0.1], 3)
        wobble[:, 9:11] = 0
        scan = ConeGeometry(view_vectors=scan.vectors + wobble, det_shape=scan.det_shape, voxel_size=size,
                            volume_shape=scan.volume_shape, volume_centre=scan.volume_centre)
    return lambda: ConeBeam(scan)


OPERATORS = {
    "cone even": cone((8, 16, 16), 6),
    "cone odd": cone((7, 13, 17), 5),
    "cone non-cubic": cone((20, 9, 30), 7),
    "cone one view": cone((6, 10, 12), 1),
    "cone one slice": cone((1, 12, 12), 4),
    "cone anisotropic": cone((5, 12, 14), 6, voxel_size=(2.5, 0.7, 0.9)),
    "cone truncated": cone((24, 40, 40), 4, det_shape=(11, 9)),
    "cone offset": cone((9, 14, 11), 5, det_offset=(7, -12), volume_centre=(2, -3, 5)),
    "cone beside the rays": cone((9, 14, 11), 3, det_offset=(0, 25), det_shape=(60, 31)),
    **{f"cone random {seed}": random_cone(seed) for seed in range(4)},
    **{f"cone vectors {seed}": random_cone(seed, by_vectors=True) for seed in range(4)},
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
