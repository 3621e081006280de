"""MetaImage and NRRD stacks (and PNG), read by SimpleITK, with a look at what its readers pass over in silence.

SimpleITK is imported where it is used: it takes 0.1 GB, which most runs do without.
"""
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from utils.io.views import Views

READERS = {".mha": "MetaImageIO", ".mhd": "MetaImageIO", ".nrrd": "NrrdImageIO", ".nhdr": "NrrdImageIO",
           ".png": "PNGImageIO"}
SCALARS = {"UInt8": 1, "Int8": 1, "UInt16": 2, "Int16": 2, "UInt32": 4, "Int32": 4, "UInt64": 8, "Int64": 8,
           "Float32": 4, "Float64": 8}     # bytes of a pixel


@dataclass(frozen=True)
class Place:
    """Where the pixels of an image lie, axes in the order of the file (u first): what its header says."""
    spacing: tuple
    origin: tuple
    direction: tuple


def open_image(path: Path) -> tuple[Views, Place]:
    """The pixels of a scalar 2D or 3D image as views [v, u], and where they lie.

    MetaImage that is not compressed is read a view at a time, the others whole.

    Args:
        path: its name ends in one of `READERS`.

    Returns:
        The views, axes in the order of `SimpleITK.GetArrayFromImage`.

    Raises:
        ValueError: in one line that names the file, for what is no such image, or cut, or damaged.
    """
    import SimpleITK as sitk

    try:
        os.fspath(path).encode("utf-8")
    except UnicodeEncodeError:    # SimpleITK would end the process
        name = os.fsencode(path).decode("utf-8", "backslashreplace")
        raise ValueError(f"{name}: SimpleITK opens no name that is not UTF-8, or not of this locale; accepted: another "
                         "name, a UTF-8 locale, .npy, .tif, .nii") from None
    image_io, scalars = READERS[path.suffix.lower()], {getattr(sitk, f"sitk{name}"): n for name, n in SCALARS.items()}
    reader = sitk.ImageFileReader()
    reader.SetImageIO(image_io)
    reader.SetFileName(str(path))
    with _damage_named(path):
        data = None if image_io == "PNGImageIO" else _find_data(path, image_io == "MetaImageIO")
        reader.ReadImageInformation()
        size, pixel = reader.GetSize(), reader.GetPixelID()
        if pixel not in scalars:
            raise ValueError(f"{path}: values of type {sitk.GetPixelIDValueAsString(pixel)}; accepted: integers or "
                             "real numbers, one a pixel")
        if len(size) not in (2, 3) or 0 in size:
            raise ValueError(f"{path}: an array of shape {size[::-1]}; accepted: views x v x u, or v x u for one view")
        if data:
            _check_data(path, data, prod(size) * scalars[pixel])
        place = Place(reader.GetSpacing(), reader.GetOrigin(), reader.GetDirection())
        if not (data and data.raw and len(size) == 3):
            image = reader.Execute()    # has to outlive the view of its memory
            with np.errstate(over="ignore"):
                array = np.array(sitk.GetArrayViewFromImage(image), np.float32, ndmin=3)
            return Views.of(array, str(path)), place

    def read(k: int) -> np.ndarray:
        with _damage_named(path):
            reader.SetExtractIndex((0, 0, k))
            reader.SetExtractSize((*size[:2], 1))
            return sitk.GetArrayFromImage(reader.Execute())[0]

    return Views(size[2], size[1::-1], read, str(path)), place


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """What SimpleITK says of a file that it cannot read becomes one line."""
    try:
        yield
    except RuntimeError as error:
        reason = [line.strip() for line in str(error).splitlines() if line.strip()][-1]
        raise ValueError(f"{path}: cannot be read, incomplete or damaged ({reason})") from None


@dataclass(frozen=True)
class _Data:
    """Where a header says that the pixels are: ``raw`` MetaImage, ``packed``, or neither; from a byte of a file on."""
    meta: bool
    raw: bool
    packed: bool
    file: Path
    begin: int
    header: dict[str, str]


def _find_data(path: Path, meta: bool) -> _Data:
    """Read the header of a MetaImage (``meta``) or NRRD file; its reader would wait for a pipe for data."""
    mark, last = ("=", "elementdatafile") if meta else (":", "")
    header, key = {}, None
    with open(path, "rb") as stream:
        while key != last and (line := stream.readline()):
            key, _, value = line.decode("latin-1").partition(mark)
            key = key.strip().lower()
            header[key] = value.strip()
        begin = stream.tell()
    if meta:
        source, packed = header.get(last, ""), header.get("compresseddata", "")[:1] in ("T", "t", "1")
        raw = not packed and header.get("binarydata", "")[:1] in ("T", "t", "1")
    else:
        source, packed = header.get("data file", header.get("datafile", "LOCAL")), "gz" in header.get("encoding", "")
        raw = False    # the reader notices when raw data, or numbers in text, are short
    several = source.upper().startswith("LIST") or "%" in source
    if several and (meta or packed):
        raise ValueError(f"{path}: data in several files ({source}); accepted: in the file itself, or in one other")
    file, begin = (path, begin) if several or source.upper() == "LOCAL" else (path.parent / source, 0)
    if source and not file.is_file():
        raise ValueError(f"{path}: its data file {source} is missing")
    return _Data(meta, raw, packed, file, begin, header)


def _check_data(path: Path, data: _Data, needed: int) -> None:
    """Look at the stored data for what the readers pass over; ``needed`` is the size of the pixels in bytes.

    Where compressed data are short or damaged, or the length that MetaImage's header gives them is not theirs, the
    rest of the image stays zero or undefined without an error. Raw data that are short give one, but for MetaImage
    it speaks of a missing file.
    """
    if data.raw:
        found = data.file.stat().st_size - data.begin - max(int(data.header.get("headersize", 0)), 0)
    elif data.packed:
        found, length = _inflated_size(data.file, data.begin)
        if data.meta and data.header.get("compresseddatasize") != str(length):
            raise ValueError(f"{path}: CompressedDataSize {data.header.get('compresseddatasize', 'missing')} for "
                             f"{length} bytes of compressed data; accepted: their number")
    else:
        return
    if found < needed:
        raise ValueError(f"{path}: {needed - found} bytes short of the {needed} of its pixels")


def _inflated_size(file: Path, begin: int) -> tuple[int, int]:
    """Bytes that the zlib or gzip stream at ``begin`` holds, and its own length. ValueError when it is not whole."""
    packed, size, length = zlib.decompressobj(wbits=47), 0, 0    # 47: both kinds of header
    with open(file, "rb") as stream:
        stream.seek(begin)
        try:
            while not packed.eof and (chunk := stream.read(1 << 16)):
                size, length = size + len(packed.decompress(chunk)), length + len(chunk)
        except zlib.error as error:
            raise ValueError(f"{file}: damaged compressed data ({error})") from None
    if not packed.eof:
        raise ValueError(f"{file}: incomplete compressed data, they end after {size} bytes of pixels")
    return size, length - len(packed.unused_data)
