"""NIfTI-1 and NIfTI-2 files: nibabel knows the header and writes; what it would take without a word is refused here."""
import gzip
import io
import logging
import math
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from utils.io.files import complete_file
from utils.io.upright import upright
from utils.io.volume import Volume

log = logging.getLogger(__name__)
SUFFIXES = (".nii", ".nii.gz")
SPACINGS, FARTHEST = (1e-4, 1e4), 1e6    # mm: of a voxel, and from the origin, that a patient or a sample can have
LARGEST = 1e12                           # value of a voxel: squares of it can still be summed in float32
APART = 0.1                              # voxels between the places of sform and qform, from which on it is said
HEADERS = {348: nib.Nifti1Header, 540: nib.Nifti2Header}    # by sizeof_hdr, which the file begins with
LPS = np.diag([-1.0, -1.0, 1.0])         # NIfTI's coordinates grow to the right and the front
METRES, MICROMETRES = 1, 3               # units of xyzt_units that aren't mm
RATIO = 1032                             # the most that deflate packs into a byte
CHUNK = 1 << 16                          # voxels


def read_nifti(path: str | Path) -> Volume:
    """A scalar 3D NIfTI file as a volume, values rescaled by its slope and intercept.

    Raises:
        ValueError: In one line that names the file, what was found and what is accepted: a header that no volume
            has, other than three axes (more of length 1 may follow), voxels that are missing, not finite, or more
            than there is memory for.
        OSError: The file cannot be opened.
    """
    path = Path(path)
    array, header = _read(path, (3,))
    affine = _affine(path, header, array.shape[::-1])
    spacing, origin = np.linalg.norm(affine[:, :3], axis=0), affine[:, 3]
    if not ((spacing >= SPACINGS[0]) & (spacing <= SPACINGS[1])).all():
        raise ValueError(f"{path}: voxels of {' x '.join(f'{step:g}' for step in spacing)} mm; accepted: "
                         f"{SPACINGS[0]:g} to {SPACINGS[1]:g} mm")
    if not (np.abs(origin) <= FARTHEST).all():
        raise ValueError(f"{path}: origin {', '.join(f'{place:g}' for place in origin)} mm; accepted: up to "
                         f"{FARTHEST:g} mm")
    try:
        volume, resampled = upright(array, affine[:, :3], origin)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if resampled:
        log.warning("%s: %s", path, resampled)
    return volume


def read_nifti_array(path: str | Path) -> np.ndarray:
    """The rescaled values of a NIfTI file of two or three axes, float32, the file's first axis last.

    Where the voxels lie is not looked at.

    Raises:
        ValueError, OSError: as `read_nifti`.
    """
    return _read(Path(path), (2, 3))[0]


def write_volume(path: str | Path, volume: Volume) -> None:
    """Write ``volume`` as float32 NIfTI (.nii or .nii.gz) with its place as sform and qform.

    The file appears under its name only when it is complete. OSError, which names it, where that fails.
    """
    affine = np.eye(4)
    affine[:3] = LPS @ np.column_stack([volume.axes, volume.origin])
    image = nib.Nifti1Image(np.asarray(volume.array, dtype=np.float32).T, affine)
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    image.header.set_xyzt_units("mm")
    try:
        with complete_file(path) as partial:
            image.to_filename(partial)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def _read(path: Path, axes: tuple[int, ...]) -> tuple[np.ndarray, nib.Nifti1Header]:
    """Checked values (float32, the file's first axis last) and header of a file that has so many ``axes``."""
    packed = path.name.lower().endswith(".gz")
    try:
        with (gzip.open if packed else open)(path, "rb") as stream:
            header = _header(path, stream)
            kind, size = header.get_data_dtype(), _size(path, header)
            voxels, begin = " x ".join(map(str, size)), int(header["vox_offset"])
            if len(size) not in axes:
                raise ValueError(f"{path}: {len(size)}D image of size {voxels}; accepted: "
                                 f"{' or '.join(f'{count}D' for count in axes)}")
            needed = math.prod(size) * kind.itemsize
            most = path.stat().st_size * (RATIO if packed else 1) - begin    # looked at before any memory is taken
            if most < needed:
                raise ValueError(f"{path}: {'at least ' * packed}{needed - max(most, 0)} bytes short of its {voxels} "
                                 "voxels")
            array = np.empty(size[::-1], np.float32)
            stream.seek(begin)
            done, bad = _fill(stream, array.reshape(-1), header)
            stream.read(1)    # of a gzip file, this compares the checksum that stands at its end
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: cannot be read, damaged or incomplete gzip file ({error})") from None
    except MemoryError:
        raise ValueError(f"{path}: no memory for its {voxels} voxels") from None
    if done < needed:
        raise ValueError(f"{path}: {needed - done} bytes short of its {voxels} voxels")
    if bad:
        raise ValueError(f"{path}: {bad} voxels are NaN, infinite or beyond {LARGEST:g}; accepted: finite values")
    return array, header


def _fill(stream: io.BufferedIOBase, target: np.ndarray, header: nib.Nifti1Header) -> tuple[int, int]:
    """Read and rescale (in float64) voxels, a few at a time; the bytes that were there, and voxels out of range."""
    kind, (slope, inter) = header.get_data_dtype(), header.get_slope_inter()
    done = bad = 0
    for part in np.split(target, range(CHUNK, target.size, CHUNK)):
        content = stream.read(part.size * kind.itemsize)
        done += len(content)
        if len(content) < part.size * kind.itemsize:
            break
        with np.errstate(over="ignore", invalid="ignore"):
            stored = np.frombuffer(content, kind)
            part[...] = stored if slope is None else stored * np.float64(slope) + inter
            bad += part.size - int((np.abs(part) <= LARGEST).sum())     # False for NaN
    return done, bad


