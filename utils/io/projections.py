"""Measured cone-beam projections: read them, and turn counts into line integrals."""
import re
import tokenize
import zlib
from dataclasses import dataclass
from itertools import chain, pairwise
from math import prod
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import SimpleITK as sitk

from utils.io.nifti import read_nifti_array

IMAGES = {".mha": "MetaImageIO", ".mhd": "MetaImageIO", ".nrrd": "NrrdImageIO", ".nhdr": "NrrdImageIO",
          ".nii": "NiftiImageIO", ".nii.gz": "NiftiImageIO"}    # SimpleITK's readers
TIFF = (".tif", ".tiff")
ACCEPTED = f"{', '.join(('.npy', *IMAGES, *TIFF))}, or a folder with a TIFF a view"
SCALARS = {sitk.sitkUInt8: 1, sitk.sitkInt8: 1, sitk.sitkUInt16: 2, sitk.sitkInt16: 2, sitk.sitkUInt32: 4,
           sitk.sitkInt32: 4, sitk.sitkUInt64: 8, sitk.sitkInt64: 8, sitk.sitkFloat32: 4, sitk.sitkFloat64: 8}
TIFF_TAGS = {254: ("subfile type", 0, (0, 2), "0 or 2 (a full image)"),    # tag: name, default, accepted, in words
             259: ("compression", 1, (1, 5, 8, 32946, 32773), "1, 5, 8, 32946, 32773 (none, LZW, deflate, PackBits)"),
             262: ("colour type", 1, (0, 1), "0 or 1 (grey)"),
             266: ("bit order", 1, (1,), "1 (high bits first)"),
             274: ("orientation", 1, (1,), "1 (rows from the top, columns from the left)"),
             277: ("number of values a pixel", 1, (1,), "1"),
             322: ("tiles of width", 0, (0,), "strips")}
FLOAT_FLOOR = 2.0 ** -17    # half a step of a 16-bit detector, as a part of the open beam


