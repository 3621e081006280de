"""What a detector measured, view by view, as line integrals of attenuation."""
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from physics.bad_pixels import find_bad_pixels, repair
from physics.beer_lambert import FLOAT_FLOOR, beam, line_integrals
from physics.plausible import AIR, NOISE, check_line_integrals, truncation
from utils.io.projections import open_projections, read_bad_pixels, read_projections
from utils.io.views import Views

MOST_BAD = 0.05    # of the detector's pixels
SAMPLE = 64        # views that bad pixels are looked for in
NEAR = 3           # rows and columns around a part of the detector that its bad pixels are told by


@dataclass(frozen=True)
class Measured:
    """Line integrals of attenuation, and what was done to them.

    Attributes:
        p: float32 [views, v, u].
        replaced: pixels of all views that counted nothing above dark, and got the least that could be counted.
        bad: bool [v, u] of the whole detector, pixels that were interpolated from their neighbours; looked for where
            pixels are kept.
        warnings: what is odd, a line each.
        open_beam: float64 [v, u] above dark, in the pixels of ``p``; None of line integrals.
    """
    p: np.ndarray
    replaced: int
    bad: np.ndarray
    warnings: list[str] = field(default_factory=list)
    open_beam: np.ndarray | None = None


def read_line_integrals(path: str | Path, shape: tuple[int, int, int], flat: str | Path | None = None,
                        dark: str | Path | None = None, i0: float | None = None,
                        bad_pixels: str | Path | None = None) -> Measured:
    """`measure` projections in files.

    Args:
        path: as in `utils.io.projections.open_projections`.
        shape: (views, v, u) of the geometry.
        flat: projections without an object, a frame or more.
        dark: projections without beam, a frame or more.
        i0: the open beam as one number.
        bad_pixels: more bad pixels, see `utils.io.projections.read_bad_pixels`.

    Raises:
        ValueError: in one line that names the file, as the functions used here; for another shape.
        OSError: for a file that is not there or cannot be read.
    """
    views = open_projections(path)
    if views.shape != tuple(shape):
        raise ValueError(f"{path}: {' x '.join(map(str, views.shape))} (views, v, u); the geometry has "
                         f"{' x '.join(map(str, shape))}")
    named = None if bad_pixels is None else read_bad_pixels(bad_pixels, views.shape[1:])
    counted = flat is not None or i0 is not None
    frames = [None if file is None or not counted else read_projections(file) for file in (flat, dark)]
    return measure(views, frames[0], frames[1], i0, named)


