"""Medical volumes on disk and their geometry: read, reorient, crop, resize, write."""
import errno
import gzip
import math
import os
import sys
import zlib
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F

from utils.io.files import complete_file

CT_WINDOW = (-1000.0, 1600.0)    # HU that the prior's intensities 0 and 1 stand for
SUFFIXES = (".nii", ".nii.gz")
SPACINGS, FARTHEST = (1e-4, 1e4), 1e6    # mm: of a voxel, and from the origin, that a patient or a sample can have
NIFTI_TYPES = {2: ("u1", 1), 4: ("i2", 1), 8: ("i4", 1), 16: ("f4", 1), 64: ("f8", 1), 256: ("i1", 1), 512: ("u2", 1),
               768: ("u4", 1), 1024: ("i8", 1), 1280: ("u8", 1), 32: ("f4", 2), 1792: ("f8", 2), 128: ("u1", 3),
               2304: ("u1", 4)}    # code: type and how many of it a voxel has
NIFTI_NAMES = ("dim", "datatype", "bitpix", "pixdim", "vox_offset", "scl_slope", "scl_inter", "qform_code",
               "sform_code", "quatern", "srow")
NIFTI_FIELDS = {    # sizeof_hdr: what of the header is looked at, and where
    348: {"size": 348, "magic": (344, 347), "mark": b"n+1",
          "offsets": [40, 70, 72, 76, 108, 112, 116, 252, 254, 256, 280],
          "types": dict(zip(NIFTI_NAMES, ("8i2", "i2", "i2", "8f4", "f4", "f4", "f4", "i2", "i2", "6f4", "12f4")))},
    540: {"size": 540, "magic": (4, 7), "mark": b"n+2",
          "offsets": [16, 12, 14, 104, 168, 176, 184, 344, 348, 352, 400],
          "types": dict(zip(NIFTI_NAMES, ("8i8", "i2", "i2", "8f8", "i8", "f8", "f8", "i4", "i4", "6f8", "12f8")))}}


@dataclass(frozen=True)
class Volume:
    """A scalar volume and where its voxels lie in the patient.

    ``array`` is float32 [D, H, W] = (z, y, x). ``spacing`` (mm) and ``origin`` (mm, centre of voxel 0) are in
    the order x, y, z; ``direction`` is the 3x3 matrix (row-major, 9 numbers) whose columns are the directions of
    the axes x, y, z, as in SimpleITK (LPS patient coordinates).
    """

    array: np.ndarray
    spacing: tuple = (1.0, 1.0, 1.0)
    origin: tuple = (0.0, 0.0, 0.0)
    direction: tuple = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)

    def with_array(self, array) -> "Volume":
        """The same place in the patient with other values (a tensor or an array of the same shape)."""
        array = np.asarray(array.cpu() if torch.is_tensor(array) else array, dtype=np.float32)
        if array.shape != self.array.shape:
            raise ValueError(f"values of shape {array.shape} for a volume of shape {self.array.shape}")
        return replace(self, array=array)

    def _moved(self, array: np.ndarray, index: tuple, spacing: tuple) -> "Volume":
        """A volume whose voxel 0 lies at this one's continuous ``index`` (x, y, z)."""
        axes = np.reshape(self.direction, (3, 3)) * np.asarray(self.spacing)
        origin = np.asarray(self.origin) + axes @ np.asarray(index, dtype=float)
        return replace(self, array=array, origin=tuple(map(float, origin)), spacing=tuple(map(float, spacing)))

    def crop(self, begin: int, end: int) -> "Volume":
        """Slices ``begin`` to ``end`` (half-open) along z; 0, 0 keeps them all. ValueError if that is empty."""
        depth = self.array.shape[0]
        if (begin, end) == (0, 0):
            return self
        if not 0 <= begin < end <= depth:
            raise ValueError(f"--slice-begin {begin} --slice-end {end}: accepted is 0 <= begin < end <= {depth}, "
                             "the number of slices (or 0 and 0 for all)")
        return self._moved(self.array[begin:end], (0, 0, begin), self.spacing)

    def resize(self, size: int) -> "Volume":
        """Resample every slice to ``size`` x ``size`` (bilinear, antialiased), the field of view kept."""
        depth, height, width = self.array.shape
        if (height, width) == (size, size):
            return self
        slices = torch.from_numpy(np.ascontiguousarray(self.array))[:, None]
        array = F.interpolate(slices, (size, size), mode="bilinear", antialias=True, align_corners=False)
        step_x, step_y = width / size, height / size
        return self._moved(array[:, 0].numpy(), ((step_x - 1) / 2, (step_y - 1) / 2, 0),
                           (self.spacing[0] * step_x, self.spacing[1] * step_y, self.spacing[2]))

    def thicken(self, array, factor: int) -> "Volume":
        """The volume of ``array``, whose slices each stand for ``factor`` of this one's along z."""
        array = np.asarray(array, dtype=np.float32)
        return self._moved(array, (0, 0, (factor - 1) / 2), (*self.spacing[:2], self.spacing[2] * factor))


