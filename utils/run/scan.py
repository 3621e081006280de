"""From options to the scan that is reconstructed, the volume whose place the result has, and the problem to solve."""
import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from algorithms.problem import Problem
from models.window import CT_WINDOW
from op.processes import ALONE, Processes
from physics.acquisition import Acquisition
from physics.geometry import ConeGeometry
from physics.views import lact_views, svct_views, view_angles
from utils.cli.messages import input_errors
from utils.io.dicom import slice_thickness
from utils.io.geometry_file import read_geometry
from utils.io.intensity import beyond_window, mr_window, scale_to_unit
from utils.io.read import read_unit_ct, read_volume
from utils.io.volume import Volume, empty_volume, slice_axis
from utils.run.measured import Notes, read_measurement
from utils.run.progress import progress_bar
from utils.run.run import Run
from utils.run.setup import find_prior

log = logging.getLogger(__name__)

SHARED = ("auto", "native")     # projectors whose views processes share


def read_scan(options: Any, processes: Processes = ALONE,
              ) -> tuple[ConeGeometry, Volume, np.ndarray, Notes | None]:
    """The scan on its whole grid, the wanted slices in unit intensities, what the measurement is made from, and notes.

    Measured, that are line integrals [views, v, u] of the process's own views, and the volume is the reference, or
    without one its place, empty; the notes say what was assumed, found and corrected.
    Simulated, it is the volume [D, H, W] or a finer one, whose shadow the scan's detector is cut to.

    Raises:
        ValueError, OSError: files that are not as described, or do not go together.
    """
    return _measured(options, processes) if options.projections else _simulated(options)


def read_mr(options: Any) -> tuple[Volume, tuple[float, float], np.ndarray]:
    """The grid of the result, the intensities that 0 and 1 stand for, and what the measurement is made from.

    Simulated, that are the wanted slices in unit intensities, as many as make whole thick ones, which are on the grid.
    Measured, it is the thick slices, and on the grid of thin ones is the reference, or nothing. All are stacked along
    z.

    Raises:
        ValueError, OSError: a file that is not as described, has too few slices, or is no reference.
    """
    path = options.thick or options.data
    volume = read_volume(path, series=options.series, modality="mr")
    axis = slice_axis(volume, options.slice_axis)
    log.info(f"{path}: thick slices along {'xyz'[axis]}, the file's {('first', 'second', 'third')[axis]} axis")
    volume = volume.with_axis_first(axis)
    window = mr_window(volume.array, options.window)
    below, above, least, most = beyond_window(volume.array, *window)
    log.info(f"{path}: intensities {window[0]:g} to {window[1]:g} are the prior's 0 and 1"
             + f"; {below + above} voxels beyond, {least:g} to {most:g}, are kept" * bool(below + above))
    with input_errors(f"--slice-begin {options.slice_begin} --slice-end {options.slice_end}"):
        log.info(f"{path}: {volume.where(options.slice_begin, options.slice_end)}")
        volume = volume.crop(options.slice_begin, options.slice_end)
    if pixel := pixel_size(options):
        shape = volume.filled_by(pixel)
        volume = resized(volume, shape if not options.thick else (len(volume.array), *shape[1:]), options)
    volume = volume if options.thick else whole_slices(volume, options)
    with input_errors(str(path)):
        unit = volume.with_array(scale_to_unit(volume.array, *window, clip=False))
    if not options.thick:
        return unit, window, unit.array
    place = unit.thinner(options.degree)
    log.info(f"{path}: {len(unit.array)} slices {unit.spacing[2]:.4g} mm apart become {len(place.array)}, "
             f"{place.spacing[2]:.4g} mm apart")
    if options.data:
        place = place.with_array(scale_to_unit(_reference(options, axis, place).array, *window, clip=False))
    return place, window, unit.array


def pixel_size(options: Any) -> float | None:
    """The size of pixels in mm that is asked for, or None.

    Raises:
        ValueError: that of a prior whose card does not say it.
    """
    if options.pixel_size != "prior":
        return options.pixel_size
    card, weights = find_prior(options.prior or options.checkpoint_path, options.config_path)
    if card.pixel_size is None:
        raise ValueError(f"--pixel-size prior: the card of {weights} has no pixel_size; accepted: a number of mm")
    return card.pixel_size


def resized(volume: Volume, shape: tuple[int, int, int], options: Any) -> Volume:
    """The volume of another shape; says which, and raises ValueError where --pixel-size makes a useless one."""
    check_size(shape, options)
    volume = volume.resize(shape)
    log.info(f"{' x '.join(map(str, shape[::-1]))} voxels of {' x '.join(f'{side:.4g}' for side in volume.spacing)} mm "
             "(x, y, z)")
    return volume


