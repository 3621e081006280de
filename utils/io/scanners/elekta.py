"""Elekta XVI (from version 5 on): _Frames.xml with a .his file a view beside it.

The bytes are as RTK and Zimmermann & Rauter's reader have them; distances and panel are constants in both.
"""
import struct
from pathlib import Path

import numpy as np

from utils.io.scanners.scan import Scan, check_count, matching, number, read_xml
from utils.io.views import Views

SOURCE, DETECTOR = 1000.0, 1536.0       # mm from the source
PANEL = 409.6                           # mm, each side, whatever the number of pixels
HEADER, FULL = 68, 65536


def read(mark: Path) -> Scan:
    """The scan of the frames that were exposed; counts are 65536 - what is stored.

    Raises:
        ValueError: in one line that names the file.
    """
    frames = [{child.tag: (child.text or "").strip() for child in frame} for frame in read_xml(mark).iter("frame")]
    files = matching(mark.parent, "*.his")
    if not files:
        raise ValueError(f"{mark.parent}: no .his file beside {mark.name}")
    check_count(mark, len(files), len(frames), "frames")
    order = np.argsort([number(mark, frame, "Seq", k) for k, frame in enumerate(frames)], kind="stable")
    pairs = [(frames[k], file) for k, file in zip(order, files) if frames[k].get("exposed", "true").lower() != "false"]
    if not pairs:
        raise ValueError(f"{mark}: no frame was exposed")
    angles, u_centres, v_centres = ([number(mark, frame, name, default) for frame, _ in pairs] for name, default in (
        ("GantryAngle", None), ("UCentre", 0.0), ("VCentre", 0.0)))
    shape = _header(pairs[0][1])[0]
    views = Views(len(pairs), shape, lambda k: _counts(pairs[k][1]), str(mark.parent))
    fields = {"angles": angles, "src_dist": SOURCE, "det_dist": DETECTOR - SOURCE, "det_shape": shape,
              "det_spacing": (PANEL / shape[0], PANEL / shape[1]),
              "det_offset": (-float(np.mean(v_centres)), -float(np.mean(u_centres)))}
    wander = max(np.ptp(u_centres), np.ptp(v_centres))
    if wander > 0:      # the panel sags as the gantry turns
        fields = _by_view(fields, u_centres, v_centres)
    assumed = ["GantryAngle is that of the kV source (if it is the MV gantry's, turn by 90 degrees)",
               f"source at {SOURCE:g} mm, panel of {PANEL:g} mm at {DETECTOR:g} mm", "an open beam of 65536 counts"]
    if len(pairs) < len(frames):
        assumed.append(f"{len(frames) - len(pairs)} frames that were not exposed are left out")
    return Scan("Elekta XVI", fields, views, i0=float(FULL), assumed=tuple(assumed))


def _by_view(fields: dict, u_centres: list[float], v_centres: list[float]) -> dict:
    from physics.geometry import ConeGeometry

    vectors = ConeGeometry(**{**fields, "det_offset": (0, 0)}).vectors
    step_v, step_u = fields["det_spacing"]
    vectors[:, 3:6] -= np.reshape(u_centres, (-1, 1)) / step_u * vectors[:, 6:9]
    vectors[:, 3:6] -= np.reshape(v_centres, (-1, 1)) / step_v * vectors[:, 9:]
    return {"det_shape": fields["det_shape"], "view_vectors": vectors}


def _header(path: Path) -> tuple[tuple[int, int], int]:
    """Rows and columns, and where the pixels begin. ValueError for what is no such file, or not whole."""
    with open(path, "rb") as stream:
        head = stream.read(HEADER)
    if len(head) < HEADER or struct.unpack_from("<HH", head) != (0x7000, HEADER):
        raise ValueError(f"{path}: no .his file (a header that begins with {head[:4].hex()})")
    extra, left, top, right, bottom, frames = struct.unpack_from("<6H", head, 10)
    kind = struct.unpack_from("<H", head, 32)[0]
    shape, begin = (right - left + 1, bottom - top + 1), HEADER + extra
    if kind != 4 or frames != 1 or min(shape) < 1:
        raise ValueError(f"{path}: type {kind}, {frames} frames of {shape[1]} x {shape[0]} pixels; accepted: one of "
                         "uint16 (type 4)")
    if path.stat().st_size != begin + 2 * shape[0] * shape[1]:
        raise ValueError(f"{path}: {path.stat().st_size} bytes; accepted for {shape[0]} x {shape[1]} pixels: "
                         f"{begin + 2 * shape[0] * shape[1]}")
    return shape, begin


def _counts(path: Path) -> np.ndarray:
    shape, begin = _header(path)
    raw = np.fromfile(path, "<u2", shape[0] * shape[1], offset=begin).astype(np.int32)
    raw[(raw == 0) | (raw == FULL - 1)] = 1     # bad pixels: no attenuation, as in RTK
    return (FULL - raw).reshape(shape)