def measure(views: Views, flat: np.ndarray | None = None, dark: np.ndarray | None = None, i0: float | None = None,
            named: np.ndarray | None = None, size: int = 1, window: tuple[int, int, int, int] | None = None,
            progress: Callable[[Collection], Iterable] | None = None) -> Measured:
    """Read views as line integrals of attenuation.

    Without ``flat`` or ``i0`` the views are line integrals, with one of them counts. Bad pixels are found (in 64 views,
    evenly spread) and left out of the means over blocks, or interpolated; then the values are looked at.

    Args:
        views: [v, u] each.
        flat: open beam, [v, u] or frames [n, v, u].
        dark: signal without beam, the same.
        i0: the open beam as one number, see `physics.beer_lambert.line_integrals`.
        named: bool [v, u], more bad pixels.
        size: means over blocks of so many rows and columns; an incomplete block at the last edges is left out.
        window: (top, bottom, left, right), half-open, the blocks that are kept; None: all.
        progress: wraps the indices of the views while these are read.

    Returns:
        The line integrals. In memory at a time: these, and a few views and frames; before, the part of 64 views.

    Raises:
        ValueError: in one line that names the file, as the functions of `physics` that are used here; and for more
            than 5 % of bad pixels.
    """
    top, bottom, left, right = window or (0, views.shape[1] // size, 0, views.shape[2] // size)
    part = slice(top * size, bottom * size), slice(left * size, right * size)
    counted = flat is not None or i0 is not None
    try:
        if counted:
            beam(views.shape[1:], flat, dark, i0)       # their shapes
        open_frames, no_beam = (None if f is None else np.reshape(f, (-1, *views.shape[1:])) for f in (flat, dark))
        bad = _bad_pixels(views, part, open_frames, no_beam, i0, named)
        good = ~bad[part]
        weight = _sums(good, size)
        blocks = np.maximum(weight, 1)
        held = views.held if size == 1 and weight.shape == views.shape[1:] else None
        p = np.empty((len(views), *weight.shape), np.float32) if held is None else held
        indices = range(len(views)) if held is None else ()
        for k in progress(indices) if progress and len(indices) else indices:
            p[k] = views[k] if size == 1 and p.shape == views.shape else _sums(
                np.where(good, views[k][part], 0), size) / blocks
        replaced, open_beam = 0, None
        if counted:
            full, none = (f if f is None else _sums(np.where(good, f.mean(0, dtype=np.float64)[part], 0), size) / blocks
                          for f in (open_frames, no_beam))
            replaced = line_integrals(p, full, none, i0, weight == 0, out=p)[1]
            open_beam = beam(p.shape[1:], full, none, i0)[1]
        repair(p, weight == 0)
        warnings = check_line_integrals(p) + truncation(p)
    except ValueError as error:
        text = str(error)
        raise ValueError(text if text.startswith(views.name) else f"{views.name}: {text}") from None
    return Measured(p, replaced, bad, warnings, open_beam)


def air_beside(views: Views, window: tuple[int, int, int, int], size: int = 1, flat: np.ndarray | None = None,
               dark: np.ndarray | None = None, i0: float | None = None) -> bool:
    """Whether the columns left and right of a window show air alone, in 64 views, evenly spread.

    Air reads no more than 5 % of what is most attenuated, or 0.05 (both 99.9 %).

    Args:
        views: as in `measure`.
        window: (top, bottom, left, right), in blocks; its rows are looked at.
        size: rows and columns of a block.
        flat: as in `measure`.
        dark: likewise.
        i0: likewise.
    """
    top, bottom, left, right = (edge * size for edge in window)
    counted = flat is not None or i0 is not None
    none, full = (f[top:bottom] for f in beam(views.shape[1:], flat, dark, i0)) if counted else (0.0, 1.0)
    most, beside = 0.0, 0.0
    for k in _spread(views):
        view = np.asarray(views[k][top:bottom], np.float64)
        if counted:
            view = -np.log(np.maximum((view - none) / np.where(full > 0, full, np.inf), FLOAT_FLOOR))
        outer = np.concatenate([view[:, :left], view[:, right:]], 1)
        most = max(most, float(np.quantile(view, 0.999)))
        beside = max(beside, float(np.quantile(outer, 0.999)))
    return beside <= max(AIR * most, NOISE)


def _spread(views: Views) -> list[int]:
    """`SAMPLE` views, evenly spread, or all where there are fewer."""
    return np.unique(np.linspace(0, len(views) - 1, SAMPLE).round().astype(int)).tolist()


def _bad_pixels(views: Views, part: tuple[slice, slice], flat: np.ndarray | None, dark: np.ndarray | None,
                i0: float | None, named: np.ndarray | None) -> np.ndarray:
    """The bad pixels of a part of the detector, bool [v, u] of the whole of it."""
    around = tuple(slice(max(along.start - NEAR, 0), along.stop + NEAR) for along in part)
    every = slice(None), *around
    chosen = _spread(views)
    held = views.held if len(chosen) == len(views) else None
    sample = np.stack([views[k][around].copy() for k in chosen]) if held is None else held[every]
    flat, dark = (frames if frames is None else frames[every] for frames in (flat, dark))
    bad = np.zeros(views.shape[1:], bool) if named is None else named.copy()
    bad[around] |= find_bad_pixels(sample, flat, dark, i0)
    if bad[around].mean() > MOST_BAD:
        if flat is not None or i0 is not None:
            line_integrals(sample, flat, dark, i0)    # says more, where flat and dark are swapped
        raise ValueError(f"{int(bad[around].sum())} of {bad[around].size} pixels are dead, stuck or hot; accepted: up "
                         f"to {MOST_BAD:.0%}, which are interpolated")
    return bad


def _sums(image: np.ndarray, size: int) -> np.ndarray:
    """float64 sums over blocks of an image [v, u] of whole blocks or of what is left over at its ends."""
    rows, columns = (count // size for count in image.shape)
    blocks = image[:rows * size, :columns * size].reshape(rows, size, columns, size)
    return blocks.sum((1, 3), dtype=np.float64)
