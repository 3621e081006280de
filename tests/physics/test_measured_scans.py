"""Measured scans: direction and offset by opposite rays, what is left open, what an owner does not know."""
import numpy as np
import pytest
import torch

from physics.cone_beam import ConeBeam
from physics.corrections import harden, level_air, subtract_rings, subtract_scatter
from physics.fdk import fdk
from physics.geometry import ConeGeometry
from physics.hardening import flattening
from physics.opposite_rays import opposite_rays
from physics.orientation import mirrored, shifted, turned, turning_back
from physics.unknowns import body_attenuation, with_volume
from tests.physics.scans import BODY, WIDE, blob_projections, body_projections, by_vectors

# A fan beam on the body of BODY, in mm.
TURN = np.arange(0, 360, 2.0)
FAN = dict(src_dist=400, det_dist=200, det_shape=(3, 220), det_spacing=(1.5, 1.5))


def fan(angles=TURN, **changes):
    return ConeGeometry(angles=angles, **FAN | changes)


def body(scan):
    return body_projections(scan)[0].numpy() * 0.02


@pytest.mark.parametrize("vectors", [False, True])
@pytest.mark.parametrize("offset", [0.0, 0.7, -2.6])
@pytest.mark.parametrize("step", [1.5, -1.5])
def test_the_offset_is_what_opposite_rays_say(offset, step, vectors):
    truth = fan(det_offset=(0, offset), det_spacing=(1.5, step))
    said = fan(det_spacing=(1.5, step))
    found = opposite_rays(body(truth), by_vectors(said) if vectors else said)
    assert found.offset == pytest.approx(offset, abs=0.03) and not found.turns_back and found.twice > 0.9
    mended = shifted(by_vectors(said) if vectors else said, found.offset)
    assert np.allclose(mended.vectors, truth.vectors, atol=0.03)


@pytest.mark.parametrize("angles", [np.arange(0, 360, 2.0), np.arange(30, -330, -2.0), np.arange(0, 230, 2.0)])
def test_a_scan_that_turns_the_other_way_is_noticed(angles):
    p = body(fan(angles))
    assert opposite_rays(p, turning_back(fan(angles))).turns_back
    assert opposite_rays(p, by_vectors(turning_back(by_vectors(fan(angles))))).turns_back
    right, mirror = opposite_rays(p, fan(angles)), opposite_rays(p, mirrored(fan(angles)))
    assert not right.turns_back and mirror.misfit == pytest.approx(right.misfit, rel=0.01)   # nobody can tell


def test_where_no_line_is_measured_twice_nothing_is_said():
    assert opposite_rays(body(fan(np.arange(0, 90, 2.0))), fan(np.arange(0, 90, 2.0))) is None
    away = fan(det_offset=(30, 0))
    assert opposite_rays(body(away), away) is None        # the source's plane is not on the detector
    assert opposite_rays(np.zeros((180, 3, 220), np.float32), fan()) is None


@pytest.mark.parametrize("change, places", [
    (lambda scan: turned(scan, 35), lambda x, y: (np.cos(np.deg2rad(35)) * x - np.sin(np.deg2rad(35)) * y,
                                                  np.sin(np.deg2rad(35)) * x + np.cos(np.deg2rad(35)) * y)),
    (mirrored, lambda x, y: (-x, y))])
def test_a_scan_said_otherwise_is_of_an_object_elsewhere(change, places):
    """Where the old scan sees a point, the new one sees it turned, or in the mirror."""
    scan = fan(det_offset=(1, -4))
    points = np.random.default_rng(0).uniform(-50, 50, (6, 3))
    moved = np.column_stack([*places(points[:, 0], points[:, 1]), points[:, 2]])
    for old in (scan, by_vectors(scan)):
        assert np.allclose(change(old).project(moved), old.project(points), atol=1e-8)


def test_turning_back_keeps_source_and_detector_at_their_places_and_changes_the_order():
    scan = fan(np.arange(10, 100, 10.0))
    assert np.allclose(by_vectors(turning_back(scan)).vectors, turning_back(by_vectors(scan)).vectors, atol=1e-9)
    assert np.allclose(turning_back(scan).vectors, fan(-np.arange(10, 100, 10.0)).vectors)


def test_blocks_of_pixels_see_what_their_middle_sees():
    scan = fan(det_shape=(7, 50), det_offset=(2, -3))
    for one in (scan, by_vectors(scan)):
        few = one.binned(3)
        assert few.det_shape == (2, 16)
        (column, row), (fine_column, fine_row) = (np.moveaxis(g.project(np.array([[20.0, 3, 5]]))[:, 0, :2], 1, 0)
                                                  for g in (few, one))
        assert np.allclose(3 * column + 1, fine_column) and np.allclose(3 * row + 1, fine_row)
    with pytest.raises(ValueError, match="size: blocks of 8 x 8"):
        scan.binned(8)


