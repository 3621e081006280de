"""A static picture of a run's volumes."""
from pathlib import Path

import torch

from utils.io.files import complete_file


def save_panel(path: str | Path, volumes: dict, spacing, direction) -> None:
    """Middle axial, coronal and sagittal slice of every volume, one column each, as a PNG.

    ``volumes`` maps names to tensors [D, H, W] in one unit; ``spacing`` (x, y, z; mm) and ``direction`` are
    those of a `utils.io.volume.Volume`: head up, the patient's left on the right. With a volume "GT", grey values
    run over its 0.5 to 99.5 percentiles and every other column shows its error too.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    reference = volumes.get("GT", next(iter(volumes.values())))
    sample = reference.flatten()[:: max(1, reference.numel() // 1_000_000)]
    low, high = (torch.quantile(sample, q).item() for q in (0.005, 0.995))
    # Columns run to the patient's left, rows to the back, slices down: L, P, I.
    against = [axis for axis, towards in ((0, -direction[8]), (1, direction[4]), (2, direction[0])) if towards < 0]
    volumes = {name: volume.flip(against).numpy() for name, volume in volumes.items()}
    x, y, z = spacing
    depth, height, width = reference.shape
    cuts = [("axial", lambda v: v[depth // 2], y / x),
            ("coronal", lambda v: v[:, height // 2], z / x),
            ("sagittal", lambda v: v[:, :, width // 2], z / y)]

    rows = [(view, cut, aspect, False) for view, cut, aspect in cuts]
    compared = [name for name in volumes if name != "GT"] if "GT" in volumes else []
    if compared:
        rows += [(f"{view}\nerror", cut, aspect, True) for view, cut, aspect in cuts]
    first_shown = {False: next(iter(volumes)), True: compared[0] if compared else None}
    heights = [max(0.2, cut(reference).shape[0] * aspect / cut(reference).shape[1])     # room for a label
               for _, cut, aspect, _ in rows]
    figure = Figure(figsize=(2.4 * len(volumes), 2.4 * sum(heights) + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), len(volumes), squeeze=False, height_ratios=heights)
    for row, (label, cut, aspect, is_error) in enumerate(rows):
        for column, (name, volume) in enumerate(volumes.items()):
            axis = axes[row, column]
            if is_error and name == "GT":
                axis.axis("off")
                continue
            if is_error:
                span = (high - low) / 4
                axis.imshow(cut(volume - volumes["GT"]), cmap="RdBu_r", vmin=-span, vmax=span, aspect=aspect)
            else:
                axis.imshow(cut(volume), cmap="gray", vmin=low, vmax=high, aspect=aspect)
            axis.set_xticks([])
            axis.set_yticks([])
            if row == 0:
                axis.set_title(name, fontsize=9)
            if name == first_shown[is_error]:
                axis.set_ylabel(label, fontsize=8)
    with complete_file(path) as partial:
        figure.savefig(partial, dpi=110)
