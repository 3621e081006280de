"""Zeiss (Xradia): .txrm, an OLE file with a stream a view (needs olefile).

Streams and fields as CIL, dxchange and mbirjax read them.
"""
from pathlib import Path
from typing import Any

import numpy as np

from physics.geometry import ConeGeometry
from utils.io.scanners.scan import Scan
from utils.io.views import Views

TYPES = {5: "<u2", 10: "<f4"}
CONE = 1        # XrayGeometry
MOST = 100_000  # views


def read(mark: Path) -> Scan:
    """The scan in a .txrm file, with its flat field where there is one.

    Of a parallel beam the fields have no distances: a geometry needs ``src_dist``, ``det_dist`` and ``det_spacing``
    from elsewhere.

    Raises:
        ValueError: in one line that names the file.
        ModuleNotFoundError: without olefile.
    """
    try:
        import olefile
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f"{mark}: .txrm files need olefile (pip install olefile)") from None
    try:
        file = olefile.OleFileIO(str(mark))
        streams = {"/".join(path).lower(): path for path in file.listdir()}
    except (OSError, ValueError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{mark}: no OLE file, incomplete or damaged ({' '.join(str(error).split())[:120]})") from None
    stored = _Streams(mark, file, streams)
    count, width, height = (int(stored.numbers(f"imageinfo/{name}", "<i4", 1)[0])
                            for name in ("noofimages", "imagewidth", "imageheight"))
    kind = TYPES.get(int(stored.numbers("imageinfo/datatype", "<i4", 1)[0]))
    if not (0 < count <= MOST and width > 0 and height > 0) or kind is None:
        raise ValueError(f"{mark}: {count} images of {width} x {height} pixels, type "
                         f"{stored.numbers('imageinfo/datatype', '<i4', 1)[0]}; accepted: uint16 (5) or float32 (10)")
    if "imageinfo/acquisitionmode" in streams and stored.numbers("imageinfo/acquisitionmode", "<i4", 1)[0] != 0:
        raise ValueError(f"{mark}: no projections (AcquisitionMode "
                         f"{stored.numbers('imageinfo/acquisitionmode', '<i4', 1)[0]}); accepted: 0")
    angles = stored.numbers("imageinfo/angles", "<f4", count).astype(float)
    names = [f"imagedata{k // 100 + 1}/image{k + 1}" for k in range(count)]
    if missing := [name for name in names if name not in streams]:
        raise ValueError(f"{mark}: {len(missing)} of its {count} images are missing ({missing[0]})")
    views = Views(count, (height, width),
                  lambda k: stored.numbers(names[k], kind, width * height).reshape(height, width), str(mark))
    fields: dict[str, Any] = {"angles": angles.tolist(), "det_shape": (height, width)}
    assumed = ["the first row of an image is at the top, its first column at the left; angles as they are"]
    beam = stored.numbers("imageinfo/xraygeometry", "<i4", 1)[0] if "imageinfo/xraygeometry" in streams else CONE
    if beam == CONE:
        fields |= _cone(stored, count)
        fields, more = _shifted(stored, fields)
        assumed += more
    else:
        assumed.append("a parallel beam: distances have to come from elsewhere")
    return Scan("Zeiss Xradia", fields, views, flat=_flat(stored, (height, width)), assumed=tuple(assumed))


def _cone(stored: "_Streams", count: int) -> dict:
    """Distances and pixels; PixelSize is micrometres at the object, distances are millimetres."""
    source, detector = (float(np.abs(stored.numbers(f"imageinfo/{name}distance", "<f4", count)[0]))
                        for name in ("stora", "dtora"))
    size = float(stored.numbers("imageinfo/pixelsize", "<f4", 1)[0])
    if not (source > 0 and detector > 0 and size > 0):
        raise ValueError(f"{stored.path}: StoRADistance {source:g}, DtoRADistance {detector:g}, PixelSize {size:g}; "
                         "accepted: positive")
    pixel = size / 1000 * (source + detector) / source
    return {"src_dist": source, "det_dist": detector, "det_spacing": (-pixel, pixel)}


def _shifted(stored: "_Streams", fields: dict) -> tuple[dict, list[str]]:
    """Fields with the shifts (pixels) that align the images as shifts of the detector, and what was assumed of them."""
    count = len(fields["angles"])
    x, y = (stored.numbers(f"alignment/{axis}-shifts", "<f4", count).astype(float)
            if f"alignment/{axis}-shifts" in stored.streams else np.zeros(count) for axis in "xy")
    if not (x.any() or y.any()):
        return fields, []
    vectors = ConeGeometry(**fields).vectors
    vectors[:, 3:6] += x[:, None] * vectors[:, 6:9] + y[:, None] * vectors[:, 9:]
    return ({"det_shape": fields["det_shape"], "view_vectors": vectors},
            ["images move right and down by their shifts (mbirjax)"])


def _flat(stored: "_Streams", shape: tuple[int, int]) -> np.ndarray | None:
    if "referencedata/image" not in stored.streams:
        return None
    kind = TYPES.get(int(stored.numbers("referencedata/datatype", "<i4", 1)[0])
                     if "referencedata/datatype" in stored.streams else 10)
    if kind is None:
        raise ValueError(f"{stored.path}: a reference of an unknown type; accepted: uint16 (5) or float32 (10)")
    return stored.numbers("referencedata/image", kind, shape[0] * shape[1]).reshape(1, *shape)


class _Streams:
    """The streams of an open OLE file, by their paths in lower case."""

    def __init__(self, path: Path, file: Any, streams: dict[str, list[str]]):
        self.path, self.file, self.streams = path, file, streams

    def numbers(self, name: str, kind: str, count: int) -> np.ndarray:
        """The first ``count`` numbers of a stream. ValueError where it is missing or shorter."""
        try:
            content = self.file.openstream(self.streams[name]).read() if name in self.streams else b""
        except (OSError, ValueError, IndexError, TypeError) as error:
            reason = " ".join(str(error).split())[:80]
            raise ValueError(f"{self.path}: {name}: incomplete or damaged ({reason})") from None
        needed = count * np.dtype(kind).itemsize
        if len(content) < needed:
            found = f"{len(content)} bytes" if name in self.streams else "missing"
            raise ValueError(f"{self.path}: {name}: {found}; accepted: {needed} bytes")
        return np.frombuffer(content, kind, count)
