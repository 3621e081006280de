"""Choice of views, cropping, SIRT and FDK."""
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from physics.cone_beam import ConeBeam, ConeGeometry, fdk, lact_views, ray_weights, sirt, svct_views

SMALL = dict(src_dist=90, det_dist=60, det_shape=(40, 64), det_spacing=(1.5, 1.5), volume_shape=(12, 24, 24),
             voxel_size=(1, 1, 1))
TURN = np.arange(0, 360, 3.0)


def small(angles, **changes):
    return ConeBeam(ConeGeometry(angles=angles, **SMALL | changes))


def by_vectors(scan, vectors=None):
    return replace(scan, angles=(), src_dist=None, det_dist=None, det_spacing=None, det_offset=(0, 0),
                   view_vectors=scan.vectors if vectors is None else vectors)


def ball(shape):
    """A smooth ball of height 1 on the axis."""
    z, y, x = torch.meshgrid(*(torch.arange(n) - (n - 1) / 2 for n in shape), indexing="ij")
    return torch.sigmoid(4 - (4 * z ** 2 + y ** 2 + x ** 2).sqrt() / 2 * 1.3)[:, None]


def rms(x):
    return x.square().mean().sqrt().item()


class TestViews:
    demo = ConeGeometry(angles=range(360), **SMALL)

    def test_of_the_demo(self):
        for degree in (1, 45, 45.5, 90, 359, 360):
            assert lact_views(self.demo, degree) == list(range(int(degree)))
        assert svct_views(self.demo, 20) == list(range(0, 360, 18))
        assert svct_views(self.demo, 7) == [0, 51, 102, 154, 205, 257, 308]

    @pytest.mark.parametrize("angles, degree, expected", [
        (np.arange(30, -170, -0.5), 90, range(180)), (np.arange(0, 200, 0.5), 90, range(180)),
        (np.arange(350, 550, 2), 20, range(10)), (np.arange(0, 360, 18), 90, range(5)),
        (np.arange(0, 720, 2), 10, [*range(5), *range(180, 185)]), ([5, 65, 125, 185], 1, [0]), ([7], 90, [0])])
    def test_limited_angle_follows_the_scan(self, angles, degree, expected):
        scan = ConeGeometry(angles=angles, **SMALL)
        assert lact_views(scan, degree) == list(expected) == lact_views(by_vectors(scan), degree)

    def test_sparse_views_of_any_scan(self):
        assert svct_views(by_vectors(ConeGeometry(angles=np.arange(0, 200, 2), **SMALL)), 4) == [0, 25, 50, 75]

    @pytest.mark.parametrize("views, degree", [(lact_views, 0), (lact_views, 361), (lact_views, math.nan),
                                               (svct_views, 0), (svct_views, 361), (svct_views, 2.5),
                                               (svct_views, math.nan)])
    def test_bad_degrees(self, views, degree):
        with pytest.raises(ValueError, match="degree"):
            views(self.demo, degree)


