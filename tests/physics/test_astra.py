"""The operator's mid-plane against the fan-beam projector of the ASTRA toolbox, which shares no code with it.

Skips where `pip install astra-toolbox` was not run.
"""
import numpy as np
import pytest
import torch
from torch.nn.functional import avg_pool2d

from physics.cone_beam import ConeBeam
from physics.geometry import ConeGeometry

astra = pytest.importorskip("astra", reason="astra-toolbox is not installed: no independent check of the mid-plane")

CIRCLE = {"angles": range(0, 360, 24), "src_dist": 150, "det_dist": 90, "det_spacing": (2, 1.1)}
SCANS = {
    "full turn": ConeGeometry(**CIRCLE, det_shape=(1, 150), volume_shape=(1, 72, 96), voxel_size=(3, 0.8, 0.8)),
    "shifted detector, volume off the axis": ConeGeometry(
        **CIRCLE, det_shape=(1, 170), det_offset=(0, 12.5), volume_shape=(1, 72, 96), voxel_size=(1, 0.8, 0.8),
        volume_centre=(0, 6, -9)),
    "against the clock, from another start, an even number of columns": ConeGeometry(
        **{**CIRCLE, "angles": range(77, -100, -11)}, det_shape=(1, 148), volume_shape=(1, 90, 64),
        voxel_size=(2, 0.7, 0.7)),
}


def fan_projector(geometry: ConeGeometry) -> int:
    """The handle of ASTRA's projector for the mid-plane. Its rows of pixels count from the largest y.

    On CPU it takes square pixels only. Angles and directions are as ASTRA understands them, not as ours does.
    """
    pitch, columns = geometry.det_spacing[1], geometry.det_shape[1]
    circle = astra.create_proj_geom("fanflat", pitch, columns, np.deg2rad(geometry.angles), geometry.src_dist,
                                    geometry.det_dist)
    views = astra.geom_2vec(circle)["Vectors"]                      # source, detector centre, u step
    views[:, 2:4] += geometry.det_offset[1] / pitch * views[:, 4:]
    _, height, width = geometry.volume_shape
    ends = [(middle - count * size / 2, middle + count * size / 2) for middle, count, size in zip(
        geometry.volume_centre[:0:-1], (width, height), geometry.voxel_size[:0:-1])]
    return astra.create_projector("line_fanflat", astra.create_proj_geom("fanflat_vec", columns, views),
                                  astra.create_vol_geom(height, width, *ends[0], *ends[1]))


@pytest.fixture(params=SCANS.values(), ids=SCANS.keys())
def scan(request) -> ConeGeometry:
    return request.param


@pytest.fixture
def image(scan) -> np.ndarray:
    """Three smooth blobs [H, W] off the centre, so that no mirrored or turned image has the same projections."""
    _, height, width = scan.volume_shape
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    return sum(weight * np.exp(-((x - a) ** 2 + (y - b) ** 2) / (2 * width**2)) for weight, a, b, width in (
        (1, -0.4, 0.3, 0.16), (0.7, 0.35, 0.4, 0.12), (0.5, 0.2, -0.35, 0.2))).astype(np.float32)


def distance(found, wanted):
    return np.linalg.norm(found - wanted) / np.linalg.norm(wanted)


def blocks(image):
    """Means over 6 x 6 pixels, without those at the edge."""
    return avg_pool2d(torch.as_tensor(image)[None, 3:-3, 3:-3], 6).numpy()


# ASTRA's pixels are constant up to their edges, Joseph's method interpolates: they agree on what is smooth.
def test_line_integrals_of_the_mid_plane_are_those_of_astra(scan, image):
    handle, wanted = astra.create_sino(np.ascontiguousarray(image[::-1]), fan_projector(scan))
    astra.data2d.delete(handle)
    found = ConeBeam(scan).A(torch.from_numpy(image)[None, None])[0, :, 0].numpy()
    assert distance(found, wanted) < 0.01


def test_back_projection_of_the_mid_plane_is_that_of_astra(scan):
    u = np.linspace(-1, 1, scan.det_shape[1])
    turn = np.deg2rad(scan.angles)[:, None]
    sinogram = ((1.5 + np.sin(3 * u + turn)) * np.exp(-(u - 0.2) ** 2)).astype(np.float32)
    handle, wanted = astra.create_backprojection(sinogram, fan_projector(scan))
    astra.data2d.delete(handle)
    found = ConeBeam(scan).A_T(torch.from_numpy(sinogram)[None, :, None])[0, 0].numpy()
    wanted = wanted[::-1].copy()
    # Single pixels differ by how each method shares a ray among them; at the edge ours taper beyond the last ones.
    assert distance(blocks(found), blocks(wanted)) < 0.01
