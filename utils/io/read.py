"""Volumes as the programs take them: a NIfTI file or a folder of DICOM slices."""
import logging
from pathlib import Path

from utils.io.dicom import read_series
from utils.io.intensity import beyond_window, check_ct, scale_to_unit
from utils.io.nifti import SUFFIXES, read_nifti
from utils.io.volume import Volume

log = logging.getLogger(__name__)


def read_volume(path: str | Path, orientation: str | None = None, series: str | None = None,
                modality: str | None = None) -> Volume:
    """Read a scalar 3D NIfTI file, or a folder with a CT or MR series in DICOM.

    Args:
        path: The file or folder.
        orientation: Three letters to flip and permute the axes to, see `Volume.oriented`; None: as stored.
        series: Chooses one of several in a folder, see `utils.io.dicom.read_series`.
        modality: "ct" or "mr" where only that is wanted; a file doesn't say which it is.

    Raises:
        FileNotFoundError: There is nothing of that name.
        ValueError: In one line that names the file, what was found and what is accepted.
    """
    path = Path(path)
    if path.is_dir():
        volume = read_series(path, series, modality)
    elif not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    elif not path.is_file():
        raise ValueError(f"{path}: a device, pipe or socket; accepted: a NIfTI file, or a folder of DICOM slices")
    elif series is not None:
        raise ValueError(f"{path}: series {series} for a file; accepted with a folder of DICOM slices")
    elif not path.name.lower().endswith(SUFFIXES):
        raise ValueError(f"{path}: not a NIfTI file; accepted: names that end in {' or '.join(SUFFIXES)}, or a folder "
                         "of DICOM slices")
    else:
        volume = read_nifti(path)
    return volume.oriented(orientation) if orientation else volume


def read_unit_ct(path: str | Path, begin: int, end: int, window: tuple[float, float],
                 series: str | None = None) -> Volume:
    """Slices ``begin`` to ``end`` of a CT in HU as a prior of ``window`` (HU that 0 and 1 stand for) sees them.

    The axes are L, P, S, so that slices count from the feet; the values are clamped to the window, to be resized after
    that. It is said which slices these are, what lies beyond the window, and what speaks against HU.

    Args:
        path: as in `read_volume`.
        begin: first slice.
        end: slice after the last; both 0: all.
        window: (low, high) in HU.
        series: as in `read_volume`.

    Raises:
        ValueError, OSError: as `read_volume`, `check_ct` and `Volume.crop`, and where all is one value.
    """
    volume = read_volume(path, "LPS", series, "ct")
    try:
        if doubt := check_ct(volume.array):
            log.warning("%s: %s", path, doubt)
        where = volume.where(begin, end)
        volume = volume.crop(begin, end)
        log.info("%s: %s", path, where)
        below, above, least, most = beyond_window(volume.array, *window)
        if below or above:
            log.info("%s: %d voxels above %g HU (up to %g) and %d below %g (down to %g) are clamped to that", path,
                     above, window[1], most, below, window[0], least)
        return volume.with_array(scale_to_unit(volume.array, *window))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
