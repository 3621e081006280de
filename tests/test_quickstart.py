"""docs/quickstart.ipynb from top to bottom, as its reader runs it."""
import json
from pathlib import Path

import matplotlib

DOCS = Path(__file__).resolve().parents[1] / "docs"


def test_the_notebook_runs_and_shows_what_it_says(monkeypatch, capsys):
    monkeypatch.chdir(DOCS)
    matplotlib.use("Agg")
    names = {}
    cells = [cell for cell in json.loads((DOCS / "quickstart.ipynb").read_text(encoding="utf-8"))["cells"]
             if cell["cell_type"] == "code"]
    for number, cell in enumerate(cells):
        exec(compile("".join(cell["source"]), f"quickstart.ipynb, cell {number}", "exec"), names)
    psnr, jumps = {}, {}
    for line in capsys.readouterr().out.splitlines()[1:]:
        name, (decibel, *_, error) = line[:18].strip(), line[18:].split()
        psnr[name], jumps[name] = float(decibel), float(error)
    assert psnr["FDK"] + 3 < psnr["SIRT"] and psnr["SIRT"] + 2 < psnr["ISCS"]
    assert jumps["ISCS"] < 0.75 * jumps["independent noise"]
    assert len(cells) <= 10 and len(names["figure"].axes) == 2 * len(names["volumes"])
