"""The documentation against the code: the flags of options.md, the example of library.md."""
import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_tables_of_flags_are_those_of_the_code():
    spec = importlib.util.spec_from_file_location("make_options", ROOT / "docs" / "make_options.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    text = script.PAGE.read_text(encoding="utf-8")
    assert script.page(text) == text, "python docs/make_options.py writes them anew"
    assert "`--noise-length MM`" in text and "alike over a length in mm" in text


def test_the_example_of_the_library_runs(monkeypatch):
    text = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    monkeypatch.chdir(ROOT)
    names = {}
    exec(compile(code, "docs/library.md", "exec"), names)
    volume, result = names["volume"], names["result"]
    assert result.shape == volume.shape
    assert names["problem"].residual(result) < 0.1
    error, before = ((x - volume).square().mean().item() for x in (result, names["problem"].initial))
    assert error < 0.001 and before < 0.001     # this prior knows chests, not boxes
