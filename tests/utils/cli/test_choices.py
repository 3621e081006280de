"""The table of choices and the files that it names: each knows the other."""
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from algorithms.noise import noise_source
from utils.cli import choices, settings
from utils.cli.flags import build_parser
from utils.io.yaml_file import read_yaml

ROOT = Path(choices.__file__).resolve().parents[2]
FOLDERS = {"algorithms/noise": choices.NOISE_CONTROLS, "algorithms/renoise": choices.RENOISE_METHODS,
           "algorithms/data_steps": choices.METHODS}
CODE = [choice for table in (choices.METHODS, choices.NOISE_CONTROLS, choices.RENOISE_METHODS, choices.NETWORKS)
        for choice in table]


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_file_is_in_one_line_and_has_one_public_thing(folder):
    lines = [choice.code for choice in FOLDERS[folder]]
    for path in (ROOT / folder).glob("[!_]*.py"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        assert [line.split(":")[0] for line in lines].count(module) == 1, module
        found = [name for name, thing in vars(sys.modules[module] if module in sys.modules else
                                              __import__(module, fromlist=["_"])).items()
                 if inspect.isclass(thing) and thing.__module__ == module]
        assert [f"{module}:{name}" for name in found] == [line for line in lines if line.startswith(f"{module}:")]


@pytest.mark.parametrize("choice", CODE, ids=lambda choice: choice.code)
def test_every_line_finds_its_code_and_names_its_keywords_and_defaults(choice):
    keywords = inspect.signature(choice.load()).parameters
    for parameter, default in choice.parameters.items():
        if parameter.of_code:
            assert keywords[parameter.name].default == default


def test_a_new_noise_control_is_one_file_and_one_line(monkeypatch, tmp_path):
    """Written here as somebody would: the flag, its help, its check and its parameter follow from the line."""
    (tmp_path / "alternating.py").write_text(
        "import torch\nfrom algorithms.noise import draw\n\n\nclass Alternating:\n"
        "    def __init__(self, period=2):\n        self.period = period\n\n"
        "    def __call__(self, shape, generator, device=\'cpu\', spacing=None):\n"
        "        images = draw(self.period, shape, generator, device)\n"
        "        return images[torch.arange(shape[0]) % self.period]\n")
    monkeypatch.syspath_prepend(tmp_path)
    period = choices.Parameter("period", choices.number(int, 1, 100), "N", "slices after which noise returns")
    monkeypatch.setattr(choices, "NOISE_CONTROLS", (*choices.NOISE_CONTROLS, choices.Choice(
        "alternating", "returns after a few slices", "alternating:Alternating", {period: 2})))
    shown = " ".join(build_parser("ct").format_help().split())
    assert "alternating returns after a few slices" in shown and "--period N" in shown
    files = ["--preset", "fast", "--output-dir", str(tmp_path)]
    options = settings.parse_args("ct", [*files, "--noise-control", "Alternating", "--period", "3"], read_yaml)
    assert (options.noise_control, options.period) == ("alternating", 3)
    with pytest.raises(SystemExit):
        settings.parse_args("ct", [*files, "--period", "3"], read_yaml)
    control = choices.named(choices.NOISE_CONTROLS, "alternating").load()(period=options.period)
    noise = noise_source(control, (6, 1, 4, 4), torch.Generator().manual_seed(0))()
    assert torch.equal(noise[:3], noise[3:]) and not torch.equal(noise[0], noise[1])


def test_noise_stands_alone():
    """For other people's samplers: nothing of this program but the folder itself is imported."""
    code = ("import sys, algorithms.noise.slerp, algorithms.noise.gaussian_process; "
            "print([m for m in sys.modules if m.split(\'.\')[0] in (\'utils\', \'models\', \'physics\', \'op\')])")
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert shown.stdout.strip() == "[]", shown.stderr
