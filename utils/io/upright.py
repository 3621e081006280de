"""Axes at right angles: rounding taken out of nearly orthogonal ones, sheared stacks (gantry tilt) resampled."""
import math

import numpy as np

from utils.io.volume import Volume

ROUNDING = 1e-3    # cosine between two axes, up to which it is not 0 by rounding alone
LEAST = 0.5        # height of a voxel as a part of its edge, below which a stack is no stack
GROWTH = 8         # how many times as many voxels the upright grid may have


def upright(array: np.ndarray, axes: np.ndarray, origin: np.ndarray) -> tuple[Volume, str]:
    """The volume of voxels at ``origin`` + ``axes`` @ (i, j, k), on axes at right angles.

    Axes within 1e-3 of right angles become the nearest ones that have them (polar decomposition), about the volume's
    centre. Sheared ones are resampled linearly: x stays, y and z are turned upright, slices stay in their planes,
    and the spacing is the distance between planes of voxels. The grid grows to hold all voxels; what none of them
    covers gets the lowest value.

    Args:
        array: Values [D, H, W].
        axes: 3x3, the steps (mm) along x, y, z as columns, LPS.
        origin: Centre of voxel 0 (mm), LPS.

    Returns:
        The volume, and in words what was resampled ("" where nothing was).

    Raises:
        ValueError: The axes lie nearly in one plane.
    """
    spacing = np.linalg.norm(axes, axis=0)
    unit = axes / spacing
    skew = np.abs(unit.T @ unit - np.eye(3)).max()
    if skew > ROUNDING:
        return _resampled(array, axes, origin)
    if skew > 1e-12:
        u, _, v = np.linalg.svd(unit)
        centre = np.subtract(array.shape[::-1], 1) / 2
        origin, axes = origin + (axes - u @ v * spacing) @ centre, u @ v * spacing
    return Volume.at(array, axes, origin), ""


def _resampled(array: np.ndarray, axes: np.ndarray, origin: np.ndarray) -> tuple[Volume, str]:
    spacing, size = np.linalg.norm(axes, axis=0), np.array(array.shape[::-1])
    turned, heights = np.linalg.qr(axes)
    turned, heights = turned * np.sign(np.diag(heights)), np.abs(np.diag(heights))
    degrees = math.degrees(math.acos(min((heights / spacing).min(), 1)))
    if (heights < LEAST * spacing).any():
        raise ValueError(f"axes that are {degrees:.0f} degrees from right angles; accepted: up to 60")
    steps = turned.T @ axes / heights[:, None]      # indices of the new grid a voxel step: 1 on the diagonal, 0 below
    far = np.triu(steps, 1) * (size - 1)
    first = np.floor(np.minimum(far, 0).sum(1) + 1e-6)
    grown = (np.ceil(np.maximum(far, 0).sum(1) - 1e-6) - first + size).astype(int)
    if grown.prod() > GROWTH * size.prod():
        raise ValueError(f"slices sheared by {degrees:.0f} degrees, on {' x '.join(map(str, grown))} upright voxels; "
                         f"accepted: up to {GROWTH} times the {' x '.join(map(str, size))} there are")
    import SimpleITK as sitk  # here: it takes 0.1 GB, and most volumes are upright

    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(np.asarray(origin, float).tolist())
    image.SetDirection((axes / spacing).ravel().tolist())
    new = Volume.at(np.zeros(0), turned * heights, origin + turned * heights @ first)
    image = sitk.Resample(image, grown.tolist(), sitk.Transform(), sitk.sitkLinear, new.origin, new.spacing,
                          new.direction, float(array.min()))
    what = (f"axes sheared by {degrees:.1f} degrees (gantry tilt) were resampled to an upright grid of "
            f"{' x '.join(map(str, grown))} voxels")
    return Volume(sitk.GetArrayFromImage(image), new.spacing, new.origin, new.direction), what
