"""How a measured scan was understood, and where the result does not explain it: sections of a run's report."""
from collections.abc import Callable
from html import escape
from typing import Any

import numpy as np

from physics.geometry import ConeGeometry
from physics.residual import Residual, residual
from utils.run import charts
from utils.run.geometry_picture import geometry_figure
from utils.run.measured import Notes

STANDS_OUT = 3.0        # times the median, which noise and the object's own edges do not reach
NAMED = 3               # views and regions
REGIONS = 24, 32        # of the detector, at the most (v, u)
SEES = 0.1              # of all pixels' line integrals, root mean squares: a region that sees the object
GEOMETRY = ("Sources (dark: first views), detectors (red: the first), the rays of the first view to the detector's "
            "corners, and the volume. Directions are the patient's left (L), back (P) and head (S).")
MEANT = ("Root mean squares of A x − y, as parts of that of y. A view that stands out moved, lost its dose or is said "
         "to be elsewhere; a region that does has bad pixels or another gain, or sees what lies outside the volume; a "
         "line along the object's edges says that the axis is tilted or elsewhere, or the voxels are too coarse.")


def explained(options: Any, notes: Notes | None, scan: ConeGeometry, acquisition: Any, problem: Any,
              x: Any) -> list[tuple[str, str, str]]:
    """Title, drawing and note, in HTML, of each section; none of a simulation, or where no report is wanted.

    Args:
        options: the settings of a reconstruction.
        notes: of a scan that was measured.
        scan: its geometry.
        acquisition: the `physics.acquisition.Acquisition` with the views that were used.
        problem: what was solved.
        x: the result [n, 1, H, W].
    """
    if notes is None or problem.y is None or options.no_report:
        return []
    found = residual(x.to(problem.y), problem.operator.all_views(problem.y), problem.operator)
    top, _, left, _ = acquisition.window
    first = tuple(begin + size * notes.size for begin, size in zip(notes.first, (top, left)))
    views = [notes.views[k] for k in acquisition.views]
    return [("The scan as it was understood", facts(notes), ""),
            ("Geometry", charts.picture(geometry_figure(scan.select(acquisition.views)),
                                        "Geometry of the scan, from above and from the side"), GEOMETRY),
            ("Where the result does not explain the scan", misfits(found, views, first, notes.size), MEANT)]


def facts(notes: Notes) -> str:
    """What was assumed, found and corrected, as a list in HTML."""
    lines = {"assumed": ["nothing"], "corrected": ["nothing"], "bad pixels": ["none"], **notes.lines}
    return "<dl>" + "".join(f"<dt>{escape(topic)}</dt><dd>{'<br>'.join(map(escape, said))}</dd>"
                            for topic, said in lines.items()) + "</dl>"


def misfits(found: Residual, views: list[int], first: tuple, size: int) -> str:
    """The residual by view and by region of the detector, drawn, and the worst of both named, in HTML.

    Args:
        found: of ``views``.
        views: their numbers in the files.
        first: (row, column) of the files' images where the detector of ``found`` begins.
        size: of the files' pixels in one of it.
    """
    regions, signal, block = found.by_region(REGIONS)
    edges = [np.minimum(np.arange(many + 1) * step, count) * size + begin for many, step, count, begin in zip(
        regions.shape, block, found.by_pixel.shape, first)]
    seen = regions[signal > SEES]

    def place(index: int) -> str:
        return ", ".join(f"{what} {ends[k]} to {ends[k + 1] - 1}" for what, ends, k in zip(
            ("rows", "columns"), edges, divmod(index, regions.shape[1])))

    text = (_worst("view", found.by_view, float(np.median(found.by_view)), lambda k: f"view {views[k]}"),
            _worst("region", regions.ravel(), float(np.median(seen)) if seen.size else 0.0, place))
    drawing = charts.residual(found.by_view, views, regions, edges)
    return drawing + "".join(f"<p>{escape(line)}</p>" for line in text)


def _worst(what: str, values: np.ndarray, middle: float, name: Callable[[int], str]) -> str:
    """One sentence that names the largest values, and says whether they stand out."""
    order = np.argsort(-values)
    out = [int(k) for k in order if values[k] > STANDS_OUT * middle]
    named = "; ".join(f"{name(int(k))} ({values[k]:.3f})" for k in (out or order)[:NAMED])
    if not out:
        return f"No {what} stands out. The largest: {named}; the median is {middle:.3f}."
    more = f"; and {len(out) - NAMED} more" if len(out) > NAMED else ""
    some = f"1 {what} of {len(values)} stands" if len(out) == 1 else f"{len(out)} {what}s of {len(values)} stand"
    return f"{some} out: {named}{more}; the median is {middle:.3f}."
