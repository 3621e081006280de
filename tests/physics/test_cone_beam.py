"""The cone-beam operator."""
import pytest
import torch

from physics.cone_beam import ConeBeam
from physics.geometry import ConeGeometry
from tests.physics.scans import SMALL, WIDE, blob_projections, blob_volumes, by_vectors, small


class TestConeBeam:
    def test_a_geometry_without_a_grid_is_refused(self):
        with pytest.raises(ValueError, match="volume_shape"):
            small([0], volume_shape=None)

    def test_a_detector_that_sees_nothing_is_refused(self):
        with pytest.raises(ValueError, match="no ray"):
            small([0], det_offset=(500, 0))

    def test_a_detector_on_its_side(self):
        scan = ConeGeometry(angles=(10, 130, 250), **SMALL | dict(det_offset=(3, -20), volume_centre=(1, 2, 3)))
        upright, side = ConeBeam(scan), ConeBeam(scan.turned())
        x, y = torch.rand(upright.domain_shape), torch.rand(upright.range_shape)
        assert side.range_shape == (1, 3, 64, 40)
        assert torch.allclose(side.A(x), upright.A(x).mT) and torch.allclose(side.A_T(y.mT), upright.A_T(y))
        assert torch.equal(side.rays.views[:, 9:11], torch.zeros(3, 2, dtype=torch.float64))    # the fast views

    def test_rays_parallel_to_z_are_refused_when_the_operator_is_made(self):
        scan = ConeGeometry(angles=(0,), **SMALL)
        around_y = [[0, 0, -90, 0, 0, 60, 1, 0, 0, 0, 1, 0]]
        with pytest.raises(ValueError, match="^view_vectors: view 0 has rays parallel to z"):
            ConeBeam(by_vectors(scan, around_y))

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
