"""Nikon (X-Tek): .xtekct beside a TIFF a view, corrected by the flat field."""
from pathlib import Path

import numpy as np

from physics.geometry import ConeGeometry
from utils.io.projections import files_of_views
from utils.io.scanners.scan import Scan, check_count, number, read_ini, whole
from utils.io.tiff import SUFFIXES, open_tiffs

ASSUMED = ("the first row of an image is at the top, its first column at the right as seen from the source (CIL; TIGRE "
           "has it at the left: the mirror image)",)


def read(mark: Path) -> Scan:
    """The scan of an .xtekct file whose images lie beside it, or in the folder that it names.

    Views and voxels as the file has them; angles and mirror as CIL takes them. `CentreOfRotation` (old files, mm at
    the detector) or `ObjectOffsetX` (mm at the axis) shifts source and detector along u.

    Raises:
        ValueError: in one line that names the file.
    """
    found = read_ini(mark).get("xtekct", {})
    source, detector = (number(mark, found, name) for name in ("SrcToObject", "SrcToDetector"))
    shape = tuple(whole(mark, found, f"DetectorPixels{axis}") for axis in "YX")
    step_v, step_u = (number(mark, found, f"DetectorPixelSize{axis}") for axis in "YX")
    offset_v, offset_u = (number(mark, found, f"DetectorOffset{axis}", 0) for axis in "YX")
    count = whole(mark, found, "Projections")
    first, step = number(mark, found, "InitialAngle", 0), number(mark, found, "AngularStep")
    if not (0 < source < detector and step_u > 0 and step_v > 0):
        raise ValueError(f"{mark}: SrcToObject {source:g}, SrcToDetector {detector:g}, pixels of {step_u:g} x "
                         f"{step_v:g}; accepted: positive, the detector farther than the object")
    views = open_tiffs(_files(mark, found), single=True)
    check_count(mark, len(views), count, "Projections")
    if views.shape[1:] != shape:
        raise ValueError(f"{mark}: {' x '.join(map(str, shape))} pixels (v, u) for images of "
                         f"{' x '.join(map(str, views.shape[1:]))}")
    fields = {"angles": (first - 180 + step * np.arange(count)).tolist(), "src_dist": source,
              "det_dist": detector - source, "det_shape": shape, "det_spacing": (-step_v, -step_u),
              "det_offset": (offset_v, -offset_u)}
    ends = [number(mark, found, f"CentreOfRotation{end}", 0) for end in ("Top", "Bottom")]
    if sideways := number(mark, found, "ObjectOffsetX", sum(ends) / 2 * source / detector):
        fields = {"det_shape": shape, "view_vectors": _shifted(fields, sideways)}
    fields |= _volume(mark, found)
    white = number(mark, found, "WhiteLevel", 0)
    said = ASSUMED + ((f"the axis is shifted by {sideways:g} mm (sign as in CIL)",) if sideways else ())
    return Scan("Nikon X-Tek", fields, views, i0=white or None, assumed=said)


def _files(mark: Path, found: dict[str, str]) -> list[Path]:
    """The images of the scan, in order: those that begin with its name, or else all of the folder."""
    folder = mark.parent / found.get("inputfoldername", "").replace("\\", "/")
    folder = folder if folder.is_dir() else mark.parent
    begin = f"{found.get('name', '')}{found.get('inputseparator', '')}".lower()
    files = [file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES]
    own = [file for file in files if file.name.lower().startswith(begin)]
    return files_of_views(folder, own or files)


def _shifted(fields: dict, sideways: float) -> np.ndarray:
    """The view vectors with source and detector shifted along u, mm."""
    vectors = ConeGeometry(**fields).vectors
    t = np.deg2rad(fields["angles"])
    shift = sideways * np.stack([np.cos(t), np.sin(t), np.zeros(len(t))], axis=1)
    vectors[:, :3] += shift
    vectors[:, 3:6] += shift
    return vectors


def _volume(mark: Path, found: dict[str, str]) -> dict:
    counts = [number(mark, found, f"Voxels{axis}", 0) for axis in "ZYX"]
    sizes = [number(mark, found, f"VoxelSize{axis}", 0) for axis in "ZYX"]
    if min(counts) < 1 or min(sizes) <= 0:
        return {}
    return {"volume_shape": tuple(int(count) for count in counts), "voxel_size": tuple(sizes)}
