"""Shapes, textures and partial volume in millimetres: what the synthetic patients are drawn with."""
from collections.abc import Sequence

import numpy as np

WARP_LIMIT = 8.0  # mm: no voxel is displaced further, so that boxes around small shapes stay safe


class Space:
    """Anatomical coordinates (mm) of every voxel of a volume, bent by a smooth random warp.

    `z`, `y`, `x` are float32 arrays of the volume's shape; `edge` is the width (mm) over which a boundary blends, about
    one voxel.

    Args:
        axes: the three straight axes (z, y, x), 1D, increasing.
        rng: of the warp; it is not advanced.
        warp: standard deviation of the displacement in mm.
        warp_scale: mm over which it varies.
    """

    def __init__(self, axes: Sequence[np.ndarray], rng: np.random.Generator, warp: float = 0.0,
                 warp_scale: float = 70.0):
        self.axes = tuple(np.asarray(axis, np.float32) for axis in axes)
        self.shape = tuple(len(axis) for axis in self.axes)
        steps = [abs(axis[1] - axis[0]) if len(axis) > 1 else 1.0 for axis in self.axes]
        self.edge = float(np.prod(steps) ** (1 / 3)) * 1.4
        mesh = np.meshgrid(*self.axes, indexing="ij", sparse=True)
        self.z, self.y, self.x = (axis + np.clip(warp * self.noise(rng, warp_scale), -WARP_LIMIT, WARP_LIMIT)
                                  for axis in mesh)

    def noise(self, rng: np.random.Generator, scale: float | Sequence[float]) -> np.ndarray:
        """Random field of unit variance without detail below `scale` mm, a number or one per axis.

        A lattice of normal numbers seen through cubic B-splines. Does not advance `rng`.
        """
        weights = [_bspline_weights(axis, s) for axis, s in zip(self.axes, np.broadcast_to(scale, 3))]
        lattice = rng.spawn(1)[0].standard_normal([w.shape[1] for w in weights], np.float32)
        field = np.einsum("hj,kjw->khw", weights[1], lattice @ weights[2].T, optimize=True)
        return np.tensordot(weights[0], field, 1) / np.float32((151 / 315) ** 1.5)

    def box(self, low: Sequence[float], high: Sequence[float]) -> tuple[slice, ...]:
        """Index of the voxels that can lie between the corners low and high (z, y, x in mm)."""
        pad = WARP_LIMIT + self.edge
        return tuple(slice(*np.searchsorted(axis, (a - pad, b + pad)))
                     for axis, a, b in zip(self.axes, low, high))

    def cover(self, distance: np.ndarray, edge: float | None = None) -> np.ndarray:
        """Share of each voxel inside a shape, from its signed distance (mm, negative inside)."""
        t = np.clip(0.5 - distance / np.float32(edge or self.edge), 0, 1)
        return t * t * (3 - 2 * t)

    def shell(self, distance: np.ndarray, thickness: float) -> np.ndarray:
        """Share of each voxel in the layer of that thickness (mm) just inside a surface."""
        return self.cover(distance) - self.cover(distance + thickness)

    def ellipsoid(self, centre: Sequence[float], radii: Sequence[float], turn: float = 0.0) -> np.ndarray:
        """Signed distance (mm, first order) to an ellipsoid turned by `turn` radians about z."""
        z, y, x = self.z - centre[0], self.y - centre[1], self.x - centre[2]
        if turn:
            c, s = np.float32(np.cos(turn)), np.float32(np.sin(turn))
            y, x = c * y - s * x, s * y + c * x
        z, y, x = z / np.float32(radii[0]), y / np.float32(radii[1]), x / np.float32(radii[2])
        k = np.sqrt(z * z + y * y + x * x) + 1e-6
        slope = np.sqrt((z / radii[0]) ** 2 + (y / radii[1]) ** 2 + (x / radii[2]) ** 2) + 1e-6
        return (k * (k - 1) / slope).astype(np.float32)

    def tube(self, volume: np.ndarray, points: Sequence, radii: float | Sequence[float], value: float) -> None:
        """Paint a polyline tube (points [n, 3] z, y, x in mm; radii one per point or a number)."""
        centres = np.asarray(points, np.float32)
        sizes = np.broadcast_to(np.asarray(radii, np.float32), len(centres))
        if len(centres) > 2:
            line = _round_corners(_round_corners(np.column_stack([centres, sizes])))
            centres, sizes = line[:, :3], line[:, 3]
        for p, q, rp, rq in zip(centres[:-1], centres[1:], sizes[:-1], sizes[1:]):
            reach = max(rp, rq)
            if reach < 0.1 * self.edge:  # nothing of it would be seen
                continue
            box = self.box(np.minimum(p, q) - reach, np.maximum(p, q) + reach)
            part = volume[box]
            if not part.size:
                continue
            along = q - p
            dz, dy, dx = self.z[box] - p[0], self.y[box] - p[1], self.x[box] - p[2]
            t = np.clip((dz * along[0] + dy * along[1] + dx * along[2]) / (along @ along + 1e-6), 0, 1)
            distance = np.sqrt((dz - t * along[0]) ** 2 + (dy - t * along[1]) ** 2 + (dx - t * along[2]) ** 2)
            radius = rp + (rq - rp) * t
            thin = np.minimum(1, 2.2 * radius / self.edge)  # a thinner tube than a voxel fills it in part
            paint(part, thin * self.cover(distance - radius), value)


