"""A static picture of a run's volumes."""
from pathlib import Path

import numpy as np

from utils.io.files import complete_file
from utils.io.volume import Volume
from utils.run.views import VIEWS, patient_axes, upright
from utils.run.words import name_of

COLUMN, GAP = 2.4, 0.08                 # inches: width of a slice, and between slices
LEFT, TOP, RIGHT = 0.35, 0.6, 0.9       # inches around: for the views' names, the volumes' names, the colour bars
RATIO = 0.05, 3.0                       # height to width that a slice is drawn with: one that is longer is squeezed
LOWEST_ROW = 0.5                        # inches: room for its label
FINEST = 1024                           # pixels of a slice along each axis


def save_panel(path: str | Path, volumes: dict[str, Volume], metrics: dict, unit: str = "") -> None:
    """Middle axial, coronal and sagittal slice of every volume, one column each, as a PNG.

    Head up, the patient's left on the right. With a volume "GT", grey values run over its 0.5 to 99.5 percentiles and
    every other column shows its error too. The picture has a bounded size, whatever voxels are like.

    Args:
        path: where the PNG goes.
        volumes: volumes of one grid by their files' stems, in one unit.
        metrics: content of metrics.json: the PSNR stands under the name.
        unit: of the values, such as "HU".
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    reference = volumes.get("GT", next(iter(volumes.values())))
    sample = reference.array.ravel()[:: max(1, reference.array.size // 1_000_000)]
    low, high = map(float, np.quantile(sample, (0.005, 0.995)))
    if not high > low:
        low, high = low - 0.5, low + 0.5
    compared = [name for name in volumes if name != "GT"] if "GT" in volumes else []
    rows = [(view, is_error) for is_error in ([False, True] if compared else [False]) for view in VIEWS]
    heights = {view: COLUMN * min(max(_ratio(reference, view), RATIO[0]), RATIO[1]) for view in VIEWS}
    room = {view: max(LOWEST_ROW, height) + GAP for view, height in heights.items()}
    width, height = LEFT + len(volumes) * (COLUMN + GAP) + RIGHT, TOP + sum(room[view] for view, _ in rows) + GAP

    def left_of(column: int) -> float:
        return LEFT + column * (COLUMN + GAP)

    # One pair of axes for all, in inches from the upper left: one for every slice takes matplotlib seconds.
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    axis = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0), autoscale_on=False)
    axis.axis("off")
    for column, name in enumerate(volumes):
        axis.text(left_of(column) + COLUMN / 2, TOP - 0.06, _title(name, metrics), fontsize=8, ha="center", va="bottom")
    span, top = (high - low) / 4, TOP
    for view, is_error in rows:
        label = view + "\nerror" * is_error + "\nsqueezed" * (heights[view] != COLUMN * _ratio(reference, view))
        for column, (name, volume) in enumerate(volumes.items()):
            if is_error and name == "GT":
                continue
            image = _cut(volume, view) - (_cut(reference, view) if is_error else 0)
            cmap, least, most = ("RdBu_r", -span, span) if is_error else ("gray", low, high)
            left = left_of(column)
            shown = axis.imshow(image, cmap, aspect="auto", vmin=least, vmax=most,
                                extent=(left, left + COLUMN, top + heights[view], top))
        first = list(volumes).index(compared[0]) if is_error else 0
        axis.text(left_of(first) - 0.05, top + heights[view] / 2, label, fontsize=8, rotation=90, ha="right",
                  va="center", multialignment="center")
        top += room[view]
        if view == VIEWS[-1]:
            part = sum(room.values())
            bar = figure.colorbar(shown, cax=figure.add_axes(
                (1 - (RIGHT - 0.05) / width, 1 - (top - GAP) / height, 0.12 / width, (part - GAP) / height)))
            bar.set_label(" ".join(["error" if is_error else "values", *[f"({unit})"] * bool(unit)]), fontsize=8)
            bar.ax.tick_params(labelsize=7)
    with complete_file(path) as partial:
        figure.savefig(partial, dpi=110)


def _title(name: str, metrics: dict) -> str:
    """The name in words, and PSNR below where it is known."""
    psnr = metrics.get(name, {}).get("psnr")
    return name_of(name).replace(" of ", "\nof ") + (f"\n{psnr:.2f} dB" if psnr is not None else "")


def _cut(volume: Volume, view: str) -> np.ndarray:
    """The middle slice of a view, head or front up, thinned to `FINEST` pixels."""
    array, across = upright(volume.array, volume.direction), VIEWS.index(view)
    image = array.take(array.shape[across] // 2, across)
    return image[tuple(slice(None, None, -(-size // FINEST)) for size in image.shape)]


def _ratio(volume: Volume, view: str) -> float:
    """Height of a view's slice to its width, in mm."""
    sizes = [volume.array.shape[axis] * volume.spacing[2 - axis] for axis in patient_axes(volume.direction)[0]]
    height, width = (size for k, size in enumerate(sizes) if k != VIEWS.index(view))
    return height / width
