"""Say what a scan's files mean, without reconstructing anything.

python -m utils.io.scanners SCAN --output FOLDER
"""
from pathlib import Path
from typing import Any

import numpy as np

from physics.geometry import ConeGeometry
from physics.opposite_rays import opposite_rays
from physics.orientation import mirrored, turned, turning_back
from physics.unknowns import with_volume
from physics.views import view_angles
from utils.cli.flags import Parser
from utils.cli.messages import input_errors
from utils.cli.types import existing_path
from utils.io.files import complete_file
from utils.io.geometry_file import geometry_fields, geometry_text
from utils.io.measured import measure
from utils.io.scanners import FORMATS, open_scan, rtk
from utils.io.scanners.scan import Scan
from utils.run.geometry_picture import save_geometry_picture


def main(argv: list[str] | None = None) -> None:
    """Print what was understood, write the geometry as YAML and picture; a mistake is one line and status 2."""
    formats = "; ".join(f"{known.name} (tried on: {known.tried})" for known in FORMATS)
    parser = Parser(prog="utils.io.scanners", description="What a scanner's files say: distances, pixels, angles, "
                    f"field of view, volume. Formats: {formats}")
    parser.add_argument("scan", type=existing_path, help="a scan's file or folder")
    parser.add_argument("--geometry", type=existing_path, help="YAML with keys that come before those of the scan")
    parser.add_argument("--mirror", action="store_true", help="as in recon_CBCT.py")
    parser.add_argument("--reverse", action="store_true", help="as in recon_CBCT.py")
    parser.add_argument("--turn", type=float, default=0.0, help="as in recon_CBCT.py, degrees")
    parser.add_argument("--output", type=Path, help="folder for geometry.yaml and geometry.png")
    parser.add_argument("--rtk", action="store_true", help="write geometry.xml and projections.mha for RTK there, too")
    options = parser.parse_args(argv)
    if options.rtk and options.output is None:
        parser.error("--rtk needs --output")
    with input_errors():
        try:
            scan = open_scan(options.scan)
        except ModuleNotFoundError as error:
            raise ValueError(str(error)) from None
        if scan is None:
            raise ValueError(f"{options.scan}: no scan of a known format; accepted: "
                             f"{', '.join(known.name for known in FORMATS)}")
    with input_errors(str(options.scan)):
        geometry = scan.geometry(geometry_fields(options.geometry) if options.geometry else {})
        geometry = turning_back(geometry) if options.reverse else geometry
        geometry = turned(mirrored(geometry) if options.mirror else geometry, options.turn)
        geometry = geometry if geometry.volume_shape else with_volume(geometry)
        _describe(scan, geometry)
        p = _line_integrals(scan)
        if p is not None:
            _check(p, geometry)
        if options.output is not None:
            _write(options, geometry, p)


def _describe(scan: Scan, geometry: ConeGeometry) -> None:
    source, centre, step_u, step_v = geometry.vectors.reshape(-1, 4, 3).transpose(1, 0, 2)
    to_axis, length = np.hypot(*source[:, :2].T), np.linalg.norm(centre - source, axis=1)
    angles = np.rad2deg(view_angles(geometry))
    turns = np.rad2deg((np.diff(np.deg2rad(angles)) + np.pi) % (2 * np.pi) - np.pi)
    rows, columns = geometry.det_shape
    size = [count * step for count, step in zip(geometry.volume_shape, geometry.voxel_size)]
    open_beam = ("a flat field" if scan.flat is not None else f"{scan.i0:g} counts" if scan.i0 else
                 "unknown (--flat or --i0)" if scan.counted else "none: line integrals")
    lines = {
        "format": scan.format,
        "views": f"{geometry.views}, angle {angles[0]:.4g} to {angles[-1]:.4g} degrees, {turns.sum():.5g} in all"
                 + (f", {np.median(turns):+.5g} from view to view" if len(turns) else ""),
        "source": f"{to_axis.mean():.6g} mm from the axis, {length.mean():.6g} mm from the detector's centre",
        "detector": f"{rows} x {columns} pixels (v, u) of {np.linalg.norm(step_v, axis=1).mean():.4g} x "
                    f"{np.linalg.norm(step_u, axis=1).mean():.4g} mm; rows run "
                    f"{'down' if step_v[:, 2].mean() < 0 else 'up'}",
        "open beam": open_beam,
        "volume": f"{' x '.join(map(str, geometry.volume_shape))} voxels (z, y, x) of "
                  f"{' x '.join(f'{step:.4g}' for step in geometry.voxel_size)} mm, "
                  f"{' x '.join(f'{length:.4g}' for length in size)} mm"}
    for name, text in [*lines.items(), *(("assumed", line) for line in scan.assumed)]:
        print(f"{name:10} {text}")


def _line_integrals(scan: Scan) -> np.ndarray | None:
    """Those of all views; None where the open beam is not known."""
    if scan.counted and scan.flat is None and scan.i0 is None:
        return None
    return measure(scan.views, scan.flat, scan.dark, scan.i0).p


def _check(p: np.ndarray, geometry: ConeGeometry) -> None:
    found = opposite_rays(p, geometry)
    print(f"{'opposite':10} " + (
        "no line in the source's plane is measured twice" if found is None else
        f"rays differ by {found.misfit:.2%}, by {found.backwards:.2%} if it turned the other way; the detector is "
        f"{found.offset:+.3f} mm along u from where it is said to be" + "; add --reverse" * found.turns_back))


def _write(options: Any, geometry: ConeGeometry, p: np.ndarray | None) -> None:
    options.output.mkdir(parents=True, exist_ok=True)
    with complete_file(options.output / "geometry.yaml") as partial:
        partial.write_text(geometry_text(geometry), encoding="utf-8")
    save_geometry_picture(options.output / "geometry.png", geometry)
    if options.rtk:
        if p is None:
            raise ValueError("counts without an open beam; RTK gets line integrals")
        rtk.write(options.output, geometry, p)
    print(options.output)


if __name__ == "__main__":
    main()
