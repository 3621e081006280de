"""The CUDA sources on the CPU: resampling in every type and layout, the limits of a grid, planted errors.

The projector's own tests (test_cone_beam.py) run on them too.
"""
import itertools
import shutil

import numpy as np
import pytest
import torch

from op import build, upfirdn2d
from op.cone_beam import backproject, project, trace
from tests.cuda_on_cpu import emulate
from tests.op.test_cone_beam import circle, gap, relative, setting
from tests.op.test_upfirdn2d import CASES, random_inputs

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")


@pytest.fixture(params=["fused", "plain"])
def cuda(request, monkeypatch):
    emulate.in_place_of_cpp(monkeypatch, request.param)


@pytest.mark.parametrize("image, kernel, up, down, pad", CASES)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-6), (torch.float64, 1e-12), (torch.float16, 2e-3),
                                              (torch.bfloat16, 2e-2)])
def test_resampling(cuda, image, kernel, up, down, pad, dtype, tolerance):
    x, k = random_inputs(image, kernel, dtype)
    expected = upfirdn2d.upfirdn2d(x.double(), k.double(), up, down, pad, impl="reference")
    k = k if dtype == torch.float64 else k.float()
    for planes, inner, given in ((6, 1, x), (2, 3, x.permute(0, 2, 3, 1).contiguous())):     # channels last, too
        size = expected.shape[2:]
        y = torch.full((2, 3, *size) if inner == 1 else (2, *size, 3), torch.nan, dtype=dtype)
        upfirdn2d.COMPILED.call("upfirdn2d_" + str(dtype).removeprefix("torch."), given, k, y, planes, inner, *image,
                                *kernel, up, down, pad[0], pad[0], *size)
        found = y if inner == 1 else y.permute(0, 3, 1, 2)
        assert (found - expected).norm() <= tolerance * expected.norm() + 1e-9


def call(x, planes, size, up=1, down=1, before=0):
    upfirdn2d.COMPILED.call("upfirdn2d_float32", x, torch.ones(1, 1), torch.empty_like(x), planes, 1, *size, 1, 1, up,
                            down, before, before, *size)


def test_resampling_beyond_a_grid_and_sizes_that_are_refused(cuda):
    x = torch.randn(65535 + 7, 1, 2, 2)
    y = torch.full_like(x, torch.nan)
    upfirdn2d.COMPILED.call("upfirdn2d_float32", x, torch.ones(1, 1), y, len(x), 1, 2, 2, 1, 1, 1, 1, 0, 0, 2, 2)
    assert torch.equal(y, x)
    for changed in ({"up": 2**61, "down": 2**61}, {"before": -2**40}, {"before": 2**40}, {"up": 0}):
        with pytest.raises(RuntimeError, match="too large|at least 1"):
            call(x, len(x), (2, 2), **changed)


def unwritten(rays):
    """A volume in which a voxel that no thread writes to shows."""
    return torch.full(rays.volume_shape, torch.nan)


@pytest.mark.parametrize("name", ["odd", "anisotropic", "some tilted", "all tilted", "several tiles", "random 0"])
def test_projector_and_adjoint_write_everything(cuda, name):
    rays, volume, projections = setting(name)
    there, back = project(volume, rays), backproject(projections, rays, out=unwritten(rays))
    assert gap(there, projections, volume, back) < 1e-6
    assert relative(there, project(volume.double(), rays, "reference")) < 2e-5
    assert relative(back, backproject(projections.double(), rays, "reference")) < 2e-5


@pytest.mark.parametrize("views, depth", [(1, 1), (31, 31), (32, 32), (33, 33), (65, 64), (2, 65), (2, 129), (2, 300)])
@pytest.mark.parametrize("tilt", [0, 1e-3])
def test_batches_of_views_and_chunks_of_slices(cuda, views, depth, tilt):
    vectors = circle(np.deg2rad(np.linspace(3, 363, views, endpoint=False)), 400, 300, 1.7, 1.7)
    vectors[::2, 9] = tilt
    rays = trace(vectors, (2 * depth + 5, 17), (depth, 5, 9))
    generator = torch.Generator().manual_seed(0)
    volume, projections = (torch.randn(shape, generator=generator) for shape in (
        rays.volume_shape, (views, *rays.det_shape)))
    there, back = project(volume, rays), backproject(projections, rays, out=unwritten(rays))
    assert gap(there, projections, volume, back) < 1e-6
    assert relative(there, project(volume.double(), rays, "reference")) < 2e-5
    assert relative(back, backproject(projections.double(), rays, "reference")) < 2e-5


def test_every_view_is_projected_whatever_is_beside_it(cuda):
    vectors = circle(np.deg2rad(np.linspace(3, 363, 40, endpoint=False)), 60, 40, 1.5, 1.5)
    vectors[::3, 9] = 0.01                                  # tilted ones between upright ones
    volume = torch.randn(7, 15, 13, generator=torch.Generator().manual_seed(0))
    rays = trace(vectors, (19, 37), volume.shape)
    whole = project(volume, rays)
    for part in (slice(5, 9), slice(0, 40, 3), slice(1, 40, 3)):
        assert torch.equal(project(volume, rays._replace(views=rays.views[part].contiguous())), whole[part])


