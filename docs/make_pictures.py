"""Make the pictures of README and the pages again, by `python docs/make_pictures.py [NAME ...]`.

geometry     geometry.png, the conventions of my_projections.md, drawn here
demo_CT      demo_CT.png, the panel of `bash recon_CBCT.sh`
demo_MR      demo_MR.png, the panel of `bash recon_ZSR.sh`
quickstart   the outputs of quickstart.ipynb; needs nbclient and ipykernel

Without a name it makes the first three. Those of results.md are of the study that the page describes.
"""
import json
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Ellipse, Rectangle

DOCS = Path(__file__).resolve().parent
SOURCE, DETECTOR, HALF = 7.0, 5.0, 4.6      # from the axis, and half the detector's side: the demo's, divided by 100
BEAM, FRAME, STEP = "#d98c1f", "#4878a8", "#b03a2e"


def arrow(axes, start, end, text, colour="black", **place) -> None:
    """An arrow with a text at its end."""
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 1.6})
    axes.text(*end, text, color=colour, **{"ha": "center", "va": "center"} | place)


def beam(axes, source, edges, alpha=1.0) -> None:
    """Source, the fan of its rays and the detector between two points."""
    corners = np.array([source, *edges])
    axes.fill(*corners.T, color=BEAM, alpha=0.13 * alpha, lw=0)
    axes.plot(*np.array(edges).T, color=FRAME, lw=4, alpha=alpha, solid_capstyle="butt")
    axes.plot(*source, "o", color=BEAM, ms=9, alpha=alpha)


def axial(axes) -> None:
    """The patient from the feet, as radiologists look: front at the top, the patient's left at the right."""
    beam(axes, (0, -SOURCE), [(-HALF, DETECTOR), (HALF, DETECTOR)])
    axes.add_patch(Rectangle((-2.6, -2.6), 5.2, 5.2, fill=False, ls=":", color="grey"))
    axes.add_patch(Ellipse((0, 0), 4.4, 3, color="#cfcfcf"))
    axes.plot(0, 0, "k+", ms=9)
    turn = np.deg2rad(35)
    rotate = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    beam(axes, rotate @ (0, -SOURCE), [rotate @ (-HALF, DETECTOR), rotate @ (HALF, DETECTOR)], alpha=0.3)
    angles = np.linspace(0, turn, 40)
    axes.plot(SOURCE * np.sin(angles), -SOURCE * np.cos(angles), color=BEAM, lw=1)
    axes.text(2.6, -7.3, "angle t grows", color=BEAM, ha="left")
    axes.text(-0.4, -SOURCE, "source at t = 0, (0, -src_dist, 0)", color=BEAM, ha="right", va="center")
    arrow(axes, (0, 0), (4.2, 0), "x: L, left", ha="left")
    arrow(axes, (0, 0), (0, 3.7), "  y: P, back", ha="left", va="center")
    axes.text(0, -1.9, "front", ha="center", color="grey")
    arrow(axes, (0.6, DETECTOR + 0.7), (4.6, DETECTOR + 0.7), "  u, columns", STEP, ha="left")
    axes.set(title="from the feet", xlim=(-9.2, 8.4), ylim=(8.1, -8.2))


def sagittal(axes) -> None:
    """The patient from the left side: head at the top, front at the left."""
    beam(axes, (-SOURCE, 0), [(DETECTOR, -HALF), (DETECTOR, HALF)])
    axes.add_patch(Rectangle((-2.6, -1.8), 5.2, 3.6, fill=False, ls=":", color="grey"))
    axes.add_patch(Rectangle((-1.5, -5.6), 3, 11.2, color="#cfcfcf", zorder=0))
    axes.axvline(0, color="grey", lw=0.8, ls="-.")
    axes.text(0.15, -6.3, "rotation axis", color="grey")
    axes.plot(0, 0, "k+", ms=9)
    arrow(axes, (0, 0), (0, 4.2), "  z: S, head", ha="left")
    arrow(axes, (0, 0), (3.6, 0), "y: P, back ", ha="right", va="top")
    arrow(axes, (DETECTOR + 0.6, -2.2), (DETECTOR + 0.6, 2.2), " v, rows", STEP, ha="left", va="top")
    axes.annotate("", (-SOURCE, -4.2), (0, -4.2), arrowprops={"arrowstyle": "<->", "color": "grey"})
    axes.annotate("", (0, -4.2), (DETECTOR, -4.2), arrowprops={"arrowstyle": "<->", "color": "grey"})
    axes.text(-SOURCE / 2, -4.7, "src_dist", ha="center", color="grey")
    axes.text(DETECTOR / 2, -4.7, "det_dist", ha="center", color="grey")
    axes.text(-2.5, -2.2, "volume, around volume_centre", ha="left", color="grey", fontsize=8)
    axes.set(title="from the patient's left, t = 0", xlim=(-8.2, 8), ylim=(-6.8, 6.4))


def geometry() -> None:
    """The axes of the geometry."""
    figure, panels = plt.subplots(1, 2, figsize=(11, 5), layout="constrained")
    for panel, draw in zip(panels, (axial, sagittal)):
        panel.set_aspect("equal")
        panel.axis("off")
        draw(panel)
    figure.savefig(DOCS / "geometry.png", dpi=110)


def demo(script: str, name: str) -> None:
    """The panel of what a script does with nothing set."""
    with TemporaryDirectory() as folder:
        subprocess.run(["bash", DOCS.parent / script, "--no-report", "--output", f"{folder}/run"], check=True)
        shutil.copy(f"{folder}/run/panel.png", DOCS / name)


def quickstart() -> None:
    """What the cells of the notebook print and draw."""
    import nbclient
    import nbformat

    path = DOCS / "quickstart.ipynb"
    book = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(book, resources={"metadata": {"path": str(DOCS)}}).execute()
    for cell in book.cells:
        cell["metadata"] = {}       # the times of execution
    book.metadata.pop("language_info", None)
    path.write_text(json.dumps(book, indent=1) + "\n", encoding="utf-8")


MAKERS = {"geometry": geometry, "demo_CT": lambda: demo("recon_CBCT.sh", "demo_CT.png"),
          "demo_MR": lambda: demo("recon_ZSR.sh", "demo_MR.png"), "quickstart": quickstart}

if __name__ == "__main__":
    if unknown := set(sys.argv[1:]) - set(MAKERS):
        sys.exit(f"{unknown.pop()}: no picture; accepted: {', '.join(MAKERS)}")
    for wanted in sys.argv[1:] or ("geometry", "demo_CT", "demo_MR"):
        MAKERS[wanted]()
