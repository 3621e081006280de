"""The charts of a report: SVG that takes the page's colours, light and dark."""
import base64
import io
import math
import re
from typing import Any

import numpy as np

from utils.io.volume import Volume
from utils.run.views import VIEWS, patient_axes, upright
from utils.run.words import name_of

# Colours that are drawn with, and what of the page's style stands in for them.
INK, ONE = "#010203", "#010204"
SERIES = {ONE: "var(--one)", "#010205": "var(--two)", "#010206": "var(--three)", "#010207": "var(--four)",
          "#010208": "var(--five)"}
DASHES = ("-", (0, (6, 3)), (0, (2, 2)), (0, (8, 2, 2, 2)), (0, (1, 1)))


def convergence(history: list[dict]) -> str:
    """Data residual and sigma over the levels, logarithmic; no text where nothing was recorded."""
    labels = {"residual": "data residual |Ax − y| / |y|", "sigma": "noise level sigma"}
    series = {key: [(step["level"] + 1, step[key]) for step in history
                    if step.get(key) is not None and math.isfinite(step[key]) and step[key] > 0] for key in labels}
    series = {key: points for key, points in series.items() if points}
    if not series:
        return ""
    figure, axes = _figure(len(series))
    for axis, (key, points), colour in zip(axes, series.items(), SERIES):       # an axis each: no line is pressed flat
        axis.plot(*zip(*points), color=colour, marker="o" if len(points) <= 30 else "", markersize=3)
        axis.set(yscale="log", xlabel="level", title=labels[key])
        axis.xaxis.get_major_locator().set_params(integer=True)
    return _svg(figure, "Data residual and sigma of every noise level")


def by_slice(slices: dict[str, dict]) -> str:
    """PSNR and inter-slice error slice by slice, a line a volume; no text where there is nothing to draw."""
    keys = {"psnr": "PSNR of each slice (dB), higher is better",
            "inter_slice_error": "inter-slice error of each pair, lower is better"}
    if not any(len(found["psnr"]) > 1 for found in slices.values()):
        return ""
    figure, axes = _figure(2)
    for axis, (key, title) in zip(axes, keys.items()):
        for k, (name, found) in enumerate(sorted(slices.items(), key=lambda item: item[0] != "recon")):
            values = [math.nan if value is None else value for value in found[key]]
            axis.plot(range(1, len(values) + 1), values, color=list(SERIES)[k % len(SERIES)], label=name_of(name),
                      linewidth=2.2 if name == "recon" else 1.4, linestyle=DASHES[k % len(DASHES)])
        axis.set(xlabel="slice of the prior" if key == "psnr" else "slice and the next", title=title)
        axis.xaxis.get_major_locator().set_params(integer=True)
    figure.subplots_adjust(bottom=0.32)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="lower center", ncols=3, frameon=False, labelcolor=INK)
    return _svg(figure, "PSNR and inter-slice error of every slice")