def test_sizes_beyond_a_grid(cuda):
    """70000 slices of a voxel: more than the fast way takes and than gridDim.z has. Positions are float."""
    rays = trace(circle([0.2], 1e5, 5e4, 5.0, 5.0), (2001, 3), (70000, 1, 1))
    generator = torch.Generator().manual_seed(0)
    volume, projections = torch.randn(70000, 1, 1, generator=generator), torch.randn(1, 2001, 3, generator=generator)
    back = backproject(projections, rays, out=unwritten(rays))
    assert gap(project(volume, rays), projections, volume, back) < 1e-6
    rays = trace(circle([0.2], 60, 40, 1e-6, 1e-6), (1 << 19, 1), (1, 2, 2))
    with pytest.raises(RuntimeError, match="sides must be"):        # and not "invalid configuration argument"
        project(torch.zeros(1, 2, 2), rays)


@pytest.mark.parametrize("tilt", [0, 1e-3])
def test_rays_at_45_degrees_step_along_one_axis_whatever_the_rounding(monkeypatch, tilt):
    """There x and y differ by rounding alone, so that each way of rounding could take another axis.

    With a plain comparison of x and y 30 pixels of the first scan, upright, come out differently.
    """
    generator = torch.Generator().manual_seed(0)
    for columns, pixel, source, detector in ((63, 1.3, 60, 415), (41, 0.7, 700, 40), (65, 2.0, 785, 500)):
        vectors = circle(np.deg2rad((45, 135, 225, 315)), source, detector, pixel, pixel)
        vectors[:, 9] = tilt
        rays = trace(vectors, (16, columns), (9, 15, 16))
        volume, projections = (torch.randn(shape, generator=generator) for shape in ((9, 15, 16), (4, 16, columns)))
        found = {"reference": (project(volume.double(), rays, "reference"),
                               backproject(projections.double(), rays, "reference"))}
        for flags in ("C++", "fused", "plain"):
            with monkeypatch.context() as patch:
                if flags != "C++":
                    emulate.in_place_of_cpp(patch, flags)
                found[flags] = project(volume, rays, "compiled"), backproject(projections, rays, "compiled")
        for (there, _), (_, back) in itertools.product(found.values(), repeat=2):
            assert gap(there, projections, volume, back) < 1e-6


@pytest.mark.parametrize("name", ["odd", "all tilted", "all rays miss"])
def test_without_views_or_rays_the_volume_is_cleared(cuda, name):
    rays, _, projections = setting(name)
    none = rays._replace(views=rays.views[:0]) if name != "all rays miss" else rays
    assert not backproject(projections[:len(none.views)], none, out=unwritten(rays)).any()


MUTANTS = [
    ("cone_beam.cu", "u >= n.right - n.left ||", "u >= n.right - n.left - 1 ||"),
    ("cone_beam.cu", "blocks(n.height, 8), std::min", "n.height / 8, std::min"),
    ("cone_beam.cu", "bool add = fast;", "bool add = false;"),
    ("joseph.h", "unsigned(i + 1) < unsigned(count_a)", "unsigned(i + 2) < unsigned(count_a)"),
    ("joseph.h", "fmaxf(x, y) + fabsf", "fminf(x, y) + fabsf"),
    ("upright.h", "c.tilt = float((axis ? x : y)", "c.tilt = float((axis ? y : x)"),
    ("upright.h", "if (weight <= 0) continue;", "if (weight <= 0.1f) continue;"),
    ("upright.h", "+ int64_t(i) * stride", "+ int64_t(i + 1) * stride"),
]


@pytest.mark.parametrize("file, old, new", MUTANTS[2::4] if not emulate.SANITIZED else [])
def test_planted_errors_are_noticed(tmp_path, monkeypatch, file, old, new):
    """Some of them here, each is a build; the others were seen to be noticed, too."""
    for source in [*build.FOLDER.glob("*.h"), *build.FOLDER.glob("*.cu")]:
        shutil.copy(source, tmp_path)
    text = (tmp_path / file).read_text()
    assert old in text
    (tmp_path / file).write_text(text.replace(old, new))
    monkeypatch.setattr(build, "load", lambda name, sources: emulate.emulated(name, "plain", tmp_path))
    worst = 0.0
    for name in ("some tilted", "all tilted", "odd", "anisotropic"):
        rays, volume, projections = setting(name)
        back = backproject(projections, rays, "compiled", unwritten(rays))
        worst = max(worst, *(1.0 if not error < 1e-5 else 0.0 for error in (
            relative(project(volume, rays, "compiled"), project(volume.double(), rays, "reference")),
            relative(back, backproject(projections.double(), rays, "reference")))))
    assert worst == 1.0
