"""Volumes as the programs take them: a NIfTI file or a folder of DICOM slices."""
from pathlib import Path

from utils.io.dicom import read_series
from utils.io.intensity import scale_to_unit
from utils.io.nifti import SUFFIXES, read_nifti
from utils.io.volume import Volume


def read_volume(path: str | Path, orientation: str | None = None, series: str | None = None) -> Volume:
    """Read a scalar 3D NIfTI file, or a folder with a CT or MR series in DICOM.

    Args:
        path: The file or folder.
        orientation: Three letters to flip and permute the axes to, see `Volume.oriented`; None: as stored.
        series: Chooses one of several in a folder, see `utils.io.dicom.read_series`.

    Raises:
        FileNotFoundError: There is nothing of that name.
        ValueError: In one line that names the file, what was found and what is accepted.
    """
    path = Path(path)
    if path.is_dir():
        volume = read_series(path, series)
    elif not path.is_file():
        raise FileNotFoundError(f"{path}: no such file or folder")
    elif series is not None:
        raise ValueError(f"{path}: series {series} for a file; accepted with a folder of DICOM slices")
    elif not path.name.lower().endswith(SUFFIXES):
        raise ValueError(f"{path}: not a NIfTI file; accepted: names that end in {' or '.join(SUFFIXES)}, or a folder "
                         "of DICOM slices")
    else:
        volume = read_nifti(path)
    return volume.oriented(orientation) if orientation else volume


def read_unit_ct(path: str | Path, begin: int, end: int, size: int, window: tuple[float, float],
                 series: str | None = None) -> Volume:
    """Slices ``begin`` to ``end`` of a CT in HU as a prior of ``window`` (HU that 0 and 1 stand for) sees them.

    The axes are L, P, I; the values are clamped to the window, then resized to ``size`` x ``size``. Raises as
    `read_volume` and `Volume.crop`, and ValueError where all is one value.
    """
    volume = read_volume(path, "LPI", series)
    try:
        volume = volume.crop(begin, end)
        return volume.with_array(scale_to_unit(volume.array, *window)).resize(size)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
