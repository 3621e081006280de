"""What a run leaves behind: its folder, volumes, settings, metrics and figure; and what it says meanwhile."""
import json
import math
import platform
import re
import time
from datetime import datetime
from pathlib import Path

import torch
import yaml
from tqdm import tqdm

from utils.figure import save_panel
from utils.files import complete_file
from utils.metrics import evaluate
from utils.volume import Volume, scale_from_unit, write_volume


def noise_label(level: float) -> str:
    """A simulated measurement's noise as a folder name: clean, gaussian-<variance> or poisson-<photons>."""
    return "clean" if level == 0 else f"{'gaussian' if level < 100 else 'poisson'}-{level:g}"


def progress_bar(iterable, label: str, **options):
    """A progress bar on a terminal, nothing elsewhere."""
    return tqdm(iterable, label, disable=None, **options)


class Run:
    """The folder of one run, ``root``/<config>/<data>/[CBCT/]<task>-<degree>/<method>/<noise>/<time>/.

    Of measured projections, <data> is their name, <noise> is "measured", and without a degree <task>-<degree> is
    "all-views".

    ``template`` is the `Volume` whose geometry the results have; ``to_volume`` turns what the sampler works on
    ([slices, 1, H, W] in [0, 1]) into an array [D, H, W] in the unit range, and ``window`` = (low, high) are
    the intensities that 0 and 1 stand for in the input's units. ``slice_axis`` is the axis of [D, H, W] that
    the prior's slices are stacked along.
    """

    def __init__(self, args, problem: str, template: Volume, to_volume, window, slice_axis: int):
        self.args, self.template, self.to_volume = args, template, to_volume
        self.window, self.slice_axis = window, slice_axis
        self.units, self.metrics = {}, {}
        config = args.config_path.stem if args.config_path else "no-prior"
        measured = getattr(args, "projections", None)
        name = re.sub(r"(\.nii)?\.\w+$", "", (measured or args.data).name, flags=re.IGNORECASE)
        parent = Path(args.output_dir, config, name, *["CBCT"] * (problem == "CBCT"),
                      f"{args.task}-{args.degree}" if args.degree else "all-views", args.method,
                      "measured" if measured else noise_label(args.sino_noise))
        self.folder = _new_folder(parent)
        settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}
        settings["versions"] = {"python": platform.python_version(), "torch": str(torch.__version__)}
        self.save_text("args.yaml", yaml.safe_dump(settings, sort_keys=False))

    def save_text(self, name: str, text: str) -> None:
        """Write a text file ``name``."""
        with complete_file(self.folder / name) as partial:
            partial.write_text(text, encoding="utf-8")

    def save(self, name: str, x: torch.Tensor) -> None:
        """Write [slices, 1, H, W] as ``name``.nii.gz, show it in the figure, and compare it with "GT" if saved."""
        self.units[name] = unit = self._write(name, x)
        if name != "GT" and "GT" in self.units:
            self.metrics[name] = evaluate(unit, self.units["GT"], self.slice_axis)

    def _write(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """Write [slices, 1, H, W] in the input's units; returns it as [D, H, W] in the unit range."""
        unit = self.to_volume(x).float().cpu()
        self.save_volume(name, self.template.with_array(scale_from_unit(unit, *self.window)))
        return unit

    def save_volume(self, name: str, volume: Volume) -> None:
        """Write a volume of another grid, such as the measurement."""
        write_volume(self.folder / f"{name}.nii.gz", volume)

    def watch(self, steps: int, label: str = "noise levels"):
        """A callback for an algorithm of ``steps`` steps: its progress, and the intermediates if asked for.

        The callback takes a dict with 'level' (0, 1, ...), 'x0' and 'sigma' or 'residual'.
        """
        bar = progress_bar(None, label, total=steps, position=0)
        start, every = time.perf_counter(), math.ceil(steps / 5)

        def callback(state):
            step = state["level"] + 1
            figures = {key: f"{state[key]:.3g}" for key in ("sigma", "residual") if key in state}
            bar.set_postfix(figures)
            bar.update()
            if bar.disable and (step % every == 0 or step == steps):
                print(f"  {label}: {step} of {steps}, {', '.join(map(' '.join, figures.items()))}, "
                      f"{time.perf_counter() - start:.0f} s", flush=True)
            if self.args.save_intermediates:
                self._write(f"level-{step:04d}", state["x0"])
            if step == steps:
                bar.close()
        return callback

    def finish(self) -> None:
        """Write the metrics and the figure, print a summary and, last, the folder."""
        if self.metrics:
            self.save_text("metrics.json", json.dumps(self.metrics, indent=2, allow_nan=False) + "\n")
            print(f"{'':10}{'PSNR dB':>9}{'SSIM':>8}{'inter-slice error':>20}")
            for name, metric in self.metrics.items():
                psnr, ssim, error = (math.nan if metric[key] is None else metric[key]
                                     for key in ("psnr", "ssim", "inter_slice_error"))
                print(f"{name:10}{psnr:9.2f}{ssim:8.4f}{error:20.5f}")
        save_panel(self.folder / "panel.png", self.units, self.template.spacing, self.template.direction)
        print(self.folder)


def _new_folder(parent: Path) -> Path:
    """A folder below ``parent`` named after the time, new even where two runs start in the same second."""
    parent.mkdir(parents=True, exist_ok=True)
    stamp, copy = datetime.now().strftime("%y%m%d_%H%M%S"), 0
    while True:
        folder = parent / (stamp + (f"-{copy}" if copy else ""))
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            copy += 1
