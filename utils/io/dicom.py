"""CT and MR series in DICOM: the slices of a folder as one volume in the patient."""
import logging
from collections import Counter
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

import numpy as np

from utils.io.dicom_file import UNCOMPRESSED, Slice, fill, read_slices
from utils.io.volume import Volume

log = logging.getLogger(__name__)

MODALITIES = ("CT", "MR")
AIR = -1000.0                   # HU, where a CT says that its pixels are padding
POSITION = 0.1                  # mm, and at most a quarter of the step: how far a slice may lie from its even place
RATIO = 1000                    # above what a compressed slice can be larger than its file
DIFFERENCES = ("time", "acquisition", "echo time", "inversion time", "flip angle", "b value", "trigger time", "kernel",
               "kind", "stack", "acquisition time", "instance")    # of slices at one position, the telling ones first


def read_series(folder: str | Path, series: str | None = None, modality: str | None = None) -> Volume:
    """The CT or MR series of a folder, CT in HU.

    Slices are put in the order of their positions, whatever their names; the place is that of ImagePositionPatient,
    ImageOrientationPatient and PixelSpacing, the spacing along z that of the positions. Slope and intercept are those
    of each slice. Padding becomes air in CT (-1000 HU), in MR 0 or the lowest other value where that is below.
    Frames of enhanced CT and MR are slices like others. Copies of a slice count once, with a warning. Files that are
    not DICOM, objects without pixels (reports, contours) and folders inside the folder are passed over.

    Args:
        folder: the folder with the files.
        series: UID, an unambiguous beginning of it, or the number of one of several series.
        modality: "ct" or "mr", where only that is wanted.

    Returns:
        The volume, float32 [D, H, W]; z is the cross product of the directions of rows and columns.

    Raises:
        ValueError: in one line that names the file or folder, what was found and what is accepted: slices that are
            missing, double, unevenly spaced, sheared (gantry tilt), of different size or orientation, in colour, of
            another modality, rescaled in part, or damaged.
    """
    folder = Path(folder)
    found: dict[str, list[Slice]] = {}
    for path in sorted(folder.iterdir()):
        for image in read_slices(path) if path.is_file() else []:
            found.setdefault(image.tags["uid"], []).append(image)
    if not found:
        raise ValueError(f"{folder}: a folder without a DICOM image{_below(folder)}; accepted: a folder with a CT or "
                         "MR series (or a NIfTI file)")
    slices = found.pop(_choose(folder, found, series))
    try:
        for image in slices:
            _check_kind(image, (modality.upper(),) if modality else MODALITIES)
        axes = _axes(slices[0])
        _check_alike(slices)
        slices, step = _in_order(slices, axes)
    except ValueError as error:
        others = f"; other series: {_titles(found)}" if found else ""
        raise ValueError(f"{error}{_kinds(slices)}{others}") from None
    columns, rows = slices[0].size
    array = np.empty((len(slices), rows, columns), np.float32)
    for _, pairs in groupby(zip(slices, array), lambda pair: pair[0].path):
        fill(list(pairs))
    padding = np.isnan(array)
    if padding.any():
        lowest = AIR if slices[0].tags["modality"] == "CT" else float(np.min(array, where=~padding, initial=0))
        array[padding] = lowest
        log.info("%s: %d voxels are padding, and become %g", folder, int(padding.sum()), lowest)
    down, along = slices[0].numbers("spacing", 2)    # distance between rows, and between columns
    return Volume(array, (float(along), float(down), step), tuple(slices[0].numbers("position", 3).tolist()),
                  tuple(axes.ravel().tolist()))


def slice_thickness(folder: str | Path, series: str | None = None) -> float | None:
    """SliceThickness (mm) of a series, see `read_series`; None where it is missing, or not the same in all slices."""
    found: dict[str, list[Slice]] = {}
    for path in sorted(Path(folder).iterdir()):
        for image in read_slices(path) if path.is_file() else []:
            found.setdefault(image.tags["uid"], []).append(image)
    texts = {image.tags["thickness"] for image in found[_choose(Path(folder), found, series)]}
    try:
        values = {float(text) for text in texts}
    except ValueError:
        return None
    value = values.pop()
    return value if not values and value > 0 else None


