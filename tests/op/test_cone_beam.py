"""The projector against an independent toolkit, its adjoint, its gradient, and C++ and CUDA against PyTorch."""
import math
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from op import build, cone_beam
from op.cone_beam import backproject, project, trace
from tests.cuda_on_cpu import emulate


def circle(angles, src_dist, det_dist, du, dv, offset=(0.0, 0.0)):
    """Vectors [views, 12] of a circular scan whose detector is shifted by offset = (u, v)."""
    views = []
    for t in angles:
        e, f = np.array([math.cos(t), math.sin(t), 0]), np.array([-math.sin(t), math.cos(t), 0])
        centre = det_dist * f + offset[0] * e + np.array([0, 0, offset[1]])
        views.append(np.concatenate([-src_dist * f, centre, du * e, [0, 0, dv]]))
    return np.array(views)


def wobbly(views, seed, tilt):
    """A scan of small boxes in which every view has its own source, detector position, u step and v step."""
    rng = np.random.default_rng(seed)
    vectors = circle(rng.uniform(0, 7, views), 40, 30, 1.3, 0.9) + 0.05 * rng.standard_normal((views, 12))
    vectors[tilt:, 9:11] = 0                                # v parallel to z, but for the first `tilt` views
    vectors[0, 11] *= -1                                    # rows may run downwards
    vectors[1, 6:9] *= -1
    return vectors


def random_scan(seed):
    """Three views from anywhere around a small box of any proportions, on detectors of any fineness."""
    rng = np.random.default_rng(seed)
    volume_shape, det_shape = rng.integers(1, 20, 3), rng.integers(1, 50, 2)
    voxel_size = rng.uniform(0.4, 2, 3)
    radius, vectors = np.linalg.norm((volume_shape + 1) * voxel_size) / 2, []
    for upright in (True, False, False):
        t, elevation, roll = rng.uniform(0, 2 * math.pi), rng.uniform(-1.4, 1.4), rng.uniform(0, 2 * math.pi)
        elevation *= 1 if upright else 0.7                  # no ray along z
        ray = np.array([math.cos(t) * math.cos(elevation), math.sin(t) * math.cos(elevation), math.sin(elevation)])
        u = np.array([-math.sin(t), math.cos(t), 0])
        v = np.array([0, 0, rng.choice([-1, 1])]) if upright else np.cross(ray, u)
        if not upright:
            u, v = math.cos(roll) * u + math.sin(roll) * v, math.cos(roll) * v - math.sin(roll) * u
        centre = radius * rng.uniform(0.2, 2) * ray + rng.standard_normal(3)
        pixel = math.exp(rng.uniform(-2.5, 2))
        vectors.append(np.concatenate([-radius * rng.uniform(1.2, 6) * ray, centre, pixel * u,
                                       pixel * rng.uniform(0.5, 2) * v]))
    return np.array(vectors), tuple(det_shape), tuple(volume_shape), tuple(voxel_size)


GEOMETRIES = {
    "odd": (circle((0, 0.8, 2.3), 60, 40, 1.5, 1.5), (33, 41), (7, 15, 13), (1, 1, 1)),
    "even": (circle((0.1, 1.6, 4.0, 5.5), 60, 40, 1.5, 1.5), (32, 40), (8, 16, 12), (1, 1, 1)),
    "anisotropic": (circle((0.3, 1.1, 3.3), 60, 40, 0.8, 2.0), (20, 60), (6, 11, 14), (2.5, 0.7, 1.2)),
    "offset": (circle((0.2, 2.9), 60, 40, 1.5, 1.5, (9, -7)), (16, 20), (9, 12, 12), (1, 1, 1)),
    "fine detector": (circle((1.0,), 60, 40, 0.2, 0.3), (90, 120), (10, 9, 8), (1, 1, 1)),
    "coarse detector": (circle((1.0, 2.0), 60, 40, 7, 6), (6, 5), (20, 12, 12), (1, 1, 1)),
    "wobbly": (wobbly(4, 0, 0), (25, 31), (9, 14, 10), (1.3, 0.9, 1.1)),
    "some tilted": (wobbly(4, 0, 2), (25, 31), (9, 14, 10), (1.3, 0.9, 1.1)),
    "all tilted": (wobbly(18, 1, 18), (14, 17), (5, 8, 9), (1, 1, 1)),
    "several tiles": (circle((0.4, 2.0), 200, 100, 2.5, 2.5), (8, 90), (3, 70, 130), (1, 1, 1)),
    "one voxel": (circle((0.5,), 60, 40, 0.5, 0.5), (9, 9), (1, 1, 1), (1, 1, 1)),
    "all rays miss": (circle((0.5,), 60, 40, 1, 1, (500, 0)), (9, 9), (4, 4, 4), (1, 1, 1)),
    # Of the scans that `trace` accepts; in the last two, columns cross planes above or below all of their rows.
    **{f"random {seed}": random_scan(seed) for seed in (*range(6), *range(20, 35), 277, 342)},
}


