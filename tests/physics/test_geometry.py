"""Geometries as values, and what they refuse."""
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from physics.cone_beam import ConeBeam
from physics.fdk import fdk
from physics.geometry import ConeGeometry
from physics.sirt import sirt

CIRCLE = dict(angles=(0.0, 90.0), src_dist=70, det_dist=50, det_shape=(30, 40), det_spacing=(3, 2))
GRID = dict(volume_shape=(6, 10, 12), voxel_size=(2, 1, 1.5), volume_centre=(1, -2, 3))


def vectors(**changes):
    """The same scan as CIRCLE, by vectors."""
    scan = ConeGeometry(**CIRCLE)
    return dict(view_vectors=scan.vectors, det_shape=scan.det_shape) | changes


SCANS = {
    "circle": CIRCLE,
    "circle on a grid": CIRCLE | GRID | dict(det_offset=(0.1, -7.3), mu_water=0.0193),
    "uneven": CIRCLE | dict(angles=[0.1, 1 / 3, -1e-17, 720.5]),
    "voxel": CIRCLE | dict(unit="voxel", volume_shape=(2, 3, 4)),
    "vectors": vectors(),
    "vectors on a grid": vectors(**GRID),
}


@pytest.fixture(params=SCANS)
def scan(request):
    return ConeGeometry(**SCANS[request.param])


def test_in_mm_the_same_rays_meet_the_same_voxels():
    scan = ConeGeometry(angles=(0, 33, 90), src_dist=30, det_dist=20, det_shape=(9, 12), det_spacing=(2, -2),
                        det_offset=(1, 2), volume_shape=(4, 7, 6), volume_centre=(1, 0, -2), isocentre=(5, 6, 7),
                        unit="voxel", mu_water=0.01)
    x = torch.rand(4, 1, 7, 6)
    for size in ((3, 2, 2), (3, 2.5, 2)):
        new = scan.in_mm(size)
        assert new.unit == "mm" and new.voxel_size == size and bool(new.view_vectors) == (size[1] != size[2])
        assert new.isocentre == tuple(np.multiply(size, scan.isocentre)) and new.mu_water == 0.005
        assert np.allclose(new.project(new.corners), scan.project(scan.corners))
        longer = torch.as_tensor(new.ray_lengths / scan.ray_lengths, dtype=torch.float32)
        assert torch.allclose(ConeBeam(new).A(x)[0], ConeBeam(scan).A(x)[0] * longer, atol=1e-4)
    metric = ConeGeometry(**CIRCLE)
    assert metric.in_mm((1, 2, 3)) is metric


