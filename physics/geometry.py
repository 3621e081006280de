"""Cone-beam geometries as values."""
import math
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

Number = Any                                    # None where it may be missing
Numbers = Any                                   # any sequence of them, kept as a tuple; None where it may be missing
UNITS = ("mm", "voxel")
NUMBERS = {                                                     # how many, and what they must be
    "det_shape": (2, "whole"), "det_spacing": (2, "nonzero"), "det_offset": (2, "finite"),
    "src_dist": (1, "positive"), "det_dist": (1, "positive"), "mu_water": (1, "positive"),
    "volume_shape": (3, "whole"), "voxel_size": (3, "positive"), "volume_centre": (3, "finite"),
    "isocentre": (3, "finite")}
LENGTHS = ("src_dist", "det_dist", "det_spacing", "det_offset", "view_vectors", "voxel_size", "volume_centre",
           "isocentre")
AXES = {2: " (v, u)", 3: " (z, y, x)", None: ", one a view"}    # what several numbers are
ALWAYS = ("det_shape", "det_offset", "volume_centre", "isocentre")     # the others may be None
CIRCLE = ("angles", "src_dist", "det_dist", "det_spacing")      # what a circular scan needs, beside det_shape


@dataclass(frozen=True, kw_only=True)
class ConeGeometry:
    """Where the point source, the flat detector and the volume are in every view.

    Points are (x, y, z) from the isocentre, which is on the rotation axis z at the height of the source. In a
    circular scan, at angle t and with s, d = src_dist, det_dist, the source is at (s sin t, -s cos t, 0) and the
    detector's centre at (-d sin t, d cos t, 0), shifted by `det_offset`; u runs along (cos t, sin t, 0), v along
    z, and columns and rows against them where their step in `det_spacing` is negative. `view_vectors` describe any
    other scan. All lengths are in `unit`.

    Raises:
        ValueError: numbers that are no geometry, one line that names the field: not finite, not positive, steps along
            u and v that are parallel, or a volume (its support, one voxel beyond the outer centres) that is not
            between source and detector in every view.
    """
    angles: Numbers = ()                    # degrees, one a view
    src_dist: Number = None                 # from source to axis
    det_dist: Number = None                 # from axis to detector
    det_shape: Numbers                      # pixels (v, u)
    det_spacing: Numbers = None             # from pixel to pixel (v, u); negative: read from the other side
    det_offset: Numbers = (0.0, 0.0)        # of the detector's centre (v, u)
    view_vectors: Numbers = ()              # instead of all these but det_shape: see `vectors`
    volume_shape: Numbers = None            # voxels (D, H, W) = (z, y, x)
    voxel_size: Numbers = None              # (z, y, x)
    volume_centre: Numbers = (0.0, 0.0, 0.0)        # (z, y, x), from the isocentre
    isocentre: Numbers = (0.0, 0.0, 0.0)    # (z, y, x) in the patient: no ray depends on it, only where volumes lie
    unit: str = "mm"                        # of every length; "voxel": a voxel is 1 along x
    mu_water: Number = None                 # attenuation of water, per unit of length

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise ValueError(f"unit: expected {' or '.join(UNITS)}, found {_short(self.unit)}")
        if self.unit == "voxel" and self.voxel_size is None:
            object.__setattr__(self, "voxel_size", (1.0, 1.0, 1.0))
        for name, (count, kind) in NUMBERS.items():
            if getattr(self, name) is not None or name in ALWAYS:
                object.__setattr__(self, name, _numbers(name, getattr(self, name), count, kind))
        if self.unit == "voxel" and self.voxel_size[2] != 1:
            raise ValueError(f"voxel_size: expected 1 along x where unit is voxel, found {self.voxel_size}")
        if self.volume_shape and not self.voxel_size:
            raise ValueError("voxel_size: expected 3 positive numbers (z, y, x) beside volume_shape, found none")
        object.__setattr__(self, "angles", _numbers("angles", self.angles))
        if not np.iterable(self.view_vectors) or isinstance(self.view_vectors, str):
            raise ValueError(f"view_vectors: expected 12 numbers a view, found {_short(self.view_vectors)}")
        object.__setattr__(self, "view_vectors",
                           tuple(_numbers("view_vectors", view, 12) for view in self.view_vectors))
        self._check_views()
        self._check_volume()

    def _check_views(self) -> None:
        if not self.view_vectors:
            for name in CIRCLE:
                if getattr(self, name) in (None, ()):
                    raise ValueError(f"{name}: missing; a scan has either {', '.join(CIRCLE)}, or view_vectors")
            return
        for name in (*CIRCLE, "det_offset"):
            if getattr(self, name) not in (None, (), (0, 0)):
                raise ValueError(f"{name}: not accepted beside view_vectors, which say where the detector is")
        source, centre, step_u, step_v = np.reshape(self.view_vectors, (-1, 4, 3)).transpose(1, 0, 2)
        normal, area = np.cross(step_u, step_v), np.prod(np.linalg.norm((step_u, step_v), axis=2), axis=0)
        length, distance = np.linalg.norm(normal, axis=1), np.linalg.norm(centre - source, axis=1)
        for bad, what in ((length <= 1e-6 * area, "the steps along u and v are zero or parallel"),
                          (abs(((centre - source) * normal).sum(1)) <= 1e-6 * length * distance,
                           "the source is in the plane of the detector")):
            if bad.any():
                raise ValueError(f"view_vectors: in view {bad.argmax()} {what}")

    def _check_volume(self) -> None:
        depth = self.project(np.reshape(self.volume_centre[::-1], (1, 3)))[..., 2]
        if not ((depth > 0) & (depth < 1)).all():
            name = "view_vectors" if self.view_vectors else "volume_centre"
            raise ValueError(f"{name}: in view {((depth <= 0) | (depth >= 1)).argmax()} the volume's centre "
                             f"{self.volume_centre} is not between source and detector")
        if self.volume_shape:
            depth = self.project(self.corners)[..., 2]
            for bad, what in ((depth.min(1) <= 0, "source"), (depth.max(1) >= 1, "detector")):
                if bad.any():
                    raise ValueError(f"volume_shape: {_times(self.volume_shape)} voxels of {_times(self.voxel_size)} "
                                     f"{self.unit} reach the {what} of view {bad.argmax()}")

    @property
    def views(self) -> int:
        """Number of views."""
        return len(self.view_vectors or self.angles)

    @property
    def vectors(self) -> np.ndarray:
        """float64 [views, 12], ASTRA's `cone_vec`: source, detector centre, u step, v step as (x, y, z)."""
        if self.view_vectors:
            return np.array(self.view_vectors)
        t = np.deg2rad(self.angles)
        sin, cos, zero = np.sin(t), np.cos(t), np.zeros(len(t))
        s, d, (dv, du), (v, u) = self.src_dist, self.det_dist, self.det_spacing, self.det_offset
        return np.stack([s * sin, -s * cos, zero, u * cos - d * sin, u * sin + d * cos, zero + v,
                         du * cos, du * sin, zero, zero, zero, zero + dv], axis=1)

    @property
    def matrices(self) -> np.ndarray:
        """float64 [views, 3, 4]: (x, y, z, 1) to depth times (column, row, 1).

        Columns and rows are pixel indices; depth is 0 at the source and 1 in the detector's plane.
        """
        source, centre, step_u, step_v = self.vectors.reshape(-1, 4, 3).transpose(1, 0, 2)
        matrix = np.linalg.inv(np.stack([step_u, step_v, centre - source], axis=2))
        rows, columns = self.det_shape
        matrix[:, :2] += np.reshape([(columns - 1) / 2, (rows - 1) / 2], (2, 1)) * matrix[:, 2:]
        return np.concatenate([matrix, -matrix @ source[..., None]], axis=2)

    def project(self, points: np.ndarray) -> np.ndarray:
        """Column, row and depth (see `matrices`) of points [n, 3] = (x, y, z): float64 [views, n, 3]."""
        found = points @ self.matrices[:, :, :3].transpose(0, 2, 1) + self.matrices[:, None, :, 3]
        found[..., :2] /= found[..., 2:]
        return found

    @property
    def corners(self) -> np.ndarray:
        """float64 [8, 3] = (x, y, z): corners of the volume's support, one voxel beyond the outer centres."""
        reach = [(count + 1) / 2 * size for count, size in zip(self.volume_shape, self.voxel_size)]
        ends = [(centre - r, centre + r) for centre, r in zip(self.volume_centre, reach)]
        return np.stack(np.meshgrid(*ends[::-1], indexing="ij"), -1).reshape(-1, 3)

    @property
    def shadow(self) -> tuple[int, ...]:
        """(top, bottom, left, right): rows and columns, half-open, that the volume shades in any view.

        They may lie beyond the detector, as if it went on.
        """
        column, row, _ = self.project(self.corners).reshape(-1, 3).T
        return tuple(int(edge) for pixel in (row, column)
                     for edge in (np.floor(pixel.min()), np.ceil(pixel.max()) + 1))

    @property
    def window(self) -> tuple[int, int, int, int]:
        """The part of `shadow` that is on the detector; nothing of it: two edges are equal."""
        top, bottom, left, right = np.clip(self.shadow, 0, np.repeat(self.det_shape, 2)).tolist()
        return top, bottom, left, right

    def crop(self, top: int, bottom: int, left: int, right: int) -> "ConeGeometry":
        """The same scan with these rows and columns (half-open) for a detector."""
        shape = bottom - top, right - left
        shift = [(begin + end - count) / 2 for begin, end, count in zip((top, left), (bottom, right), self.det_shape)]
        if self.view_vectors:
            vectors = self.vectors
            vectors[:, 3:6] += shift[1] * vectors[:, 6:9] + shift[0] * vectors[:, 9:]
            return replace(self, det_shape=shape, view_vectors=vectors)
        offset = [o + n * step for o, n, step in zip(self.det_offset, shift, self.det_spacing)]
        return replace(self, det_shape=shape, det_offset=offset)

    def binned(self, size: int) -> "ConeGeometry":
        """The same scan with blocks of `size` rows and columns for pixels; an incomplete last block is left out.

        ValueError where that leaves no pixel.
        """
        if size == 1:
            return self
        rows, columns = (count // size for count in self.det_shape)
        if not rows * columns:
            raise ValueError(f"size: blocks of {size} x {size} in {_times(self.det_shape)} pixels (v, u)")
        whole = self.crop(0, rows * size, 0, columns * size)
        if self.view_vectors:
            vectors = whole.vectors
            vectors[:, 6:] *= size
            return replace(whole, det_shape=(rows, columns), view_vectors=vectors)
        return replace(whole, det_shape=(rows, columns), det_spacing=[step * size for step in self.det_spacing])

    @property
    def sideways(self) -> bool:
        """Whether u rather than v runs along the z axis, in all views: a detector that stands on its side."""
        step_u, step_v = self.vectors[:, 6:].reshape(-1, 2, 3).transpose(1, 0, 2)
        along = [abs(step[:, 2]) / np.linalg.norm(step, axis=1) for step in (step_u, step_v)]
        return bool((along[0] > along[1]).all())

    def turned(self) -> "ConeGeometry":
        """The same scan with rows for columns: u and v change places."""
        views = self.vectors.reshape(-1, 4, 3)[:, [0, 1, 3, 2]].reshape(-1, 12)
        return replace(self, angles=(), src_dist=None, det_dist=None, det_spacing=None, det_offset=(0, 0),
                       view_vectors=views, det_shape=self.det_shape[::-1])

    def select(self, indices: Sequence[int]) -> "ConeGeometry":
        """The same scan with these views alone, in this order."""
        if self.view_vectors:
            return replace(self, view_vectors=[self.view_vectors[i] for i in indices])
        return replace(self, angles=[self.angles[i] for i in indices])

    def on_grid(self, volume_shape: tuple, voxel_size: tuple | None = None) -> "ConeGeometry":
        """The same scan of other voxels (z, y, x) around the same centre; voxel_size None: of the same size."""
        return replace(self, volume_shape=volume_shape,
                       voxel_size=self.voxel_size if voxel_size is None else voxel_size)

    def moved_grid(self, volume_shape: tuple, volume_centre: tuple) -> "ConeGeometry":
        """The same scan of voxels of the same size in another place (z, y, x)."""
        return replace(self, volume_shape=volume_shape, volume_centre=volume_centre)

    def finer(self, times: int) -> "ConeGeometry":
        """The same scan of `times` as many voxels along x and y, whose width is the unit of length."""
        (depth, height, width), (z, y, x) = self.volume_shape, self.voxel_size
        return replace(self, volume_shape=(depth, times * height, times * width), unit="mm",
                       voxel_size=(z, y / times, x / times)).in_voxels()

    def in_mm(self, voxel_size: Sequence[float]) -> "ConeGeometry":
        """The scan in mm; where the voxel is the unit, the one that meets the same voxels drawn out to `voxel_size`.

        Voxels (z, y, x) that are no cubes make rays that rise longer or shorter (see `ray_lengths`), and of the
        source's circle an ellipse where they are wider than high, which view vectors describe.
        """
        if self.unit == "mm":
            return self
        z, y, x = np.divide(voxel_size, self.voxel_size)
        new = dict(voxel_size=voxel_size, unit="mm", mu_water=self.mu_water and self.mu_water / x,
                   **{name: getattr(self, name) * np.array((z, y, x)) for name in ("volume_centre", "isocentre")})
        if self.view_vectors or not math.isclose(x, y, rel_tol=1e-6):
            vectors = (self.vectors.reshape(-1, 4, 3) * (x, y, z)).reshape(-1, 12)
            return replace(self, angles=(), src_dist=None, det_dist=None, det_spacing=None, det_offset=(0, 0),
                           view_vectors=vectors, **new)
        return replace(self, src_dist=x * self.src_dist, det_dist=x * self.det_dist,
                       det_spacing=self.det_spacing * np.array((z, x)), det_offset=self.det_offset * np.array((z, x)),
                       **new)

    @property
    def ray_lengths(self) -> np.ndarray:
        """Distance from the source to every pixel: float64 [views, v, u]."""
        source, centre, step_u, step_v = self.vectors.reshape(-1, 4, 1, 1, 3).transpose(1, 0, 2, 3, 4)
        v, u = (np.arange(count) - (count - 1) / 2 for count in self.det_shape)
        return np.linalg.norm(centre - source + v[:, None, None] * step_v + u[:, None] * step_u, axis=-1)

    def slab(self, begin: int, end: int) -> "ConeGeometry":
        """The same scan of slices begin to end (half-open) of the volume alone."""
        (depth, *plane), (z, *centre) = self.volume_shape, self.volume_centre
        return replace(self, volume_shape=(end - begin, *plane),
                       volume_centre=(z + (begin + end - depth) / 2 * self.voxel_size[0], *centre))

    def in_voxels(self) -> "ConeGeometry":
        """The same scan with the voxel along x as the unit of length, so that weights mean the same in all scans."""
        size = self.voxel_size[2]
        lengths = {name: getattr(self, name) for name in LENGTHS}
        scaled = {name: np.divide(value, size) for name, value in lengths.items() if value not in (None, ())}
        scaled["voxel_size"][2] = 1
        return replace(self, unit="voxel", mu_water=self.mu_water and self.mu_water * size, **scaled)


def _numbers(name: str, value: Any, count: int | None = None, kind: str = "finite") -> Any:
    """The value as one number where `count` is 1, otherwise as a tuple of `count`, or of any, numbers.

    Args:
        name: of the field, for messages.
        value: what was given.
        count: how many; None: any.
        kind: "finite", "nonzero" or "positive": floats; "whole": positive ints.

    Raises:
        ValueError: anything else; truth values and texts are no numbers.
    """
    listed = np.iterable(value) and not isinstance(value, (str, dict))
    entries = list(value) if listed and count != 1 else [value]
    wrong = [entry for entry in entries if not _is_number(entry, kind)]
    if wrong or count not in (None, len(entries)) or (not listed and count != 1):
        amount = {1: "a ", None: ""}.get(count, f"{count} ")
        what = {"whole": "positive whole"}.get(kind, kind) + (" number" if count == 1 else " numbers")
        found = _short(wrong[0] if wrong and not count else value)
        raise ValueError(f"{name}: expected {amount}{what}{AXES.get(count, '')}, found {found}")
    numbers = [int(entry) if kind == "whole" else float(entry) for entry in entries]
    return numbers[0] if count == 1 else tuple(numbers)


def _is_number(entry: Any, kind: str) -> bool:
    if isinstance(entry, (bool, np.bool_, str)):
        return False
    try:
        number = float(entry)
    except (TypeError, ValueError, OverflowError):
        return False
    right = {"finite": True, "nonzero": number != 0, "positive": number > 0, "whole": number > 0 and number % 1 == 0}
    return math.isfinite(number) and right[kind]


def _times(numbers: tuple) -> str:
    return " x ".join(f"{n:g}" for n in numbers)


def _short(value: Any) -> str:
    """One line that shows a value, or its beginning."""
    return " ".join(reprlib.repr(value).split())