def setting(name, dtype=torch.float32):
    vectors, det_shape, volume_shape, voxel_size = GEOMETRIES[name]
    generator = torch.Generator().manual_seed(1)
    volume = torch.randn(tuple(map(int, volume_shape)), generator=generator, dtype=dtype)
    projections = torch.randn(len(vectors), *map(int, det_shape), generator=generator, dtype=dtype)
    return trace(vectors, det_shape, volume_shape, voxel_size), volume, projections


def available(device):
    return cone_beam.COMPILED.choose(None, torch.zeros(1, device=device))


@pytest.fixture(params=["reference", "C++", "CUDA on CPU", "CUDA"])
def op(request, monkeypatch):
    """Project and backproject of one implementation, between tensors on the CPU."""
    if request.param == "CUDA on CPU":
        if shutil.which("g++") is None:
            pytest.skip("no g++")
        emulate.in_place_of_cpp(monkeypatch, "fused")
    device = "cuda" if request.param == "CUDA" else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    impl = "reference" if request.param == "reference" else "compiled"
    if impl == "compiled" and not available(device):
        pytest.skip(f"{request.param} could not be built, see the warning")
    return SimpleNamespace(impl=impl, device=device,
                           project=lambda x, rays: project(x.to(device), rays, impl).cpu(),
                           backproject=lambda y, rays: backproject(y.to(device), rays, impl).cpu())


