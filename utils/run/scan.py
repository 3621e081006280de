"""From options to the scan that is reconstructed, and the volume whose place the result has."""
import logging
from typing import Any

import numpy as np

from models.window import CT_WINDOW
from physics.geometry import ConeGeometry
from physics.plausible import plausibility
from physics.views import lact_views, svct_views
from utils.cli.messages import input_errors
from utils.io.geometry_file import read_geometry
from utils.io.projections import read_line_integrals
from utils.io.read import read_unit_ct
from utils.io.volume import Volume, empty_volume

log = logging.getLogger(__name__)


def read_scan(options: Any) -> tuple[ConeGeometry, Volume, np.ndarray | None]:
    """The scan on its whole grid, the wanted slices in unit intensities, and measured line integrals [views, v, u].

    Simulated, the scan is that of the volume's own voxels, and there are no line integrals. Measured, the volume is
    the reference, or without one its place, empty.

    Raises:
        ValueError, OSError: files that are not as described, or do not go together.
    """
    return _measured(options) if options.projections else _simulated(options)


def chosen_views(options: Any, scan: ConeGeometry) -> list[int]:
    """The views of the task; without a degree all."""
    if not options.degree:
        return list(range(scan.views))
    with input_errors(f"--degree {options.degree}"):
        return (svct_views if options.task == "SVCT" else lact_views)(scan, options.degree)


def _simulated(options):
    scan = read_geometry(options.geometry, "mu_water")
    volume = read_unit_ct(options.data, options.slice_begin, options.slice_end, options.recon_size, CT_WINDOW,
                          options.series)
    with input_errors(f"--recon-size {options.recon_size} with --geometry {options.geometry}"):
        scan = scan.on_grid(volume.array.shape, volume.spacing[::-1] if scan.unit == "mm" else (1.0, 1.0, 1.0))
    return scan, volume, None


def _measured(options):
    scan = read_geometry(options.geometry, "mu_water", "volume_shape")
    for line in plausibility(scan):
        log.warning(f"{options.geometry}: {line}")
    depth, height, width = scan.volume_shape
    if options.recon_size:
        z, y, x = scan.voxel_size
        scan = scan.on_grid((depth, options.recon_size, options.recon_size),
                            (z, y * height / options.recon_size, x * width / options.recon_size))
    place = empty_volume(scan.volume_shape, scan.voxel_size, scan.volume_centre)
    if options.data:
        place = read_unit_ct(options.data, 0, 0, scan.volume_shape[2], CT_WINDOW, options.series)
        if place.array.shape != scan.volume_shape:
            raise ValueError(f"{options.data}: {' x '.join(map(str, place.array.shape))} voxels (z, y, x) are no "
                             f"reference for the {' x '.join(map(str, scan.volume_shape))} of {options.geometry}")
    place = place.crop(options.slice_begin, options.slice_end)
    found = read_line_integrals(options.projections, (scan.views, *scan.det_shape), options.flat, options.dark,
                                options.i0, options.bad_pixels)
    if found.replaced:
        log.warning(f"{options.projections}: {found.replaced} of {found.p.size} pixels counted nothing above dark; "
                    "they got the least that could be counted")
    if found.bad.any():
        log.warning(f"{options.projections}: {found.bad.sum()} bad pixels of the detector are interpolated, (v, u) = "
                    f"{_places(found.bad)}")
    for line in found.warnings:
        log.warning(f"{options.projections}: {line}")
    return scan, place, found.p


def _places(bad: np.ndarray, most: int = 10) -> str:
    """Where the first of the pixels marked in [v, u] are."""
    found = np.argwhere(bad)
    return ", ".join(f"({v}, {u})" for v, u in found[:most]) + ", ..." * (len(found) > most)