def read_volume(path: str | Path, orientation: str | None = None, series: str | None = None) -> Volume:
    """Read a scalar 3D NIfTI file, or a folder with a CT or MR series in DICOM (see `utils.io.dicom.read_series`).

    ``orientation``: a three-letter code such as "LPI" to flip and permute the axes to, as in
    `SimpleITK.DICOMOrient` (axes of an oblique scan go to the nearest one). ``series`` chooses one of several in a
    folder. Raises FileNotFoundError, or ValueError in one line that names the file, what was found and what is
    accepted.
    """
    from utils.io.dicom import read_series    # which makes volumes too

    path = Path(path)
    if path.is_dir():
        image = _as_image(read_series(path, series))
    elif not path.is_file():
        raise FileNotFoundError(f"{path}: no such file or folder")
    elif series is not None:
        raise ValueError(f"{path}: --series {series} for a file; accepted with a folder of DICOM slices")
    else:
        image = _read_nifti(path)
    if orientation:
        image = sitk.DICOMOrient(image, orientation)
    array = sitk.GetArrayFromImage(image)
    if array.dtype.kind not in "iuf":
        raise ValueError(f"{path}: voxels of type {array.dtype}; accepted: integers or real numbers")
    with np.errstate(over="ignore"):
        array = array.astype(np.float32, copy=False)
    if not np.isfinite(array).all():
        raise ValueError(f"{path}: voxels beyond the range of float32; accepted: finite values")
    return Volume(array, image.GetSpacing(), image.GetOrigin(), image.GetDirection())


def _read_nifti(path: Path) -> sitk.Image:
    if not path.name.lower().endswith(SUFFIXES):
        raise ValueError(f"{path}: not a NIfTI file; accepted: names that end in {' or '.join(SUFFIXES)}, or a folder "
                         "of DICOM slices")
    check_nifti(path)
    sitk.ProcessObject.SetGlobalWarningDisplay(False)    # what matters is an error here
    reader = sitk.ImageFileReader()
    reader.SetImageIO("NiftiImageIO")
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        size, components = reader.GetSize(), reader.GetNumberOfComponents()
        if len(size) != 3:
            raise ValueError(f"{path}: {len(size)}D image of size {' x '.join(map(str, size))}; accepted: 3D")
        if components != 1:
            raise ValueError(f"{path}: {components} values a voxel; accepted: one (a grey-value volume)")
        spacing, origin = reader.GetSpacing(), reader.GetOrigin()
        if not all(SPACINGS[0] <= step <= SPACINGS[1] for step in spacing):
            raise ValueError(f"{path}: voxels of {' x '.join(f'{step:g}' for step in spacing)} mm; accepted: "
                             f"{SPACINGS[0]:g} to {SPACINGS[1]:g} mm")
        if not all(abs(place) <= FARTHEST for place in origin):
            raise ValueError(f"{path}: origin {', '.join(f'{place:g}' for place in origin)} mm; accepted: up to "
                             f"{FARTHEST:g} mm")
        return reader.Execute()
    except RuntimeError as error:
        reason = [line.strip() for line in str(error).splitlines() if line.strip()][-1]
        raise ValueError(f"{path}: cannot be read as NIfTI ({reason})") from None


