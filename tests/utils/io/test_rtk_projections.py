"""Projections that RTK itself computes, on a geometry of all its nine parameters, come back in their places."""
import numpy as np
import pytest
import torch

from physics.cone_beam import ConeBeam
from physics.sirt import sirt
from utils.io.scanners import open_scan
from utils.io.scanners.rtk import NAMES, TO_RTK, read_parameters

VIEWS, DETECTOR, PITCH = 24, (44, 56), (2.5, 2.0)       # pixels (v, u), mm
GRID = (24, 32, 32)
BALLS = {(1, -2, 2): 4.0, (-8, 5, -4): 3.0, (7, 8, 3): 3.5}      # centre (x, y, z) and radius, mm, where voxels are 1


@pytest.fixture
def scan(tmp_path):
    """A folder with the geometry and the projections that RTK wrote, and the nine parameters."""
    itk = pytest.importorskip("itk", reason="needs itk-rtk")
    RTK = getattr(itk, "RTK", None) or pytest.skip("needs itk-rtk")
    rng = np.random.default_rng(0)
    gantry = np.arange(VIEWS) * 360 / VIEWS + 10
    # One-sided, as what is wrong in all views alike moves the balls; what differs from view to view blurs them.
    others = rng.uniform((1, -5, 98, 155, 1, -5, 2, -8), (5, -1, 102, 165, 5, -1, 8, -2), (VIEWS, 8))
    parameters = np.column_stack([gantry, others])
    geometry = RTK.ThreeDCircularProjectionGeometry.New()
    for g, out, turn, sid, sdd, sx, sy, px, py in parameters.tolist():
        geometry.AddProjection(sid, sdd, g, px, py, out, turn, sx, sy)
    image = itk.image_from_array(np.zeros((VIEWS, *DETECTOR), np.float32))
    image.SetSpacing([PITCH[1], PITCH[0], 1.0])
    image.SetOrigin([-(DETECTOR[1] - 1) / 2 * PITCH[1], -(DETECTOR[0] - 1) / 2 * PITCH[0], 0.0])
    kind = itk.Image[itk.F, 3]
    for centre, radius in BALLS.items():        # exact chords, not those of a voxel grid
        ball = RTK.RayEllipsoidIntersectionImageFilter[kind, kind].New()
        ball.SetInput(image)
        ball.SetGeometry(geometry)
        ball.SetCenter((TO_RTK @ centre).tolist())
        ball.SetAxis([radius] * 3)
        ball.SetDensity(0.02)
        ball.Update()
        image = ball.GetOutput()
    itk.imwrite(image, str(tmp_path / "projections.mha"))
    writer = RTK.ThreeDCircularProjectionGeometryXMLFileWriter.New()
    writer.SetFilename(str(tmp_path / "geometry.xml"))
    writer.SetObject(geometry)
    writer.WriteFile()
    return tmp_path, parameters


def test_balls_that_rtk_projects_are_in_their_places(scan):
    folder, parameters = scan
    away = np.abs(read_parameters(folder / "geometry.xml") - parameters)
    assert np.minimum(away, abs(away - 360)).max() < 1e-6, NAMES
    found = open_scan(folder / "geometry.xml")
    geometry = found.geometry().on_grid(GRID, (1.0, 1.0, 1.0))
    y = torch.from_numpy(found.views.array())[None]
    operator = ConeBeam(geometry)
    x = sirt(y, operator, 40)
    assert (operator.A(x) - y).norm() < 0.12 * y.norm()         # twice as much with an angle turned round
    volume = x[:, 0].numpy()
    grid = np.stack(np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in GRID), indexing="ij"))
    for centre, radius in BALLS.items():
        apart = np.sqrt(((grid - np.reshape(centre[::-1], (3, 1, 1, 1))) ** 2).sum(0))
        near = (apart < radius + 2) * volume
        assert np.abs((near * grid).sum((1, 2, 3)) / near.sum() - centre[::-1]).max() < 0.1
        assert volume[apart < radius - 1.5].mean() == pytest.approx(0.02, rel=0.05)
