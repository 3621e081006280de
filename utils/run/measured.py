"""From options to a measured scan: what its files say, what the data says of that, and what is corrected."""
import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from physics.corrections import harden, level_air, subtract_rings, subtract_scatter
from physics.geometry import ConeGeometry
from physics.hardening import flattening
from physics.opposite_rays import opposite_rays
from physics.orientation import mirrored, shifted, turned, turning_back
from physics.plausible import plausibility
from physics.unknowns import body_attenuation, with_volume
from utils.cli.messages import input_errors
from utils.io.geometry_file import geometry_fields
from utils.io.measured import Measured, air_beside, measure
from utils.io.projections import ACCEPTED, open_projections, read_bad_pixels, read_projections
from utils.io.scanners import FORMATS, Scan, open_scan
from utils.io.scanners.rtk import read_with
from utils.io.views import Views
from utils.run.progress import progress_bar

log = logging.getLogger(__name__)

MARGIN = 8      # columns of air that are kept on either side


@dataclass
class Notes:
    """What was assumed, found and corrected while a scan was read, and which part of its images was kept.

    Attributes:
        lines: sentences by topic.
        views: numbers of the views that are kept, as the files count them.
        first: (row, column) of the files' images where what is kept begins.
        size: rows and columns of the files that one that is kept is the mean of.
    """
    lines: dict[str, list[str]] = field(default_factory=dict)
    views: list[int] = field(default_factory=list)
    first: tuple[int, int] = (0, 0)
    size: int = 1

    def say(self, topic: str, text: str, before: str = "", level: int = logging.INFO) -> None:
        """Log a sentence, behind what it is about, and note it."""
        log.log(level, before + text)
        self.lines.setdefault(topic, []).append(text)


