"""What solvers get of a scan: views, slices, and measured objects that are wider than the volume."""
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import avg_pool2d

from physics.acquisition import Acquisition
from physics.geometry import ConeGeometry
from physics.sirt import sirt
from tests.physics.scans import body_errors, body_projections

WIDE = ConeGeometry(angles=np.arange(0, 360, 6), src_dist=785, det_dist=415, det_shape=(9, 100), det_spacing=(3, 3),
                    volume_shape=(5, 64, 64), voxel_size=(2, 2, 2))
CUT = replace(WIDE, det_shape=(9, 54))


@pytest.mark.parametrize("scan", [WIDE, CUT], ids=["seen whole", "cut by the detector"])
def test_a_body_that_is_wider_than_the_volume(scan):
    y, views = body_projections(scan), range(scan.views)
    measured, simulated = (Acquisition(scan, views, measured=kind) for kind in (True, False))
    rest, initial = measured.solvable(y)
    for found in (measured.fdk(y), initial, sirt(rest, measured.operator, 40)):
        centre, edge = body_errors(found, scan)
        assert abs(centre) < 10 and abs(edge) < 30                      # HU
    if scan is CUT:
        assert abs(body_errors(simulated.solvable(y)[1], scan)[1]) > 30     # without a margin


def test_the_noise_of_the_views_that_are_used():
    y, views = body_projections(WIDE), range(0, 60, 2)
    scan = Acquisition(WIDE, views, measured=True)
    noisy = scan.noisy(y, 2e-5, torch.Generator().manual_seed(0), 1.0)
    noisy[:, 1::2] += torch.randn(noisy[:, 1::2].shape, generator=torch.Generator().manual_seed(1))   # left out
    used, clean = (scan.on_window(scan.of_views(lines)) for lines in (noisy, y))
    assert scan.noise_variance(used) == pytest.approx(2e-5, rel=0.2)
    assert scan.noise_variance(clean) < 2e-6
    # Rays of one side have nine times the variance, and weigh as much less: of a weight of 1 it is that of all.
    uneven, weights = used.clone(), torch.ones_like(used)
    uneven[..., :20] = clean[..., :20] + 3 * (used - clean)[..., :20]
    weights[..., :20] = 1 / 9
    assert scan.noise_variance(uneven, weights) == pytest.approx(2e-5, rel=0.2)


def test_wanted_slices_and_views_of_an_object_inside_the_volume():
    scan = WIDE.on_grid((9, 64, 64))
    x = torch.zeros(9, 1, 64, 64)
    x[2:7, :, 20:40, 22:44] = 0.02
    whole = Acquisition(scan, range(0, 60, 2))
    part = Acquisition(scan, range(0, 60, 2), slices=(3, 6))
    y = whole.of_views(whole.full.A(x))
    assert y.shape[1] == 30
    full_y, full_initial = whole.solvable(y)
    rest, initial = part.solvable(y)
    assert torch.equal(full_y, whole.on_window(y)) and torch.equal(initial, full_initial[3:6])
    expected = part.operator.A(x[3:6])
    assert (rest - expected).norm() < 0.1 * (full_y - expected).norm()
    assert torch.equal(part.fdk(y), whole.fdk(y)[3:6])


def test_a_simulation_is_what_its_operator_says():
    """Nothing is outside of it, and nothing is taken out."""
    x = torch.rand(5, 1, 64, 64)
    acquisition = Acquisition(WIDE, range(60))
    y = acquisition.full.A(x)
    rest, initial = acquisition.solvable(y)
    assert torch.equal(rest, acquisition.operator.A(x)) and torch.equal(initial, sirt(y, acquisition.few))


def test_a_finer_volume_has_the_line_integrals_of_the_volume():
    scan = replace(WIDE, voxel_size=(1, 2, 2), isocentre=(3, 4, 5)).in_voxels()
    acquisition = Acquisition(scan, range(60))
    fine = torch.zeros(5, 1, 192, 192)
    fine[1:4, :, 50:120, 60:150] = 1
    coarse = avg_pool2d(fine, 3)
    y, expected = acquisition.simulate(fine), acquisition.full.A(coarse)
    assert y.shape == expected.shape and 1e-4 < (y - expected).norm() / expected.norm() < 0.02
    assert torch.equal(acquisition.simulate(coarse), expected)


@pytest.mark.parametrize("slices", [(3, 3), (0, 6), (-1, 2)])
def test_slices_that_are_not_there(slices):
    with pytest.raises(ValueError, match="number of slices"):
        Acquisition(WIDE, range(60), slices=slices)