def test_the_attenuation_of_the_body():
    scan = with_volume(fan(np.arange(0, 360, 4.0)))
    assert body_attenuation(body(scan), scan) == pytest.approx(0.02, rel=0.05)
    with pytest.raises(ValueError, match="nothing attenuates"):
        body_attenuation(np.zeros((90, 3, 220), np.float32), scan)


# ---- Corrections -----------------------------------------------------------------------------------------------------

def slices(p, scan, size=64):
    grid = scan.on_grid((1, size, size), (1.0, 160 / size, 160 / size))
    return fdk(torch.from_numpy(p)[None], ConeBeam(grid))[0, 0].numpy()


def cupping(image):
    """(rim - middle) / rim of a centred disc of radius 70 on 160 mm."""
    y, x = np.indices(image.shape) - (image.shape[0] - 1) / 2
    r = np.hypot(x, y) * 160 / image.shape[0]
    rim, middle = image[(r > 55) & (r < 65)].mean(), image[r < 15].mean()
    return (rim - middle) / rim


def test_a_beam_of_two_energies_is_straightened():
    """A water cylinder of 140 mm, 30 and 80 keV: cupping from above 5 % to below 1 %."""
    scan = with_volume(fan(np.arange(0, 360, 3.0)))
    lengths = body_projections_of([(0, 0, 70, 70, 1.0)], scan)
    low, high = 0.0376, 0.0184          # of water, per mm (NIST XCOM)
    p = -np.log((np.exp(-low * lengths) + np.exp(-high * lengths)) / 2).astype(np.float32)
    before = cupping(slices(p, scan))
    coefficients = flattening(p, scan)
    harden(p, coefficients)
    assert before > 0.05 and abs(cupping(slices(p, scan))) < 0.01
    assert len(coefficients) == 3 and coefficients[1] > 0


def body_projections_of(shapes, scan):
    kept = BODY[:]
    BODY[:] = shapes
    try:
        return body_projections(scan)[0].double().numpy()
    finally:
        BODY[:] = kept


def test_coefficients_are_a_polynomial():
    p = np.array([[[0.0, 1, 2]]], np.float32)
    harden(p, (1, 0.5))
    assert np.allclose(p, [[[0, 1.5, 4]]])


def test_without_a_body_nothing_is_straightened():
    scan = with_volume(fan(np.arange(0, 360, 20.0)))
    with pytest.raises(ValueError, match="no body"):
        flattening(np.zeros((18, 3, 220), np.float32), scan)


def test_constant_scatter_is_taken_out():
    p = np.random.default_rng(0).uniform(0, 3, (4, 5, 6))
    gain = np.random.default_rng(1).uniform(0.5, 1.5, (5, 6))
    measured = -np.log((gain * np.exp(-p) + 0.05 * gain.mean()) / gain)
    found = measured.astype(np.float32)
    subtract_scatter(found, 0.05, gain)
    assert np.allclose(found, p, atol=1e-4)
    found = -np.log(np.exp(-p) + 0.05).astype(np.float32)
    subtract_scatter(found, 0.05)
    assert np.allclose(found, p, atol=1e-4)


def test_views_are_scaled_by_their_air():
    scan = fan(np.arange(0, 360, 20.0))
    p = body(scan)
    wander = np.linspace(-0.1, 0.1, len(p))[:, None, None].astype(np.float32)
    found = p + wander
    assert level_air(found) == pytest.approx(0.1, abs=1e-5) and np.allclose(found, p, atol=1e-6)


def test_rings_go_and_the_object_stays():
    scan = with_volume(fan())
    p = body(scan)
    rings = np.zeros(220, np.float32)
    rings[[60, 90, 91, 130]] = 0.05, -0.04, 0.03, 0.05
    found = p + rings
    before = slices(found, scan) - slices(p, scan)
    subtract_rings(found)
    after = slices(found, scan) - slices(p, scan)
    assert np.abs(after).mean() < 0.4 * np.abs(before).mean()


def test_blobs_with_a_wrong_offset_are_sharp_again():
    scan = ConeGeometry(angles=np.arange(0, 360, 3.0), **WIDE | {"det_offset": (0, 2.0)})
    p = blob_projections(scan)[0].numpy()
    said = ConeGeometry(angles=np.arange(0, 360, 3.0), **WIDE)
    assert opposite_rays(p, said).offset == pytest.approx(2, abs=0.05)