def read_projections(path: str | Path) -> np.ndarray:
    """Read projections as float32 [views, det_v, det_u], in memory once.

    ``path`` is an image, its axes in the order of `SimpleITK.GetArrayFromImage` (MetaImage, NRRD, NIfTI; spacing,
    origin and direction are not used), a NumPy array .npy, a TIFF with a page a view, or a folder with a TIFF a
    view. A 2D image is one view. The views of a folder come in natural order of the whole numbers in the files'
    names, view2 before view10; other text in the names is the same in all of them. Hidden files and files that do
    not end in .tif or .tiff are ignored. TIFF values are taken as stored, whatever "white is zero" says.

    Integers of any width and real numbers are accepted; float32 holds whole numbers exactly up to 2^24. Raises
    FileNotFoundError, or ValueError in one line that names the file, what was found and what is accepted.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    name = path.name.lower()
    suffix = ".nii.gz" if name.endswith(".nii.gz") else path.suffix.lower()
    if path.is_dir():
        return _read_tiffs([(file, _tiff_pages(file, single=True)) for file in _files_of_views(path)])
    if suffix in TIFF:
        return _read_tiffs([(path, _tiff_pages(path))])
    if suffix != ".npy" and suffix not in IMAGES:
        raise ValueError(f"{path}: file type {path.suffix or 'without a suffix'}; accepted: {ACCEPTED}")
    stored = _read_npy(path) if suffix == ".npy" else _read_image(path, IMAGES[suffix])
    if stored.ndim not in (2, 3) or not stored.size:
        raise ValueError(f"{path}: an array of shape {stored.shape}; accepted: views x v x u, or v x u for one view")
    with np.errstate(over="ignore"):
        # A memory-mapped array becomes one in memory, a float32 image stays where it was read.
        array = np.require(stored.reshape((-1, *stored.shape[-2:])), np.float32, ["C", "W"])
    for k, view in enumerate(array):
        _check_finite(f"{path}: view {k}", view)
    return array


def read_line_integrals(path, shape, flat=None, dark=None, i0=None) -> tuple[np.ndarray, int]:
    """Measured line integrals of attenuation, float32 [views, v, u] = ``shape``, and how many pixels were too dark.

    Without ``flat`` (a path) or ``i0`` the file holds line integrals; with one of them counts, and `line_integrals`
    turns them into such. Raises as `read_projections` and `line_integrals`, and ValueError for another shape.
    """
    found = read_projections(path)
    if found.shape != tuple(shape):
        raise ValueError(f"{path}: {' x '.join(map(str, found.shape))} (views, v, u); the geometry has "
                         f"{' x '.join(map(str, shape))}")
    if flat is None and i0 is None:
        return found, 0
    flat, dark = (frames if frames is None else read_projections(frames) for frames in (flat, dark))
    try:
        return line_integrals(found, flat, dark, i0)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def line_integrals(counts, flat=None, dark=None, i0=None) -> tuple[np.ndarray, int]:
    """Beer-Lambert: p = -ln((counts - dark) / (flat - dark)), and how many pixels were too dark for it.

    counts  [views, v, u]; a float32 array that can be written is overwritten with p
    flat    open beam, [v, u] or frames [n, v, u], which are averaged
    i0      the open beam as one number, instead of ``flat``: what a pixel without an object reads, photons or grey
            values in the units of ``counts``, its dark signal included (the same as a flat field filled with i0)
    dark    signal without beam, [v, u] or frames [n, v, u]; None: zero

    Returns float32 p [views, v, u] and the number of replaced pixels. The logarithm needs positive numbers, so
    counts - dark below a floor become the floor, as in RTK (LUTbasedVariableI0RawToAttenuationImageFilter, whose
    floor is 1 and whose I0 has the dark signal in it too). Where all counts are whole numbers the floor is half a
    count: what ln(N + 1/2), the nearly unbiased logarithm of a Poisson count (Haldane 1955), gives a zero. Counts on
    another scale (averaged frames, transmissions) don't tell their step; their floor is 2^-17 of the open beam, half
    a step of 16 bits, p = 11.8. The smallest positive value of the stack would be a poor floor: among pixels of noise
    around zero it is as small as chance allows, the smaller the more pixels there are.

    ValueError for shapes that don't fit, values that are not finite, an open beam not above dark, or a stack with no
    pixel above dark.
    """
    if (flat is None) == (i0 is None):
        raise ValueError(f"open beam: found {'neither' if flat is None else 'both'} of flat and i0; accepted: one")
    counts = np.asarray(counts)
    if counts.ndim != 3 or not counts.size:
        raise ValueError(f"projections of shape {counts.shape}; accepted: views x v x u")
    shape = counts.shape[1:]
    dark = _mean_frame("dark", dark, shape) if dark is not None else np.zeros(shape)
    open_beam = (_mean_frame("flat", flat, shape) if i0 is None else float(i0)) - dark
    bad = int((~(np.isfinite(open_beam) & (open_beam > 0))).sum())
    if bad:
        raise ValueError(f"{'flat' if i0 is None else f'i0 = {i0:g}'} minus dark: {bad} of {open_beam.size} pixels are "
                         "not above zero (dead pixels, or flat and dark swapped?); accepted: an open beam above dark")
    whole, signal = True, False
    for k, view in enumerate(counts):
        _check_finite(f"projections: view {k}", view)
        whole = whole and bool((view == np.rint(view)).all())
        signal = signal or bool((view > dark).any())
    if not signal:
        raise ValueError("projections: no pixel above dark in any view (no beam, or files swapped?); accepted: counts "
                         "above dark")
    floor = 0.5 if whole else FLOAT_FLOOR * open_beam
    in_place = counts.dtype == np.float32 and counts.flags.writeable
    p, replaced = counts if in_place else np.empty(counts.shape, np.float32), 0
    for k, view in enumerate(counts):
        transmitted = view - dark    # float64, of one view
        replaced += int((transmitted < floor).sum())
        p[k] = np.log(open_beam / np.maximum(transmitted, floor))
    return p, replaced


def _mean_frame(name: str, frames, shape) -> np.ndarray:
    """The mean of frames [n, v, u], or the one frame [v, u], as float64 [v, u]."""
    if np.ndim(frames) not in (2, 3) or np.shape(frames)[-2:] != shape or not np.size(frames):
        raise ValueError(f"{name} of shape {np.shape(frames)} for views of shape {shape}; accepted: the views' shape, "
                         "or frames x v x u of it")
    frames = np.reshape(frames, (-1, *shape))
    _check_finite(name, frames)
    return frames.mean(axis=0, dtype=np.float64)


def _check_finite(name: str, values: np.ndarray) -> None:
    bad = values.size - int(np.isfinite(values).sum())
    if bad:
        raise ValueError(f"{name}: {bad} pixels are NaN, infinite or beyond float32; accepted: finite values")


def _read_npy(path: Path) -> np.ndarray:
    """The array in an .npy file, memory-mapped, which compares the file's size with the shape in its header."""
    try:
        stored = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, OverflowError, SyntaxError, tokenize.TokenError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{path}: no NumPy array, incomplete or damaged ({reason})") from None
    if stored.dtype.kind not in "iuf":
        raise ValueError(f"{path}: values of type {stored.dtype}; accepted: integers or real numbers")
    return np.asarray(stored)


