"""Counts of a detector, turned into line integrals of attenuation by the law of Beer and Lambert."""
import numpy as np

FLOAT_FLOOR = 2.0 ** -17    # half a step of a 16-bit detector, as a part of the open beam


def line_integrals(counts: np.ndarray, flat: np.ndarray | None = None, dark: np.ndarray | None = None,
                   i0: float | None = None, bad: np.ndarray | None = None,
                   out: np.ndarray | None = None) -> tuple[np.ndarray, int]:
    """Compute p = -ln((counts - dark) / (flat - dark)).

    The logarithm needs positive numbers, so counts - dark below a floor become the floor, as in RTK
    (LUTbasedVariableI0RawToAttenuationImageFilter, whose floor is 1 and whose I0 has the dark signal in it too).
    Where all counts are whole numbers the floor is half a count: what ln(N + 1/2), the nearly unbiased logarithm of
    a Poisson count (Haldane 1955), gives a zero. Counts on another scale (averaged frames, transmissions) don't tell
    their step; their floor is 2^-17 of the open beam, half a step of 16 bits, p = 11.8. The smallest positive value
    of the stack would be a poor floor: among pixels of noise around zero it is as small as chance allows, the smaller
    the more pixels there are.

    Args:
        counts: [views, v, u], an array or a tensor on the CPU.
        flat: open beam, [v, u] or frames [n, v, u], which are averaged.
        dark: signal without beam, [v, u] or frames [n, v, u]; None: zero.
        i0: the open beam as one number, instead of ``flat``: what a pixel without an object reads, photons or grey
            values in the units of ``counts``, its dark signal included (the same as a flat field filled with i0).
        bad: bool [v, u], pixels that are not looked at; their p is 0.
        out: float32 array to write p to, in the shape of ``counts``; it may be ``counts`` itself.

    Returns:
        p, float32 [views, v, u], and the number of replaced pixels.

    Raises:
        ValueError: for shapes that don't fit, values that are not finite, an open beam not above dark, or a stack
            with no pixel above dark.
    """
    counts = np.asarray(counts)
    if counts.ndim != 3 or not counts.size:
        raise ValueError(f"projections of shape {counts.shape}; accepted: views x v x u")
    used = np.ones(counts.shape[1:], bool) if bad is None else ~bad
    dark, open_beam = beam(counts.shape[1:], flat, dark, i0)
    below = int((~(open_beam > 0) & used).sum())
    if below:
        raise ValueError(f"{'flat' if i0 is None else f'i0 = {i0:g}'} minus dark: {below} of {open_beam.size} pixels "
                         "are not above zero (dead pixels, or flat and dark swapped?); accepted: an open beam above "
                         "dark")
    whole, signal = True, False
    for k, view in enumerate(counts):
        check_finite(f"projections: view {k}", view)
        whole = whole and bool((view == np.rint(view)).all())
        signal = signal or bool(((view > dark) & used).any())
    if not signal:
        raise ValueError("projections: no pixel above dark in any view (no beam, or files swapped?); accepted: counts "
                         "above dark")
    open_beam = np.where(used, open_beam, 1)
    floor = np.full_like(open_beam, 0.5) if whole else FLOAT_FLOOR * open_beam
    p, replaced = np.empty(counts.shape, np.float32) if out is None else out, 0
    for k, view in enumerate(counts):
        transmitted = np.where(used, view - dark, 1)    # float64, of one view
        replaced += int((transmitted < floor).sum())
        p[k] = np.log(open_beam / np.maximum(transmitted, floor))
    return p, replaced


def beam(shape: tuple[int, int], flat: np.ndarray | None, dark: np.ndarray | None,
         i0: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Average the frames of `line_integrals`, whose arguments these are.

    Returns:
        The dark signal and the open beam above it, float64 [v, u].

    Raises:
        ValueError: for shapes that don't fit, values that are not finite, or not one of ``flat`` and ``i0``.
    """
    if (flat is None) == (i0 is None):
        raise ValueError(f"open beam: found {'neither' if flat is None else 'both'} of flat and i0; accepted: one")
    dark = np.zeros(shape) if dark is None else _mean_frame("dark", dark, shape)
    full = np.full(shape, float(i0)) if i0 is not None else _mean_frame("flat", np.asarray(flat), shape)
    return dark, np.where(np.isfinite(full), full, 0) - dark


def check_finite(name: str, values: np.ndarray) -> None:
    """Raise ValueError, one line that begins with ``name``, for values that are NaN or infinite."""
    bad = values.size - int(np.isfinite(values).sum())
    if bad:
        raise ValueError(f"{name}: {bad} pixels are NaN, infinite or beyond float32; accepted: finite values")


def _mean_frame(name: str, frames: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The mean of frames [n, v, u], or the one frame [v, u], as float64 [v, u]."""
    frames = np.asarray(frames)
    if frames.ndim not in (2, 3) or frames.shape[-2:] != shape or not frames.size:
        raise ValueError(f"{name} of shape {frames.shape} for views of shape {shape}; accepted: the views' shape, "
                         "or frames x v x u of it")
    frames = np.reshape(frames, (-1, *shape))
    check_finite(name, frames)
    return frames.mean(axis=0, dtype=np.float64)
