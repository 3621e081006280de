"""A body of 160 x 140 mm in a volume of 128 mm: seen whole, and by a detector that shows 106 mm of it."""
from dataclasses import replace

import numpy as np
import pytest
import torch

from physics.cone_beam import ConeBeam
from physics.fdk import fdk
from physics.geometry import ConeGeometry
from physics.margin import cut_sides, extend_rows, volume_alone, with_margin, without_outside
from physics.sirt import sirt
from tests.physics.scans import ball, body_errors, body_projections

WIDE = ConeGeometry(angles=np.arange(0, 360, 6), src_dist=785, det_dist=415, det_shape=(9, 100), det_spacing=(3, 3),
                    volume_shape=(5, 64, 64), voxel_size=(2, 2, 2))
CUT = replace(WIDE, det_shape=(9, 54))


def within(errors, centre, edge):
    return abs(errors[0]) < centre and abs(errors[1]) < edge


def solved(y, scan):
    """SIRT with a margin, and SIRT of the volume alone once the margin is subtracted: both in the volume."""
    rest, x = volume_alone(y, scan, lambda y, operator: sirt(y, operator, 40))
    return x, sirt(rest, ConeBeam(scan), 40)


def test_a_body_that_is_seen_whole():
    y = body_projections(WIDE)
    assert cut_sides(y, WIDE) == (False, False) and extend_rows(y, WIDE) == (y, WIDE)
    assert within(body_errors(fdk(y, ConeBeam(WIDE)), WIDE), 5, 10)
    assert all(within(body_errors(x, WIDE), 5, 10) for x in solved(y, WIDE))
    assert not within(body_errors(sirt(y, ConeBeam(WIDE), 40), WIDE), 10, 10)


def test_a_body_that_the_detector_cuts():
    y = body_projections(CUT)
    assert cut_sides(y, CUT) == (True, True)
    wide, scan = extend_rows(y, CUT)
    assert within(body_errors(fdk(wide, ConeBeam(scan)), CUT), 9, 26)       # 143 and 612 without
    assert all(within(body_errors(x, CUT), 9, 26) for x in solved(y, CUT))  # 30 and 83 without


def test_rows_are_extended_by_the_outline():
    """Close to what a detector that is wide enough would have measured, in noise too."""
    y, noise = body_projections(CUT), torch.Generator().manual_seed(0)
    for sigma in (0, 1.0):
        noisy = y + sigma * torch.randn(y.shape, generator=noise)
        wide, scan = extend_rows(noisy, CUT)
        truth = body_projections(scan)
        assert torch.equal(wide[..., 54:108], noisy) and scan.det_shape == (9, 162)
        wide[..., 54:108] = truth[..., 54:108] = 0
        assert (wide - truth).norm() < (0.12 if sigma == 0 else 0.2) * truth.norm()


def test_a_shifted_detector_is_extended_on_its_far_side():
    scan = replace(WIDE, det_shape=(9, 80), det_offset=(0, 60))             # to 180 mm, where the body ends at 123
    assert cut_sides(body_projections(scan), scan) == (False, False)        # the other views see the other side
    scan = replace(scan, det_shape=(9, 50), det_offset=(0, 35))             # to 110 mm
    assert cut_sides(body_projections(scan), scan) == (False, True)
    wide, larger = extend_rows(body_projections(scan), scan)
    truth = body_projections(larger)
    assert larger.det_shape == (9, 100) and torch.allclose(wide[..., :50], truth[..., :50])
    assert (wide - truth)[..., 50:].norm() < 0.2 * truth[..., 50:].norm()


def test_the_grid_grows_to_what_the_rays_meet():
    y = body_projections(WIDE)
    larger, (z, rows, columns) = with_margin(y, WIDE)
    shape = larger.volume_shape
    assert 80 <= shape[1] <= 84 and 80 <= shape[2] <= 84 and larger.voxel_size == WIDE.voxel_size
    operator, x = ConeBeam(larger), torch.rand(WIDE.volume_shape)
    whole = torch.zeros(shape)
    whole[z, rows, columns] = x                             # the same voxels in the same place
    assert torch.allclose(operator.A(whole[:, None]), ConeBeam(WIDE).A(x[:, None]), atol=1e-3)
    around = torch.rand(shape)[:, None]
    rest = without_outside(operator.A(around), operator, around, (z, rows, columns))
    inside = around[z, :, rows, columns].contiguous()
    assert torch.allclose(rest, ConeBeam(WIDE).A(inside), atol=1e-2)

    roomy = WIDE.on_grid((5, 90, 90))
    assert with_margin(y, roomy) == (roomy, (slice(0, 5), slice(0, 90), slice(0, 90)))
    off = replace(WIDE, volume_centre=(0, 20, 0))
    larger, (z, rows, columns) = with_margin(y, off)
    assert larger.volume_shape[1] - rows.stop < rows.start
    ends = [larger.volume_centre[1] + way * larger.volume_shape[1] for way in (-1, 1)]      # voxels of 2
    assert ends[0] == pytest.approx(-80, abs=3) and ends[1] == 84


def test_slices_of_a_volume_that_holds_all():
    scan = ConeGeometry(angles=np.arange(0, 360, 20), src_dist=90, det_dist=60, det_shape=(40, 64),
                        det_spacing=(1.5, 1.5), volume_shape=(12, 24, 24), voxel_size=(1, 1, 1))
    volume, operator = ball((12, 24, 24)), ConeBeam(scan)
    y = operator.A(volume)
    rest, x = volume_alone(y, scan, lambda y, operator: volume, chosen=slice(3, 7))
    assert torch.equal(x, volume[3:7])
    assert torch.allclose(rest, ConeBeam(scan.slab(3, 7)).A(volume[3:7].contiguous()), atol=1e-3)
    rest, x = volume_alone(y, scan, lambda y, operator: volume)
    assert rest is y and torch.equal(x, volume)