def _read_image(path: Path, image_io: str) -> np.ndarray:
    """The pixels of a scalar image, in the memory that SimpleITK's reader ``image_io`` put them."""
    if image_io == "NiftiImageIO":
        return read_nifti_array(path)
    reader = sitk.ImageFileReader()
    reader.SetImageIO(image_io)
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        size, pixel = reader.GetSize(), reader.GetPixelID()
        if pixel not in SCALARS:
            raise ValueError(f"{path}: values of type {sitk.GetPixelIDValueAsString(pixel)}; accepted: integers or real "
                             "numbers, one a pixel")
        if image_io in ("MetaImageIO", "NrrdImageIO"):
            _check_data(path, image_io == "MetaImageIO", prod(size) * SCALARS[pixel])
        image = reader.Execute()
    except RuntimeError as error:
        reason = [line.strip() for line in str(error).splitlines() if line.strip()][-1]
        raise ValueError(f"{path}: cannot be read, incomplete or damaged ({reason})") from None
    # SimpleITK's view of the pixels is read-only and does not keep the image alive. An array made from an object with
    # both does, and can be written: nothing else uses this image.
    memory = dict(sitk.GetArrayViewFromImage(image).__array_interface__)
    memory["data"] = (memory["data"][0], False)
    return np.asarray(SimpleNamespace(image=image, __array_interface__=memory))


def _check_data(path: Path, meta: bool, needed: int) -> None:
    """Look at the stored data of a MetaImage (``meta``) or NRRD file for what the readers pass over.

    Where compressed data are short or damaged, or the length that MetaImage's header gives them is not theirs, the
    rest of the image stays zero or undefined without an error. Raw data that are short give one, but for MetaImage
    it speaks of a missing file. ``needed`` is the size of the pixels in bytes.
    """
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
    if (meta or packed) and (source.upper().startswith("LIST") or "%" in source):
        raise ValueError(f"{path}: data in several files ({source}); accepted: in the file itself, or in one other")
    if not (raw or packed):
        return
    file, begin = (path, begin) if source.upper() == "LOCAL" else (path.parent / source, 0)
    if not file.is_file():
        raise ValueError(f"{path}: its data file {source} is missing")
    if raw:
        found = file.stat().st_size - begin - max(int(header.get("headersize", 0)), 0)
    else:
        found, length = _inflated_size(file, begin)
        if meta and header.get("compresseddatasize") != str(length):
            raise ValueError(f"{path}: CompressedDataSize {header.get('compresseddatasize', 'missing')} for {length} "
                             "bytes of compressed data; accepted: their number")
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


