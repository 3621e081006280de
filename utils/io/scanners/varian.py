"""Varian TrueBeam and ProBeam: Scan.xml with a .xim file a view.

The bytes are as RTK, pylinac and TIGRE read them, the geometry as RTK has it.
"""
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from physics.geometry import ConeGeometry
from utils.io.scanners.scan import Scan, matching, number, read_xml
from utils.io.views import Views

AIR = 139000.0          # counts of the open beam where there is no scan of it, as in RTK
LARGEST = 1 << 14       # pixels along an edge
ANGLE, LATERAL, LONGITUDINAL, CHAMBER = "KVSourceRtn", "KVDetectorLat", "KVDetectorLng", "KVNormChamber"
TYPES = {0: "<i", 1: "<d"}      # of properties; the others are texts and lists


@dataclass(frozen=True)
class Xim:
    """A .xim file without its pixels; ``begin`` is where they are."""
    path: Path
    shape: tuple[int, int]
    depth: int
    compressed: bool
    begin: int
    properties: dict[str, Any]


def read(mark: Path) -> Scan:
    """The scan of the .xim files beside a Scan.xml, or in a folder there.

    Counts are scaled to one reading of the norm chamber. The open beam is the air scan below ``Calibrations``, where
    there is one.

    Raises:
        ValueError: in one line that names the file.
    """
    texts = {element.tag: (element.text or "").strip() for element in read_xml(mark).iter()}
    source, detector = (number(mark, texts, name) for name in ("SAD", "SID"))
    if not 0 < source < detector:
        raise ValueError(f"{mark}: SAD {source:g}, SID {detector:g}; accepted: positive, SID larger")
    folders = [mark.parent, *sorted(folder for folder in mark.parent.iterdir() if folder.is_dir())]
    files = next((found for folder in folders if (found := matching(folder, "proj*.xim") or matching(folder, "*.xim"))),
                 [])
    views = [image for image in map(read_xim, files) if min(image.shape) > 0]
    if not views:
        raise ValueError(f"{mark.parent}: no .xim file with pixels")
    angles, sideways, along = ([number(image.path, image.properties, name) for image in views]
                               for name in (ANGLE, LATERAL, LONGITUDINAL))
    step_u, step_v = (10 * number(views[0].path, views[0].properties, name) for name in ("PixelWidth", "PixelHeight"))
    chambers = np.array([number(image.path, image.properties, CHAMBER, 0) for image in views])
    normed = bool((chambers > 0).all())
    typical = float(np.median(chambers)) if normed else 1.0
    fields = {"angles": [180 - angle for angle in angles], "src_dist": source, "det_dist": detector - source,
              "det_shape": views[0].shape, "det_spacing": (step_v, step_u),
              "det_offset": (10 * along[0], 10 * sideways[0])}
    if np.ptp(sideways) > 0 or np.ptp(along) > 0:
        fields = _by_view(fields, 10 * np.subtract(sideways, sideways[0]), 10 * np.subtract(along, along[0]))

    def counts(k: int) -> np.ndarray:
        return read_pixels(views[k]) * (typical / chambers[k] if normed else 1.0)

    air = [image for image in map(read_xim, sorted(mark.parent.glob("Calibrations/Air-*/**/Filter*.xim")))
           if image.shape == views[0].shape]
    flat = np.stack([read_pixels(image) * (typical / number(image.path, image.properties, CHAMBER, typical)
                                           if normed else 1.0) for image in air]) if air else None
    assumed = ("angle 180 - KVSourceRtn, rows upwards (RTK)",
               f"the mean of {len(air)} air scans for all angles" if air else f"an open beam of {AIR:g} counts (RTK)")
    return Scan("Varian TrueBeam", fields, Views(len(views), views[0].shape, counts, str(mark.parent)), flat=flat,
                i0=None if air else AIR, assumed=assumed)


def _by_view(fields: dict, sideways: np.ndarray, along: np.ndarray) -> dict:
    """The same with a detector that is moved by so many mm along u and v in every view."""
    vectors, (step_v, step_u) = ConeGeometry(**fields).vectors, fields["det_spacing"]
    vectors[:, 3:6] += (sideways / step_u)[:, None] * vectors[:, 6:9] + (along / step_v)[:, None] * vectors[:, 9:]
    return {"det_shape": fields["det_shape"], "view_vectors": vectors}