class TestConeBeam:
    def test_a_geometry_without_a_grid_is_refused(self):
        with pytest.raises(ValueError, match="volume_shape"):
            small([0], volume_shape=None)

    def test_a_detector_that_sees_nothing_is_refused(self):
        with pytest.raises(ValueError, match="no ray"):
            small([0], det_offset=(500, 0))

    @pytest.mark.parametrize("as_vectors", [False, True])
    def test_crop(self, as_vectors):
        scan = ConeGeometry(angles=(10, 130, 250), **SMALL | dict(det_offset=(3, -20), volume_centre=(1, 2, 3)))
        operator = ConeBeam(by_vectors(scan) if as_vectors else scan)
        part, (top, bottom, left, right) = operator.crop()
        assert 0 < top < bottom < 40 and 0 < left < right == 64
        assert part.range_shape == (1, 3, bottom - top, right - left) and part.domain_shape == operator.domain_shape
        x, y = torch.rand(operator.domain_shape), torch.rand(operator.range_shape)
        whole = operator.A(x)
        assert torch.allclose(part.A(x), whole[..., top:bottom, left:right], atol=1e-4)
        assert whole.sum().item() == pytest.approx(whole[..., top:bottom, left:right].sum().item(), rel=1e-6)
        assert torch.allclose(part.A_T(y[..., top:bottom, left:right]), operator.A_T(y), atol=1e-4)
        assert part.crop() == (part, (0, bottom - top, 0, right - left)) and operator.crop()[0] is part

    def test_units(self):
        """The same scan in mm and in voxels: line integrals differ by the size of the voxel."""
        angles, x = (10, 75, 200), torch.rand(12, 1, 24, 24)
        in_mm = small(angles, voxel_size=(0.5, 0.5, 0.5), src_dist=45, det_dist=30, det_spacing=(0.75, 0.75),
                      det_offset=(1, -2), volume_centre=(0.5, 1, -1))
        in_voxels = small(angles, unit="voxel", det_offset=(2, -4), volume_centre=(1, 2, -2))
        assert torch.allclose(2 * in_mm.A(x), in_voxels.A(x), rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("error, grid", [       # coarse grids blur the blobs
        (0.02, dict(volume_shape=(16, 40, 40), voxel_size=(1, 1, 1))),
        (0.05, dict(volume_shape=(8, 40, 27), voxel_size=(2, 1, 1.5))),
        (0.02, dict(volume_shape=(20, 31, 36), voxel_size=(0.8, 1.2, 1), volume_centre=(0.3, 1, -1)))])
    def test_line_integrals_of_blobs(self, error, grid):
        scan = ConeGeometry(angles=(0, 100, 220), **WIDE | dict(det_offset=(2, 1)) | grid)
        x = torch.from_numpy(blob_volumes(scan)[0].sum(0)).float()[:, None]
        expected = blob_projections(scan)
        assert (ConeBeam(scan).A(x) - expected).norm() < error * expected.norm()


class TestSIRT:
    def test_converges_to_the_volume(self):
        operator, truth = small(np.arange(0, 360, 12)), ball((12, 24, 24))
        y = operator.A(truth)
        errors = [rms(sirt(y, operator, iterations) - truth) for iterations in (0, 10, 100)]
        assert errors[0] > 4 * errors[1] > 8 * errors[2]

    def test_is_bounded_and_its_linear_form_is_not(self):
        operator = small(np.arange(0, 360, 45))
        y = torch.randn(operator.range_shape, generator=torch.Generator().manual_seed(0))
        assert sirt(y, operator, 5).min() == 0 and sirt(y, operator, 5, nonnegative=False).min() < 0
        assert torch.allclose(operator.A_dagger(-2 * y), -2 * operator.A_dagger(y), atol=1e-3)

    def test_stable_where_rays_miss_and_voxels_are_unseen(self):
        operator = small(np.arange(0, 360, 72), det_shape=(8, 120), det_spacing=(2, 2), volume_shape=(30, 24, 24))
        rows, columns = operator.inverse_sums(torch.zeros(1))
        assert rows.isfinite().all() and columns.isfinite().all()
        assert not columns[0].any() and not columns[-1].any()
        y = operator.A(torch.ones(operator.domain_shape))
        y = y + torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
        found = sirt(y, operator)
        assert found.isfinite().all() and not found[0].any() and found.max() < 10

    def test_rays_that_clip_a_corner_do_not_blow_up_their_noise(self):
        operator = small(np.arange(0, 360, 72))
        y = operator.A(torch.ones(operator.domain_shape))
        y = y + torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
        assert sirt(y, operator).max() < 5              # 10 where every ray counts

    def test_projections_of_another_shape_are_refused(self):
        operator = small((0, 180), volume_shape=(2, 4, 4))
        for reconstruct in (fdk, sirt):
            with pytest.raises(ValueError, match="y: expected"):
                reconstruct(torch.zeros(operator.range_shape)[:, :1], operator)

    def test_progress_wraps_the_iterations(self):
        operator, seen = small((0, 180), volume_shape=(2, 4, 4)), []
        sirt(torch.zeros(operator.range_shape), operator, 3, progress=lambda steps: map(seen.append, steps))
        assert seen == [0, 1, 2]


# FDK is tested on Gaussian blobs, whose line integrals are known for any ray: centre (z, y, x), width sigma.
BLOBS = [((0, 0, 0), 3.0), ((1, 8, -6), 2.5), ((-1, -2, 12), 2.5)]
WIDE = dict(src_dist=90, det_dist=60, det_shape=(40, 80), det_spacing=(1.5, 1.5), volume_shape=(12, 40, 40),
            voxel_size=(1, 1, 1))


def blob_projections(scan):
    """float32 [1, views, v, u]"""
    source, centre, step_u, step_v = scan.vectors.reshape(-1, 4, 3).transpose(1, 0, 2)[:, :, None, None]
    row, column = (np.arange(count)[:, None] - (count - 1) / 2 for count in scan.det_shape)
    ray = centre - source + row[:, None] * step_v + column * step_u
    length, y = np.einsum("nvuk,nvuk->nvu", ray, ray), 0
    for place, sigma in BLOBS:
        away = np.array(place[::-1]) - source
        along = np.einsum("nvuk,nk->nvu", ray, away[:, 0, 0])
        squared = (away ** 2).sum(-1) - along ** 2 / length
        y = y + sigma * math.sqrt(2 * math.pi) * np.exp(-squared / (2 * sigma ** 2))
    return torch.from_numpy(y).float()[None]


def blob_volumes(scan):
    """float64 [blobs, D, H, W], and the coordinates (z, y, x) [3, D, H, W]"""
    grid = np.stack(np.meshgrid(*((np.arange(n) - (n - 1) / 2) * size + middle for n, size, middle in zip(
        scan.volume_shape, scan.voxel_size, scan.volume_centre)), indexing="ij"))
    away = [((grid - np.reshape(place, (3, 1, 1, 1))) ** 2).sum(0) / (2 * sigma ** 2) for place, sigma in BLOBS]
    return np.exp(-np.array(away)), grid


def check_blobs(scan, error=0.03, amplitude=0.025, shift=0.02):
    """FDK of the blobs: relative error of the volume, of each blob's sum, and its shift in voxels."""
    found = fdk(blob_projections(scan), ConeBeam(scan))[:, 0].numpy().astype(float)
    blobs, grid = blob_volumes(scan)
    truth = blobs.sum(0)
    assert np.linalg.norm(found - truth) < error * np.linalg.norm(truth)
    for blob in blobs:
        inside = blob > 0.3
        assert abs(found[inside].sum() / truth[inside].sum() - 1) < amplitude
        middle = [(volume[inside] * grid[:, inside]).sum(1) / volume[inside].sum() for volume in (found, truth)]
        assert (abs(middle[0] - middle[1]) < shift * np.array(scan.voxel_size)).all()
    return found


class TestFDK:
    def test_error_on_exact_line_integrals(self, data_dir):
        data = np.load(data_dir / "cone_rtk.npz")
        scan = ConeGeometry(angles=np.rad2deg(data["analytic_angles"]), src_dist=data["src_dist"],
                            det_dist=data["det_dist"], det_shape=(72, 96), det_spacing=(2, 2),
                            volume_shape=data["vol"].shape, unit="voxel")
        y = torch.from_numpy(data["analytic_projections"]).float()[None]
        error = rms(fdk(y, ConeBeam(scan))[:, 0] - torch.from_numpy(data["vol"]))
        assert error <= 1.05 * rms(torch.from_numpy(data["fdk"] - data["vol"]))

    @pytest.mark.parametrize("angles", [np.arange(0, 360, 18), TURN, -TURN, np.arange(7, 227, 2),
                                        np.cumsum([1.2, 2.4] * 105)])
    def test_amplitude(self, angles):
        operator, truth = small(angles), ball((12, 24, 24))
        found = fdk(operator.A(truth), operator)[6, 0, 8:16, 8:16].mean() / truth[6, 0, 8:16, 8:16].mean()
        assert abs(found - 1) < 0.06

    @pytest.mark.parametrize("angles", [(50,), (50, 50), np.arange(90), (0, 6, 170)])
    def test_few_views_stay_finite(self, angles):
        operator = small(angles)
        found = fdk(operator.A(ball((12, 24, 24))), operator)
        assert found.isfinite().all() and 0 < found.max() < 3

    @pytest.mark.parametrize("change", [
        {}, dict(det_offset=(0, 5)), dict(det_offset=(4, 0)), dict(det_offset=(-3, -5)),
        dict(volume_shape=(6, 40, 20), voxel_size=(2, 1, 2)),
        dict(volume_shape=(12, 31, 34), volume_centre=(1, 6, -5)),
        dict(det_shape=(60, 60), det_spacing=(1, 2)), dict(det_shape=(40, 48), det_offset=(0, 20)),
        dict(det_shape=(40, 48), det_offset=(0, -20)), dict(det_shape=(40, 48), det_offset=(0, 27))],
        ids=lambda change: str(change))
    def test_full_turn(self, change):
        check_blobs(ConeGeometry(angles=TURN, **WIDE | change), error=0.035)

    def test_half_fan_weights_tell(self, monkeypatch):
        """Every line once or twice: without the weights the far side would count half."""
        scan = ConeGeometry(angles=TURN, **WIDE | dict(det_shape=(40, 48), det_offset=(0, 20)))
        monkeypatch.setattr("physics.cone_beam.ray_weights", lambda scan: np.full((120, 48), math.pi / 120))
        with pytest.raises(AssertionError):
            check_blobs(scan, error=0.2)

    @pytest.mark.parametrize("angles", [np.arange(0, 214, 2), -np.arange(0, 214, 2), np.arange(100, 400, 3),
                                        np.cumsum([1, 2] * 72)])
    def test_short_scan(self, angles, monkeypatch):
        """Parker's weights against scaling by the angle covered, in the central slices, where FDK is exact."""
        scan = ConeGeometry(angles=angles, **WIDE | dict(volume_shape=(2, 40, 40)))
        truth, scaled = blob_volumes(scan)[0].sum(0), np.full((scan.views, 80), math.pi / scan.views)
        errors = []
        for _ in range(2):
            found = fdk(blob_projections(scan), ConeBeam(scan))[:, 0].numpy()
            errors.append(np.linalg.norm(found - truth) / np.linalg.norm(truth))
            monkeypatch.setattr("physics.cone_beam.ray_weights", lambda scan: scaled)
        assert errors[0] < 0.04 and errors[0] < 0.3 * errors[1]

    def test_vectors_and_angles_agree(self):
        for change in (dict(angles=TURN),
                       dict(angles=np.arange(0, 214, 2), det_offset=(2, 1), volume_centre=(1, 2, 3))):
            scan = ConeGeometry(**WIDE | change)
            y = blob_projections(scan)
            assert torch.allclose(fdk(y, ConeBeam(scan)), fdk(y, ConeBeam(by_vectors(scan))), atol=1e-4)

    @pytest.mark.parametrize("axis, degrees, offset", [("z", 15, 0), ("u", -15, 20), ("normal", 2, 0)])
    def test_turned_detectors(self, axis, degrees, offset):
        scan = ConeGeometry(angles=TURN, **WIDE | dict(det_offset=(offset, 0), det_shape=(60, 80)))
        views = scan.vectors.reshape(-1, 4, 3)
        around = {"z": np.array([[0, 0, 1.0]]), "u": views[:, 2], "normal": views[:, 1] - views[:, 0]}[axis]
        around = around / np.linalg.norm(around, axis=1, keepdims=True)
        angle = math.radians(degrees)
        for step in (2, 3):                                             # Rodrigues' rotation
            vector = views[:, step].copy()
            views[:, step] = (vector * math.cos(angle) + np.cross(around, vector) * math.sin(angle)
                              + around * (around * vector).sum(1, keepdims=True) * (1 - math.cos(angle)))
        check_blobs(by_vectors(scan, views.reshape(-1, 12)))

    def test_views_that_wobble(self):
        scan = ConeGeometry(angles=TURN, **WIDE)
        noise = np.random.default_rng(0).normal(size=(120, 12)) * np.repeat([0.5, 2, 0, 0], 3)
        check_blobs(by_vectors(scan, scan.vectors + noise))

    @pytest.mark.parametrize("vector", [[0, 0, -90, 0, 0, 60, 1, 0, 0, 0, 1, 0],
                                        [0, -90, 0, 0, 60, 0, 0, 0, 1, 1, 0, 0]])
    def test_scans_that_are_far_from_a_circle_are_refused(self, vector):
        operator = ConeBeam(by_vectors(ConeGeometry(angles=(0,), **SMALL), [vector]))
        with pytest.raises(ValueError, match="view_vectors: FDK"):
            fdk(torch.zeros(operator.range_shape), operator)

    def test_units(self):
        """The same scan in other units of length gives the same volume, from line integrals in that unit."""
        lengths = dict(src_dist=90, det_dist=60, det_spacing=(1.5, 1.2), voxel_size=(2, 1, 1), det_offset=(1, 2),
                       volume_centre=(1, -2, 3))
        volumes = []
        for unit in (1, 2):
            operator = small(TURN[::6], **{name: np.divide(length, unit) for name, length in lengths.items()},
                             volume_shape=(6, 24, 24))
            volumes.append(fdk(operator.A(ball((6, 24, 24))), operator))
        assert torch.allclose(*volumes, atol=1e-5)


class TestRayWeights:
    def weights(self, angles, **changes):
        return ray_weights(ConeGeometry(angles=angles, **SMALL | changes))

    def test_full_turn_and_limited_angle(self):
        assert np.allclose(self.weights(np.arange(0, 360, 18)), math.pi / 20)
        assert np.allclose(self.weights(np.arange(90)), math.pi / 180)
        uneven = self.weights([0, 5, 15, 20, 30])
        assert np.allclose(uneven[1:4, 0], np.deg2rad(7.5))

    @pytest.mark.parametrize("offset", [24.75, -24.75])
    def test_half_fan(self, offset):
        """Both measurements of a line weigh 1 together; the far side 1, the near edge nothing."""
        weights = self.weights(TURN, det_offset=(0, offset), det_shape=(5, 50)) / np.deg2rad(3)
        weights = weights[0] if offset > 0 else weights[0, ::-1]
        assert weights[0] < 0.01 and (np.diff(weights) >= 0).all() and np.allclose(weights[20:], 1)
        shared = weights[:17]                           # 8 pixels on the near side of the axis
        assert np.allclose(shared + shared[::-1], 1)

    def test_a_detector_that_shows_all_of_the_volume_needs_no_half_fan(self):
        assert np.allclose(self.weights(TURN, det_offset=(0, 20), det_shape=(5, 80)), math.pi / 120)
        assert np.allclose(self.weights(TURN, det_offset=(0, 0.5), det_shape=(5, 10)), math.pi / 120)

    @pytest.mark.parametrize("covered", [180, 200, 230, 300])
    def test_short_scan(self, covered):
        """The measurements of a line, at t and fan and at t + 180 degrees - 2 fan and -fan, weigh 1 together."""
        step = np.deg2rad(0.05)
        weights = self.weights(np.arange(0, covered, 0.05), det_shape=(1, 64)) / step
        fan = np.arctan((np.arange(64) - 31.5) * 1.5 / 150)
        if covered > 215:                               # half a turn and the fan of this detector
            assert np.allclose(weights.sum(0) * step, math.pi, atol=0.01)
        for column in (5, 20, 40, 60):
            other = np.arange(len(weights)) + round((math.pi - 2 * fan[column]) / step)
            there = (other >= 0) & (other < len(weights))
            total = weights[:, column] + np.where(there, weights[np.clip(other, 0, len(weights) - 1), 63 - column], 0)
            if covered - 180 >= 2 * np.rad2deg(abs(fan[column])):
                seen_later = np.arange(len(weights)) < len(weights) - (math.pi + 2 * fan[column]) / step + 2
                assert np.allclose(total[seen_later & there], 1, atol=0.01)