def _size(path: Path, header: nib.Nifti1Header) -> list[int]:
    """Lengths of the axes, without those of length 1 behind the third. ValueError for more than one value a voxel."""
    size, kind = header["dim"][1:int(header["dim"][0]) + 1].tolist(), header.get_data_dtype()
    values = len(kind.names or ()) or (2 if kind.kind == "c" else size[4] if len(size) > 4 and size[3] == 1 else 1)
    while len(size) > 3 and size[-1] == 1:
        size.pop()
    if values > 1:
        raise ValueError(f"{path}: {values} values a voxel; accepted: one (a grey-value volume, no vectors or colours)")
    return size


def _header(path: Path, stream: io.BufferedIOBase) -> nib.Nifti1Header:
    """The header at the beginning of ``stream``. ValueError where a number in it is none that a volume can have."""
    start = stream.read(max(HEADERS))
    little, big = int.from_bytes(start[:4], "little"), int.from_bytes(start[:4], "big")
    order, length = ("<", little) if little in HEADERS else (">", big) if big in HEADERS else ("", 0)
    header = HEADERS[length](start[:length], order, check=False) if 0 < length <= len(start) else None
    if header is None or header["magic"].item()[:3] != header.single_magic[:3]:
        raise ValueError(f"{path}: cannot be read as NIfTI (no header of NIfTI-1 or NIfTI-2 in one file)")
    dim, axes = header["dim"].tolist(), int(header["dim"][0])
    step, code = header["pixdim"].astype(float), int(header["datatype"])
    kind: Any = nib.nifti1.data_type_codes.dtype.get(code, np.dtype("V"))
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    quatern = np.array([header[f"quatern_{letter}"] for letter in "bcd"], float)
    offset = np.array([header[f"qoffset_{letter}"] for letter in "xyz"], float)
    sform = np.stack([header[f"srow_{letter}"] for letter in "xyz"]).astype(float)
    column = np.linalg.norm(np.clip(sform[:, :3], -1e9, 1e9), axis=0)
    for bad, name, found, accepted in (
            (not 1 <= axes <= 7 or min(dim[1:axes + 1]) < 1, "dim", dim, "sizes of 1 or more on 1 to 7 axes"),
            (kind.itemsize not in range(1, 17), "datatype", code, "integers and real numbers of up to 64 bits"),
            (header["bitpix"] != kind.itemsize * 8, "bitpix", header["bitpix"], f"that of datatype {code}"),
            (not (step[1:min(axes, 3) + 1] > 0).all() or not np.isfinite(step[1:]).all(), "pixdim", step[1:4].tolist(),
             "positive voxel sizes"),
            (not length <= header["vox_offset"] < 2 ** 31, "vox_offset", header["vox_offset"],
             "bytes behind the header"),
            (math.isinf(slope) or (abs(slope) > 0 and not math.isfinite(inter)), "scl_slope, scl_inter",
             [slope, inter], "finite numbers"),    # a slope of 0 or NaN: none, whatever inter is
            (header["qform_code"] > 0 and not (np.isfinite([quatern, offset]).all() and quatern @ quatern < 1.001),
             "qform", [*quatern.tolist(), *offset.tolist()], "a rotation and a finite offset"),
            (header["sform_code"] > 0 and not (np.isfinite(sform).all() and (column > 0).all()),
             "sform", sform.tolist(), "finite numbers, axes of a length"),
            (header["sform_code"] > 0 >= header["qform_code"] and axes > 2
             and not np.allclose(column, step[1:4], rtol=0.5), "sform", column.tolist(),
             f"axes about as long as pixdim, {step[1:4].tolist()}")):
        if bad:
            raise ValueError(f"{path}: cannot be read as NIfTI ({name} is {found}; accepted: {accepted})")
    header["pixdim"][0] = -1 if step[0] < 0 else 1      # qfac
    if quatern @ quatern > 1:       # by rounding
        for letter, value in zip("bcd", quatern / np.sqrt(quatern @ quatern)):
            header[f"quatern_{letter}"] = value
    return header


def _affine(path: Path, header: nib.Nifti1Header, size: tuple[int, ...]) -> np.ndarray:
    """The 3x4 matrix from indices x, y, z to LPS millimetres: the sform, else the qform, else the spacing alone.

    (nibabel's `get_best_affine`.) A line says so where sform and qform are both there and differ.
    """
    unit = {METRES: 1e3, MICROMETRES: 1e-3}.get(int(header["xyzt_units"]) & 7, 1.0)
    sform = header.get_best_affine()
    if header["sform_code"] > 0 and header["qform_code"] > 0:
        corners = np.array([[*corner, 1] for corner in np.ndindex(2, 2, 2)]) * [*np.subtract(size, 1), 1]
        apart = (sform - header.get_qform())[:3] @ corners.T
        voxels = (sform[:3, :3] / np.square(sform[:3, :3]).sum(0)).T @ apart
        if np.linalg.norm(voxels, axis=0).max() > APART:
            log.warning("%s: its sform and qform differ by up to %.3g mm; the sform is used", path,
                        np.linalg.norm(apart, axis=0).max() * unit)
    return LPS @ sform[:3] * unit