class TestValue:
    def test_repr_evaluates_back(self, scan):
        assert eval(repr(scan)) == scan and hash(eval(repr(scan))) == hash(scan)

    def test_numpy_values_are_plain_afterwards(self):
        scan = ConeGeometry(**CIRCLE | dict(angles=np.float32([0, 90]), det_shape=[np.int64(30), 40.0],
                                            src_dist=np.array(70)))
        assert scan == ConeGeometry(**CIRCLE) and "array" not in repr(scan)

    def test_vectors(self):
        scan = ConeGeometry(**CIRCLE | dict(det_offset=(0.5, 4)))
        assert np.allclose(scan.vectors, [[0, -70, 0, 4, 50, 0.5, 2, 0, 0, 0, 0, 3],
                                          [70, 0, 0, -50, 4, 0.5, 0, 2, 0, 0, 0, 3]])
        assert np.array_equal(ConeGeometry(**vectors(view_vectors=scan.vectors)).vectors, scan.vectors)

    def test_views_and_select(self, scan):
        some = scan.select([1, 0])
        assert some.views == 2 and np.array_equal(some.vectors, scan.vectors[[1, 0]])
        assert replace(some, angles=scan.angles, view_vectors=scan.view_vectors) == scan

    def test_on_grid(self):
        scan = ConeGeometry(**CIRCLE | GRID)
        assert scan.on_grid((2, 3, 4)).voxel_size == (2, 1, 1.5)
        assert scan.on_grid((2, 3, 4), (3, 3, 3)) == ConeGeometry(
            **CIRCLE | GRID | dict(volume_shape=(2, 3, 4), voxel_size=(3, 3, 3)))
        with pytest.raises(ValueError, match="voxel_size"):
            ConeGeometry(**CIRCLE).on_grid((2, 3, 4))

    def test_slab_keeps_the_slices_in_place(self):
        scan = ConeGeometry(**CIRCLE | GRID)            # slices of 2, centres at -4, -2, 0, 2, 4, 6
        slab = scan.slab(1, 4)
        assert slab == replace(scan, volume_shape=(3, 10, 12), volume_centre=(0, -2, 3))
        assert scan.slab(0, 6) == scan

    @pytest.mark.parametrize("by_vectors", [False, True])
    def test_in_voxels(self, by_vectors):
        """The unit changes, and nothing that does not depend on it."""
        scan = ConeGeometry(**(vectors() if by_vectors else CIRCLE | dict(det_offset=(1, 2))) | GRID, mu_water=0.02)
        other = scan.in_voxels()
        assert other.unit == "voxel" and other.voxel_size == (2 / 1.5, 1 / 1.5, 1) and other.in_voxels() == other
        assert np.allclose(1.5 * other.vectors, scan.vectors) and np.allclose(other.shadow, scan.shadow)
        assert other.mu_water == pytest.approx(0.03)

    def test_projected_points(self, scan):
        """The middle of the detector, one pixel along u and v from it, the source, and a point half-way."""
        rows, columns = scan.det_shape
        for view, (source, centre, step_u, step_v) in enumerate(scan.vectors.reshape(-1, 4, 3)):
            found = scan.project([centre, centre + step_u, centre + step_v, (source + centre + 2 * step_u) / 2])[view]
            middle = np.array([(columns - 1) / 2, (rows - 1) / 2, 1])
            assert np.allclose(found - middle, [[0, 0, 0], [1, 0, 0], [0, 1, 0], [2, 0, -0.5]])

    def test_crop_keeps_the_pixels_in_place(self, scan):
        part, points = scan.crop(3, 8, 10, 14), np.random.default_rng(0).normal(size=(5, 3))
        assert part.det_shape == (5, 4)
        assert np.allclose(part.project(points), scan.project(points) - [10, 3, 0])


class TestDetectorReadFromTheOtherSide:
    """Negative steps: the first row is the top one, the first column the right one; nothing else changes."""

    @pytest.mark.parametrize("sign_v, sign_u", [(-1, 1), (1, -1), (-1, -1)])
    def test_the_same_rays_in_another_order(self, sign_v, sign_u):
        scan = ConeGeometry(**CIRCLE | GRID | dict(det_offset=(1, 2)))
        other = replace(scan, det_spacing=(3 * sign_v, 2 * sign_u))
        volume = torch.from_numpy(np.random.default_rng(0).random((6, 1, 10, 12), dtype=np.float32))
        flips = [axis for axis, sign in ((2, sign_v), (3, sign_u)) if sign < 0]
        projections = ConeBeam(scan).A(volume)
        assert projections.amax() > 0
        assert torch.allclose(ConeBeam(other).A(volume).flip(flips), projections, rtol=1e-5, atol=1e-5)
        for method in (fdk, sirt):
            one, two = (method(measured, ConeBeam(geometry)) for geometry, measured in (
                (scan, projections), (other, projections.flip(flips))))
            assert torch.allclose(one, two, rtol=1e-4, atol=1e-5)

    def test_views_points_and_parts(self):
        scan = replace(ConeGeometry(**CIRCLE | GRID), det_spacing=(-3, 2))
        step_u, step_v = scan.vectors[0].reshape(4, 3)[2:]
        assert np.allclose(step_v, (0, 0, -3)) and np.allclose(step_u, (2, 0, 0))
        part, points = scan.crop(3, 8, 10, 14), np.random.default_rng(0).normal(size=(5, 3))
        assert np.allclose(part.project(points), scan.project(points) - [10, 3, 0])
        assert scan.in_voxels().det_spacing == (-2, 2 / 1.5) and eval(repr(scan)) == scan