@dataclass(frozen=True)
class _Page:
    """A TIFF page: its size (v, u), the type of its pixels, and where its strips of bytes lie."""

    shape: tuple
    dtype: np.dtype
    compression: int
    offsets: list
    sizes: list

    def __str__(self):
        return f"{self.shape[0]} x {self.shape[1]} pixels of {self.dtype.name}"


def _files_of_views(folder: Path) -> list[Path]:
    """The TIFFs of a folder in natural order; names that leave the order open are refused."""
    files = [file for file in folder.iterdir()
             if file.suffix.lower() in TIFF and not file.name.startswith(".") and not file.is_dir()]
    if not files:
        raise ValueError(f"{folder}: a folder without a TIFF; accepted: {ACCEPTED}")
    parts = {file: re.split("([0-9]+)", file.stem.lower()) for file in files}    # text, number, text, ...
    numbers = {file: [int(number) for number in parts[file][1::2]] for file in files}
    files.sort(key=lambda file: (parts[file][::2], numbers[file]))
    for one, other in pairwise(files):
        if parts[one][::2] != parts[other][::2] or numbers[one] == numbers[other]:
            raise ValueError(f"{folder}: {one.name} and {other.name} have no order by number; accepted: names that "
                             "differ in whole numbers, and in nothing else")
    return files


def _read_tiffs(sources: list) -> np.ndarray:
    """Views [views, v, u] of files and their pages: [(path, pages), ...]."""
    first = sources[0][1][0]
    for file, pages in sources:
        for k, page in enumerate(pages):
            if (page.shape, page.dtype.name) != (first.shape, first.dtype.name):
                raise ValueError(f"{file}: page {k} has {page}, the first view {first}; accepted: one size and type")
    array = np.empty((sum(len(pages) for _, pages in sources), *first.shape), np.float32)
    views = chain.from_iterable(((file, view) for view in _tiff_views(file, pages)) for file, pages in sources)
    for k, (file, view) in enumerate(views):
        with np.errstate(over="ignore"):
            array[k] = view
        _check_finite(f"{file}: view {k}", array[k])
    return array


def _tiff_views(path: Path, pages: list):
    """The pages of a TIFF, one after the other, as arrays [v, u]."""
    if any(page.compression != 1 for page in pages):
        yield from _read_image(path, "TIFFImageIO").reshape(len(pages), *pages[0].shape)
        return
    with open(path, "rb") as stream:
        for page in pages:
            content = bytearray()
            for offset, size in zip(page.offsets, page.sizes):
                stream.seek(offset)
                content += stream.read(size)
            yield np.frombuffer(content, page.dtype, prod(page.shape)).reshape(page.shape)


