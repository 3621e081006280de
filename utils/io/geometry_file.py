"""YAML files of cone-beam geometries; their keys are the fields of `ConeGeometry`."""
import tokenize
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from physics.geometry import ConeGeometry
from utils.io.schema import Check, check_keys, read
from utils.io.yaml_file import read_yaml, yaml_text

MOST_VIEWS = 1_000_000
SUFFIXES = (".npy", ".txt", ".csv")


@dataclass(frozen=True)
class Spread:
    """Angles that are evenly spread over [start, stop), in degrees."""
    start: float
    stop: float
    views: Annotated[int, Check(f"a whole number from 1 up to {MOST_VIEWS}", lambda views: 0 < views <= MOST_VIEWS)]


def read_geometry(path: str | Path, *needed: str) -> ConeGeometry:
    """Read a geometry file.

    Args:
        path: The YAML file, as in `geometry_fields`.
        needed: Fields that may be None in a `ConeGeometry` and may not be missing here.

    Raises:
        ValueError: In one line: path, key, what was found, what is accepted.
        OSError: When the file cannot be read.
    """
    tree = geometry_fields(path, [field.name for field in fields(ConeGeometry) if field.default is MISSING])
    try:
        for key in needed:
            if tree.get(key) is None:
                raise ValueError(f"{key}: missing; this use of the geometry needs it")
        return ConeGeometry(**tree)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def geometry_fields(path: str | Path, needed: Iterable[str] = ()) -> dict[str, Any]:
    """Read the keys of a geometry file, all of a scan or some: keywords of `ConeGeometry`.

    ``angles`` are a list in degrees, or {start: 0, stop: 360, views: 360}: evenly spread, stop left out.
    ``view_vectors`` are a list of lists of 12 numbers, or the name of a .npy, .txt or .csv file beside the YAML file.

    Args:
        path: The YAML file.
        needed: Keys that have to be there.

    Raises:
        ValueError, OSError: As `read_geometry`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    tree = read_yaml(path)
    try:
        check_keys(tree, [field.name for field in fields(ConeGeometry)], needed)
        if isinstance(tree.get("angles"), dict):
            spread = read(Spread, tree["angles"], "angles")
            tree["angles"] = np.linspace(spread.start, spread.stop, spread.views, endpoint=False)
        if isinstance(tree.get("view_vectors"), str):
            tree["view_vectors"] = _table(path.parent / tree["view_vectors"])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return tree


def geometry_text(scan: ConeGeometry) -> str:
    """The content of a file that `read_geometry` reads back to an equal value."""
    tree = {field.name: getattr(scan, field.name) for field in fields(scan)}
    unused = ("det_offset",) if scan.view_vectors else ()
    tree = {name: value for name, value in tree.items() if value not in (None, ()) and name not in unused}
    return yaml_text(tree, default_flow_style=None, width=118)


def _table(path: Path) -> np.ndarray:
    """Array [views, 12] of a .npy, .txt (blanks between the numbers) or .csv (commas) file."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"view_vectors: expected the name of a .npy, .txt or .csv file, found {path.name}")
    try:
        if suffix == ".npy":
            table = np.asarray(np.lib.format.open_memmap(path, mode="r"))    # compares the file's size with its header
        else:
            table = np.loadtxt(path, delimiter="," if suffix == ".csv" else None, ndmin=2)
    except (OSError, ValueError, OverflowError, SyntaxError, tokenize.TokenError) as error:
        raise ValueError(f"view_vectors: {path} cannot be read ({' '.join(str(error).split())[:120]})") from None
    if table.ndim != 2 or table.shape[1] != 12 or table.dtype.kind not in "iuf":
        raise ValueError(f"view_vectors: expected 12 numbers a view, found {table.dtype} {list(table.shape)} in "
                         f"{path}")
    return table