def check_size(shape: tuple[int, int, int], options: Any) -> None:
    """Raise ValueError where --pixel-size makes slices that are too small or too large."""
    if not all(8 <= count <= 4096 for count in shape[1:]):
        raise ValueError(f"--pixel-size {options.pixel_size}: {shape[2]} x {shape[1]} pixels; accepted: 8 to 4096")


def whole_slices(volume: Volume, options: Any) -> Volume:
    """The slices of a volume that make whole thick ones; says how many are left out."""
    depth = len(volume.array)
    if depth < options.degree:
        raise ValueError(f"--degree {options.degree}: more than the {depth} slices of {options.data}")
    if depth % options.degree:
        log.info(f"{depth} slices are not a multiple of {options.degree}: the last {depth % options.degree} are left "
                 "out")
    return volume.crop(0, depth - depth % options.degree)


def _reference(options: Any, axis: int, place: Volume) -> Volume:
    """The volume of --data, which has to lie on the grid of ``place``: stored alike, with as many voxels."""
    volume = read_volume(options.data, modality="mr").with_axis_first(axis)
    if options.pixel_size:
        volume = volume.resize((len(volume.array), *place.array.shape[1:]))
    if volume.array.shape != place.array.shape:
        raise ValueError(f"{options.data}: {' x '.join(map(str, volume.array.shape))} voxels (z, y, x) are no "
                         f"reference for the {' x '.join(map(str, place.array.shape))} of the result")
    corners = [(0, 0, 0), np.subtract(place.array.shape[::-1], 1)]
    apart = max(np.linalg.norm(np.add(volume.origin, volume.axes @ corner) - np.add(place.origin, place.axes @ corner))
                for corner in corners)
    if apart > 0.1 * min(place.spacing):
        raise ValueError(f"{options.data}: up to {apart:.3g} mm from where the result lies; accepted as a reference: a "
                         "volume on its grid")
    return volume


def thickness(options: Any, spacing: float) -> float:
    """How thick a measured slice is, in distances from one to the next, which are ``spacing`` mm.

    Raises:
        ValueError: more than 4 distances.
    """
    if options.thick is None:
        return 1.0
    found = options.slice_thickness
    if found is None and Path(options.thick).is_dir():
        found = slice_thickness(options.thick, options.series)
    if found is not None and abs(found - spacing) > 1e-3 * spacing:
        what = f"a gap of {spacing - found:.4g} mm" if found < spacing else f"an overlap of {found - spacing:.4g} mm"
        log.info(f"{options.thick}: slices {found:.4g} mm thick, {spacing:.4g} mm apart: {what}")
    if found is not None and found > 4 * spacing:
        raise ValueError(f"--slice-thickness {found:.4g}: of slices {spacing:.4g} mm apart; accepted: up to 4 times "
                         "that")
    return 1.0 if found is None else found / spacing


def chosen_views(options: Any, scan: ConeGeometry) -> list[int]:
    """The views of the task; without a degree all."""
    if not options.degree:
        return list(range(scan.views))
    with input_errors(f"--degree {options.degree}"):
        chosen = (svct_views if options.task == "SVCT" else lact_views)(scan, options.degree)
    angles = ", ".join(f"{angle:.4g}" for angle in np.rad2deg(view_angles(scan))[chosen])
    log.debug(f"views at {angles} degrees")
    return chosen


def intensities(options: Any, scan: ConeGeometry) -> tuple[float, float]:
    """What the prior's 0 and 1 stand for in the volumes that a run writes: HU, or attenuation per mm."""
    return CT_WINDOW if options.unit == "HU" else (0.0, (CT_WINDOW[1] - CT_WINDOW[0]) / 1000 * scan.mu_water)


def _simulated(options):
    scan = read_geometry(options.geometry, "mu_water")
    own = read_unit_ct(options.data, options.slice_begin, options.slice_end, CT_WINDOW, options.series)
    depth = len(own.array)
    if pixel := pixel_size(options):
        volume = resized(own, (depth, *own.filled_by(pixel)[1:]), options)
    else:
        volume = own.resize(options.recon_size or find_prior(options.prior)[0].image_size or 256)
    finer, (_, height, width) = options.oversample, volume.array.shape
    size = f"--pixel-size {pixel:g}" if pixel else f"--recon-size {width}"
    with input_errors(f"{size} with --geometry {options.geometry}"):
        scan = scan.on_grid(volume.array.shape, volume.spacing[::-1] if scan.unit == "mm" else (1.0, 1.0, 1.0))
        top, bottom, left, right = scan.window
        if top < bottom and left < right:       # else the operator says what is wrong
            scan = scan.crop(top, bottom, left, right)
    unit = np.ones(3) if scan.unit == "mm" else volume.spacing[::-1]
    scan = replace(scan, isocentre=np.divide(volume.centre[::-1], unit) - scan.volume_centre)
    if finer == 1:
        return scan, volume, volume.array, None
    log.info(f"the measurement is simulated from slices of {finer * width} x {finer * height} pixels")
    return scan, volume, own.resize((depth, finer * height, finer * width)).array, None