def relative(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


def gap(there, projections, volume, back):
    """How far from adjoint: difference of the two scalar products, relative to their size."""
    there, projections, volume, back = (x.double() for x in (there, projections, volume, back))
    return abs((there * projections).sum() - (volume * back).sum()) / max(there.norm() * projections.norm(), 1e-30)


def test_agrees_with_an_independent_joseph_projector(data_dir, op):
    data = np.load(data_dir / "cone_rtk.npz")
    spacing = float(data["det_spacing"])
    vectors = circle(data["angles"], float(data["src_dist"]), float(data["det_dist"]), spacing, spacing)
    expected, volume = torch.from_numpy(data["projections"]), torch.from_numpy(data["vol"])
    assert relative(op.project(volume, trace(vectors, expected.shape[1:], volume.shape)), expected) < 1e-5
    vectors[:, 9] = 1e-9                                    # the same by the way of tilted views
    assert relative(op.project(volume, trace(vectors, expected.shape[1:], volume.shape)), expected) < 1e-5


def test_approximates_exact_line_integrals(data_dir):
    """Within 1.2 % over all views. The error is that of linear interpolation: half the voxels, a quarter of it."""
    data = np.load(data_dir / "cone_rtk.npz")
    vectors = circle(data["analytic_angles"], 140, 100, 2, 2)
    expected, volume = torch.from_numpy(data["analytic_projections"]).float(), torch.from_numpy(data["vol"])
    found = project(volume, trace(vectors, expected.shape[1:], volume.shape))
    assert relative(found, expected) < 0.012
    per_view = (found - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)
    assert per_view.max() < 0.0135

    # Gaussians that vanish at the border are interpolated exactly by zeros around their spectrum.
    spectrum, shape = torch.fft.fftshift(torch.fft.fftn(volume.double())), volume.shape
    spectrum = torch.nn.functional.pad(spectrum, [n // 2 for n in reversed(shape) for _ in range(2)])
    fine = 8 * torch.fft.ifftn(torch.fft.ifftshift(spectrum)).real.float()
    assert torch.allclose(fine[::2, ::2, ::2], volume, atol=1e-6)
    vectors[:, :6] -= 0.25                                  # the fine voxels' centre is a quarter of a voxel off
    found = project(fine, trace(vectors[::10], expected.shape[1:], fine.shape, (0.5, 0.5, 0.5)))
    assert relative(found, expected[::10]) < 0.012 / 4


@pytest.mark.parametrize("depth, rows", [(1, 1), (3, 5), (8, 32), (9, 16), (2, 40)])
@pytest.mark.parametrize("shift", [0, 2.3, 40])
def test_few_slices_are_as_the_reference_has_them(depth, rows, shift):
    """Thin volumes have a way of their own; mixed with tilted views, off the axis, and where rays miss."""
    vectors = circle(np.linspace(0, 2 * math.pi, 9), 60, 40, 1.1, 0.7)
    vectors[:, 3:6] += shift / 10
    vectors[5, 9] = 1e-3
    rays = trace(vectors, (rows, 33), (depth, 21, 26), (1.3, 1, 1.2))
    volume, y = torch.randn(depth, 21, 26), torch.randn(9, rows, 33)
    try:
        there, back = project(volume, rays, "compiled"), backproject(y, rays, "compiled")
    except build.NotCompiled:
        pytest.skip("no compiler")
    assert torch.allclose(there, project(volume, rays, "reference"), atol=1e-4)
    assert torch.allclose(back, backproject(y, rays, "reference"), atol=1e-4)
    assert gap(there, y, volume, back) < 1e-6


def test_the_lengths_of_simple_rays(op):
    vectors, ones = circle((0, math.pi / 2, math.pi / 4), 50, 50, 1, 1), torch.ones(5, 7, 9)
    central = op.project(ones, trace(vectors, (1, 1), ones.shape, (3, 2, 1.5))).flatten()
    # Along y: 7 voxels of 2; along x: 9 voxels of 1.5; on the diagonal x steps in planes of 1.5, all inside.
    assert torch.allclose(central, torch.tensor([14, 13.5, 13.5 * math.sqrt(2)]), rtol=1e-5)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_adjoint(name, op):
    rays, volume, projections = setting(name)
    there = op.project(volume, rays)
    assert gap(there, projections, volume, op.backproject(projections, rays)) <= 1e-5
    assert there.any() == (name != "all rays miss")


@pytest.mark.parametrize("name", GEOMETRIES)
def test_reference_is_an_exact_adjoint_in_float64(name):
    rays, volume, projections = setting(name, torch.float64)
    assert gap(project(volume, rays), projections, volume, backproject(projections, rays)) <= 1e-12


@pytest.mark.parametrize("name", GEOMETRIES)
def test_compiled_equals_reference(name, op):
    rays, volume, projections = setting(name)
    for function, reference, source in ((op.project, project, volume), (op.backproject, backproject, projections)):
        expected = reference(source.double(), rays)
        # Positions along a detector column are float, counted from the source: 1e-5 from far above or below.
        assert (function(source, rays) - expected).norm() <= 2e-5 * expected.norm()


def test_without_vector_instructions(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setattr(build, "_libraries", {})
    monkeypatch.setattr(build, "_cpu_flags", lambda: ["-O1"])
    if not available("cpu"):
        pytest.skip("C++ could not be built, see the warning")
    for name in ("even", "fine detector", "coarse detector", "some tilted"):
        test_compiled_equals_reference(name, SimpleNamespace(project=project, backproject=backproject))


def test_a_turn_of_the_whole_scan_about_z_turns_the_volume(op):
    vectors, det_shape, _, _ = GEOMETRIES["some tilted"]
    x, y, *_ = vectors.reshape(-1, 4, 3).transpose(2, 0, 1)
    turned = np.stack([-y, x, vectors.reshape(-1, 4, 3)[..., 2]], -1).reshape(-1, 12)
    volume = setting("some tilted")[1][:, :10, :10].contiguous()
    found = op.project(volume.transpose(1, 2).flip(2).contiguous(), trace(turned, det_shape, volume.shape))
    assert relative(found, op.project(volume, trace(vectors, det_shape, volume.shape))) < 1e-5


def test_the_window_leaves_no_ray_out():
    for name in ("odd", "some tilted"):
        vectors, det_shape, volume_shape, voxel_size = GEOMETRIES[name]
        small, large = (trace(vectors, shape, volume_shape, voxel_size) for shape in (det_shape, (201, 201)))
        volume = setting(name)[1]
        top, left = (201 - det_shape[0]) // 2, (201 - det_shape[1]) // 2
        whole = project(volume, large)
        part = whole[:, top:top + det_shape[0], left:left + det_shape[1]]
        assert torch.allclose(project(volume, small), part, atol=1e-4)
        shelled = torch.nn.functional.pad(volume, (1,) * 6)     # a shell of zeros changes nothing
        wide = trace(vectors, (201, 201), shelled.shape, voxel_size)
        assert torch.allclose(project(shelled, wide), whole, atol=1e-4)


def test_a_v_step_along_z_up_to_rounding_is_upright():
    vectors = GEOMETRIES["odd"][0].copy()
    vectors[:, 9:11] = 1e-16
    assert not trace(vectors, (4, 4), (4, 4, 4)).views[:, 9:11].any()


def test_gradients():
    vectors = circle((0.3, 2.0), 20, 15, 2, 2)
    vectors[1, 9:11] = 0.3, -0.2                            # a tilted view
    rays = trace(vectors, (3, 4), (2, 3, 3))
    volume = torch.randn(2, 3, 3, dtype=torch.float64, requires_grad=True)
    projections = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: project(x, rays), volume)
    assert torch.autograd.gradcheck(lambda y: backproject(y, rays), projections)
    assert torch.autograd.gradgradcheck(lambda x: project(x, rays).square(), volume)


@pytest.mark.parametrize("name", ["even", "some tilted", "several tiles"])
def test_any_number_of_threads_gives_the_same(name):
    if not available("cpu"):
        pytest.skip("C++ could not be built, see the warning")
    rays, volume, projections = setting(name)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append((project(volume, rays, "compiled"), backproject(projections, rays, "compiled")))
    finally:
        torch.set_num_threads(threads)
    for there, back in results[1:]:
        assert torch.equal(there, results[0][0]) and torch.equal(back, results[0][1])


def test_out(op):
    rays, volume, projections = (x if isinstance(x, cone_beam.Rays) else x.to(op.device) for x in setting("odd"))
    for function, source, like in ((project, volume, projections), (backproject, projections, volume)):
        out = torch.full_like(like, 7)
        assert function(source, rays, op.impl, out=out) is out
        assert torch.equal(out, function(source, rays, op.impl))
        for bad in (like.double(), like[:, 1:], like.transpose(0, 2).contiguous().transpose(0, 2),
                    torch.empty_like(like, device="meta"), like.clone().requires_grad_()):
            with pytest.raises(ValueError, match="^out: "):
                function(source, rays, op.impl, out=bad)
        source = source.clone().requires_grad_()
        with pytest.raises(ValueError, match="^out: "):
            function(source, rays, op.impl, out=out)
        with torch.no_grad():
            assert function(source, rays, op.impl, out=out) is out


def test_bad_arguments():
    rays, volume, projections = setting("odd")
    good = circle((0.0, 1.0), 60, 40, 1, 1)
    for bad, impl in (volume[1:], None), (volume.int(), None), (volume, "fast"):
        with pytest.raises(ValueError):
            project(bad, rays, impl)
    with pytest.raises(build.NotCompiled):
        project(volume.double(), rays, "compiled")
    with pytest.raises(ValueError, match="^projections: "):
        backproject(projections[:1], rays)

    blind, flat, above = good.copy(), good.copy(), good.copy()
    blind[1, 3:6] = 2 * good[1, :3]                         # source between volume and detector
    flat[1, 9:] = flat[1, 6:9]
    above[1] = [0, 0, 60, 0, 0, -40, 1, 0, 0, 0, 1, 0]      # straight down
    for vectors, message in ((good[:, :9], "12"), (good * math.nan, "finite"), (blind, "source"), (flat, "span"),
                             (above, "view 1 has rays parallel to z"), (circle((0.0,), 3, 40, 1, 1), "source")):
        with pytest.raises(ValueError, match=message):
            trace(vectors, (4, 4), (8, 8, 8))
    above[1, 3] = 30                                        # the vertical ray passes beside the detector
    trace(above, (4, 4), (8, 8, 8))
