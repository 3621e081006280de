"""FDK, on Gaussian blobs, and the weights of its rays."""
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from physics.cone_beam import ConeBeam
from physics.fdk import check_fdk, fdk, ray_weights
from physics.geometry import ConeGeometry
from tests.physics.scans import SMALL, TURN, WIDE, ball, blob_projections, blob_volumes, by_vectors, rms, small
from utils.io.geometry_file import read_geometry

ROOT = Path(__file__).resolve().parents[2]


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
        monkeypatch.setattr("physics.fdk.ray_weights", lambda scan: np.full((120, 48), math.pi / 120))
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
            monkeypatch.setattr("physics.fdk.ray_weights", lambda scan: scaled)
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
                                        [0, -90, 0, 0, 60, 0, 0.6, 0, 0.8, -0.3, 0, 0.95]])
    def test_scans_that_are_far_from_a_circle_are_refused(self, vector):
        scan = by_vectors(ConeGeometry(angles=(0,), **SMALL), [vector])
        with pytest.raises(ValueError, match="view_vectors: FDK .*view 0"):
            check_fdk(scan)
        if vector[1]:
            with pytest.raises(ValueError, match="view_vectors: FDK .*view 0"):
                fdk(torch.zeros(1, 1, 40, 64), ConeBeam(scan))

    def test_a_detector_on_its_side(self):
        scan = ConeGeometry(angles=TURN, **WIDE | dict(det_offset=(2, 1)))
        side, y = scan.turned(), blob_projections(scan)
        assert side.sideways and not scan.sideways and side.det_shape == (80, 40)
        assert torch.equal(fdk(y.mT, ConeBeam(side)), fdk(y, ConeBeam(by_vectors(scan))))

    def test_doubts_are_said(self):
        scan = ConeGeometry(angles=TURN, **WIDE)
        assert check_fdk(scan) is None and check_fdk(scan.turned()) is None
        tilted = scan.vectors
        tilted[:, 2], tilted[:, 5] = -50, 33            # laminography: the source below, the detector above
        assert "rise by 29 degrees" in check_fdk(by_vectors(scan, tilted))
        wandering = scan.vectors
        wandering[:60, :2] *= 1.3
        assert "90 to 117 mm" in check_fdk(by_vectors(scan, wandering))

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


def coarse(name, angles):
    """The middle slices of a scanner of configs/geometry, in pixels and voxels of 4 x 4 (demo: 2 x 2), in mm."""
    scan, times = read_geometry(ROOT / "configs" / "geometry" / f"{name}.yaml"), 2 if name == "demo" else 4
    _, width, _ = scan.volume_shape or (0, 128, 0)
    size = times * (scan.voxel_size or (1, 1, 1))[0]
    return replace(scan, unit="mm", angles=angles, det_shape=(7, scan.det_shape[1] // times),
                   det_spacing=np.multiply(scan.det_spacing, times), voxel_size=(size,) * 3,
                   volume_shape=(3, width // times, width // times))


def ball_errors(scan):
    """FDK of five balls from exact line integrals: mean error in the core of each, in HU."""
    reach = scan.volume_shape[1] * scan.voxel_size[1] / 2
    balls = [(np.array((x * reach, y * reach, 0)), size * reach, value) for x, y, size, value in (
        (0, 0, 0.18, 1), (0.55, 0.1, 0.16, 1), (-0.4, 0.5, 0.16, 0.5), (-0.2, -0.68, 0.16, 1.5), (0.5, -0.55, 0.16, 1))]
    source, centre, step_u, step_v = scan.vectors.reshape(-1, 4, 3).transpose(1, 0, 2)[:, :, None, None]
    y = 0
    for part in (-0.375, -0.125, 0.125, 0.375):             # of a pixel
        row, column = (np.arange(count)[:, None] - (count - 1) / 2 for count in scan.det_shape)
        ray = centre - source + row[:, None] * step_v + (column + part) * step_u
        for place, radius, value in balls:
            away = place - source
            squared = (away ** 2).sum(-1) - (ray * away).sum(-1) ** 2 / (ray ** 2).sum(-1)
            y = y + value / 2 * np.sqrt(np.maximum(radius ** 2 - squared, 0))
    found = fdk(torch.from_numpy(y).float()[None], ConeBeam(scan))[1, 0].numpy()
    at = (np.arange(scan.volume_shape[1]) - (scan.volume_shape[1] - 1) / 2) * scan.voxel_size[1]
    return np.array([1000 * (found[np.hypot(at - place[0], at[:, None] - place[1]) < 0.6 * radius].mean() - value)
                     for place, radius, value in balls])


GAPS = [(10, 16), (80, 88), (150, 162), (230, 234), (300, 308)]


@pytest.mark.parametrize("name", ["demo", "c_arm", "micro_ct"])
class TestBalls:
    """5 HU where all lines are measured, 30 HU elsewhere."""

    def test_full_turn(self, name):
        assert abs(ball_errors(coarse(name, np.arange(0, 360, 1.0)))).max() < 5

    @pytest.mark.parametrize("covered", [200, 240])
    def test_short_scan(self, name, covered):
        if name != "micro_ct":                              # whose detector is shifted: half of the lines are lost
            assert abs(ball_errors(coarse(name, np.arange(0, covered, 1.0)))).max() < 5

    @pytest.mark.parametrize("gaps", [GAPS[:1], [(100, 130)], GAPS[:2], GAPS])
    def test_gaps(self, name, gaps):
        angles = np.arange(0, 360, 1.0)
        for begin, end in gaps:
            angles = angles[(angles < begin) | (angles >= end)]
        bound = 5 if name != "micro_ct" else 30
        assert abs(ball_errors(coarse(name, angles))).max() < bound


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

    def test_half_fan_with_a_gap(self):
        """Columns that see their lines alone weigh 1 as in the full turn, whatever views are missing."""
        scan = dict(det_offset=(0, 24.75), det_shape=(5, 50))
        whole, part = self.weights(TURN, **scan), self.weights(np.delete(TURN, slice(30, 34)), **scan)
        far = np.r_[0:20, 45:116]                       # more than `FADE` from the gap
        assert np.allclose(part[far, 20:], whole[0, 20:])
        shared = part[:, :17] / np.deg2rad(3)
        assert shared.min() < 0.01 and 0.9 < shared[far].max() <= 1 + 1e-6      # alone where the other one is missing
        assert 1.5 < part[29, 30] / np.deg2rad(3) <= 2 + 1e-6           # in place of lines that are lost

    @pytest.mark.parametrize("missing", [3, 10, 20])
    def test_gaps_in_a_full_turn_are_filled_by_the_other_measurement(self, missing):
        """Every line weighs 1 in all, and no view counts for its neighbours' gap."""
        step = 0.25
        angles = np.arange(0, 360, step)
        for begin in (40, 150, 155):
            angles = angles[(angles < begin) | (angles >= begin + missing)]
        weights = self.weights(angles, det_shape=(1, 64)) / np.deg2rad(step)
        assert weights.max() <= 1 + 1e-9 and (weights > 0).all()
        fan = np.rad2deg(np.arctan((np.arange(64) - 31.5) * 1.5 / 150))
        for column in (0, 13, 31, 50):
            other = (angles + 180 - 2 * fan[column]) % 360
            nearest = abs((other[:, None] - angles + 180) % 360 - 180)
            there = nearest.min(1) < step
            total = weights[:, column] + np.where(there, weights[nearest.argmin(1), 63 - column], 0)
            assert np.allclose(total, 1, atol=0.05)
        assert (abs(np.diff(weights[:, 31])) < 0.05).all()              # and nothing is abrupt