def _tiff_pages(path: Path, single: bool = False) -> list[_Page]:
    """The pages that a TIFF or BigTIFF file lists, all of them grey and with all their bytes in the file.

    SimpleITK alone would give fewer pages for a truncated file, 16-bit floats as integers, turned pages as colours,
    and write past its memory when pages differ. (TIFF 6.0, 1992; BigTIFF: words of 8 bytes.) ``single``: one page only.
    """
    length = path.stat().st_size

    def read(offset: int, kind: str, count: int) -> list:
        size = np.dtype(kind).itemsize * count
        if offset + size > length:
            raise ValueError(f"{path}: incomplete or damaged TIFF of {length} bytes, it points to byte {offset + size}")
        stream.seek(offset)
        return np.frombuffer(stream.read(size), kind).tolist()

    pages, seen, description, subfiles = [], set(), b"", set()
    with open(path, "rb") as stream:
        order = {b"II": "<", b"MM": ">"}.get(stream.read(2))
        version = read(2, f"{order}u2", 1)[0] if order else None
        if version not in (42, 43):
            raise ValueError(f"{path}: not a TIFF file; accepted: {ACCEPTED}")
        word, few = (8, 8) if version == 43 else (4, 2)    # bytes of an offset, and of the number of tags
        offset = read(word, f"{order}u{word}", 1)[0]
        while offset:
            if offset in seen:
                raise ValueError(f"{path}: damaged TIFF, its list of pages runs in a circle")
            seen.add(offset)
            count = read(offset, f"{order}u{few}", 1)[0]
            entry = np.dtype([("tag", f"{order}u2"), ("kind", f"{order}u2"), ("count", f"{order}u{word}")])
            tags = {}
            for k in range(count):
                begin = offset + few + k * (entry.itemsize + word)
                tag, kind, values = read(begin, entry, 1)[0]
                if values and (tag in TIFF_TAGS or tag in (256, 257, 258, 270, 273, 279, 339)):
                    code = {2: "S1", 3: f"{order}u2", 4: f"{order}u4", 16: f"{order}u8"}.get(kind, "u1")
                    place = begin + entry.itemsize
                    if np.dtype(code).itemsize * values > word:
                        place = read(place, f"{order}u{word}", 1)[0]
                    tags[tag] = read(place, code, values)
            pages.append(_page(f"{path}: page {len(pages)}", tags, order, length))
            description = description or b"".join(tags.get(270, [b""]))
            subfiles.add(tags.get(254, [0])[0])
            offset = read(offset + few + count * (entry.itemsize + word), f"{order}u{word}", 1)[0]
    images = re.match(rb"ImageJ=.*?^images=([0-9]+)", description, re.DOTALL | re.MULTILINE)
    listed = int(images[1]) if images else len(pages)
    if not pages or single and len(pages) > 1 or len(subfiles) > 1 or listed != len(pages):
        raise ValueError(f"{path}: {len(pages)} pages" + f", of {listed} images by its description" * bool(images)
                         + " of more than one subfile type" * (len(subfiles) > 1) + "; accepted: "
                         + ("one page in a file of a folder" if single else "a page a view, all listed and of one type"))
    return pages


def _page(name: str, tags: dict, order: str, length: int) -> _Page:
    """A page from its tags, checked; ``name`` says which one in errors, ``length`` is the file's in bytes."""
    for tag, (what, default, accepted, words) in TIFF_TAGS.items():
        found = tags.get(tag, [default])[0]
        if found not in accepted:
            raise ValueError(f"{name}: {what} {found}; accepted: {words}")
    width, height, bits = (tags.get(tag, [default])[0] for tag, default in ((256, 0), (257, 0), (258, 1)))
    kind, compression = {1: "u", 2: "i", 3: "f"}.get(tags.get(339, [1])[0]), tags.get(259, [1])[0]
    integers, floats = ((8, 16, 32, 64), (16, 32, 64)) if compression == 1 else ((8, 16, 32), (32,))    # SimpleITK's
    if bits not in {"u": integers, "i": integers, "f": floats}.get(kind, ()):
        raise ValueError(f"{name}: {bits} bits a pixel, sample format {tags.get(339, [1])[0]}, compression {compression}; "
                         f"accepted with it: integers of {integers} bits, floats of {floats}")
    page = _Page((height, width), np.dtype(f"{order}{kind}{bits // 8}"), compression, tags.get(273, []),
                 tags.get(279, []))
    needed, found = height * width * bits // 8, sum(page.sizes)
    if not needed or len(page.offsets) != len(page.sizes) or not found or compression == 1 and found < needed:
        raise ValueError(f"{name}: {found} bytes in {len(page.sizes)} strips for {page}; accepted: all of them")
    end = max(offset + size for offset, size in zip(page.offsets, page.sizes))
    if end > length:
        raise ValueError(f"{name}: incomplete TIFF of {length} bytes, the pixels end at byte {end}")
    return page
