"""How a volume's array lies in the patient."""
from collections.abc import Sequence
from itertools import permutations

import numpy as np

VIEWS = ("axial", "coronal", "sagittal")     # the planes across the patient's axes S, P and L


def patient_axes(direction: Sequence[float]) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """The axes of [D, H, W] that run nearest to the patient's axes S, P and L, and which of them run towards these.

    ``direction`` is that of a `utils.io.volume.Volume`: 9 numbers, row-major, whose columns are the directions of x, y
    and z (the axes 2, 1 and 0 of the array) in the patient's L, P and S. The slices of the axial, coronal and sagittal
    view are stacked along the first, second and third of these axes.
    """
    along = np.reshape(direction, (3, 3))[::-1, ::-1]      # [S, P, L] by [axis 0, 1, 2]
    axes = max(permutations(range(3)), key=lambda order: sum(abs(along[k, axis]) for k, axis in enumerate(order)))
    return axes, tuple(bool(along[k, axis] > 0) for k, axis in enumerate(axes))


def upright(array: np.ndarray, direction: Sequence[float]) -> np.ndarray:
    """A view of [D, H, W] as [I, P, L]: slices from the head down, rows to the back, columns to the patient's left."""
    axes, towards = patient_axes(direction)
    steps = [-1 if towards[0] else 1, *(1 if each else -1 for each in towards[1:])]
    return array.transpose(axes)[tuple(slice(None, None, step) for step in steps)]
