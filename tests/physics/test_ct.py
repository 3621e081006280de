"""Geometry, FDK and SIRT."""
import math

import numpy as np
import pytest
import torch

from physics.ct import ConeBeam, ConeGeometry, demo_geometry, fdk, lact_views, sirt, svct_views, view_weights


def turn(views, covered=2 * math.pi):
    return tuple(covered * i / views for i in range(views))


def small(angles, shape=(12, 24, 24)):
    settings = dict(src_dist=90, det_dist=60, det_shape=(40, 64), det_spacing=(1.5, 1.5))
    return ConeBeam(ConeGeometry(angles=angles, **settings), shape)


def ball(shape):
    """A smooth ball of height 1 on the axis."""
    z, y, x = torch.meshgrid(*(torch.arange(n) - (n - 1) / 2 for n in shape), indexing="ij")
    return torch.sigmoid(4 - (4 * z ** 2 + y ** 2 + x ** 2).sqrt() / 2 * 1.3)[:, None]


def rms(x):
    return x.square().mean().sqrt().item()


class TestGeometry:
    def test_repr_evaluates_back(self):
        geometry = ConeGeometry(angles=np.linspace(0, 3, 7), det_shape=[30, np.int64(40)])
        assert eval(repr(geometry)) == geometry and hash(geometry) == hash(eval(repr(geometry)))

    def test_vectors(self):
        geometry = ConeGeometry(angles=(0, math.pi / 2), src_dist=7, det_dist=5, det_spacing=(3, 2))
        assert np.allclose(geometry.vectors, [[0, -7, 0, 0, 5, 0, 2, 0, 0, 0, 0, 3],
                                              [7, 0, 0, -5, 0, 0, 0, 2, 0, 0, 0, 3]])

    @pytest.mark.parametrize("change", [
        dict(angles=()), dict(angles=(math.nan,)), dict(angles=1.0), dict(angles=("a",)),
        dict(src_dist=0), dict(src_dist="far"), dict(det_dist=-5), dict(det_dist=math.inf),
        dict(det_shape=(5,)), dict(det_shape=(5, 2.5)), dict(det_shape=7), dict(det_shape=()),
        dict(det_spacing=(1, 0)), dict(voxel_size=(1, 1)), dict(voxel_size=(1, 1, math.nan))])
    def test_bad_values_are_named(self, change):
        with pytest.raises(ValueError, match=next(iter(change))):
            ConeGeometry(**{"angles": (0.0,)} | change)

    def test_the_volume_stays_within_the_orbits(self):
        geometry = ConeGeometry(angles=(0.0,), src_dist=60, det_dist=40)
        ConeBeam(geometry, (4, 54, 54))
        with pytest.raises(ValueError, match="volume_shape"):
            ConeBeam(geometry, (4, 56, 56))

    def test_demo_views(self):
        assert lact_views(90) == list(range(90)) and lact_views(360) == list(range(360))
        assert svct_views(20) == list(range(0, 360, 18)) and svct_views(7) == [0, 51, 102, 154, 205, 257, 308]
        assert demo_geometry([0, 90]).angles == (0, math.pi / 2)

    @pytest.mark.parametrize("views, degree", [(lact_views, 0), (lact_views, 361), (lact_views, math.nan),
                                               (svct_views, 0), (svct_views, 361), (svct_views, 2.5),
                                               (svct_views, math.nan)])
    def test_bad_degrees(self, views, degree):
        with pytest.raises(ValueError, match="degree"):
            views(degree)


