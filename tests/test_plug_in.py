"""docs/plug_in.md: its examples run as they stand, and ISCS brings slices closer than independent noise does."""
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "plug_in.md").read_text(encoding="utf-8")


def block(name):
    return re.search(rf"<!-- {name}: begin -->\n```python\n(.*?)```", PAGE, re.DOTALL)[1]


@pytest.fixture(scope="module")
def names():
    """What the preamble defines, with fewer slices."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        exec(compile(block("preamble"), "preamble", "exec"), found)
    found["truth"] = found["truth"][:4, :, ::2, ::2].contiguous()
    found["known"] = found["known"][::2, ::2]
    return found


@pytest.mark.parametrize("name, package", [("loop", None), ("diffusers", "diffusers"), ("deepinv", "deepinv")])
def test_an_example_runs_and_its_slices_are_closer(names, name, package):
    if package:
        pytest.importorskip(package, reason=f"{package} is not installed")
    errors = {}
    for control in ("Slerp", "Independent"):
        code = block(name).replace("Slerp", control).replace("noise.slerp", f"noise.{control.lower()}")
        found = dict(names)
        exec(compile(code, name, "exec"), found)
        x, truth = found["x"], found["truth"]
        assert x.shape == truth.shape and x.isfinite().all()
        errors[control] = ((x[1:] - x[:-1]) - (truth[1:] - truth[:-1])).abs().mean()
    assert errors["Slerp"] < 0.8 * errors["Independent"]


@pytest.mark.parametrize("name", ["loop", "diffusers", "deepinv"])
def test_at_most_five_lines_are_added_or_changed(name):
    assert 0 < block(name).count("# ISCS") <= 5
