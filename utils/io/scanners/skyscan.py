"""Bruker SkyScan: .log beside a TIFF a view, corrected by the flat field."""
import re
from pathlib import Path

from utils.io.projections import files_of_views
from utils.io.scanners.scan import Scan, number, read_ini, whole
from utils.io.tiff import SUFFIXES, open_tiffs

APART = 0.005       # of the distance in the log from that of the pixel sizes, from which on it is said


def read(mark: Path) -> Scan:
    """The scan of a .log file.

    The distance from source to detector is the one that both pixel sizes give: those in the logs of some models are up
    to 8 % off.

    Raises:
        ValueError: in one line that names the file.
    """
    sections = read_ini(mark)
    found = {**sections.get("system", {}), **sections.get("acquisition", {})}
    found = {re.sub(r"\s+", " ", key): value for key, value in found.items()}
    count = whole(mark, found, "Number of Files")
    rows, columns = (whole(mark, found, f"Number of {name}") for name in ("Rows", "Columns"))
    binning = (re.findall(r"\d+", found.get("camera binning", "")) or ["1"])[0]
    pixel = number(mark, found, "Camera Pixel Size (um)") / 1000 * int(binning)
    source, stated = (number(mark, found, f"{what} to Source (mm)") for what in ("Object", "Camera"))
    image = number(mark, found, "Image Pixel Size (um)") / 1000
    step = number(mark, found, "Rotation Step (deg)")
    if not (pixel > 0 and 0 < image < pixel and source > 0):
        raise ValueError(f"{mark}: pixels of {pixel:g} mm at the camera and {image:g} mm at the object, {source:g} mm "
                         "from the source; accepted: positive, that of the object smaller")
    detector = source * pixel / image
    views = open_tiffs(_files(mark, found), single=True)
    if len(views) not in (count, count + 1) or views.shape[1:] != (rows, columns):
        raise ValueError(f"{mark}: {count} files of {rows} x {columns} pixels (v, u), for {len(views)} images of "
                         f"{' x '.join(map(str, views.shape[1:]))}")
    if len(views) > 1 and abs((len(views) - 1) * step - 360) < 0.01 * step:
        views = views.select(range(len(views) - 1))     # the last repeats the first
    line = number(mark, found, "Optical Axis (line)", (rows - 1) / 2)
    fields = {"angles": [k * step for k in range(len(views))], "src_dist": source, "det_dist": detector - source,
              "det_shape": (rows, columns), "det_spacing": (-pixel, pixel),
              "det_offset": ((line - (rows - 1) / 2) * pixel, 0.0)}
    assumed = ["the first row of an image is at the top, its first column at the left, angles grow",
               "the axis is seen in the middle column (Postalignment is not used: its sign is not known)"]
    if abs(stated - detector) > APART * detector:
        assumed.append(f"{detector:.4g} mm from source to camera by the pixel sizes; the log's {stated:.4g} mm is not "
                       "used")
    white = number(mark, found, "Reference Intensity", 2 ** number(mark, found, "Depth (bits)", 16) - 1)
    assumed.append(f"an open beam of {white:g} counts")
    return Scan("Bruker SkyScan", fields, views, i0=white, assumed=tuple(assumed))


def _files(mark: Path, found: dict[str, str]) -> list[Path]:
    """The images of the scan: the log's prefix and a number."""
    begin = found.get("filename prefix", mark.stem).lower()
    pattern = re.compile(re.escape(begin) + r"\d+")
    return files_of_views(mark.parent, [file for file in mark.parent.iterdir() if file.suffix.lower() in SUFFIXES
                                        and pattern.fullmatch(file.stem.lower())])
