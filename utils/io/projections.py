"""Measured cone-beam projections: read them, and turn what was measured into line integrals."""
import re
import tokenize
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

import numpy as np

from physics.bad_pixels import find_bad_pixels, repair
from physics.beer_lambert import check_finite, line_integrals
from physics.plausible import check_line_integrals, truncation
from utils.io.files import check_file
from utils.io.itk_image import READERS, read_image
from utils.io.nifti import read_nifti_array
from utils.io.tiff import SUFFIXES as TIFF
from utils.io.tiff import read_tiffs

STACKS = (".npy", ".mha", ".mhd", ".nrrd", ".nhdr", ".nii", ".nii.gz", *TIFF)
ACCEPTED = f"{', '.join(STACKS)}, or a folder with a TIFF a view"
# Numbers in names: a minus behind a letter (view-1) is a hyphen, unless some names (angle-1, angle1) have none.
NUMBERS = [re.compile(rf"((?:(?<![{before}])-)?[0-9]+(?:[.,][0-9]+)?)") for before in ("0-9a-z", "0-9")]
MOST_BAD = 0.05    # of the detector's pixels


@dataclass(frozen=True)
class Measured:
    """Line integrals of attenuation, and what was done to them.

    Attributes:
        p: float32 [views, v, u].
        replaced: pixels of all views that counted nothing above dark, and got the least that could be counted.
        bad: bool [v, u], pixels of the detector that were interpolated from their neighbours.
        warnings: what is odd, a line each.
    """
    p: np.ndarray
    replaced: int
    bad: np.ndarray
    warnings: list[str] = field(default_factory=list)


def read_line_integrals(path: str | Path, shape: tuple[int, int, int], flat: str | Path | None = None,
                        dark: str | Path | None = None, i0: float | None = None,
                        bad_pixels: str | Path | None = None) -> Measured:
    """Read measured projections as line integrals of attenuation.

    Without ``flat`` or ``i0`` the file holds line integrals, with one of them counts. Bad pixels are found, and
    interpolated; then the values are looked at.

    Args:
        path: as in `read_projections`.
        shape: (views, v, u) of the geometry.
        flat: projections without an object, a frame or more.
        dark: projections without beam, a frame or more.
        i0: the open beam as one number, see `physics.beer_lambert.line_integrals`.
        bad_pixels: more bad pixels, see `read_bad_pixels`.

    Returns:
        The line integrals. In memory at a time: these, and a few views and frames.

    Raises:
        ValueError: in one line that names the file, as `read_projections` and the functions of `physics` that are
            used here; for another shape; and for more than 5 % of bad pixels.
        OSError: for a file that is not there or cannot be read.
    """
    p = read_projections(path)
    if p.shape != tuple(shape):
        raise ValueError(f"{path}: {' x '.join(map(str, p.shape))} (views, v, u); the geometry has "
                         f"{' x '.join(map(str, shape))}")
    named = None if bad_pixels is None else read_bad_pixels(bad_pixels, p.shape[1:])
    counted = flat is not None or i0 is not None
    open_beam, no_beam = (None if file is None or not counted else read_projections(file) for file in (flat, dark))
    try:
        bad = find_bad_pixels(p, open_beam, no_beam, i0)
        bad = bad if named is None else bad | named
        if bad.mean() > MOST_BAD:
            if counted:
                line_integrals(p, open_beam, no_beam, i0)    # says more, where flat and dark are swapped
            raise ValueError(f"{int(bad.sum())} of {bad.size} pixels are dead, stuck or hot; accepted: up to "
                             f"{MOST_BAD:.0%}, which are interpolated")
        replaced = line_integrals(p, open_beam, no_beam, i0, bad, out=p)[1] if counted else 0
        repair(p, bad)
        warnings = check_line_integrals(p) + truncation(p)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return Measured(p, replaced, bad, warnings)


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
    """Read projections.

    Integers of any width and real numbers are accepted; float32 holds whole numbers exactly up to 2^24.

    Args:
        path: an image, its axes in the order of `SimpleITK.GetArrayFromImage` (MetaImage, NRRD, NIfTI; spacing,
            origin and direction are not used), a NumPy array .npy, a TIFF with a page a view, or a folder with a TIFF
            a view. A 2D image is one view. The views of a folder come in the order of the numbers in the files'
            names, which may be negative or decimal: view2 before view10, 0.25 before 0.5. Hidden files, and those
            that do not end in .tif or .tiff, are ignored. TIFF values are taken as stored, whatever "white is zero"
            says.
        images: more endings that are accepted, of SimpleITK's readers.

    Returns:
        float32 [views, v, u], contiguous and writable. In memory at a time: this, and a few views; of NRRD and
        compressed MetaImage the image as stored too.

    Raises:
        FileNotFoundError: without such a file.
        ValueError: in one line that names the file, what was found and what is accepted.
    """
    path = Path(path)
    check_file(path, folder=True)
    if path.is_dir():
        return read_tiffs(_files_of_views(path), single=True)
    suffix = ".nii.gz" if path.name.lower().endswith(".nii.gz") else path.suffix.lower()
    if suffix not in (*STACKS, *images):
        raise ValueError(f"{path}: file type {path.suffix or 'without a suffix'}; accepted: {ACCEPTED}")
    if suffix in TIFF:
        return read_tiffs([path])
    read = _read_npy if suffix == ".npy" else read_image if suffix in READERS else read_nifti_array
    array = read(path)
    array = array.reshape((-1, *array.shape[-2:]))
    for k, view in enumerate(array):
        check_finite(f"{path}: view {k}", view)
    return array


def _read_npy(path: Path) -> np.ndarray:
    """The array in an .npy file, memory-mapped, which compares the file's size with the shape in its header."""
    try:
        stored = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, OverflowError, SyntaxError, tokenize.TokenError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{path}: no NumPy array, incomplete or damaged ({reason})") from None
    if stored.dtype.kind not in "iuf":
        raise ValueError(f"{path}: values of type {stored.dtype}; accepted: integers or real numbers")
    if stored.ndim not in (2, 3) or not stored.size:
        raise ValueError(f"{path}: an array of shape {stored.shape}; accepted: views x v x u, or v x u for one view")
    with np.errstate(over="ignore"):
        return np.array(stored, np.float32, order="C")


def _files_of_views(folder: Path) -> list[Path]:
    """The TIFFs of a folder in the order of the numbers in their names; names that leave it open are refused."""
    files = [file for file in folder.iterdir()
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
