"""Small scans for the tests, and Gaussian blobs, whose line integrals are known for any ray."""
import math
from dataclasses import replace

import numpy as np
import torch

from physics.cone_beam import ConeBeam
from physics.geometry import ConeGeometry

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


# Gaussian blobs: centre (z, y, x), width sigma.
BLOBS = [((0, 0, 0), 3.0), ((1, 8, -6), 2.5), ((-1, -2, 12), 2.5)]
WIDE = dict(src_dist=90, det_dist=60, det_shape=(40, 80), det_spacing=(1.5, 1.5), volume_shape=(12, 40, 40),
            voxel_size=(1, 1, 1))


def blob_projections(scan):
    """float32 [1, views, v, u]."""
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
    """float64 [blobs, D, H, W], and the coordinates (z, y, x) [3, D, H, W]."""
    grid = np.stack(np.meshgrid(*((np.arange(n) - (n - 1) / 2) * size + middle for n, size, middle in zip(
        scan.volume_shape, scan.voxel_size, scan.volume_centre)), indexing="ij"))
    away = [((grid - np.reshape(place, (3, 1, 1, 1))) ** 2).sum(0) / (2 * sigma ** 2) for place, sigma in BLOBS]
    return np.exp(-np.array(away)), grid


# A body of elliptic cylinders along z: centre (x, y), half axes (x, y), what it adds.
BODY = [(0, 0, 80, 70, 1.0), (20, 10, 12, 12, 0.2), (-25, -15, 10, 10, 0.5), (0, -35, 8, 8, -0.9), (40, -20, 6, 6, 0.8)]


def body_projections(scan):
    """float32 [1, views, v, u]."""
    source, centre, step_u, step_v = scan.vectors.reshape(-1, 4, 3).transpose(1, 0, 2)[:, :, None, None]
    row, column = (np.arange(count)[:, None] - (count - 1) / 2 for count in scan.det_shape)
    ray, y = centre - source + row[:, None] * step_v + column * step_u, 0
    for *place, a, b, value in BODY:
        along, start = ray[..., :2] / (a, b), (source[..., :2] - place) / (a, b)
        square, half = (along ** 2).sum(-1), (along * start).sum(-1)
        chord = 2 * np.sqrt(np.maximum(half ** 2 - square * ((start ** 2).sum(-1) - 1), 0)) / square
        y = y + value * chord * np.linalg.norm(ray, axis=-1)
    return torch.from_numpy(y).float()[None]


def body_errors(volume, scan):
    """Mean error of the volume's middle slice in thousandths, within 15 of the axis and from 40 to 50 of it."""
    y, x = np.meshgrid(*((np.arange(n) - (n - 1) / 2) * size for n, size in zip(scan.volume_shape[1:],
                                                                             scan.voxel_size[1:])), indexing="ij")
    truth = sum(value * (((x - px) / a) ** 2 + ((y - py) / b) ** 2 < 1) for px, py, a, b, value in BODY)
    flat = np.hypot(*np.gradient(truth)) == 0
    error, away = 1000 * (volume[len(volume) // 2, 0].numpy() - truth), np.hypot(x, y)
    return [float(error[flat & (away >= low) & (away < high)].mean()) for low, high in ((0, 15), (40, 50))]
