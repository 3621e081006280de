"""A folder with a TIFF a view, flat (io*) and dark (di*) fields, and the geometry as ASTRA's vectors in a .geom file.

The names are those of the FleX-ray scanner of CWI, whose own settings need constants of that machine by date; the
vectors, 12 numbers a view in mm, need none.
"""
from pathlib import Path

import numpy as np

from utils.io.projections import files_of_views
from utils.io.scanners.scan import Scan, matching, read_bytes
from utils.io.tiff import SUFFIXES, open_tiffs


def read(mark: Path) -> Scan:
    """The scan of a .geom file: images scan*, else all that are no fields; the mean of io* and of di* for fields.

    Raises:
        ValueError: in one line that names the file.
    """
    vectors = _vectors(mark)
    files = {begin: [file for ending in SUFFIXES for file in matching(mark.parent, f"{begin}*{ending}")]
             for begin in ("scan", "io", "di", "")}
    fields = {*files["io"], *files["di"]}
    images = files["scan"] or [file for file in files[""] if file not in fields]
    views = open_tiffs(files_of_views(mark.parent, images), single=True)
    if len(views) == len(vectors) + 1 or (len(views) == len(vectors) and np.allclose(vectors[0], vectors[-1])):
        views = views.select(range(len(views) - 1))     # the last repeats the first
        vectors = vectors[:len(views)]
    if len(views) != len(vectors):
        raise ValueError(f"{mark}: {len(vectors)} vectors for {len(views)} images; accepted: as many")
    flat, dark = (open_tiffs(files[name], single=True).array() if files[name] else None for name in ("io", "di"))
    return Scan("ASTRA vectors", {"det_shape": views.shape[1:], "view_vectors": vectors}, views, flat=flat,
                dark=dark if flat is not None else None,
                assumed=("images as the vectors describe them: row 0 at the start of v, in the order of the numbers",))


def _vectors(path: Path) -> np.ndarray:
    """float64 [views, 12]."""
    rows = []
    for k, line in enumerate(read_bytes(path).decode("latin-1").splitlines(), 1):
        words = line.partition("#")[0].replace(",", " ").split()
        if not words:
            continue
        try:
            values = [float(word) for word in words]
        except ValueError:
            values = []
        if len(values) != 12 or not np.isfinite(values).all():
            raise ValueError(f"{path}: line {k} is {line.strip()[:40]!r}; accepted: 12 numbers")
        rows.append(values)
    if not rows:
        raise ValueError(f"{path}: no vectors; accepted: a line of 12 numbers a view")
    return np.array(rows)
