"""Measured cone-beam projections in common files: stacks, folders of TIFFs, and lists of bad pixels."""
import re
import tokenize
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

import numpy as np

from utils.io.files import check_file
from utils.io.itk_image import READERS, open_image
from utils.io.nifti import read_nifti_array
from utils.io.tiff import SUFFIXES as TIFF
from utils.io.tiff import open_tiffs
from utils.io.views import Views

STACKS = (".npy", ".mha", ".mhd", ".nrrd", ".nhdr", ".nii", ".nii.gz", *TIFF)
ACCEPTED = f"{', '.join(STACKS)}, or a folder with a TIFF a view"
# Numbers in names: a minus behind a letter (view-1) is a hyphen, unless some names (angle-1, angle1) have none.
NUMBERS = [re.compile(rf"((?:(?<![{before}])-)?[0-9]+(?:[.,][0-9]+)?)") for before in ("0-9a-z", "0-9")]


def read_bad_pixels(path: str | Path, shape: tuple[int, int]) -> np.ndarray:
    """Read which pixels of a detector are bad.

    Args:
        path: an image of the detector's shape in a format of `read_projections`, or .png, not 0 where a pixel is
            bad; or a text file (.txt, .csv) with the row and the column of a pixel, "v u", counted from 0, in each
            line, and comments behind a #.
        shape: (v, u) of the detector.

    Returns:
        bool [v, u].

    Raises:
        ValueError: in one line that names the file.
    """
    path = Path(path)
    if path.suffix.lower() not in (".txt", ".csv"):
        found = read_projections(path, images=(".png",))
        if found.shape != (1, *shape):
            raise ValueError(f"{path}: {' x '.join(map(str, found.shape))} pixels; the detector has one image of "
                             f"{' x '.join(map(str, shape))} (v, u)")
        return found[0] != 0
    check_file(path)
    bad = np.zeros(shape, bool)
    for k, line in enumerate(path.read_text("utf-8", "replace").splitlines(), 1):
        words = line.partition("#")[0].replace(",", " ").split()
        if not words:
            continue
        place = [int(word) for word in words] if all(re.fullmatch("[0-9]{1,9}", word) for word in words) else ()
        if len(place) != 2 or not (place[0] < shape[0] and place[1] < shape[1]):
            raise ValueError(f"{path}: line {k} is {line.strip()[:40]!r}; accepted: two whole numbers, v below "
                             f"{shape[0]} and u below {shape[1]}")
        bad[tuple(place)] = True
    return bad


def read_projections(path: str | Path, images: tuple[str, ...] = ()) -> np.ndarray:
    """Read all of `open_projections`.

    Returns:
        float32 [views, v, u], contiguous and writable. In memory at a time: this, and one view; of NRRD and compressed
        MetaImage the image as stored too.
    """
    return open_projections(path, images).array()


def open_projections(path: str | Path, images: tuple[str, ...] = ()) -> Views:
    """Open projections, to be read view by view.

    Integers of any width and real numbers are accepted; float32 holds whole numbers exactly up to 2^24.

    Args:
        path: an image, its axes in the order of `SimpleITK.GetArrayFromImage` (MetaImage, NRRD, NIfTI; spacing,
            origin and direction are not used), a NumPy array .npy, a TIFF with a page a view, or a folder with a TIFF
            a view. A 2D image is one view. The views of a folder come in the order of the numbers in the files'
            names, which may be negative or decimal: view2 before view10, 0.25 before 0.5. Hidden files, and those
            that do not end in .tif or .tiff, are ignored. TIFF values are taken as stored, whatever "white is zero"
            says.
        images: more endings that are accepted, of SimpleITK's readers.

    Raises:
        FileNotFoundError: without such a file.
        ValueError: in one line that names the file, what was found and what is accepted; of what is wrong with one
            view, when that is read.
    """
    path = Path(path)
    check_file(path, folder=True)
    if path.is_dir():
        return open_tiffs(files_of_views(path), single=True)
    suffix = ".nii.gz" if path.name.lower().endswith(".nii.gz") else path.suffix.lower()
    if suffix not in (*STACKS, *images):
        raise ValueError(f"{path}: file type {path.suffix or 'without a suffix'}; accepted: {ACCEPTED}")
    if suffix in TIFF:
        return open_tiffs([path])
    if suffix == ".npy":
        return _open_npy(path)
    if suffix in READERS:
        return open_image(path)[0]
    array = read_nifti_array(path)
    return Views.of(array.reshape((-1, *array.shape[-2:])), str(path))


def _open_npy(path: Path) -> Views:
    """The array in an .npy file, whose size is compared with the shape in its header."""
    try:
        stored = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, OverflowError, SyntaxError, tokenize.TokenError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{path}: no NumPy array, incomplete or damaged ({reason})") from None
    if stored.dtype.kind not in "iuf":
        raise ValueError(f"{path}: values of type {stored.dtype}; accepted: integers or real numbers")
    if stored.ndim not in (2, 3) or not stored.size:
        raise ValueError(f"{path}: an array of shape {stored.shape}; accepted: views x v x u, or v x u for one view")
    shape, kind, begin = stored.shape[-2:], stored.dtype, stored.offset
    if not stored.flags.c_contiguous:
        with np.errstate(over="ignore"):
            return Views.of(np.array(stored, np.float32, order="C", ndmin=3), str(path))
    # What is mapped counts as the process's memory; a view that is read, only while it is used.
    count = shape[0] * shape[1]
    return Views(stored.size // count, shape, lambda k: np.fromfile(
        path, kind, count, offset=begin + k * count * kind.itemsize).reshape(shape), str(path))


def files_of_views(folder: Path, among: list[Path] | None = None) -> list[Path]:
    """The TIFFs of a folder (or ``among`` these files of it) in the order of the numbers in their names.

    Raises:
        ValueError: there is none, or their names leave the order open.
    """
    files = [file for file in (folder.iterdir() if among is None else among)
             if file.suffix.lower() in TIFF and not file.name.startswith(".") and not file.is_dir()]
    if not files:
        raise ValueError(f"{folder}: a folder without a TIFF; accepted: {ACCEPTED}")
    for pattern in NUMBERS:
        parts = {file: pattern.split(file.stem.lower()) for file in files}    # text, number, text, ...
        if len({tuple(part[::2]) for part in parts.values()}) == 1:
            break
    numbers = {file: [Decimal(number.replace(",", ".")) for number in parts[file][1::2]] for file in files}
    files.sort(key=lambda file: (parts[file][::2], numbers[file]))
    for one, other in pairwise(files):
        if parts[one][::2] != parts[other][::2] or numbers[one] == numbers[other]:
            raise ValueError(f"{folder}: {one.name} and {other.name} have no order by number; accepted: names that "
                             "differ in numbers, and in nothing else")
        if any(a > b for a, b in zip(numbers[one], numbers[other])):
            raise ValueError(f"{folder}: {one.name} and {other.name}: two numbers give two orders; accepted: names in "
                             "which one number varies, or all in the same order")
    for file in files:
        check_file(file)
    return files
