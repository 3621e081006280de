"""RTK: geometry.xml with a stack of projections beside it, read and written.

RTK's rotation axis is y, and z points to the source at gantry angle 0: its (x, y, z) are (x, -z, y) here. With R =
Rz(-in-plane) Rx(-out-of-plane) Ry(-gantry), whose rows are the detector's x, y and normal, the source is R^T (source
offset x, y, SID) and the detector's point (0, 0) is R^T (projection offset x, y, SID - SDD) (Rit et al. 2014, "The
Reconstruction Toolkit (RTK)", and RTK's documentation of its geometry).
"""
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from physics.geometry import ConeGeometry
from utils.io.files import complete_file
from utils.io.itk_image import READERS, open_image
from utils.io.projections import open_projections
from utils.io.scanners.scan import Scan, check_count, matching, number, read_xml

NAMES = ("GantryAngle", "OutOfPlaneAngle", "InPlaneAngle", "SourceToIsocenterDistance", "SourceToDetectorDistance",
         "SourceOffsetX", "SourceOffsetY", "ProjectionOffsetX", "ProjectionOffsetY")
TO_RTK = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])     # (x, y, z) of this program to RTK's
TOLERANCE = 1e-6        # between a file's matrix and its parameters, of the largest entry
STACKS = (*READERS, ".nii", ".nii.gz", ".tif", ".tiff", ".npy")


def read(mark: Path) -> Scan:
    """The scan of an RTK geometry and of the only stack of projections beside it."""
    stacks = [file for ending in STACKS for file in matching(mark.parent, f"*{ending}") if ending != ".png"]
    tiffs = [file for file in stacks if file.suffix.lower() in (".tif", ".tiff")]
    if len(tiffs) == len(stacks) > 1:
        return read_with(mark, mark.parent)
    if len(stacks) != 1:
        raise ValueError(f"{mark.parent}: {len(stacks)} stacks of projections beside {mark.name}; accepted: one (give "
                         "the stack, and the geometry apart)")
    return read_with(mark, stacks[0])


def read_with(mark: Path, stack: Path) -> Scan:
    """The scan of an RTK geometry and a stack of projections [views, v, u], v upwards.

    An image that says where its pixels lie (.mha) is taken at its word; of any other the middle is RTK's (0, 0), and
    a circular scan lacks its ``det_spacing``.

    Raises:
        ValueError: in one line that names the file.
    """
    parameters = read_parameters(mark)
    if stack.suffix.lower() in READERS:
        views, place = open_image(stack)
        step = np.reshape(place.direction, (len(place.spacing),) * 2) * place.spacing
        if np.abs(step[:2, 2:]).max(initial=0) > 0 or abs(step[0, 1]) + abs(step[1, 0]) > 1e-9 * abs(step[0, 0]):
            raise ValueError(f"{stack}: axes that are turned; accepted: columns along x and rows along y")
        spacing = step[1, 1], step[0, 0]
        middle = [place.origin[axis] + (views.shape[2 - axis] - 1) / 2 * step[axis, axis] for axis in (1, 0)]
    else:
        views, spacing, middle = open_projections(stack), None, [0.0, 0.0]
    check_count(mark, len(views), len(parameters), "views")
    away = np.abs(parameters[:, 1:3] + 180) % 360 - 180     # a turn is none
    if np.allclose(np.column_stack([away, parameters[:, 5:7]]), 0, atol=1e-9) and np.allclose(
            parameters[:, 3:], parameters[0, 3:], rtol=0, atol=1e-9):
        _, _, _, sid, sdd, _, _, offset_u, offset_v = parameters[0]
        fields = {"angles": parameters[:, 0].tolist(), "src_dist": sid, "det_dist": sdd - sid,
                  "det_offset": (offset_v + middle[0], offset_u + middle[1])}
        fields |= {"det_spacing": spacing} if spacing else {}
    elif spacing is None:
        raise ValueError(f"{stack}: no pixel size, which a scan that is no circle needs; accepted: .mha, .mhd, .nrrd")
    else:
        fields = {"view_vectors": vectors(parameters, spacing, middle)}
    return Scan("RTK", {"det_shape": views.shape[1:], **fields}, views, counted=False)