def read_unit_ct(path: str | Path, begin: int, end: int, size: int, series: str | None = None) -> Volume:
    """Slices ``begin`` to ``end`` of a CT in HU as the prior sees them: LPI, window to [0, 1], ``size`` x ``size``."""
    volume = read_volume(path, "LPI", series).crop(begin, end)
    try:
        return volume.with_array(scale_to_unit(volume.array, *CT_WINDOW)).resize(size)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def empty_volume(shape, voxel_size, centre) -> Volume:
    """A volume of zeros [D, H, W] that takes no memory; voxel size and centre (mm) are in the order z, y, x."""
    origin = [c - (count - 1) / 2 * size for c, count, size in zip(centre, shape, voxel_size)]
    return Volume(np.broadcast_to(np.float32(0), shape), tuple(voxel_size[::-1]), tuple(origin[::-1]))


def check_nifti(path: Path) -> None:
    """Look at a NIfTI file's own bytes for what the reader passes over, never ends on, or allocates memory for.

    It takes missing voxels and NaN for zeros and a voxel size of zero for 1 mm, and never returns from some axes
    that are NaN. Raises ValueError when a number of the header is none that a volume can have, when the file ends
    before its last voxel, or when it holds values that are not finite.
    """
    try:
        with (gzip.open if path.name.lower().endswith(".gz") else open)(path, "rb") as stream:
            order, header = _nifti_header(path, stream)
            code, size = int(header["datatype"]), header["dim"][1:int(header["dim"][0]) + 1].tolist()
            kind, count = NIFTI_TYPES[code]
            voxel = np.dtype(kind).itemsize * count
            missing, bad = math.prod(size) * voxel, 0
            stream.seek(int(header["vox_offset"]))
            while missing and (chunk := stream.read(min(missing, 1 << 22))):
                missing -= len(chunk)
                if kind[0] == "f":
                    width = np.dtype(kind).itemsize
                    values = np.frombuffer(chunk[:len(chunk) // width * width], order + kind)
                    bad += values.size - int(np.isfinite(values).sum())
            stream.read(1)    # of a gzip file, this compares the checksum that stands at its end
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: cannot be read, damaged or incomplete gzip file ({error})") from None
    if missing:
        raise ValueError(f"{path}: {missing} bytes short of its {' x '.join(map(str, size))} voxels")
    if bad:
        raise ValueError(f"{path}: {bad} voxels are NaN or infinite; accepted: finite values")


def _nifti_header(path: Path, stream) -> tuple[str, np.void]:
    """Byte order and header of a NIfTI-1 or NIfTI-2 file, checked. (https://nifti.nimh.nih.gov)"""
    start = stream.read(540)
    order = next((order for order in "<>" if int.from_bytes(start[:4], {"<": "little", ">": "big"}[order])
                  in NIFTI_FIELDS), None)
    fields = NIFTI_FIELDS[int.from_bytes(start[:4], {"<": "little", ">": "big"}[order])] if order else None
    if not fields or len(start) < fields["size"] or start[slice(*fields["magic"])] != fields["mark"]:
        raise ValueError(f"{path}: cannot be read as NIfTI (no header of NIfTI-1 or NIfTI-2 in one file)")
    header = np.frombuffer(start, np.dtype({"names": list(fields["types"]), "offsets": fields["offsets"],
                                            "formats": [order + kind for kind in fields["types"].values()],
                                            "itemsize": fields["size"]}), 1)[0]
    dim, axes = header["dim"].tolist(), int(header["dim"][0])
    step, code = header["pixdim"].astype(float), int(header["datatype"])
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    column = np.linalg.norm(np.clip(header["srow"].reshape(3, 4)[:, :3].astype(float), -1e9, 1e9), axis=0)
    for bad, name, found, accepted in (
            (not 1 <= axes <= 7 or min(dim[1:axes + 1]) < 1, "dim", dim, "sizes of 1 or more on 1 to 7 axes"),
            (code not in NIFTI_TYPES, "datatype", code, f"one of {', '.join(map(str, NIFTI_TYPES))}"),
            (code in NIFTI_TYPES and header["bitpix"] != np.dtype(NIFTI_TYPES[code][0]).itemsize
             * NIFTI_TYPES[code][1] * 8, "bitpix", header["bitpix"], f"that of datatype {code}"),
            (not (step[1:min(axes, 3) + 1] > 0).all() or not np.isfinite(step[1:]).all(), "pixdim", step[1:4].tolist(),
             "positive voxel sizes"),
            (not fields["size"] <= header["vox_offset"] < 2 ** 31, "vox_offset", header["vox_offset"],
             "bytes behind the header"),
            (math.isinf(slope) or slope and not (math.isnan(slope) or math.isfinite(inter)), "scl_slope, scl_inter",
             [slope, inter], "finite numbers"),
            (header["qform_code"] > 0 and not (np.isfinite(header["quatern"]).all()
                                               and np.square(header["quatern"][:3], dtype=float).sum() < 1.001),
             "qform", header["quatern"].tolist(), "a rotation and a finite offset"),
            (header["sform_code"] > 0 and not (np.isfinite(header["srow"]).all() and (column > 0).all()),
             "sform", header["srow"].tolist(), "finite numbers, axes of a length"),
            (header["sform_code"] > 0 >= header["qform_code"] and axes > 2
             and not np.allclose(column, step[1:4], rtol=0.01), "sform", column.tolist(),
             f"axes as long as pixdim, {step[1:4].tolist()}")):
        if bad:
            raise ValueError(f"{path}: cannot be read as NIfTI ({name} is {found}; accepted: {accepted})")
    return order, header


def write_volume(path: str | Path, volume: Volume) -> None:
    """Write ``volume`` as float32 NIfTI; the file appears under its name only when it is complete."""
    path, image = Path(path), _as_image(volume)
    try:
        with complete_file(path) as partial:
            with _nifti_library_silenced():
                sitk.WriteImage(image, str(partial))
            if _stored_size(partial) % 2**32 != (352 + volume.array.size * 4) % 2**32:     # NIfTI-1 header, float32 voxels
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    except RuntimeError as error:
        raise OSError(f"{path}: cannot be written ({str(error).splitlines()[-1].strip()})") from None


def _as_image(volume: Volume) -> sitk.Image:
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.array, dtype=np.float32))
    image.SetSpacing(volume.spacing)
    image.SetOrigin(volume.origin)
    image.SetDirection(volume.direction)
    return image


def _stored_size(path: Path) -> int:
    """Bytes of a file, of a gzip file before compression (modulo 2^32): the writer says nothing of a full disk."""
    size = path.stat().st_size
    if path.suffix != ".gz" or size < 18:
        return size
    with open(path, "rb") as stream:
        stream.seek(-4, os.SEEK_END)
        return int.from_bytes(stream.read(4), "little")


@contextmanager
def _nifti_library_silenced():
    """Keeps the lines off standard error that the NIfTI library prints there itself when a disk is full."""
    sys.stderr.flush()
    standard_error, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(standard_error, 2)
        os.close(standard_error)
        os.close(nowhere)


def scale_to_unit(array: np.ndarray, low: float, high: float) -> np.ndarray:
    """Clamp to [low, high] and map that range to [0, 1]. ValueError when nothing but one value is left."""
    if not high > low or array.min() >= high or array.max() <= low or array.min() == array.max():
        raise ValueError(f"all voxels have one value in the window from {low:g} to {high:g}; accepted: a volume "
                         "with contrast")
    return (np.clip(array, low, high) - low) / (high - low)


def scale_from_unit(array, low: float, high: float):
    """The inverse of `scale_to_unit` (without the clamp)."""
    return array * (high - low) + low
