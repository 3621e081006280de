"""What every reader of a scanner's format gives, and what several of them need."""
import configparser
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from physics.geometry import CIRCLE, ConeGeometry
from utils.io.files import check_file
from utils.io.views import Views

LARGEST = 200_000_000       # bytes of a text that describes a scan


@dataclass(frozen=True)
class Scan:
    """A scan as its files describe it; the views are read when they are asked for.

    Attributes:
        format: name of the format.
        fields: keywords of `ConeGeometry`, as many as the files tell; rows and columns stay in the files' order, and
            steps that run against v or u are negative.
        views: [v, u] each; line integrals, or counts where ``flat`` or ``i0`` is known.
        flat: counts without an object, frames [n, v, u], or None.
        dark: counts without beam, the same.
        i0: the open beam as one number, instead of ``flat``.
        assumed: what the files leave open and was assumed, a line each.
        counted: whether the views are counts, with or without a known open beam.
    """
    format: str
    fields: dict[str, Any]
    views: Views
    flat: np.ndarray | None = None
    dark: np.ndarray | None = None
    i0: float | None = None
    assumed: tuple[str, ...] = ()
    counted: bool = True

    def geometry(self, overrides: Mapping[str, Any] = {}) -> ConeGeometry:
        """The geometry, with single keys taken from ``overrides``.

        Raises:
            ValueError: fields that are missing, are no geometry, or have another number of views or pixels.
        """
        fields = {**self.fields, **overrides}
        if "view_vectors" in overrides:
            circle = (*CIRCLE, "det_offset")
            fields = {name: value for name, value in fields.items() if name not in circle or name in overrides}
        geometry = ConeGeometry(**fields)
        if (geometry.views, *geometry.det_shape) != self.views.shape:
            raise ValueError(f"a geometry of {geometry.views} x {' x '.join(map(str, geometry.det_shape))} (views, v, "
                             f"u) for {' x '.join(map(str, self.views.shape))} that were measured")
        return geometry

    def select(self, indices: list[int]) -> "Scan":
        """The same scan with these views alone."""
        fields = dict(self.fields)
        for name in ("angles", "view_vectors"):
            if len(fields.get(name, ())):
                fields[name] = [fields[name][k] for k in indices]
        return replace(self, fields=fields, views=self.views.select(indices))


def read_xml(path: Path) -> ET.Element:
    """The root of an XML file, tag names in lower case without name space.

    Raises:
        ValueError: in one line that names the file.
    """
    try:
        root = ET.fromstring(read_bytes(path))
    except ET.ParseError as error:
        raise ValueError(f"{path}: not an XML file, incomplete or damaged ({error})") from None
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2].lower()
    return root


def read_ini(path: Path) -> dict[str, dict[str, str]]:
    """The sections of an INI file, names of sections and keys in lower case.

    Raises:
        ValueError: in one line that names the file.
    """
    parser = configparser.ConfigParser(interpolation=None, strict=False, delimiters=("=",), comment_prefixes=(";", "#"),
                                       allow_no_value=True)
    try:
        parser.read_string(read_bytes(path).decode("latin-1"))
    except configparser.Error as error:
        raise ValueError(f"{path}: no INI file ({' '.join(str(error).split())[:120]})") from None
    return {name.strip().lower(): {key: (value or "").strip() for key, value in parser[name].items()}
            for name in parser.sections()}


def read_bytes(path: Path) -> bytes:
    """The content of a file that is not too large for a description.

    Raises:
        ValueError, OSError: what is no such file.
    """
    check_file(path)
    if path.stat().st_size > LARGEST:
        raise ValueError(f"{path}: {path.stat().st_size} bytes; accepted: up to {LARGEST} that describe a scan")
    return path.read_bytes()


def number(path: Path, found: Mapping[str, Any], name: str, default: float | None = None) -> float:
    """The finite number that ``found`` has under a name in lower case.

    Raises:
        ValueError: it is missing without a ``default``, or no number.
    """
    text = found.get(name.lower())
    if text in (None, "") and default is not None:
        return default
    try:
        value = float(str(text).replace(",", "."))
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise ValueError(f"{path}: {name}: {'missing' if text in (None, '') else repr(text)[:40]}; accepted: a number")
    return value


def whole(path: Path, found: Mapping[str, Any], name: str, least: int = 1) -> int:
    """`number`, that is whole and not below ``least``."""
    value = number(path, found, name)
    if value % 1 or value < least:
        raise ValueError(f"{path}: {name}: {value:g}; accepted: a whole number from {least} up")
    return int(value)


def one_file(folder: Path, pattern: str, what: str) -> Path:
    """The only file of a folder whose name fits, upper and lower case alike.

    Raises:
        ValueError: there is none, or more than one.
    """
    found = matching(folder, pattern)
    if len(found) != 1:
        raise ValueError(f"{folder}: {len(found)} files {pattern} ({what}); accepted: one")
    return found[0]


def matching(folder: Path, pattern: str) -> list[Path]:
    """The files of a folder whose names fit a pattern of `Path.match`, in the order of the names; none hidden."""
    return sorted(path for path in folder.iterdir() if Path(path.name.lower()).match(pattern.lower())
                  and not path.name.startswith(".") and path.is_file())


def check_count(path: Path, views: int, listed: int, of: str) -> None:
    """Raise ValueError where a file lists another number of views than there are images."""
    if views != listed:
        raise ValueError(f"{path}: {listed} {of} for {views} images; accepted: as many")
