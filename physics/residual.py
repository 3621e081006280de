"""Where a volume does not explain its measurement: in which views, and where on the detector."""
from dataclasses import dataclass

import numpy as np
import torch

from physics.cone_beam import ConeBeam

BLOCK = 1 << 24     # line integrals that are computed at a time


@dataclass(frozen=True)
class Residual:
    """Root mean squares of A x - y, as parts of that of y.

    Attributes:
        by_view: float64 [views].
        by_pixel: float64 [v, u], of a typical view: each counts alike, so that one that is far off, which `by_view`
            shows, does not hide the detector's faults.
        signal: float64 [v, u], the same of y itself: 1 where a pixel saw as much as all did.
    """
    by_view: np.ndarray
    by_pixel: np.ndarray
    signal: np.ndarray

    def by_region(self, most: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
        """`by_pixel` and `signal` over blocks of the detector, up to ``most`` (v, u) of them, and a block's size."""
        size: tuple = tuple(-(-count // limit) for count, limit in zip(self.by_pixel.shape, most))
        return _blocks(self.by_pixel, size), _blocks(self.signal, size), size


def residual(x: torch.Tensor, y: torch.Tensor, operator: ConeBeam) -> Residual:
    """Compare a volume's projections with the measured ones, some views at a time.

    Args:
        x: [D, 1, H, W].
        y: [1, views, v, u], all views of the operator.
        operator: A.
    """
    geometry, (views, rows, columns) = operator.geometry, y.shape[1:]
    by_view, by_pixel, signal = np.zeros(views), np.zeros((rows, columns)), np.zeros((rows, columns))
    step = max(1, BLOCK // (rows * columns))
    for begin in range(0, views, step):
        some = list(range(begin, min(begin + step, views)))
        seen, few = y[0, begin:begin + step], geometry.select(some)
        signal += seen.square().sum(0, dtype=torch.float64).cpu().numpy()
        top, bottom, left, right = few.window
        beam = operator.on(few) if top < bottom and left < right else None
        misfit = (-seen if beam is None else beam.all_views(beam.A(x))[0] - seen).square()
        means = misfit.mean((1, 2), dtype=torch.float64)
        by_view[some] = means.cpu().numpy()
        misfit /= means.to(misfit).clamp_(min=torch.finfo(misfit.dtype).tiny)[:, None, None]
        by_pixel += misfit.sum(0, dtype=torch.float64).cpu().numpy()
    mean = signal.mean() / views or 1.0
    return Residual(*(np.sqrt(value / mean) for value in (by_view, by_pixel / views * np.median(by_view),
                                                          signal / views)))


def _blocks(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Root mean squares over blocks of an image [v, u]; the last ones may be smaller."""
    starts = [np.arange(0, count, step) for count, step in zip(image.shape, size)]
    squares = np.add.reduceat(np.add.reduceat(image ** 2, starts[0], 0), starts[1], 1)
    counts = np.outer(*(np.diff([*start, count]) for start, count in zip(starts, image.shape)))
    return np.sqrt(squares / counts)
