"""Which formats there are, and what a file or folder has to be one of them."""
import importlib
from dataclasses import dataclass
from pathlib import Path

from utils.io.files import check_file
from utils.io.scanners.scan import Scan, matching

HEAD = 4096     # bytes that a mark in a text is looked for in


@dataclass(frozen=True)
class Format:
    """A format: ``module`` of this package has ``read(mark: Path) -> Scan``, where ``mark`` is the file that fits.

    Attributes:
        name: for errors and the documentation.
        module: where its code is.
        mark: pattern of the name of the file that a scan is known by, or lies beside, upper and lower case alike.
        text: what stands in the beginning of that file, where its name says too little.
        tried: on what: files of a scanner, or only such as were written for a test.
    """
    name: str
    module: str
    mark: str
    text: bytes = b""
    tried: str = "synthetic"


FORMATS = (
    Format("RTK", "rtk", "*.xml", b"rtkthreedcirculargeometry", "written by RTK 2.7"),
    Format("Elekta XVI", "elekta", "_frames.xml"),
    Format("Varian TrueBeam", "varian", "scan.xml", b"http://baden.varian.com"),
    Format("Helsinki Tomography Challenge 2022", "htc", "*.mat", tried="real"),
    Format("RX Solutions", "rxsolutions", "geom.csv", tried="real, without its images"),
    Format("Nikon X-Tek", "nikon", "*.xtekct", b"xtekct", "real, of a specimen without a mark"),
    Format("Zeiss Xradia", "zeiss", "*.txrm", tried="real, of a parallel beam"),
    Format("Bruker SkyScan", "skyscan", "*.log", b"[system]"),
    Format("ASTRA vectors with flat and dark fields (FleX-ray)", "flexray", "*.geom"),
)


def find_format(path: str | Path) -> tuple[Format, Path] | None:
    """The format of a scan and the file that it is known by: itself, or one in a folder; None where it is of none.

    Raises:
        ValueError: a folder with several scans.
        OSError: a path that cannot be looked at.
    """
    path = Path(path)
    check_file(path, folder=True)
    for known in FORMATS:
        marks = [file for file in (matching(path, known.mark) if path.is_dir() else [path])
                 if Path(file.name.lower()).match(known.mark) and known.text in _head(file)]
        if len(marks) > 1:
            raise ValueError(f"{path}: {len(marks)} scans ({known.name}: {marks[0].name}, {marks[1].name}"
                             f"{', ...' * (len(marks) > 2)}); accepted: a folder with one, or one of these files")
        if marks:
            return known, marks[0]
    return None


def open_scan(path: str | Path) -> Scan | None:
    """The scan in a file or folder of one of `FORMATS`; None of anything else.

    Raises:
        ValueError, OSError: in one line that names the file, for a scan that is not whole.
        ModuleNotFoundError: a format needs a package that is not installed; the line says which.
    """
    found = find_format(path)
    if found is None:
        return None
    known, mark = found
    return importlib.import_module(f"utils.io.scanners.{known.module}").read(mark)


def _head(path: Path) -> bytes:
    with open(path, "rb") as stream:
        return stream.read(HEAD).lower()
