"""CT and MR series in DICOM: the slices of a folder as one volume in the patient."""
import re
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

MODALITIES = ("CT", "MR")
POSITION = 0.01                 # of the distance between slices: how far a slice may lie from its even place
UNCOMPRESSED = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")    # transfer syntaxes
RATIO = 1000                    # above what a compressed slice can be larger than its file
SLICES = re.compile(r"1\.2\.840\.10008\.5\.1\.4\.1\.1\.[24](\.1)?")    # SOP classes of CT and MR images
TAGS = {"uid": "0020|000e", "number": "0020|0011", "description": "0008|103e", "modality": "0008|0060",
        "position": "0020|0032", "orientation": "0020|0037", "spacing": "0028|0030", "colour": "0028|0004",
        "bits": "0028|0100", "samples": "0028|0002", "frames": "0028|0008"}


@dataclass(frozen=True)
class _Slice:
    """A DICOM image: its file, size (x, y, frames), transfer syntax, and the texts of `TAGS` ("" where missing)."""

    path: Path
    size: tuple
    syntax: str
    tags: dict

    def numbers(self, name: str, count: int) -> np.ndarray:
        """The ``count`` numbers of a tag. ValueError where they are missing, or none."""
        try:
            values = np.array([float(text) for text in self.tags[name].split("\\")])
        except ValueError:
            values = np.zeros(0)
        if values.size != count or not np.isfinite(values).all() or abs(values).max() > 1e6:
            raise ValueError(f"{self.path}: {name} {self.tags[name][:80]!r}; accepted: {count} numbers (tag "
                             f"{TAGS[name].replace('|', ',')})")
        return values


def read_series(folder: str | Path, series: str | None = None) -> sitk.Image:
    """The CT or MR series of a folder as a float32 image, CT in HU (rescale slope and intercept applied).

    ``series`` is the UID, an unambiguous beginning of it, or the number of one of several series. Slices are put in
    the order of their positions, whatever their names; the geometry is that of ImagePositionPatient,
    ImageOrientationPatient and PixelSpacing, the spacing along z that of the positions. Files that are not DICOM,
    and objects without pixels (reports, contours) are passed over, folders inside it too.

    Raises ValueError in one line that names the file or folder, what was found and what is accepted: for slices
    that are missing, double, unevenly spaced, sheared (gantry tilt), of different size or orientation, in colour,
    of another modality, or damaged.
    """
    folder = Path(folder)
    found = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and (image := _read_header(path)):
            found.setdefault(image.tags["uid"], []).append(image)
    if not found:
        raise ValueError(f"{folder}: a folder without a DICOM image; accepted: a folder with a CT or MR series (or a "
                         "NIfTI file)")
    slices = found[_choose(folder, found, series)]
    first, orientation = slices[0], None
    for image in slices:
        _check_kind(image)
        orientation = image.numbers("orientation", 6)
        for name, own, others in (("size", image.size, first.size),
                                  ("pixel spacing", image.numbers("spacing", 2), first.numbers("spacing", 2)),
                                  ("orientation", orientation, first.numbers("orientation", 6))):
            if not np.allclose(own, others, rtol=1e-4, atol=1e-4):
                raise ValueError(f"{image.path}: {name} {_text(own)}, that of {first.path.name} is {_text(others)}; "
                                 "accepted: the same in all slices")
    axes = _axes(first)
    slices, step = _in_order(folder, slices, axes)
    array = np.empty((len(slices), *first.size[1::-1]), np.float32)
    for image, target in zip(slices, array):
        target[...] = _pixels(image)
    rows, columns = first.numbers("spacing", 2)    # distance between rows, and between columns
    volume = sitk.GetImageFromArray(array)
    volume.SetSpacing((columns, rows, step))
    volume.SetOrigin(slices[0].numbers("position", 3).tolist())
    volume.SetDirection(axes.ravel().tolist())
    return volume


def _read_header(path: Path) -> _Slice | None:
    """What the file says of itself; None for a file that is not DICOM, or holds no image. ValueError if damaged."""
    syntax, kind = _file_meta(path)
    if syntax is None:
        return None
    sitk.ProcessObject.SetGlobalWarningDisplay(False)    # what matters is an error here
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        if kind and not SLICES.fullmatch(kind):
            return None
        raise ValueError(f"{path}: damaged or incomplete DICOM file; accepted: whole files") from None
    size = (*reader.GetSize(), 1, 1)[:3]
    stored = {name: reader.GetMetaData(tag).strip(" \0") if reader.HasMetaDataKey(tag) else ""
              for name, tag in TAGS.items()}
    # Bytes that are no UTF-8 come as lone surrogates, which can't be printed.
    plain = {name: "".join(letter if " " <= letter <= "~" else " " if letter.isspace() else "?" for letter in text)
             for name, text in stored.items()}
    return _Slice(path, size, syntax, plain)


def _file_meta(path: Path) -> tuple[str | None, str]:
    """Transfer syntax and SOP class of a DICOM file (PS3.10, 7.1); None, "" for another file."""
    with open(path, "rb") as stream:
        start = stream.read(4096)
    if start[128:132] != b"DICM":
        return None, ""
    found, place = {}, 132
    while start[place:place + 2] == b"\2\0" and place + 8 <= len(start):    # group 2: explicit, little endian
        element, kind, length = struct.unpack_from("<2xH2sH", start, place)
        place += 8
        if kind in (b"OB", b"OW", b"UN", b"SQ", b"UT"):
            length, = struct.unpack_from("<I", start.ljust(place + 4, b"\0"), place)
            place += 4
        found[element] = start[place:place + length].decode("latin-1").strip(" \0")
        place += length
    return found.get(0x10, ""), found.get(0x02, "")