def read_measurement(options: Any) -> tuple[ConeGeometry, np.ndarray, Notes]:
    """The geometry of the views that are kept, with a volume and mu_water; their line integrals [views, v, u]; notes.

    What is noted is said, too.

    Raises:
        ValueError, OSError: files that are not as described, or do not go together.
    """
    source, notes = options.projections, Notes()
    scan, overrides = open_measurement(options)
    for line in scan.assumed:
        notes.say("assumed", line, f"{source}: assumed: ")
    with input_errors(str(options.geometry or source)):
        geometry = oriented(scan.geometry(overrides), options, notes)
        for line in plausibility(geometry):
            notes.say("odd", line, f"{options.geometry or source}: ", logging.WARNING)
        kept = list(range(0, geometry.views, options.every))
        geometry = geometry.select(kept).binned(options.bin)
        if "volume_shape" in scan.fields and "volume_shape" not in overrides and options.bin > 1:
            geometry = geometry.on_grid(tuple(max(n // options.bin, 1) for n in geometry.volume_shape),
                                        tuple(size * options.bin for size in geometry.voxel_size))
        if geometry.volume_shape is None:
            geometry = with_volume(geometry)
            notes.say("assumed", f"no volume_shape; {' x '.join(map(str, geometry.volume_shape))} voxels of "
                      f"{geometry.voxel_size[0]:.4g} mm hold the field of view", f"{source}: ")
    found, window = measure_views(options, replace(scan, views=scan.views.select(kept)), geometry, notes)
    notes.views, notes.first, notes.size = kept, (window[0] * options.bin, window[2] * options.bin), options.bin
    geometry = geometry.crop(*window)
    correct(options, found, notes)
    geometry = checked_by_opposite_rays(options, found.p, geometry, notes)
    if options.beam_hardening is not None:
        straighten(options, found.p, geometry, notes)
    if geometry.mu_water is None:
        geometry = with_water(source, found.p, geometry, notes)
    return geometry, found.p, notes


def open_measurement(options: Any) -> tuple[Scan, dict]:
    """The scan in a scanner's own files or, with a geometry file, in any stack; and what overrides its fields."""
    source, file = options.projections, options.geometry
    rtk = file is not None and Path(file).suffix.lower() == ".xml"
    try:
        scan = None if rtk else open_scan(source)
    except ModuleNotFoundError as error:
        raise ValueError(str(error)) from None
    if rtk:
        return read_with(Path(file), Path(source)), {}
    overrides = geometry_fields(file) if file else {}
    if scan is None:
        if not file:
            names = ", ".join(known.name for known in FORMATS)
            raise ValueError(f"--projections {source}: no scan of a known format ({names}); it needs --geometry: the "
                             f"scan that it was measured with, see configs/geometry")
        try:
            views = open_projections(source)
        except ValueError as error:
            more = ", or a scanner's own files" if str(error).endswith(ACCEPTED) else ""
            raise ValueError(f"{error}{more}") from None
        scan = Scan("", {"det_shape": views.shape[1:]}, views, counted=False)
        if tuple(overrides.get("det_shape", views.shape[1:])) != views.shape[1:] or (
                "angles" in overrides and len(overrides["angles"]) != len(views)):
            geometry = ConeGeometry(**overrides)
            raise ValueError(f"{source}: {' x '.join(map(str, views.shape))} (views, v, u); the geometry has "
                             f"{' x '.join(map(str, (geometry.views, *geometry.det_shape)))}")
    return scan, overrides


def oriented(geometry: ConeGeometry, options: Any, notes: Notes) -> ConeGeometry:
    """The geometry as --mirror, --reverse and --turn have it."""
    given = {"--reverse": options.reverse, "--mirror": options.mirror, f"--turn {options.turn:g}": options.turn}
    notes.lines.setdefault("assumed", []).append(
        "as was asked: " + ", ".join(flag for flag, wanted in given.items() if wanted) if any(given.values()) else
        "direction, left and right, and the first angle are as the files have them")
    geometry = turning_back(geometry) if options.reverse else geometry
    geometry = mirrored(geometry) if options.mirror else geometry
    return turned(geometry, options.turn) if options.turn else geometry


def measure_views(options: Any, scan: Scan, geometry: ConeGeometry, notes: Notes) -> tuple[Measured, tuple]:
    """`measure` the views, with the open beam of the scan or of the options, in `shaded` blocks; what is odd is said.

    Returns:
        What was measured, and (top, bottom, left, right) of the blocks.
    """
    source = options.projections
    flat, dark, i0 = scan.flat, scan.dark, scan.i0
    if options.flat is not None or options.i0 is not None:
        flat, i0 = None if options.flat is None else read_projections(options.flat), options.i0
    if options.dark is not None:
        dark = read_projections(options.dark)
    if scan.counted and flat is None and i0 is None:
        raise ValueError(f"{source}: counts without an open beam; accepted with them: --flat or --i0")
    named = None if options.bad_pixels is None else read_bad_pixels(options.bad_pixels, scan.views.shape[1:])
    window = shaded(scan.views, geometry, options.bin, {"flat": flat, "dark": dark, "i0": i0})
    found = measure(scan.views, flat, dark, i0, named, options.bin, window,
                    progress=lambda views: progress_bar(views, "views read"))
    said = []
    if found.replaced:
        said.append(f"{found.replaced} of {found.p.size} pixels counted nothing above dark; they got the least that "
                    "could be counted")
    if found.bad.any():
        said.append(f"{found.bad.sum()} bad pixels of the detector are interpolated, (v, u) = {_places(found.bad)}")
    for line in said:
        notes.say("bad pixels", line, f"{source}: ", logging.WARNING)
    for line in found.warnings:
        notes.say("odd", line, f"{source}: ", logging.WARNING)
    return found, window


def shaded(views: Views, geometry: ConeGeometry, size: int, fields: dict) -> tuple[int, int, int, int]:
    """The rows that the volume shades, and the columns, where these are clearly fewer and there is air beside them.

    Args:
        views: with `size` rows and columns for one of the geometry.
        geometry: with a volume.
        size: of a block.
        fields: what `utils.io.measured.air_beside` needs of the open beam.
    """
    rows, columns = geometry.det_shape
    top, bottom, left, right = geometry.window
    if geometry.sideways or top == bottom or left == right:
        return 0, rows, 0, columns
    left, right = max(left - MARGIN, 0), min(right + MARGIN, columns)
    fewer = views.held is None and right - left < 0.9 * columns
    if fewer and air_beside(views, (top, bottom, left, right), size, **fields):
        return top, bottom, left, right
    return top, bottom, 0, columns


def correct(options: Any, found: Measured, notes: Notes) -> None:
    """The corrections that are asked for and need no geometry, in place."""
    if options.scatter:
        subtract_scatter(found.p, options.scatter, found.open_beam)
        notes.say("corrected", f"scatter: {options.scatter:g} of the open beam is subtracted")
    if options.air:
        most = level_air(found.p)
        notes.say("corrected", f"air: every view is scaled by its margin, by up to {most:.1%}")
        if most > 0.2:
            notes.say("odd", f"a margin reads {most:.2f}; is it air?", "--air: ", logging.WARNING)
    if options.rings:
        subtract_rings(found.p, options.rings)
        notes.say("corrected", f"rings: columns are compared with the median of {options.rings}")


def checked_by_opposite_rays(options: Any, p: np.ndarray, geometry: ConeGeometry, notes: Notes) -> ConeGeometry:
    """Say what lines that were measured twice tell of direction and offset; with --fix-offset the corrected scan."""
    def say(text: str, level: int = logging.INFO) -> None:
        notes.say("opposite rays", text, "opposite rays: ", level)

    found = opposite_rays(p, geometry)
    if found is None:
        say("no line in the source's plane is measured twice; direction and offset are not checked")
        if options.fix_offset:
            log.warning("--fix-offset: nothing to find the offset by; it stays")
        return geometry
    pitch = float(np.linalg.norm(geometry.vectors[0, 6:9]))
    say(f"they differ by {found.misfit:.2%}, by {found.backwards:.2%} if the scan turned the other way; the detector "
        f"is {found.offset:+.3f} mm along u from where it is said to be ({pitch:.3g} mm a pixel); that left and right "
        "are not exchanged is assumed, no data can tell")
    if found.turns_back:
        say("they fit better if the scan turns the other way: add --reverse", logging.WARNING)
    if options.fix_offset:
        notes.lines.setdefault("corrected", []).append(f"offset: the detector is shifted by {found.offset:+.3f} mm")
        return shifted(geometry, found.offset)
    if abs(found.offset) > pitch / 2:
        say(f"the offset is off by {found.offset / pitch:+.1f} pixels; --fix-offset applies it", logging.WARNING)
    return geometry


def straighten(options: Any, p: np.ndarray, geometry: ConeGeometry, notes: Notes) -> None:
    """Beam hardening: the polynomial that is given, or fitted, in place."""
    if options.beam_hardening == "fit":
        with input_errors("--beam-hardening fit"):
            coefficients = flattening(p, geometry)
    else:
        coefficients = tuple(float(word) for word in options.beam_hardening.split(","))
    harden(p, coefficients)
    notes.say("corrected",
              "beam hardening: p' = " + " + ".join(f"{c:.5g} p^{k}" for k, c in enumerate(coefficients, 1)))


def with_water(source: Path, p: np.ndarray, geometry: ConeGeometry, notes: Notes) -> ConeGeometry:
    """The scan with the attenuation of most of the body for water's."""
    with input_errors(str(source)):
        mu = body_attenuation(p, geometry)
    notes.say("assumed", f"no mu_water; most of the body attenuates {mu:.4g} per mm, which counts as water (0 HU)",
              f"{source}: ")
    return replace(geometry, mu_water=mu)


def _places(bad: np.ndarray, most: int = 10) -> str:
    """Where the first of the pixels marked in [v, u] are."""
    found = np.argwhere(bad)
    return ", ".join(f"({v}, {u})" for v, u in found[:most]) + ", ..." * (len(found) > most)