def _below(folder: Path) -> str:
    """Which folders inside this one hold DICOM images, as part of a message."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    inside = [parent for parent, paths in groupby(files, lambda path: path.parent) if any(map(read_slices, paths))]
    return f", but with such in {', '.join(str(path.relative_to(folder)) for path in inside[:9])}" if inside else ""


def _titles(found: dict) -> str:
    return "; ".join(f"{uid} (number {images[0].tags['number'] or '-'}, {images[0].tags['modality'] or 'no modality'}, "
                     f"{images[0].tags['description'] or 'no description'}, {len(images)} slices)"
                     for uid, images in found.items())


def _choose(folder: Path, found: dict, series: str | None) -> str:
    """The UID of the series that is meant."""
    if series is None:
        if len(found) > 1:
            raise ValueError(f"{folder}: {len(found)} series; choose one as series: {_titles(found)}")
        return next(iter(found))
    series = series.strip()
    for fits in (lambda uid: uid == series, lambda uid: found[uid][0].tags["number"] == series,
                 lambda uid: bool(series) and uid.startswith(series)):
        matches = [uid for uid in found if fits(uid)]
        if len(matches) == 1:
            return matches[0]
        if matches:
            break
    raise ValueError(f"{folder}: series {series} is {'that of several' if matches else 'not there'}; accepted: the "
                     f"UID, its beginning, or the number of one of {_titles(found)}")


def _check_kind(image: Slice, modalities: tuple) -> None:
    tags, (width, height), stored = image.tags, image.size, image.path.stat().st_size
    colour, bits, frames = tags["colour"], tags["bits"], tags["frames"] or "1"
    for bad, found, accepted in (
            (tags["modality"] not in modalities, f"modality {tags['modality'] or 'missing'}", " or ".join(modalities)),
            (tags["samples"] not in ("", "1") or colour != "MONOCHROME2", f"colours {colour or 'missing'}",
             "MONOCHROME2 (grey)"),
            (frames != "1" and not image.enhanced, f"{frames} frames in one file",
             "one slice a file, or enhanced CT or MR"),
            (bits not in ("8", "16", "32"), f"{bits or 'unknown number of'} bits a pixel", "8, 16, 32"),
            (_is_localizer(image), "a localizer (survey image)", "slices of a volume"),
            (min(image.numbers("spacing", 2)) < 1e-4, f"pixel spacing {_text(image.numbers('spacing', 2))}",
             "above zero (mm)")):
        if bad:
            raise ValueError(f"{image}: {found}; accepted: {accepted}")
    needed = width * height * int(bits) // 8 * int(frames)
    if needed > stored * (1 if image.syntax in UNCOMPRESSED else RATIO):
        raise ValueError(f"{image}: {stored} bytes for {width} x {height} pixels of {bits} bits; accepted: all of them")


def _is_localizer(image: Slice) -> bool:
    return "LOCALIZER" in image.tags["kind"].upper()


def _check_alike(slices: list[Slice]) -> None:
    """Size, spacing and orientation are the same in all slices, and all or none say how to rescale them."""
    first = slices[0]
    for image in slices:
        for name, own, others in (("size", image.size, first.size),
                                  ("pixel spacing", image.numbers("spacing", 2), first.numbers("spacing", 2)),
                                  ("orientation", image.numbers("orientation", 6), first.numbers("orientation", 6))):
            if not np.allclose(own, others, rtol=1e-4, atol=1e-4):
                raise ValueError(f"{image}: {name} {_text(own)}, that of {first.name} is {_text(others)}; accepted: "
                                 "the same in all slices")
    scaled = [image for image in slices if image.tags["slope"] or image.tags["intercept"]]
    for image in slices if scaled else ():
        for name in ("slope", "intercept"):
            if not image.tags[name]:
                other = scaled[0].tags
                raise ValueError(f"{image}: no rescale {name}, {scaled[0].name} has slope {other['slope'] or '-'}, "
                                 f"intercept {other['intercept'] or '-'}; accepted: both in all slices, or in none")
        if not image.numbers("slope", 1)[0]:
            raise ValueError(f"{image}: rescale slope 0; accepted: another number")
        image.numbers("intercept", 1)


def _axes(image: Slice) -> np.ndarray:
    """Directions of the axes x, y, z as the columns of a 3x3 matrix."""
    row, column = np.reshape(image.numbers("orientation", 6), (2, 3))
    if np.abs([row @ row - 1, column @ column - 1, row @ column]).max() > 1e-3:
        raise ValueError(f"{image}: orientation {_text((*row, *column))}; accepted: two unit vectors at right angles")
    row = row / np.linalg.norm(row)
    column = column - (column @ row) * row
    column /= np.linalg.norm(column)
    return np.stack([row, column, np.cross(row, column)], axis=1)


def _in_order(slices: list[Slice], axes: np.ndarray) -> tuple[list[Slice], float]:
    """The slices along the normal, copies left out, and the distance (mm) from one to the next."""
    slices = _without_copies(sorted(slices, key=lambda image: float(image.numbers("position", 3) @ axes[:, 2])))
    if len(slices) < 2:
        raise ValueError(f"{slices[0]}: a series of one slice; accepted: two or more")
    positions = np.array([image.numbers("position", 3) for image in slices])
    along = positions @ axes[:, 2]
    steps = np.diff(along)
    usual = float(np.median(steps))
    # Each coordinate may be rounded to POSITION; a step along an oblique normal then differs by more.
    near = min(POSITION * np.abs(axes[:, 2]).sum(), usual / 4) + 1e-3
    for image, other, step, place in zip(slices[1:], slices, steps, positions[1:]):
        if abs(step - usual) > near:
            missing = f", {round(step / usual) - 1} missing" if step > 1.5 * usual else ""
            raise ValueError(f"{image}: position {_text(place)} mm is {step:.4g} mm from that of {other.name}{missing}"
                             f"; accepted: {usual:.4g} mm between all slices, as most of them have"
                             f"{_even_parts(along, near)}")
    step = float(along[-1] - along[0]) / (len(slices) - 1)
    away = np.abs(positions - positions[0] - np.outer(np.arange(len(slices)) * step, axes[:, 2])).max(1)
    for image, place, offset in zip(slices, positions, away):
        if offset > near:
            raise ValueError(f"{image}: position {_text(place)} mm is {offset:.4g} mm from where an even, upright "
                             "stack has it (gantry tilt?); accepted: slices exactly above each other")
    return slices, step


def _without_copies(slices: list[Slice]) -> list[Slice]:
    """One slice at each position, of ``slices`` in their order: the others there must have its values."""
    places = [image.numbers("position", 3) for image in slices]
    groups: list[list[Slice]] = []
    for image, place, before in zip(slices, places, [None, *places]):
        if before is not None and np.abs(place - before).max() < 1e-3:
            groups[-1].append(image)
        else:
            groups.append([image])
    copies = 0
    for first, *others in groups:
        for image in others:
            values = np.empty((2, *first.size[::-1]), np.float32)
            fill([(first, values[0])])
            fill([(image, values[1])])
            if not np.array_equal(values[0], values[1], equal_nan=True):
                raise ValueError(f"{image}: position {_text(image.numbers('position', 3))} mm is that of {first.name}"
                                 f"; accepted: one slice at a position ({_several(groups)})")
            copies += 1
    if copies:
        log.warning("%s: %d of %d slices are copies of others, and left out", slices[0].path.parent, copies,
                    len(slices))
    return [group[0] for group in groups]


def _several(groups: list[list[Slice]]) -> str:
    """What the slices at one position differ in, as part of a message."""
    several = [group for group in groups if len(group) > 1]
    text = f"{len(several)} of {len(groups)} positions have several"
    for name in DIFFERENCES:
        values = [sorted({image.tags[name] for image in group}) for group in several]
        if all(len(own) == len(group) for own, group in zip(values, several)):
            same = all(own == values[0] for own in values)
            return f"{text}, of different {name}{': ' + ', '.join(values[0][:9]) if same else ''}"
    return text


def _even_parts(along: np.ndarray, near: float) -> str:
    """Which parts of unevenly spaced slices could be volumes, as part of a message."""
    steps, parts, begin = np.diff(along), [], 0
    for k in range(1, len(steps) + 1):
        if k == len(steps) or abs(steps[k] - steps[begin]) > near:
            parts += [f"{along[begin]:.6g} to {along[k]:.6g} mm ({k - begin + 1} slices, {steps[begin]:.4g} mm apart)"
                      ] * (k - begin > 1)
            begin = k
    return f"; even parts, along the normal: {', '.join(parts[:9])}" if parts else ""


def _kinds(slices: list[Slice]) -> str:
    """How many slices of which plane and size there are, as part of a message; "" for one kind."""
    kinds: Counter[str] = Counter()
    for image in slices:
        try:
            plane = ("sagittal", "coronal", "axial")[np.abs(_axes(image)[:, 2]).argmax()]
        except ValueError:
            plane = "no plane"
        kinds[f"{'localizer, ' * _is_localizer(image)}{plane}, {image.tags['columns']} x {image.tags['rows']}"] += 1
    text = "; ".join(f"{count} {kind}" for kind, count in kinds.items())
    return f" (the series has {text})" if len(kinds) > 1 else ""


def _text(values: Iterable[float]) -> str:
    return ", ".join(f"{value:.7g}" for value in values)