def _bspline_weights(axis, scale):
    """Weights [len(axis), n] of n cubic B-splines that stand `scale` mm apart."""
    t = (axis - axis.min()) / scale
    base = np.floor(t).astype(int)
    f = t - base
    weights = np.zeros((len(axis), base.max() + 4), np.float32)
    rows = np.arange(len(axis))
    for k, w in enumerate(((1 - f) ** 3, 3 * f**3 - 6 * f**2 + 4, -3 * f**3 + 3 * f**2 + 3 * f + 1, f**3)):
        weights[rows, base + k] = w / 6
    return weights


def _round_corners(line):
    """Polyline [n, k] with every corner cut at a quarter of its sides (Chaikin 1974); the ends stay."""
    cut = np.stack([0.75 * line[:-1] + 0.25 * line[1:], 0.25 * line[:-1] + 0.75 * line[1:]], 1)
    return np.concatenate([line[:1], cut.reshape(-1, line.shape[1]), line[-1:]])


def paint(volume: np.ndarray, alpha: np.ndarray, value: np.ndarray | float) -> None:
    """Blend `value` (a number or an array) into `volume` in place, by the share alpha in [0, 1]."""
    volume += alpha * (value - volume)


def smooth_max(a: np.ndarray, b: np.ndarray, width: float) -> np.ndarray:
    """Maximum of two signed distances with the crease rounded over `width` mm (smooth intersection)."""
    h = np.maximum(width - np.abs(a - b), 0) / width
    return np.maximum(a, b) + h * h * (width / 4)


def smooth_min(a: np.ndarray, b: np.ndarray, width: float) -> np.ndarray:
    """Minimum of two signed distances with the crease rounded over `width` mm (smooth union)."""
    return -smooth_max(-a, -b, width)


def ramp(value: np.ndarray, low: float | np.ndarray, high: float | np.ndarray) -> np.ndarray:
    """0 below low, 1 above high, smooth between (low > high turns it round)."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def fit_scale(shape: Sequence[int], spacing: Sequence[float], half_size: Sequence[float],
              wanted: float = 1.0) -> float:
    """The wanted scale, or less where a body of half size (y, x) mm would leave the in-plane view."""
    field = [n * s / 2 for n, s in zip(shape[1:], spacing[1:])]
    return min(wanted, *(0.96 * f / h for f, h in zip(field, half_size)))


def check_grid(shape: Sequence[int], spacing: Sequence[float]) -> None:
    """See that shape is three positive integers and spacing three positive numbers.

    Raises:
        ValueError: they are not.
    """
    if len(shape) != 3 or any(int(n) != n or n < 1 for n in shape):
        raise ValueError(f"shape is {tuple(shape)}: expected three positive integers (z, y, x)")
    if len(spacing) != 3 or not all(0 < s < np.inf for s in spacing):
        raise ValueError(f"spacing is {tuple(spacing)}: expected three positive numbers (z, y, x) in mm")


def grow_tree(rng: np.random.Generator, start: Sequence[float], targets: np.ndarray, tip_radius: float,
              power: float = 2.7) -> list[tuple[np.ndarray, np.ndarray, float, float]]:
    """Branches of a tree from `start` towards every target point.

    Each branch heads for the middle of its targets, then halves them across their widest direction; radii follow
    Murray's law, r^power adding up at a fork.

    Args:
        rng: of the forks.
        start: (z, y, x) in mm.
        targets: [n, 3] = (z, y, x) in mm.
        tip_radius: of the last branches, mm.
        power: of Murray's law.

    Returns:
        (p, q, rp, rq) of every branch: its ends and its radii there.
    """
    branches, todo = [], [(np.asarray(start, np.float32), np.asarray(targets, np.float32))]
    while todo:
        p, points = todo.pop()
        n = len(points)
        q = p + (points.mean(0) - p) * (rng.uniform(0.3, 0.6) if n > 1 else 1)
        q = q + rng.normal(0, 0.06, 3).astype(np.float32) * np.linalg.norm(q - p)
        r = tip_radius * n ** (1 / power)
        branches.append((p, q, r * 1.05, r * 0.9 if n > 1 else r * 0.5))
        if n > 1:
            spread = points - q
            axis = np.linalg.svd(spread - spread.mean(0), full_matrices=False)[2][0]
            order = np.argsort(spread @ axis)
            cut = int(np.clip(round(n * rng.uniform(0.3, 0.7)), 1, n - 1))
            todo += [(q, points[order[:cut]]), (q, points[order[cut:]])]
    return branches
