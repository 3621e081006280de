"""Intensities: a window of a volume's values as the range [0, 1] that the priors know, and back."""
import numpy as np


def scale_to_unit(array: np.ndarray, low: float, high: float) -> np.ndarray:
    """Clamp to [low, high] and map that range to [0, 1]. ValueError when nothing but one value is left."""
    if not high > low or array.min() >= high or array.max() <= low or array.min() == array.max():
        raise ValueError(f"all voxels have one value in the window from {low:g} to {high:g}; accepted: a volume "
                         "with contrast")
    return (np.clip(array, low, high) - low) / (high - low)


def scale_from_unit(array, low: float, high: float):
    """The inverse of `scale_to_unit` (without the clamp)."""
    return array * (high - low) + low