def as_measured(y: torch.Tensor, simulated: ConeGeometry, given: ConeGeometry) -> Volume:
    """Line integrals of attenuation y [views, v, u] of a scan as a scanner of the geometry ``given`` measures them.

    Args:
        y: of the scan ``simulated``, in its unit of length.
        simulated: with a voxel for a unit.
        given: the same scan, `ConeGeometry.in_mm`.
    """
    longer = given.ray_lengths / simulated.ray_lengths * (simulated.voxel_size[2] / given.voxel_size[2])
    dv, du = given.det_spacing or (1.0, 1.0)
    return Volume(y.cpu().numpy() * longer.astype(np.float32), (abs(du), abs(dv), 1.0))


def posed(options: Any, run: Run, acquisition: Acquisition, y: torch.Tensor, attenuation: float,
          spacing: float) -> Problem:
    """The problem that projections pose to solvers, after SIRT, which is where they start.

    Args:
        options: the settings.
        run: that SIRT is saved in.
        acquisition: with the views that are used.
        y: their line integrals [1, own views, v, u]; a ray is attenuated by exp(-attenuation y).
        attenuation: of a line integral of 1.
        spacing: from slice to slice in mm.
    """
    weights = acquisition.poisson_weights(y, attenuation) if options.weights == "poisson" else None
    y, initial = acquisition.solvable(y, progress=lambda steps: progress_bar(steps, "SIRT", leave=False))
    run.save("IR", initial)
    variance = None
    if options.w_tik == "noise":
        variance = acquisition.noise_variance(y, weights)
        log.info(f"noise: the standard deviation of a line integral is {attenuation * math.sqrt(variance):.2g}"
                 + (", weighted" if weights is not None else ""))
    return Problem(operator=acquisition.operator, y=y, initial=initial, weights=weights, variance=variance,
                   spacing=spacing)


def _measured(options, processes):
    scan, p, notes = read_measurement(options)
    if processes.count > 1 and options.projector in SHARED:
        p = p[processes.part(len(p))].copy()
    depth, height, width = scan.volume_shape
    place = empty_volume(scan.volume_shape, scan.voxel_size, np.add(scan.volume_centre, scan.isocentre))
    rows = columns = options.recon_size
    if pixel := pixel_size(options):
        if scan.unit != "mm":
            raise ValueError(f"--pixel-size {options.pixel_size}: the scan's unit is {scan.unit}; accepted with mm")
        _, rows, columns = shape = place.filled_by(pixel)
        check_size(shape, options)
    if rows:
        z, y, x = scan.voxel_size
        scan = scan.on_grid((depth, rows, columns), (z, y * height / rows, x * width / columns))
        place = empty_volume(scan.volume_shape, scan.voxel_size, np.add(scan.volume_centre, scan.isocentre))
    if options.data:
        own = read_unit_ct(options.data, 0, 0, CT_WINDOW, options.series)
        place = own.resize((len(own.array), *scan.volume_shape[1:]))
        _check_reference(options.data, place, scan, str(options.geometry or options.projections))
    return scan, place.crop(options.slice_begin, options.slice_end), p, notes


def _check_reference(path: Path, place: Volume, scan: ConeGeometry, source: str) -> None:
    """Raise ValueError where a volume is not on the grid of a scan, and say where it is oblique."""
    if place.array.shape != scan.volume_shape:
        raise ValueError(f"{path}: {' x '.join(map(str, place.array.shape))} voxels (z, y, x) are no reference for the "
                         f"{' x '.join(map(str, scan.volume_shape))} of {source}")
    if not np.allclose(place.spacing[::-1], scan.voxel_size, rtol=0.01):
        raise ValueError(f"{path}: voxels of {' x '.join(f'{size:.4g}' for size in place.spacing[::-1])} mm (z, y, x) "
                         f"are no reference for the {' x '.join(f'{size:.4g}' for size in scan.voxel_size)} of "
                         f"{source}")
    if not np.allclose(np.reshape(place.direction, (3, 3)), np.eye(3), atol=0.01):
        log.warning(f"{path}: an oblique reference; its axes are taken for those of {source}")