def read_xim(path: Path) -> Xim:
    """The header and the properties, names in lower case.

    Raises:
        ValueError: in one line that names the file.
    """
    size = path.stat().st_size
    with open(path, "rb") as stream:
        def take(form: str) -> tuple:
            found = stream.read(struct.calcsize(form))
            if len(found) < struct.calcsize(form):
                raise ValueError(f"{path}: incomplete .xim file of {size} bytes")
            return struct.unpack(form, found)

        def skip(count: int) -> None:
            if not 0 <= count <= size - stream.tell():
                raise ValueError(f"{path}: incomplete .xim file of {size} bytes, or damaged ({count} bytes are to "
                                 f"follow byte {stream.tell()})")
            stream.seek(count, 1)

        _, _, columns, rows, _, depth, compressed = take("<8s6i")
        if not (0 <= columns <= LARGEST and 0 <= rows <= LARGEST and depth in (1, 2, 4) and compressed in (0, 1)):
            raise ValueError(f"{path}: no .xim file ({columns} x {rows} pixels of {depth} bytes)")
        begin = stream.tell()
        if compressed:
            skip(take("<i")[0])
            skip(take("<i")[0])
            skip(4)
        else:
            skip(take("<i")[0])
        skip(4 * take("<i")[0])
        properties = {}
        for _ in range(max(take("<i")[0], 0)):
            length = take("<i")[0]
            if not 0 <= length <= 1000:
                raise ValueError(f"{path}: damaged .xim file (a name of {length} bytes)")
            name, kind = stream.read(length).decode("latin-1").lower(), take("<i")[0]
            if kind in TYPES:
                properties[name] = take(TYPES[kind])[0]
            else:
                skip(take("<i")[0])
    return Xim(path, (rows, columns), depth, bool(compressed), begin, properties)


def read_pixels(image: Xim) -> np.ndarray:
    """The pixels of a .xim file, int64 [v, u].

    Compressed ones are the first row and a pixel more as they are, then differences: pixel = difference + left + above
    - above left, in the file's order, running over the ends of rows. So d(k) = pixel(k) - pixel(k - 1) has
    d(k) = difference(k) + d(k - columns), two running sums.

    Raises:
        ValueError: in one line that names the file.
    """
    rows, columns = image.shape
    content = np.fromfile(image.path, np.uint8, offset=image.begin)

    def whole(at: int) -> int:
        return int(content[at:at + 4].view("<i4")[0])

    if not image.compressed:
        if whole(0) != rows * columns * image.depth:
            raise ValueError(f"{image.path}: {whole(0)} bytes for {columns} x {rows} pixels of {image.depth} bytes")
        return content[4:4 + whole(0)].view(f"<i{image.depth}").reshape(rows, columns).astype(np.int64)
    count, table = rows * columns - columns - 1, content[4:4 + whole(0)]
    body = content[8 + len(table):8 + len(table) + whole(4 + len(table))]
    sizes = ((table[:, None] >> np.array([0, 2, 4, 6], np.uint8)) & 3).ravel()[:max(count, 0)]
    widths = np.left_shift(1, sizes.astype(np.int64))
    if count < 0 or len(sizes) < count or (sizes > 2).any() or len(body) != 4 * (columns + 1) + widths.sum():
        raise ValueError(f"{image.path}: damaged .xim file (a table of {len(table)} bytes and {len(body)} of pixels, "
                         f"for {columns} x {rows})")
    starts = 4 * (columns + 1) + np.cumsum(widths) - widths
    first = body[:4 * (columns + 1)].view("<i4").astype(np.int64)
    steps = np.empty(rows * columns - 1, np.int64)
    steps[:columns] = np.diff(first)
    for size, kind in enumerate(("<i1", "<i2", "<i4")):
        chosen = sizes == size
        steps[columns:][chosen] = body[starts[chosen][:, None] + np.arange(1 << size)].view(kind)[:, 0]
    padded = np.zeros(rows * columns, np.int64)
    padded[:-1] = steps
    steps = np.cumsum(padded.reshape(rows, columns), axis=0).ravel()[:-1]
    pixels = np.cumsum(np.concatenate([first[:1], steps]))
    return (pixels & 0xFFFFFFFF).astype(np.uint32).view(np.int32).astype(np.int64).reshape(rows, columns)
