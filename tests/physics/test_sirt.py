"""SIRT."""
import numpy as np
import pytest
import torch

from physics.fdk import fdk
from physics.sirt import sirt
from tests.physics.scans import ball, rms, small


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