def read_parameters(path: Path) -> np.ndarray:
    """The nine `NAMES` of every view, degrees and mm: float64 [views, 9]. Each view's matrix is compared with them.

    Raises:
        ValueError: in one line that names the file.
    """
    root = read_xml(path)
    if root.tag != "rtkthreedcirculargeometry":
        raise ValueError(f"{path}: no geometry of RTK, its first tag is {root.tag[:40]}")
    shared = {child.tag: (child.text or "").strip() for child in root}
    views = [child for child in root if child.tag == "projection"]
    if not views:
        raise ValueError(f"{path}: no view; accepted: one Projection or more")
    found = np.empty((len(views), len(NAMES)))
    for k, view in enumerate(views):
        texts = shared | {child.tag: (child.text or "").strip() for child in view}
        if number(path, texts, "RadiusCylindricalDetector", 0):
            raise ValueError(f"{path}: view {k} has a cylindrical detector; accepted: flat ones")
        found[k] = [number(path, texts, name, 0) for name in NAMES]
        if found[k, 4] <= 0:
            raise ValueError(f"{path}: view {k} has a SourceToDetectorDistance of {found[k, 4]:g}: a parallel beam; "
                             "accepted: cone beams")
        matrix = np.array(texts.get("matrix", "").split(), dtype=object)
        expected = matrices(found[k:k + 1])[0]
        try:
            apart = np.abs(matrix.astype(float).reshape(3, 4) - expected).max()
        except ValueError:
            raise ValueError(f"{path}: view {k} has no Matrix of 12 numbers") from None
        if not apart <= TOLERANCE * np.abs(expected).max():
            raise ValueError(f"{path}: the Matrix of view {k} is up to {apart:.3g} from that of its parameters; "
                             "accepted: the same")
    return found


def frames(parameters: np.ndarray) -> np.ndarray:
    """The detector's x, y and normal (rows) of views, in RTK's axes: float64 [views, 3, 3]."""
    (cg, sg), (co, so), (ci, si) = ((np.cos(t), np.sin(t)) for t in -np.deg2rad(parameters[:, :3]).T)
    zero, one = np.zeros_like(cg), np.ones_like(cg)
    about_y = np.array([[cg, zero, sg], [zero, one, zero], [-sg, zero, cg]]).transpose(2, 0, 1)
    about_x = np.array([[one, zero, zero], [zero, co, -so], [zero, so, co]]).transpose(2, 0, 1)
    about_z = np.array([[ci, -si, zero], [si, ci, zero], [zero, zero, one]]).transpose(2, 0, 1)
    return about_z @ about_x @ about_y


def matrices(parameters: np.ndarray) -> np.ndarray:
    """RTK's matrices of views, (x, y, z, 1) in its axes to a factor times (u, v, 1) in mm: float64 [views, 3, 4]."""
    x, y, n = frames(parameters).transpose(1, 0, 2)
    sid, sdd, sx, sy, px, py = parameters[:, 3:].T
    rows = [np.column_stack([-sdd[:, None] * axis + (s - p)[:, None] * n, sdd * s - (s - p) * sid])
            for axis, s, p in ((x, sx, px), (y, sy, py))]
    return np.stack([*rows, np.column_stack([n, -sid])], axis=1)


def vectors(parameters: np.ndarray, spacing: Sequence[float], middle: Sequence[float] = (0.0, 0.0)) -> np.ndarray:
    """`ConeGeometry.view_vectors` of views.

    Args:
        parameters: [views, 9], see `NAMES`.
        spacing: steps (v, u) of the detector, mm.
        middle: where the middle of the images is (v, u), mm.
    """
    back = frames(parameters)
    sid, sdd, sx, sy, px, py = parameters[:, 3:].T
    points = np.stack([np.stack([sx, sy, sid], 1), np.stack([px + middle[1], py + middle[0], sid - sdd], 1)], 1)
    return (np.concatenate([points @ back, back[:, :1] * spacing[1], back[:, 1:2] * spacing[0]], 1)
            @ TO_RTK).reshape(-1, 12)


