"""results.md: names are shown as they are, and versions of the program are counted by what was run."""
from pathlib import Path

import pytest

from utils.evaluation.grid import Cell, Grid
from utils.evaluation.records import Record, Records
from utils.evaluation.tables import plain, tabulate, write_results


def cells(*entries, volume="chest"):
    return [Cell(volume=volume, task="task", variant=f"variant {k}", modality="ct", entry=Path(entry), flags={},
                 identity=str(k), seeds=(1,), samples=1, against=None) for k, entry in enumerate(entries)]


def results(output, cells, programs, failures=()) -> str:
    """The text of results.md when every cell was run by the program of this digest."""
    records = Records(output)
    for cell, program in zip(cells, programs):
        records.known[cell.key(1)] = Record(state="done", name=str(cell), folder="runs/x", program=program, seconds=1,
                                            peak_memory_gb=1, metrics={"recon": {"psnr": 30.0}})
    grid = Grid(tuple(cells), None, None)
    write_results("grid", grid, tabulate(grid, records.done, lambda cell: None), records, list(failures))
    return (output / "results.md").read_text()


@pytest.mark.parametrize("entries, programs, said", [
    (["ct.py", "mr.py"], ["a", "a"], None), (["ct.py", "mr.py"], ["a", "b"], "by 2 versions")])
def test_versions_of_the_program_are_counted(tmp_path, entries, programs, said):
    text = results(tmp_path, cells(*entries), programs)
    assert (said in text) if said else "versions" not in text


NAMES = ["<img src=x onerror=alert(1)>", "a & b", "[x](javascript:alert)", "a | b", "`code`", "*b*", "a\nb",
         "back\\slash"]
SHOWN = ["&lt;img src=x onerror=alert(1)&gt;", "a &amp; b", r"\[x\](javascript:alert)", r"a \| b", r"\`code\`",
         r"\*b\*",
         "a b", r"back\\slash"]


@pytest.mark.parametrize("name, shown", list(zip(NAMES, SHOWN)))
def test_names_carry_no_html_and_no_markdown(tmp_path, name, shown):
    assert plain(name) == shown
    (cell,) = cells("ct.py", volume=name)
    text = results(tmp_path, [cell], ["a"], [f"{name}: no luck"])
    assert f"## {shown}, task\n" in text and f"- {shown}: no luck\n" in text
    assert name not in text or name == shown
