"""Whether a prior is one for the slices that it is to be used on, by what its card says."""
from typing import Any

PIXELS = 1.5    # how many times larger or smaller those of the prior may be


def misfits(card: Any, modality: str, window: Any, plane: str, size: int | None = None) -> list[str]:
    """What speaks against it, in words; nothing of what the card leaves open.

    Args:
        card: what the prior is, see `utils.io.prior_file.Card`.
        modality: "ct" or "mr", of the slices.
        window: that 0 and 1 stand for: two numbers, or a rule of MR.
        plane: axial, coronal or sagittal, of the slices.
        size: their width in pixels; None: any is fine.

    Raises:
        ValueError: another modality.
    """
    if card.modality not in (None, modality):
        raise ValueError(f"a prior of {card.modality.upper()} slices; accepted: {modality.upper()}")
    found = []
    if card.plane not in (None, plane):
        found.append(f"a prior of {card.plane} slices on {plane} ones")
    if isinstance(card.window, str) or isinstance(window, str):
        if card.window not in (None, window):
            found.append(f"a prior of the window {_words(card.window)} in the window {_words(window)}")
    elif card.window and (window[0] < card.window[0] or window[1] > card.window[1]):
        found.append(f"a prior of the window {_words(card.window)} HU in the window {_words(window)}: what lies beyond "
                     "its own it has never seen")
    if size is not None and card.image_size not in (None, size):
        found.append(f"a prior of images of {card.image_size} pixels on slices of {size}: sizes that agree work better")
    return found


def misfit_of_pixels(card: Any, pixels: tuple[float, float]) -> str:
    """The same of the slices' pixels in mm, rows and columns; "" where they are about as large as the prior's."""
    if not card.pixel_size or max(max(pixel / card.pixel_size, card.pixel_size / pixel) for pixel in pixels) <= PIXELS:
        return ""
    return (f"a prior of pixels of {card.pixel_size:g} mm on {pixels[0]:.3g} x {pixels[1]:.3g} mm: sizes within 1.5 "
            "times work better")


def _words(window: Any) -> str:
    return window if isinstance(window, str) else f"{window[0]:g} to {window[1]:g}"