def _choose(folder: Path, found: dict, series: str | None) -> str:
    """The UID of the series that is meant."""
    titles = [f"{uid} (number {images[0].tags['number'] or '-'}, {images[0].tags['modality'] or 'no modality'}, "
              f"{images[0].tags['description'] or 'no description'}, {len(images)} slices)"
              for uid, images in found.items()]
    if series is None:
        if len(found) > 1:
            raise ValueError(f"{folder}: {len(found)} series; choose one with --series UID: {'; '.join(titles)}")
        return next(iter(found))
    series = series.strip()
    for fits in (lambda uid: uid == series, lambda uid: found[uid][0].tags["number"] == series,
                 lambda uid: bool(series) and uid.startswith(series)):
        matches = [uid for uid in found if fits(uid)]
        if len(matches) == 1:
            return matches[0]
        if matches:
            break
    raise ValueError(f"{folder}: --series {series} is {'that of several' if matches else 'not there'}; accepted: the "
                     f"UID, its beginning, or the number of one of {'; '.join(titles)}")


def _check_kind(image: _Slice) -> None:
    tags = image.tags
    if tags["modality"] not in MODALITIES:
        raise ValueError(f"{image.path}: modality {tags['modality'] or 'missing'}; accepted: {' or '.join(MODALITIES)}")
    if tags["samples"] not in ("", "1") or tags["colour"] != "MONOCHROME2":
        raise ValueError(f"{image.path}: colours {tags['colour'] or 'missing'}; accepted: MONOCHROME2 (grey)")
    if image.size[2] != 1 or tags["frames"] not in ("", "1"):
        raise ValueError(f"{image.path}: {tags['frames'] or image.size[2]} frames in one file; accepted: one slice "
                         "a file")
    if tags["bits"] not in ("8", "16", "32"):
        raise ValueError(f"{image.path}: {tags['bits'] or 'unknown number of'} bits a pixel; accepted: 8, 16, 32")
    if min(image.numbers("spacing", 2)) < 1e-4:
        raise ValueError(f"{image.path}: pixel spacing {_text(image.numbers('spacing', 2))}; accepted: above zero (mm)")
    needed, stored = image.size[0] * image.size[1] * int(tags["bits"]) // 8, image.path.stat().st_size
    if needed > stored * (1 if image.syntax in UNCOMPRESSED else RATIO):
        raise ValueError(f"{image.path}: {stored} bytes for {image.size[0]} x {image.size[1]} pixels of {tags['bits']} "
                         "bits; accepted: all of them")


def _axes(image: _Slice) -> np.ndarray:
    """Directions of the axes x, y, z as the columns of a 3x3 matrix."""
    row, column = np.reshape(image.numbers("orientation", 6), (2, 3))
    if np.abs([row @ row - 1, column @ column - 1, row @ column]).max() > 1e-3:
        raise ValueError(f"{image.path}: orientation {_text((*row, *column))}; accepted: two unit vectors at "
                         "right angles")
    row = row / np.linalg.norm(row)
    column = column - (column @ row) * row
    column /= np.linalg.norm(column)
    return np.stack([row, column, np.cross(row, column)], axis=1)


def _in_order(folder: Path, slices: list, axes: np.ndarray) -> tuple[list, float]:
    """The slices along the normal, and the distance (mm) from one to the next, which is the same everywhere."""
    if len(slices) < 2:
        raise ValueError(f"{slices[0].path}: a series of one slice; accepted: two or more")
    slices = sorted(slices, key=lambda image: float(image.numbers("position", 3) @ axes[:, 2]))
    positions = np.array([image.numbers("position", 3) for image in slices])
    along = (positions - positions[0]) @ axes[:, 2]
    steps = np.diff(along)
    usual = float(np.median(steps))
    for image, other, step, place in zip(slices[1:], slices, steps, positions[1:]):
        where = f"{image.path}: position {_text(place)} mm"
        if step < 1e-3:
            raise ValueError(f"{where} is that of {other.path.name}; accepted: one slice at a position")
        if abs(step - usual) > POSITION * usual + 0.005:
            missing = f", {round(step / usual) - 1} missing" if step > 1.5 * usual else ""
            raise ValueError(f"{where} is {step:.4g} mm from that of {other.path.name}{missing}; accepted: "
                             f"{usual:.4g} mm between all slices, as most of them have")
    step = float(along[-1] / (len(slices) - 1))
    away = positions - positions[0] - np.outer(np.arange(len(slices)) * step, axes[:, 2])
    for image, place, offset in zip(slices, positions, away):
        if np.linalg.norm(offset) > POSITION * step + 0.005:
            raise ValueError(f"{image.path}: position {_text(place)} mm is {np.linalg.norm(offset):.4g} mm from where "
                             "an even, upright stack has it (gantry tilt?); accepted: slices exactly above each other")
    return slices, step


def _pixels(image: _Slice) -> np.ndarray:
    """Rescaled values [y, x] of a slice."""
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(image.path))
    try:
        array = sitk.GetArrayFromImage(reader.Execute())
    except (RuntimeError, MemoryError):
        raise ValueError(f"{image.path}: damaged or incomplete pixels; accepted: whole files") from None
    if array.size != image.size[0] * image.size[1] or array.dtype.kind not in "iuf":
        raise ValueError(f"{image.path}: pixels of type {array.dtype} and shape {array.shape}; accepted: grey values")
    with np.errstate(over="ignore"):
        array = array.reshape(image.size[1::-1]).astype(np.float32)
    if not np.isfinite(array).all():
        raise ValueError(f"{image.path}: pixels are NaN, infinite or beyond float32; accepted: finite values")
    return array


def _text(values) -> str:
    return ", ".join(f"{value:.7g}" for value in values)
