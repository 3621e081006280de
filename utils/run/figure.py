"""A static picture of a run's volumes."""
from pathlib import Path

import numpy as np

from utils.io.files import complete_file
from utils.io.volume import Volume
from utils.run.views import VIEWS, patient_axes, upright
from utils.run.words import name_of

COLUMN = 2.4                # inches
RATIO = 0.2, 3.0            # height to width that a slice is drawn with: one that is longer is squeezed
FINEST = 1024               # pixels of a slice along each axis


def save_panel(path: str | Path, volumes: dict[str, Volume], metrics: dict, unit: str = "") -> None:
    """Middle axial, coronal and sagittal slice of every volume, one column each, as a PNG.

    Head up, the patient's left on the right. With a volume "GT", grey values run over its 0.5 to 99.5 percentiles and
    every other column shows its error too. The picture has a bounded size, whatever voxels are like.

    Args:
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
    heights = [np.clip(_ratio(reference, view), *RATIO) for view, _ in rows]

    figure = Figure(figsize=(COLUMN * len(volumes) + 0.8, COLUMN * sum(heights) + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), len(volumes), squeeze=False, height_ratios=heights)
    span, shown = (high - low) / 4, {}
    for row, (view, is_error) in enumerate(rows):
        first = compared[0] if is_error else next(iter(volumes))
        for column, (name, volume) in enumerate(volumes.items()):
            axis = axes[row, column]
            if is_error and name == "GT":
                axis.axis("off")
                continue
            image = _cut(volume, view) - (_cut(reference, view) if is_error else 0)
            colours = dict(cmap="RdBu_r", vmin=-span, vmax=span) if is_error else dict(cmap="gray", vmin=low, vmax=high)
            shown[is_error] = axis.imshow(image, aspect="auto", **colours)
            axis.set_box_aspect(heights[row])
            axis.set(xticks=[], yticks=[])
            if row == 0:
                axis.set_title(_title(name, metrics), fontsize=8)
            if name == first:
                ratio = _ratio(reference, view)
                axis.set_ylabel(view + ("\nnot to scale" if ratio != heights[row] else ""), fontsize=8)
    for is_error, image in shown.items():
        bar = figure.colorbar(image, ax=axes[3 * is_error:3 * is_error + 3, :], aspect=40, pad=0.01)
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