class TestFDK:
    def test_error_on_exact_line_integrals(self, data_dir):
        data = np.load(data_dir / "cone_rtk.npz")
        geometry = ConeGeometry(angles=data["analytic_angles"], src_dist=data["src_dist"],
                                det_dist=data["det_dist"], det_shape=(72, 96))
        y = torch.from_numpy(data["analytic_projections"]).float()[None]
        error = rms(fdk(y, ConeBeam(geometry, data["vol"].shape))[:, 0] - torch.from_numpy(data["vol"]))
        assert error <= 1.05 * rms(torch.from_numpy(data["fdk"] - data["vol"]))

    @pytest.mark.parametrize("angles", [turn(20), turn(180), turn(360)[::-1], turn(120, math.pi + 0.7),
                                        tuple(np.cumsum([.02, .04] * 105) % 6.3)])
    def test_amplitude(self, angles):
        operator = small(angles)
        truth = ball((12, 24, 24))
        found = fdk(operator.A(truth), operator)[6, 0, 8:16, 8:16].mean() / truth[6, 0, 8:16, 8:16].mean()
        assert abs(found - 1) < 0.06

    @pytest.mark.parametrize("angles", [(1.0,), (1.0, 1.0), turn(90, math.pi / 2), (0.0, 0.1, 3.0)])
    def test_few_views_stay_finite(self, angles):
        operator = small(angles)
        found = fdk(operator.A(ball((12, 24, 24))), operator)
        assert found.isfinite().all() and 0 < found.max() < 3

    def test_units(self):
        """The same scan in other units of length gives the same volume."""
        settings = dict(angles=turn(30), det_shape=(40, 64))
        lengths = dict(src_dist=90, det_dist=60, det_spacing=(1.5, 1.2), voxel_size=(2, 1, 1))
        halves = {name: np.divide(length, 2) for name, length in lengths.items()}
        volumes = []
        for unit in (lengths, halves):
            operator = ConeBeam(ConeGeometry(**settings, **unit), (6, 24, 24))
            volumes.append(fdk(operator.A(ball((6, 24, 24))), operator))
        assert torch.allclose(*volumes, atol=1e-5)

    def test_view_weights(self):
        assert np.allclose(view_weights(turn(20)), math.pi / 20)
        assert np.allclose(view_weights(turn(90, math.pi / 2)), math.pi / 180)
        assert np.allclose(sum(view_weights(turn(120, math.pi + 0.7))), math.pi)
        uneven = view_weights((0.0, 0.1, 0.3, 0.4, 0.6))
        assert np.allclose(uneven[1:4], np.array([0.3, 0.3, 0.3]) / 2)


class TestSIRT:
    def test_converges_to_the_volume(self):
        operator, truth = small(turn(30)), ball((12, 24, 24))
        y = operator.A(truth)
        errors = [rms(sirt(y, operator, iterations) - truth) for iterations in (0, 10, 100)]
        assert errors[0] > 4 * errors[1] > 8 * errors[2]

    def test_is_bounded_and_its_linear_form_is_not(self):
        operator = small(turn(8))
        y = torch.randn(operator.range_shape, generator=torch.Generator().manual_seed(0))
        assert sirt(y, operator, 5).min() == 0 and sirt(y, operator, 5, nonnegative=False).min() < 0
        assert torch.allclose(operator.A_dagger(-2 * y), -2 * operator.A_dagger(y), atol=1e-3)

    def test_stable_where_rays_miss_and_voxels_are_unseen(self):
        geometry = ConeGeometry(angles=turn(5), src_dist=90, det_dist=60, det_shape=(8, 120))
        operator = ConeBeam(geometry, (30, 24, 24))
        rows, columns = operator.inverse_sums
        assert rows.isfinite().all() and columns.isfinite().all()
        assert not columns[0].any() and not columns[-1].any()
        y = operator.A(torch.ones(operator.domain_shape))
        y = y + torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
        found = sirt(y, operator)
        assert found.isfinite().all() and not found[0].any() and found.max() < 10

    def test_rays_that_clip_a_corner_do_not_blow_up_their_noise(self):
        operator = small(turn(5))
        y = operator.A(torch.ones(operator.domain_shape))
        y = y + torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
        assert sirt(y, operator).max() < 5              # 10 where every ray counts

    def test_projections_of_another_shape_are_refused(self):
        operator = small(turn(2), (2, 4, 4))
        for reconstruct in (fdk, sirt):
            with pytest.raises(ValueError, match="y: expected"):
                reconstruct(torch.zeros(operator.range_shape)[:, :1], operator)

    def test_progress_wraps_the_iterations(self):
        operator, seen = small(turn(2), (2, 4, 4)), []
        sirt(torch.zeros(operator.range_shape), operator, 3, progress=lambda steps: map(seen.append, steps))
        assert seen == [0, 1, 2]