def jumps(volumes: dict[str, Volume], slice_axis: int) -> str:
    """How far values step from slice to slice, side by side for truth and results, as one picture in an <img>.

    It shows the middle coronal plane, or the sagittal one where the slices themselves are coronal.
    """
    first = next(iter(volumes.values()), None)
    if first is None or first.array.shape[slice_axis] < 2:
        return ""
    axes = patient_axes(first.direction)[0]
    view = "coronal" if axes[1] != slice_axis else "sagittal"
    across = VIEWS.index(view)
    images = {}
    for name, volume in volumes.items():
        array = upright(volume.array, volume.direction)
        plane = array.take([array.shape[across] // 2], across)
        images[name] = np.abs(np.diff(plane, axis=axes.index(slice_axis))).squeeze(across)
    limit = float(np.quantile(images.get("GT", images[next(iter(images))]), 0.995)) * 1.5 or 1.0
    sizes = [first.array.shape[axis] * first.spacing[2 - axis] for axis in axes]
    height, width = (size for k, size in enumerate(sizes) if k != across)
    return _pictures({name: (image, height / width) for name, image in images.items()}, limit,
                     f"Steps from slice to slice in the middle {view} plane")


def spread(std: Volume, interval: Volume | None, volumes: dict[str, Volume]) -> str:
    """The samples' standard deviation in the middle slice of every view; below it half the interval, and the error.

    The interval where there is one, the error of "recon" where there is "GT". All have one range of colours.
    """
    axes = patient_axes(std.direction)[0]
    sizes = [std.array.shape[axis] * std.spacing[2 - axis] for axis in axes]
    rows = {"standard deviation": std.array}
    if interval is not None:
        rows["half of the 90 % interval"] = interval.array
    if "GT" in volumes:
        rows["absolute error"] = np.abs(volumes["recon"].array - volumes["GT"].array)
    widest, times = (std, 3.0) if interval is None else (interval, 1.5)
    limit, text = times * float(np.quantile(widest.array, 0.95)) or 1.0, []
    for title, array in rows.items():
        shown = upright(array, std.direction)
        images = {}
        for k, view in enumerate(VIEWS):
            height, width = (size for across, size in enumerate(sizes) if across != k)
            images[f"{title}, {view}"] = shown.take(shown.shape[k] // 2, k), height / width
        text.append(_pictures(images, limit, title.capitalize()))
    return "".join(text)


def residual(by_view: np.ndarray, views: list[int], regions: np.ndarray, edges: list[np.ndarray]) -> str:
    """The residual of every view as a curve, and of every region of the detector as a map.

    Args:
        by_view: [views].
        views: their numbers.
        regions: [v, u].
        edges: rows and columns where regions begin, and where the last ends.
    """
    figure, (curve, place) = _figure(2)
    curve.plot(views, by_view, color=ONE, linewidth=1.2, marker="o" if len(views) <= 60 else "", markersize=3)
    curve.set(xlabel="view", title="residual of each view", ylim=(0, None))
    curve.xaxis.get_major_locator().set_params(integer=True)
    (bottom, top), (left, right) = ((ends[0] - 0.5, ends[-1] - 0.5) for ends in edges)
    place.grid(False)
    shown = place.imshow(regions, cmap="inferno", vmin=0, aspect="auto", interpolation="nearest",
                         extent=(left, right, top, bottom))
    place.set(xlabel="column; rows run down", title="residual of each region of the detector")
    for axis in (place.xaxis, place.yaxis):
        axis.get_major_locator().set_params(integer=True)
    figure.colorbar(shown, ax=place)
    return _svg(figure, "Residual of every view, and of every region of the detector")


def picture(figure: Any, label: str) -> str:
    """A figure as an <img>, with the paper that it was drawn on."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=90)
    return _img(file.getvalue(), label)


def _img(png: bytes, label: str) -> str:
    return f'<img alt="{label}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def _pictures(images: dict[str, tuple[np.ndarray, float]], limit: float, label: str) -> str:
    """Images and their height to width, side by side, from 0, black, to ``limit``, as one picture in an <img>."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    ratios = {name: float(np.clip(ratio, 0.2, 2)) for name, (_, ratio) in images.items()}
    ratio = max(ratios.values())
    figure = Figure(figsize=(4 * len(images), 4 * ratio + 0.35), facecolor="black")
    figure.subplots_adjust(0.005, 0.01, 0.995, 4 * ratio / (4 * ratio + 0.35), 0.01)
    FigureCanvasAgg(figure)
    for axis, (name, (image, _)) in zip(figure.subplots(1, len(images), squeeze=False)[0], images.items()):
        axis.imshow(image, cmap="inferno", vmin=0, vmax=limit, aspect=ratios[name] * image.shape[1] / image.shape[0])
        axis.set(xticks=[], yticks=[])
        axis.set_title(name_of(name), fontsize=9, color="white")
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100, facecolor="black")
    return _img(file.getvalue(), f'{label}, of {", ".join(map(name_of, images))}')


def _figure(columns: int) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6 * columns, 3.2))
    figure.subplots_adjust(0.14 / columns, 0.15, 0.98, 0.9, 0.2)
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for axis in axes:
        axis.grid(color=INK, alpha=0.15)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _svg(figure: Any, label: str) -> str:
    """The figure as an <svg> element whose text stays text."""
    from matplotlib import rc_context

    for axis in figure.axes:
        axis.tick_params(colors=INK, which="both", labelsize=9)
        axis.title.set(color=INK, fontsize=10)
        axis.xaxis.label.set(color=INK, fontsize=9)
        for spine in axis.spines.values():
            spine.set_color(INK)
    file = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": label}):
        figure.savefig(file, format="svg", transparent=True,
                       metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = file.getvalue()
    text = text[text.index("<svg"):].replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
    for colour, meant in {INK: "currentColor", **SERIES}.items():
        text = text.replace(colour, meant)
    return re.sub(r"font-family: [^;]*; ", "", text)     # the page's
