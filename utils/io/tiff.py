"""TIFF and BigTIFF stacks, read by tifffile, with a look at what it passes over in silence."""
import logging
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path

import numpy as np
import tifffile

from physics.beer_lambert import check_finite
from utils.io.views import Views

SUFFIXES = (".tif", ".tiff")
LARGEST_RATIO = 5000    # decoded to stored bytes; deflate reaches 1032, LZW 2730
BROKEN = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RuntimeError, AssertionError,
          ImportError, EOFError, struct.error, zlib.error)    # what tifffile and its codecs raise for damaged data
PAGE = {"photometric": ("colour type", (0, 1), "0 or 1 (grey)"),
        "samplesperpixel": ("number of values a pixel", (1,), "1"),
        "subfiletype": ("subfile type", (0, 2), "0 or 2 (a full image)")}


def open_tiffs(files: list[Path], single: bool = False) -> Views:
    """The pages of TIFF files as views, one after the other.

    All pages are grey, of one size and one type, with all their bytes in the file. Values are taken as stored,
    whatever "white is zero" says.

    Args:
        files: their paths, in order; more than one have a page each.
        single: one page in each file.

    Raises:
        ValueError: in one line that names the file, for anything else; of a page alone when it is read.
    """
    with _damage_named(files[0]) as said:
        pages = _pages(files[0], tifffile.TiffFile(files[0]), said, single)
    first, (rows, columns) = _name(pages[0]), pages[0].shape
    if single:
        pages[0].parent.close()

    def read(k: int) -> np.ndarray:
        path = files[k] if single else files[0]
        with _damage_named(path) as said:
            if not single:
                return _values(path, k, pages[k], first)
            with tifffile.TiffFile(path) as file:
                return _values(path, 0, _pages(path, file, said, single)[0], first)

    name = files[0].parent if single else files[0]
    return Views(len(files) if single else len(pages), (rows, columns), read, str(name))


def _values(path: Path, k: int, page: tifffile.TiffPage, first: str) -> np.ndarray:
    if _name(page) != first:
        raise ValueError(f"{path}: page {k} has {_name(page)}, the first view {first}; accepted: one size and type")
    values = page.asarray().reshape(page.shape)
    check_finite(f"{path}: view {k}", values)
    return values


def _name(page: tifffile.TiffPage) -> str:
    return f"{' x '.join(map(str, page.shape))} pixels of {np.dtype(page.dtype).name}"


def _pages(path: Path, file: tifffile.TiffFile, said: "_Said", single: bool) -> list[tifffile.TiffPage]:
    """The pages of an open file, checked.

    For a list of pages that is cut, or runs into itself, tifffile logs an error and gives the pages before it, or
    never ends.
    """
    pages: list[tifffile.TiffPage] = []
    places: set[int] = set()
    while page := file.pages.get(len(pages), False):        # type: ignore[call-overload]
        if page.offset in places:
            raise ValueError(f"{path}: damaged TIFF, its list of pages runs in a circle")
        places.add(page.offset)
        pages.append(page)
    if said.errors or not pages:
        raise ValueError(f"{path}: incomplete or damaged TIFF ({said.errors[0] if said.errors else 'no page'})")
    for k, page in enumerate(pages):
        _check_page(f"{path}: page {k}", page, path.stat().st_size)
    _check_pages(path, pages, single)
    return pages


@contextmanager
def _damage_named(path: Path) -> Iterator["_Said"]:
    """What tifffile and its codecs raise inside becomes one line."""
    said = _Said()
    try:
        with said:
            yield said
    except BROKEN as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(reason if reason.startswith(f"{path}: ") else
                         f"{path}: not a TIFF file, incomplete or damaged ({reason[:200]})") from None


def _check_page(name: str, page: tifffile.TiffPage, length: int) -> None:
    """``name`` says which page in errors, ``length`` is the file's in bytes."""
    for field, (what, accepted, words) in PAGE.items():
        found = int(getattr(page, field) or 0)
        if found not in accepted:
            raise ValueError(f"{name}: {what} {found}; accepted: {words}")
    turned = page.tags.valueof(274, 1)
    if turned != 1:
        raise ValueError(f"{name}: orientation {turned}; accepted: 1 (rows from the top, columns from the left)")
    if page.dtype is None or page.dtype.kind not in "iuf":
        raise ValueError(f"{name}: {page.bitspersample} bits a pixel, sample format {page.sampleformat}; accepted: "
                         "integers or real numbers")
    if len(page.shape) != 2 or not prod(page.shape):
        raise ValueError(f"{name}: {' x '.join(map(str, page.shape))} pixels; accepted: v x u")
    ends = [offset + size for offset, size in zip(page.dataoffsets, page.databytecounts, strict=True)]
    found, needed = sum(page.databytecounts), (prod(page.shape) * page.bitspersample + 7) // 8
    if not found or min(page.databytecounts) < 1 or needed > found * (1 if page.compression == 1 else LARGEST_RATIO):
        raise ValueError(f"{name}: {found} bytes for {_name(page)}; accepted: all of them")
    if max(ends) > length:
        raise ValueError(f"{name}: incomplete TIFF of {length} bytes, the pixels end at byte {max(ends)}")


def _check_pages(path: Path, pages: list[tifffile.TiffPage], single: bool) -> None:
    images = re.match("ImageJ=.*?^images=([0-9]+)", pages[0].description, re.DOTALL | re.MULTILINE)
    listed, kinds = int(images[1]) if images else len(pages), {int(page.subfiletype or 0) for page in pages}
    if (single and len(pages) > 1) or len(kinds) > 1 or listed != len(pages):
        raise ValueError(f"{path}: {len(pages)} pages" + f", of {listed} images by its description" * bool(images)
                         + " of more than one subfile type" * (len(kinds) > 1) + "; accepted: "
                         + ("one page in a file of a folder" if single else
                            "a page a view, all listed and of one type"))


class _Said(logging.Handler):
    """Keeps tifffile's errors while it is entered, and its messages off the program's log."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.errors = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR:
            self.errors.append(record.getMessage()[:200])

    def __enter__(self) -> "_Said":
        log = logging.getLogger("tifffile")
        self.before, log.propagate = log.propagate, False
        log.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        log = logging.getLogger("tifffile")
        log.removeHandler(self)
        log.propagate = self.before
