"""A picture of a scan's geometry: from above, and from the side."""
from pathlib import Path
from typing import Any

import numpy as np

from physics.geometry import ConeGeometry
from utils.io.files import complete_file

MOST = 48       # views that are drawn


def save_geometry_picture(path: str | Path, geometry: ConeGeometry) -> None:
    """Write `geometry_figure` as a PNG."""
    figure = geometry_figure(geometry)
    with complete_file(path) as partial:
        figure.savefig(partial, dpi=100)


def geometry_figure(geometry: ConeGeometry) -> Any:
    """Draw sources, detectors and volume along z (from the head) and along x (from the left).

    Args:
        geometry: with or without a volume.

    Returns:
        A figure of matplotlib.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, pair, title in zip(figure.subplots(1, 2), ((0, 1), (1, 2)), ("from above", "from the side")):
        _draw(axes, geometry, pair)
        across, up = (f"{('x (L)', 'y (P)', 'z (S)')[k]}, {geometry.unit}" for k in pair)
        axes.set(xlabel=across, ylabel=up, title=title, aspect="equal")
    figure.axes[0].invert_yaxis()       # the front is up, the patient's left at the right
    return figure


def _draw(axes: Any, geometry: ConeGeometry, pair: tuple[int, int]) -> None:
    chosen = np.unique(np.linspace(0, geometry.views - 1, min(MOST, geometry.views)).astype(int))
    source, centre, step_u, step_v = (part[:, pair] for part in
                                      geometry.vectors.reshape(-1, 4, 3)[chosen].transpose(1, 0, 2))
    half = step_u * geometry.det_shape[1] / 2, step_v * geometry.det_shape[0] / 2
    axes.scatter(*source.T, c=np.arange(len(source)), cmap="viridis", s=14)
    axes.annotate("first source", source[0], fontsize=8)
    ends = np.stack([centre - half[0] - half[1], centre + half[0] - half[1], centre + half[0] + half[1],
                     centre - half[0] + half[1], centre - half[0] - half[1]], 1)
    for k, corners in enumerate(ends):
        axes.plot(*corners.T, color="tab:red" if k == 0 else "0.8", lw=2 if k == 0 else 0.6, zorder=3 - (k > 0))
    axes.annotate("u", centre[0] + half[0][0], fontsize=9, color="tab:red")
    axes.annotate("v", centre[0] + half[1][0], fontsize=9, color="tab:red")
    for edge in ends[0, :4]:
        axes.plot(*np.stack([source[0], edge]).T, color="tab:orange", lw=0.6)
    if geometry.volume_shape:
        size, middle = (np.array(value[::-1])[list(pair)] for value in (
            np.multiply(geometry.volume_shape, geometry.voxel_size), np.array(geometry.volume_centre)))
        corners = middle + size / 2 * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1)])
        axes.plot(*corners.T, color="tab:blue")
        axes.annotate("volume", corners[0], fontsize=8, color="tab:blue")
    axes.plot(0, 0, "+", color="k")