class TestRefusals:
    @pytest.mark.parametrize("change", [
        dict(angles=()), dict(angles=(math.nan,)), dict(angles=1.0), dict(angles=("a",)), dict(angles=(True,)),
        dict(src_dist=0), dict(src_dist="far"), dict(src_dist=None), dict(det_dist=-5), dict(det_dist=math.inf),
        dict(det_shape=(5,)), dict(det_shape=(5, 2.5)), dict(det_shape=7), dict(det_shape=()), dict(det_shape=None),
        dict(det_shape=(5, True)), dict(det_shape=(5, 0)), dict(det_spacing=(1, 0)), dict(det_spacing=None),
        dict(det_offset=(1,)), dict(det_offset=None), dict(det_offset=(0, math.nan)), dict(volume_shape=(4, 4)),
        dict(volume_shape=(4, 4, 0), voxel_size=(1, 1, 1)), dict(voxel_size=(1, 1)),
        dict(voxel_size=(1, 1, math.nan)), dict(voxel_size=(1, 1, 10 ** 400)), dict(volume_centre=(0, 0)),
        dict(volume_centre=(0, 0, 80)), dict(unit="inch"), dict(unit=None), dict(mu_water=0), dict(mu_water=True),
        dict(view_vectors=1), dict(view_vectors="a"), dict(view_vectors=[[0] * 11]), dict(view_vectors=[1])])
    def test_bad_values_are_named(self, change):
        with pytest.raises(ValueError, match=f"^{next(iter(change))}: .") as error:
            ConeGeometry(**CIRCLE | change)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize("name, change", [
        ("src_dist", vectors(src_dist=70)), ("angles", vectors(angles=[0, 90])),
        ("det_offset", vectors(det_offset=[1, 0])), ("angles", dict(det_shape=(5, 5))),
        ("voxel_size", CIRCLE | dict(volume_shape=(2, 3, 4))),
        ("voxel_size", CIRCLE | dict(unit="voxel", voxel_size=(1, 1, 2)))])
    def test_what_does_not_go_together(self, name, change):
        with pytest.raises(ValueError, match=f"^{name}: "):
            ConeGeometry(**change)

    @pytest.mark.parametrize("what, columns, values", [
        ("parallel", slice(9, 12), [4, 0, 0]), ("parallel", slice(6, 9), 0), ("in the plane", slice(6, 9), [0, 2, 0]),
        ("not between", slice(3, 6), [0, -200, 0]), ("not between", slice(0, 3), [0, 60, 0])])
    def test_bad_vectors(self, what, columns, values):
        bad = np.array(ConeGeometry(**CIRCLE).vectors[[1, 0]])
        bad[1, columns] = values
        with pytest.raises(ValueError, match=f"^view_vectors: in view 1 .*{what}"):
            ConeGeometry(**vectors(view_vectors=bad))

    def test_the_volume_stays_between_source_and_detector(self):
        settings = dict(angles=(0.0, 45.0), src_dist=60, det_dist=40, det_shape=(8, 8), det_spacing=(2, 2))
        scan = ConeGeometry(**settings, unit="voxel", volume_shape=(4, 54, 54))     # corners 38.9 from the axis
        for change, what in ((dict(volume_shape=(4, 56, 56)), "detector of view 1"),
                             (dict(det_dist=100, volume_shape=(4, 84, 84)), "source of view 1"),
                             (dict(volume_centre=(0, -7, 0), det_dist=100), None),
                             (dict(volume_centre=(0, -33, 0), det_dist=100), "source of view 0")):
            if what is None:
                replace(scan, **change)
                continue
            with pytest.raises(ValueError, match=f"^volume_shape: .*{what}"):
                replace(scan, **change)
