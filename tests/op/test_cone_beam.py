"""The projector against an independent toolkit, its adjoint, its gradient, and C++ against PyTorch."""
import math

import numpy as np
import pytest
import torch

from op.cone_beam import backproject, project, trace


def circle(angles, src_dist, det_dist, du, dv, offset=(0.0, 0.0)):
    """Vectors [views, 12] of a circular scan whose detector is shifted by offset = (u, v)."""
    views = []
    for t in angles:
        e, f = np.array([math.cos(t), math.sin(t), 0]), np.array([-math.sin(t), math.cos(t), 0])
        centre = det_dist * f + offset[0] * e + np.array([0, 0, offset[1]])
        views.append(np.concatenate([-src_dist * f, centre, du * e, [0, 0, dv]]))
    return np.array(views)


def wobbly(views, seed):
    """A scan of small boxes in which every view has its own source, detector position, u step and v step."""
    rng = np.random.default_rng(seed)
    vectors = circle(rng.uniform(0, 7, views), 40, 30, 1.3, 0.9) + 0.05 * rng.standard_normal((views, 12))
    vectors[:, 9:11] = 0
    vectors[0, 11] *= -1                                    # rows may run downwards
    return vectors


GEOMETRIES = {
    "odd": (circle((0, 0.8, 2.3), 60, 40, 1.5, 1.5), (33, 41), (7, 15, 13), (1, 1, 1)),
    "even": (circle((0.1, 1.6, 4.0, 5.5), 60, 40, 1.5, 1.5), (32, 40), (8, 16, 12), (1, 1, 1)),
    "anisotropic": (circle((0.3, 1.1, 3.3), 60, 40, 0.8, 2.0), (20, 60), (6, 11, 14), (2.5, 0.7, 1.2)),
    "offset": (circle((0.2, 2.9), 60, 40, 1.5, 1.5, (9, -7)), (16, 20), (9, 12, 12), (1, 1, 1)),
    "fine detector": (circle((1.0,), 60, 40, 0.2, 0.3), (90, 120), (10, 9, 8), (1, 1, 1)),
    "coarse detector": (circle((1.0, 2.0), 60, 40, 7, 6), (6, 5), (20, 12, 12), (1, 1, 1)),
    "wobbly": (wobbly(4, 0), (25, 31), (9, 14, 10), (1.3, 0.9, 1.1)),
    "one voxel": (circle((0.5,), 60, 40, 0.5, 0.5), (9, 9), (1, 1, 1), (1, 1, 1)),
    "all rays miss": (circle((0.5,), 60, 40, 1, 1, (500, 0)), (9, 9), (4, 4, 4), (1, 1, 1)),
}


def setting(name, dtype=torch.float32):
    vectors, det_shape, volume_shape, voxel_size = GEOMETRIES[name]
    generator = torch.Generator().manual_seed(1)
    volume = torch.randn(volume_shape, generator=generator, dtype=dtype)
    projections = torch.randn(len(vectors), *det_shape, generator=generator, dtype=dtype)
    return trace(vectors, det_shape, volume_shape, voxel_size), volume, projections


@pytest.fixture(params=["reference", "compiled"])
def impl(request):
    if request.param == "compiled":
        try:
            project(torch.zeros(1, 1, 1), trace(circle((0,), 9, 9, 1, 1), (1, 1), (1, 1, 1)), impl="compiled")
        except ValueError as error:
            pytest.skip(str(error))
    return request.param