def parameters_of(geometry: ConeGeometry) -> np.ndarray:
    """The nine `NAMES` of the views of a geometry, whose u x v points to the source: float64 [views, 9].

    Raises:
        ValueError: another unit than mm, steps along u and v that are not at right angles, or seen from behind.
    """
    if geometry.unit != "mm":
        raise ValueError(f"unit: {geometry.unit}; accepted: mm")
    source, centre, step_u, step_v = (geometry.vectors.reshape(-1, 4, 3) @ TO_RTK.T).transpose(1, 0, 2)
    x, y = (step / np.linalg.norm(step, axis=1, keepdims=True) for step in (step_u, step_v))
    n = np.cross(x, y)
    if np.abs((x * y).sum(1)).max() > 1e-9:
        raise ValueError("view_vectors: steps along u and v that are not at right angles; RTK's are")
    if ((source - centre) * n).sum(1).min() <= 0:
        raise ValueError("det_spacing: a detector seen from behind; turn its columns round first")
    gantry, out_of_plane = np.arctan2(n[:, 0], n[:, 2]), -np.arcsin(np.clip(n[:, 1], -1, 1))
    flat = frames(np.column_stack([np.rad2deg([gantry, out_of_plane, np.zeros_like(gantry)]).T,
                                   np.zeros((len(n), 6))]))
    in_plane = np.arctan2((flat[:, 1] * x).sum(1), (flat[:, 0] * x).sum(1))
    angles = np.rad2deg([gantry, out_of_plane, in_plane]).T % 360
    lengths = [(source * n).sum(1), ((source - centre) * n).sum(1), (source * x).sum(1), (source * y).sum(1),
               (centre * x).sum(1), (centre * y).sum(1)]
    return np.column_stack([angles, *lengths])


def write(folder: Path, geometry: ConeGeometry, p: np.ndarray) -> None:
    """Write projections for RTK: ``geometry.xml`` and ``projections.mha`` in a folder.

    Args:
        folder: exists.
        geometry: in mm, with one size of pixels in all views.
        p: [views, v, u] in the geometry's order; columns and rows that run against RTK's are turned round.

    Raises:
        ValueError: as `parameters_of`; p of another shape; pixels of several sizes.
        OSError: a file that cannot be written.
    """
    if p.shape != (geometry.views, *geometry.det_shape):
        raise ValueError(f"p: {' x '.join(map(str, p.shape))} values for {geometry.views} views of "
                         f"{' x '.join(map(str, geometry.det_shape))} pixels (v, u)")
    p, geometry = _upright(p, geometry)
    parameters = parameters_of(geometry)
    steps = np.linalg.norm(geometry.vectors[:, 6:].reshape(-1, 2, 3), axis=2)
    if np.ptp(steps, axis=0).max() > 1e-9 * steps.max():
        raise ValueError("view_vectors: pixels of several sizes; an image has one")
    root = ET.Element("RTKThreeDCircularGeometry", version="3")
    for view, matrix in zip(parameters, matrices(parameters)):
        element = ET.SubElement(root, "Projection")
        for name, value in zip(NAMES, view):
            ET.SubElement(element, name).text = repr(float(value))
        rows = [" ".join(repr(float(entry)) for entry in row) for row in matrix]
        ET.SubElement(element, "Matrix").text = "\n".join(["", *rows])
    ET.indent(root)
    with complete_file(folder / "geometry.xml") as partial:
        partial.write_text('<?xml version="1.0"?>\n<!DOCTYPE RTKGEOMETRY>\n' + ET.tostring(root, "unicode") + "\n",
                           encoding="utf-8")
    import SimpleITK as sitk  # here: most runs write no such image

    image = sitk.GetImageFromArray(np.ascontiguousarray(p, dtype=np.float32))
    spacing = (*steps[0].tolist(), 1.0)
    image.SetSpacing(spacing)
    image.SetOrigin([-(count - 1) / 2 * step for count, step in zip(p.shape[:0:-1], spacing)] + [0.0])
    with complete_file(folder / "projections.mha") as partial:
        try:
            sitk.WriteImage(image, str(partial))
        except RuntimeError as error:
            raise OSError(f"{folder / 'projections.mha'}: cannot be written "
                          f"({str(error).strip().splitlines()[-1][:120]})") from None


def _upright(p: np.ndarray, geometry: ConeGeometry) -> tuple[np.ndarray, ConeGeometry]:
    """The same measurement with rows that run upwards, and columns so that u x v points to the source."""
    views = geometry.vectors.reshape(-1, 4, 3)
    if views[:, 3, 2].sum() < 0:
        p, views[:, 3] = p[:, ::-1], -views[:, 3]
    normal = np.cross(views[:, 2], views[:, 3])
    if ((views[:, 0] - views[:, 1]) * normal).sum() < 0:
        p, views[:, 2] = p[:, :, ::-1], -views[:, 2]
    return p, ConeGeometry(det_shape=geometry.det_shape, view_vectors=views.reshape(-1, 12))
