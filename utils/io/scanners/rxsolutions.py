"""RX Solutions: geom.csv with the places of source and detector in every view, and a TIFF a view.

In the file y is up, as in RTK: its (x, y, z) are (x, -z, y) here. A line names the image, and has the source, the
detector's centre, the middle of its upper edge and the middle of its right edge.
"""
import re
from pathlib import Path

import numpy as np

from utils.io.scanners.rtk import TO_RTK
from utils.io.scanners.scan import Scan, matching, read_bytes
from utils.io.tiff import open_tiffs


def read(mark: Path) -> Scan:
    """The scan of a geom.csv whose images lie beside it, or in one folder there.

    Raises:
        ValueError: in one line that names the file.
    """
    names, places = read_places(mark)
    folders = [mark.parent, *sorted(folder for folder in mark.parent.iterdir() if folder.is_dir())]
    files = [next((folder / name for folder in folders if (folder / name).is_file()), None) for name in names]
    missing = [name for name, file in zip(names, files) if file is None]
    if missing:
        raise ValueError(f"{mark}: {len(missing)} of its {len(names)} images are not beside it ({missing[0]}, ...)")
    extra = len(matching(files[0].parent, f"*{files[0].suffix}")) - len(files)     # type: ignore[union-attr]
    views = open_tiffs([file for file in files if file], single=True)
    assumed = ["the rows of an image run from the detector's top, its columns to its right"]
    assumed += [f"{extra} more images beside it are of no view"] * (extra > 0)
    return Scan("RX Solutions", {"det_shape": views.shape[1:], "view_vectors": vectors(places, views.shape[1:])}, views,
                assumed=tuple(assumed))


def read_places(path: Path) -> tuple[list[str], np.ndarray]:
    """The images' names, and source, centre, top and right of every view: float64 [views, 4, 3], mm, as in the file.

    Raises:
        ValueError: in one line that names the file.
    """
    names, places = [], []
    lines = read_bytes(path).decode("latin-1").splitlines()
    if not lines or not lines[0].lower().startswith("name;;source"):
        raise ValueError(f"{path}: no geom.csv of RX Solutions; accepted: a first line that begins with name;;source")
    for k, line in enumerate(lines[2:], 3):
        name, *words = line.strip().rstrip(";").split(";")
        try:
            values = [float(word.replace(",", ".")) for word in words]
        except ValueError:
            values = []
        if len(values) != 12 or not np.isfinite(values).all():
            raise ValueError(f"{path}: line {k} is {line[:40]!r}; accepted: a name and 12 numbers")
        names.append(re.split(r"[\\/]", name)[-1])
        places.append(values)
    if not names:
        raise ValueError(f"{path}: no view")
    return names, np.reshape(places, (-1, 4, 3))


def vectors(places: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """`ConeGeometry.view_vectors` of a detector of so many rows and columns, row 0 at the top."""
    source, centre, top, right = places.transpose(1, 0, 2)
    views = np.stack([source, centre, (right - centre) / (shape[1] / 2), (centre - top) / (shape[0] / 2)], 1)
    return (views @ TO_RTK).reshape(-1, 12)
