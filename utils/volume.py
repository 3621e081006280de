"""Medical volumes on disk and their geometry: read, reorient, crop, resize, write."""
import gzip
import math
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F

from utils.files import complete_file

CT_WINDOW = (-1000.0, 1600.0)    # HU that the prior's intensities 0 and 1 stand for
SUFFIXES = (".nii", ".nii.gz")


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


def read_volume(path: str | Path, orientation: str | None = None) -> Volume:
    """Read a scalar 3D NIfTI file.

    ``orientation``: a three-letter code such as "LPI" to flip and permute the axes to, as in
    `SimpleITK.DICOMOrient` (axes of an oblique scan go to the nearest one). Raises FileNotFoundError, or
    ValueError in one line that names the file, what was found and what is accepted.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if not path.name.lower().endswith(SUFFIXES):
        raise ValueError(f"{path}: not a NIfTI file; accepted: names that end in {' or '.join(SUFFIXES)}")
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
        check_voxels(path, size, reader)
        image = reader.Execute()
    except RuntimeError as error:
        reason = [line.strip() for line in str(error).splitlines() if line.strip()][-1]
        raise ValueError(f"{path}: cannot be read as NIfTI ({reason})") from None
    if orientation:
        image = sitk.DICOMOrient(image, orientation)
    array = sitk.GetArrayFromImage(image)
    if array.dtype.kind not in "iuf":
        raise ValueError(f"{path}: voxels of type {array.dtype}; accepted: integers or real numbers")
    array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise ValueError(f"{path}: voxels beyond the range of float32; accepted: finite values")
    return Volume(array, image.GetSpacing(), image.GetOrigin(), image.GetDirection())


def read_unit_ct(path: str | Path, begin: int, end: int, size: int) -> Volume:
    """Slices ``begin`` to ``end`` of a CT in HU as the prior sees them: LPI, window to [0, 1], ``size`` x ``size``."""
    volume = read_volume(path, "LPI").crop(begin, end)
    try:
        return volume.with_array(scale_to_unit(volume.array, *CT_WINDOW)).resize(size)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def empty_volume(shape, voxel_size, centre) -> Volume:
    """A volume of zeros [D, H, W] that takes no memory; voxel size and centre (mm) are in the order z, y, x."""
    origin = [c - (count - 1) / 2 * size for c, count, size in zip(centre, shape, voxel_size)]
    return Volume(np.broadcast_to(np.float32(0), shape), tuple(voxel_size[::-1]), tuple(origin[::-1]))


def check_voxels(path: Path, size, reader: sitk.ImageFileReader) -> None:
    """Look at the stored bytes for what the reader passes over: it takes missing voxels and NaN for zeros.

    Raises ValueError when the file ends before its last voxel or holds values that are not finite.
    """
    voxel = int(float(reader.GetMetaData("bitpix"))) // 8    # as stored: the reader's type is that after rescaling
    stored = {"16": "f4", "64": "f8"}.get(reader.GetMetaData("datatype"))    # NIfTI's codes of real numbers
    missing, bad = math.prod(size) * voxel, 0
    try:
        with (gzip.open if path.name.lower().endswith(".gz") else open)(path, "rb") as stream:
            header = stream.read(int(float(reader.GetMetaData("vox_offset"))))
            order = "<" if int.from_bytes(header[:4], "little") in (348, 540) else ">"
            while missing and (chunk := stream.read(min(missing, 1 << 22))):
                missing -= len(chunk)
                if stored:
                    values = np.frombuffer(chunk[:len(chunk) // voxel * voxel], order + stored)
                    bad += values.size - int(np.isfinite(values).sum())
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: damaged or incomplete gzip file ({error})") from None
    if missing:
        raise ValueError(f"{path}: {missing} bytes short of its {' x '.join(map(str, size))} voxels")
    if bad:
        raise ValueError(f"{path}: {bad} voxels are NaN or infinite; accepted: finite values")


def write_volume(path: str | Path, volume: Volume) -> None:
    """Write ``volume`` as float32 NIfTI; the file appears under its name only when it is complete."""
    path = Path(path)
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.array, dtype=np.float32))
    image.SetSpacing(volume.spacing)
    image.SetOrigin(volume.origin)
    image.SetDirection(volume.direction)
    try:
        with complete_file(path) as partial:
            sitk.WriteImage(image, str(partial))
    except RuntimeError as error:
        raise OSError(f"{path}: cannot be written ({str(error).splitlines()[-1].strip()})") from None


def scale_to_unit(array: np.ndarray, low: float, high: float) -> np.ndarray:
    """Clamp to [low, high] and map that range to [0, 1]. ValueError when nothing but one value is left."""
    if not high > low or array.min() >= high or array.max() <= low or array.min() == array.max():
        raise ValueError(f"all voxels have one value in the window from {low:g} to {high:g}; accepted: a volume "
                         "with contrast")
    return (np.clip(array, low, high) - low) / (high - low)


def scale_from_unit(array, low: float, high: float):
    """The inverse of `scale_to_unit` (without the clamp)."""
    return array * (high - low) + low
