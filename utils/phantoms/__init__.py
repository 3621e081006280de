"""Synthetic patients, to train and try everything without data: `thorax` (CT) and `head` (MR, T1)."""
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from utils.io.files import complete_file
from utils.phantoms.head import head
from utils.phantoms.thorax import thorax

__all__ = ["head", "thorax", "write_phantom"]

# Array order (z, y, x) of each generator as the image directions SimpleITK names.
ORIENTATION = {"thorax": "LPI", "head": "LPS"}


def write_phantom(path: str | Path, kind: str, volume: np.ndarray, spacing: Sequence[float]) -> None:
    """Write a generated volume as int16 NIfTI: HU for a thorax, 1000 times a head.

    The image is centred on the origin, with the orientation of its kind. The file appears under its name only when it
    is complete.

    Args:
        path: of the file, .nii or .nii.gz.
        kind: "thorax" or "head".
        volume: [D, H, W], as the generator of its kind gives it.
        spacing: (z, y, x) in mm.

    Raises:
        OSError, RuntimeError: the file cannot be written.
    """
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(np.rint(volume * (1 if kind == "thorax" else 1000)).astype(np.int16))
    image.SetSpacing([float(s) for s in spacing[::-1]])
    towards = np.diag([1.0, 1.0, -1.0 if ORIENTATION[kind] == "LPI" else 1.0])
    image.SetDirection(towards.ravel().tolist())
    middle = (np.array(image.GetSize()) - 1) / 2 * image.GetSpacing()
    image.SetOrigin((-towards @ middle).tolist())
    with complete_file(path) as partial:
        sitk.WriteImage(image, str(partial))
