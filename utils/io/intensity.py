"""Intensities: windows of them as the range [0, 1] that the priors know, and whether they are what they should be."""
from typing import Any

import numpy as np

PERCENTILES = (0.1, 99.9)
AIR = 0.02           # of the range between these percentiles: what an MR's air reaches up to
WIDENING = 0.1       # of the window: how far its ends may move outwards to the smallest and largest voxel
STRAY = 1e-6         # part of the voxels, one at least, that is not asked when the ends move
MR_WINDOWS = ("percentile", "min-max")
SOFT_TISSUE, AIR_HU = 1024, -200


def mr_window(array: np.ndarray, rule: str = "percentile") -> tuple[float, float]:
    """The intensities of an MR volume that 0 and 1 stand for.

    "percentile": up to the 99.9th percentile of the voxels that are not air, from the 0.1th of them or, where there
    is air below that, of all (air is to be near 0); each end moved out to the smallest or largest voxel where that is
    less than 10 % of the window away. Stray voxels (one, or 1 in a million) that lie further out are not asked: a hot
    or a negative voxel moves nothing. Air is what lies below 2 % of the way from the 0.1th to the 99.9th percentile
    of all voxels; where these are the same, all voxels up to that value.

    "min-max": from the smallest to the largest voxel, as in the published scripts.

    Args:
        array: The values of the whole volume, finite.
        rule: One of `MR_WINDOWS`.

    Returns:
        (low, high); both are the same where all voxels are.

    Raises:
        ValueError: another rule.
    """
    if rule not in MR_WINDOWS:
        raise ValueError(f"rule {rule!r}; accepted: {' or '.join(MR_WINDOWS)}")
    least, most = float(array.min()), float(array.max())
    if rule == "min-max":
        return least, most
    low, high = _percentiles(array)
    tissue = array[array > low + AIR * (high - low)]
    if not tissue.size:
        return least, most
    high = _percentiles(tissue)[1]
    if not high > low:
        return least, most
    reach, stray = WIDENING * (high - low), max(1, int(STRAY * array.size))
    low_end, high_end = low - reach, high + reach
    if np.count_nonzero(array <= low_end) <= stray:
        low = min(low, float(array[array > low_end].min()))
    if np.count_nonzero(array >= high_end) <= stray:
        high = max(high, float(array[array < high_end].max()))
    return low, high


def _percentiles(values: np.ndarray) -> tuple[float, float]:
    """Two voxels of the rank of `PERCENTILES` or further inside: of a few values, never the outermost."""
    return (float(np.percentile(values, PERCENTILES[0], method="higher")),
            float(np.percentile(values, PERCENTILES[1], method="lower")))


def scale_to_unit(array: np.ndarray, low: float, high: float, clip: bool = True) -> np.ndarray:
    """Map [low, high] to [0, 1]; values beyond are clamped to it, or kept (below 0, above 1) without ``clip``.

    ValueError when nothing but one value is left.
    """
    if not high > low or array.min() >= high or array.max() <= low or array.min() == array.max():
        raise ValueError(f"all voxels have one value in the window from {low:g} to {high:g}; accepted: a volume "
                         "with contrast")
    return ((np.clip(array, low, high) if clip else array) - low) / (high - low)


def scale_from_unit(array: Any, low: float, high: float) -> Any:
    """The inverse of `scale_to_unit` (without the clamp), of an array or a tensor."""
    return array * (high - low) + low


def beyond_window(array: np.ndarray, low: float, high: float) -> tuple[int, int, float, float]:
    """How many voxels lie below ``low`` and above ``high``, and the smallest and the largest value."""
    return (int(np.count_nonzero(array < low)), int(np.count_nonzero(array > high)), float(array.min()),
            float(array.max()))


def check_ct(array: np.ndarray) -> str:
    """What speaks against HU (air near -1000, water 0) in the values of a whole CT volume, in words; "" if nothing.

    Raises:
        ValueError: They are certainly none: all within a range that noise alone has, such as 0 to 1.
    """
    low, high = float(array.min()), float(array.max())
    if low < high and max(-low, high) <= 10:
        raise ValueError(f"values from {low:g} to {high:g} are no HU (scaled to 0..1?); accepted: HU, in which air has "
                         "-1000 and water 0")
    if low >= AIR_HU:
        soft = np.count_nonzero(np.abs(array - SOFT_TISSUE) < 100) / array.size
        if soft > 0.01 and low > -100:
            return (f"values from {low:g} to {high:g}, many of them near 1024 and none below {AIR_HU}: HU with 1024 "
                    "added? HU have air near -1000 and water at 0")
        return (f"values from {low:g} to {high:g}, none below {AIR_HU}: an MR, or no HU? HU have air near -1000 and "
                "water at 0")
    median = float(np.median(array))
    if median > 400:
        return f"a median of {median:g}: no HU? Of a patient in air it is between -1000 and 100 HU"
    return ""
