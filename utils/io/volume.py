"""A volume and where its voxels lie in the patient: reorder, crop, resize."""
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

TOWARDS = {"L": (0, 1), "R": (0, -1), "P": (1, 1), "A": (1, -1), "S": (2, 1), "I": (2, -1)}    # coordinate, sign
THICK = 1.5    # times the spacing of the others: that of the axis which slices are stacked along


@dataclass(frozen=True)
class Volume:
    """A scalar volume and where its voxels lie in the patient.

    ``array`` is float32 [D, H, W] = (z, y, x). ``spacing`` (mm) and ``origin`` (mm, centre of voxel 0) are in
    the order x, y, z; ``direction`` is the 3x3 matrix (row-major, 9 numbers) whose columns are the directions of
    the axes x, y, z, as in SimpleITK (LPS patient coordinates: millimetres to the left, the back, the head).
    """

    array: np.ndarray
    spacing: tuple = (1.0, 1.0, 1.0)
    origin: tuple = (0.0, 0.0, 0.0)
    direction: tuple = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)

    @classmethod
    def at(cls, array: np.ndarray, axes: np.ndarray, origin: np.ndarray) -> "Volume":
        """The volume of ``array`` whose voxel (i, j, k) = (x, y, z) lies at ``origin`` + ``axes`` @ (i, j, k) mm."""
        spacing = np.linalg.norm(axes, axis=0)
        direction = np.asarray(axes) / spacing + 0.0    # + 0.0: no -0.0
        return cls(array, *(tuple(map(float, np.ravel(part))) for part in (spacing, origin, direction)))

    @property
    def axes(self) -> np.ndarray:
        """The 3x3 matrix whose columns are one step (mm) along x, y and z, in LPS."""
        return np.reshape(self.direction, (3, 3)) * np.asarray(self.spacing)

    @property
    def centre(self) -> np.ndarray:
        """Where the volume's centre lies (mm), x, y, z in LPS."""
        return np.asarray(self.origin) + self.axes @ (np.subtract(self.array.shape[::-1], 1) / 2)

    def with_array(self, array: np.ndarray | torch.Tensor) -> "Volume":
        """The same place in the patient with other values (a tensor or an array of the same shape).

        Raises:
            ValueError: another shape.
        """
        array = np.asarray(array.cpu() if torch.is_tensor(array) else array, dtype=np.float32)
        if array.shape != self.array.shape:
            raise ValueError(f"values of shape {array.shape} for a volume of shape {self.array.shape}")
        return replace(self, array=array)

    def _moved(self, array: np.ndarray, index: tuple, spacing: tuple) -> "Volume":
        """A volume whose voxel 0 lies at this one's continuous ``index`` (x, y, z)."""
        origin = np.asarray(self.origin) + self.axes @ np.asarray(index, dtype=float)
        return replace(self, array=array, origin=tuple(map(float, origin)), spacing=tuple(map(float, spacing)))

    def oriented(self, code: str) -> "Volume":
        """The same voxels, their axes x, y, z flipped and permuted to point towards the three letters of ``code``.

        As `SimpleITK.DICOMOrient`: "LPS" has x to the left, y to the back, z to the head; the axes of an oblique
        volume go to the nearest ones.

        Raises:
            ValueError: ``code`` does not name one direction of each of the three axes.
        """
        if len(code) != 3 or {TOWARDS.get(letter, (None,))[0] for letter in code} != {0, 1, 2}:
            raise ValueError(f"orientation {code!r}; accepted: one letter each of LR, PA and SI, such as LPS")
        nearest = self._nearest()
        order = [[coordinate for coordinate, _ in nearest].index(TOWARDS[letter][0]) for letter in code]
        return self._rearranged(order, [nearest[k][1] * TOWARDS[letter][1] for k, letter in zip(order, code)])

    def _nearest(self) -> list[tuple[int, int]]:
        """The patient coordinate (0 L, 1 P, 2 S) that each axis x, y, z is nearest to, and the sign; each one once."""
        left, nearest = np.reshape(self.direction, (3, 3)).astype(float), [(0, 1)] * 3
        for _ in range(3):      # the best match first; of equal ones the last, as ITK
            coordinate, axis = divmod(8 - int(np.argmax(np.abs(left).ravel()[::-1])), 3)
            nearest[axis] = coordinate, 1 if self.direction[3 * coordinate + axis] > 0 else -1
            left[coordinate], left[:, axis] = -1e-300, -1e-300
        return nearest

    def _rearranged(self, order: list[int], signs: list[int]) -> "Volume":
        """Axis k of the result is axis ``order[k]`` of this volume (0, 1, 2 = x, y, z), flipped where signs[k] < 0."""
        if order == [0, 1, 2] and min(signs) > 0:
            return self
        array = self.array.transpose([2 - axis for axis in order[::-1]])
        array = np.ascontiguousarray(array[tuple(slice(None, None, sign) for sign in signs[::-1])])
        first = np.zeros(3)
        for axis, sign in zip(order, signs):
            first[axis] = self.array.shape[2 - axis] - 1 if sign < 0 else 0
        origin = np.asarray(self.origin) + self.axes @ first
        direction = np.reshape(self.direction, (3, 3))[:, order] * signs + 0.0
        return Volume(array, tuple(self.spacing[axis] for axis in order), tuple(map(float, origin)),
                      tuple(map(float, direction.ravel())))

    def with_axis_first(self, axis: int) -> "Volume":
        """The same voxels in the same place, stacked along ``axis`` (0, 1, 2 = x, y, z), which becomes z.

        The others keep their order: of a volume stored in sagittal slices (axis 0), the array becomes [W, D, H].
        """
        return self._rearranged([other for other in range(3) if other != axis] + [axis], [1, 1, 1])

    def where(self, begin: int, end: int) -> str:
        """In words, which slices ``begin`` to ``end`` (half-open; 0, 0: all) are, and the millimetres they cover."""
        depth, height, width = self.array.shape
        begin, end = (0, depth) if (begin, end) == (0, 0) else (begin, end)
        coordinate, sign = self._nearest()[2]
        faces = [(np.asarray(self.origin) + self.axes @ ((width - 1) / 2, (height - 1) / 2, k - 0.5))[coordinate]
                 for k in (begin, end)]
        first = "the " + ("right", "left", "front", "back", "feet", "head")[2 * coordinate + (sign < 0)]
        return (f"slices {begin} to {end - 1} of {depth}, counted from {first}: {'LPS'[coordinate]} {min(faces):.1f} "
                f"to {max(faces):.1f} mm")

    def plane(self, axis: int) -> str:
        """axial, coronal or sagittal: what slices are that are stacked along ``axis`` of the array, (z, y, x)."""
        return ("sagittal", "coronal", "axial")[self._nearest()[2 - axis][0]]

    def crop(self, begin: int, end: int) -> "Volume":
        """Slices ``begin`` to ``end`` (half-open) along z; 0, 0 keeps them all. ValueError if that is empty."""
        depth = self.array.shape[0]
        if (begin, end) == (0, 0):
            return self
        if not 0 <= begin < end <= depth:
            raise ValueError(f"begin {begin}, end {end}: accepted is 0 <= begin < end <= {depth}, the number of slices "
                             "(or 0 and 0 for all)")
        return self._moved(self.array[begin:end], (0, 0, begin), self.spacing)

    def resize(self, size: int | Sequence[int]) -> "Volume":
        """Resample every slice to ``size`` x ``size``, or the volume to a shape (D, H, W); the field of view is kept.

        Linear, antialiased.
        """
        shape = (len(self.array), size, size) if isinstance(size, int) else tuple(size)
        if shape == self.array.shape:
            return self
        array = torch.from_numpy(np.ascontiguousarray(self.array))[:, None]
        array = F.interpolate(array, shape[1:], mode="bilinear", antialias=True, align_corners=False)
        if shape[0] != len(array):      # slices as the rows of one image
            array = F.interpolate(array.flatten(1)[None, None], (shape[0], shape[1] * shape[2]), mode="bilinear",
                                  antialias=True, align_corners=False)
        steps = np.divide(self.array.shape, shape)[::-1]
        return self._moved(array.view(shape).numpy(), tuple((steps - 1) / 2), tuple(np.multiply(self.spacing, steps)))

    def filled_by(self, size: float) -> tuple[int, int, int]:
        """The shape (D, H, W) of voxels of ``size`` mm that fill the volume, to half a voxel."""
        depth, height, width = (max(1, round(count * spacing / size))
                                for count, spacing in zip(self.array.shape, self.spacing[::-1]))
        return depth, height, width

    def thinner(self, factor: int) -> "Volume":
        """The place of ``factor`` times as many slices along z, each as much thinner: zeros that take no memory."""
        shape = (factor * self.array.shape[0], *self.array.shape[1:])
        return self._moved(np.broadcast_to(np.float32(0), shape), (0, 0, (1 / factor - 1) / 2),
                           (*self.spacing[:2], self.spacing[2] / factor))

    def thicken(self, array: np.ndarray | torch.Tensor, factor: int) -> "Volume":
        """The volume of ``array``, whose slices each stand for ``factor`` of this one's along z."""
        array = np.asarray(array, dtype=np.float32)
        return self._moved(array, (0, 0, (factor - 1) / 2), (*self.spacing[:2], self.spacing[2] * factor))


def slice_axis(volume: Volume, wanted: str | None = None) -> int:
    """The axis (0, 1, 2 = x, y, z) that an MR volume's thick slices are stacked along.

    ``wanted`` names it; without, it is the one whose spacing is at least 1.5 times the others', else z, the file's
    third.

    Raises:
        ValueError: another name.
    """
    if wanted is not None:
        if wanted not in ("x", "y", "z"):
            raise ValueError(f"slice axis {wanted!r}; accepted: x, y, z (the file's first, second, third)")
        return "xyz".index(wanted)
    largest = int(np.argmax(volume.spacing))
    return largest if volume.spacing[largest] >= THICK * sorted(volume.spacing)[1] else 2


def empty_volume(shape: tuple, voxel_size: tuple, centre: Sequence[float]) -> Volume:
    """A volume of zeros [D, H, W] that takes no memory; voxel size and centre (mm) are in the order z, y, x."""
    origin = [c - (count - 1) / 2 * size for c, count, size in zip(centre, shape, voxel_size)]
    return Volume(np.broadcast_to(np.float32(0), shape), tuple(voxel_size[::-1]), tuple(origin[::-1]))