def relative(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


def test_agrees_with_an_independent_joseph_projector(data_dir, impl):
    data = np.load(data_dir / "cone_rtk.npz")
    spacing = float(data["det_spacing"])
    vectors = circle(data["angles"], float(data["src_dist"]), float(data["det_dist"]), spacing, spacing)
    expected = torch.from_numpy(data["projections"])
    rays = trace(vectors, expected.shape[1:], data["vol"].shape)
    found = project(torch.from_numpy(data["vol"]), rays, impl)
    assert relative(found, expected) < 1e-5


def test_approximates_exact_line_integrals(data_dir):
    data = np.load(data_dir / "cone_rtk.npz")
    vectors = circle(data["analytic_angles"][::10], 140, 100, 2, 2)
    expected = torch.from_numpy(data["analytic_projections"][::10]).float()
    found = project(torch.from_numpy(data["vol"]), trace(vectors, expected.shape[1:], data["vol"].shape))
    assert relative(found, expected) < 0.012


def test_the_lengths_of_simple_rays(impl):
    vectors, ones = circle((0, math.pi / 2, math.pi / 4), 50, 50, 1, 1), torch.ones(5, 7, 9)
    central = project(ones, trace(vectors, (1, 1), ones.shape, (3, 2, 1.5)), impl).flatten()
    # Along y: 7 voxels of 2; along x: 9 voxels of 1.5; on the diagonal x steps in planes of 1.5, all inside.
    assert torch.allclose(central, torch.tensor([14, 13.5, 13.5 * math.sqrt(2)]), rtol=1e-5)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_adjoint(name, impl):
    rays, volume, projections = setting(name)
    there, back = project(volume, rays, impl).double(), backproject(projections, rays, impl).double()
    gap = (there * projections).sum() - (volume * back).sum()
    assert abs(gap) <= 1e-5 * there.norm() * projections.norm()
    assert there.any() == (name != "all rays miss")


@pytest.mark.parametrize("name", GEOMETRIES)
def test_reference_is_an_exact_adjoint_in_float64(name):
    rays, volume, projections = setting(name, torch.float64)
    there, back = project(volume, rays), backproject(projections, rays)
    gap = (there * projections).sum() - (volume * back).sum()
    assert abs(gap) <= 1e-12 * there.norm() * projections.norm()


@pytest.mark.parametrize("name", GEOMETRIES)
def test_compiled_equals_reference(name, impl):
    rays, volume, projections = setting(name)
    for function, source in ((project, volume), (backproject, projections)):
        found, expected = function(source, rays, impl), function(source, rays, "reference")
        assert (found - expected).norm() <= 1e-5 * expected.norm()


def test_the_window_leaves_no_ray_out():
    vectors, det_shape, volume_shape, voxel_size = GEOMETRIES["odd"]
    small, large = trace(vectors, det_shape, volume_shape), trace(vectors, (201, 201), volume_shape)
    volume = setting("odd")[1]
    top, left = (201 - det_shape[0]) // 2, (201 - det_shape[1]) // 2
    whole = project(volume, large)
    part = whole[:, top:top + det_shape[0], left:left + det_shape[1]]
    assert torch.allclose(project(volume, small), part, atol=1e-4)
    shelled = torch.nn.functional.pad(volume, (1,) * 6)     # a shell of zeros changes nothing
    assert torch.allclose(project(shelled, trace(vectors, (201, 201), shelled.shape)), whole, atol=1e-4)


def test_cropped_to_the_window(impl):
    rays, volume, projections = setting("odd")
    (top, bottom, left, right), small = rays.window, rays.crop()
    assert small.det_shape < rays.det_shape
    part = project(volume, rays, impl)[:, top:bottom, left:right]
    assert torch.equal(project(volume, small, impl), part)
    inside = projections[:, top:bottom, left:right]
    assert torch.allclose(backproject(inside, small, impl), backproject(projections, rays, impl), atol=1e-5)


def test_gradients():
    vectors = circle((0.3, 2.0), 20, 15, 2, 2)
    rays = trace(vectors, (3, 4), (2, 3, 3))
    volume = torch.randn(2, 3, 3, dtype=torch.float64, requires_grad=True)
    projections = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: project(x, rays), volume)
    assert torch.autograd.gradcheck(lambda y: backproject(y, rays), projections)
    assert torch.autograd.gradgradcheck(lambda x: project(x, rays).square(), volume)


def test_any_number_of_threads_gives_the_same(impl):
    rays, volume, projections = setting("even")
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append((project(volume, rays, impl), backproject(projections, rays, impl)))
    finally:
        torch.set_num_threads(threads)
    for there, back in results[1:]:
        assert torch.allclose(there, results[0][0], atol=1e-5)
        assert torch.allclose(back, results[0][1], atol=1e-5)


def test_bad_arguments():
    rays, volume, projections = setting("odd")
    good = circle((0.0,), 60, 40, 1, 1)
    tilted, blind = good.copy(), good.copy()
    tilted[0, 9], blind[0, 3:6] = 0.1, 2 * good[0, :3]
    for call in (lambda: project(volume[1:], rays), lambda: project(volume.int(), rays),
                 lambda: backproject(projections[:1], rays), lambda: project(volume, rays, impl="fast"),
                 lambda: project(volume.double(), rays, impl="compiled"),
                 lambda: trace(good[:, :9], (4, 4), (4, 4, 4)),
                 lambda: trace(good * math.nan, (4, 4), (4, 4, 4)),
                 lambda: trace(tilted, (4, 4), (4, 4, 4)), lambda: trace(blind, (4, 4), (4, 4, 4)),
                 lambda: trace(circle((0.0,), 3, 40, 1, 1), (4, 4), (8, 8, 8))):
        with pytest.raises(ValueError):
            call()
