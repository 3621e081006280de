"""What a run leaves behind: its folder, volumes, settings, metrics and figure; and what it says meanwhile."""
import json
import logging
import math
import platform
import re
import time
from datetime import datetime
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
import yaml
from tqdm import tqdm

from models.checkpoint import read_checkpoint, save
from utils.io.files import ROOT, complete_file, content_digest, program_digest
from utils.io.intensity import scale_from_unit
from utils.io.nifti import write_volume
from utils.io.volume import Volume
from utils.run.device import peak_memory
from utils.run.figure import save_panel
from utils.run.metrics import evaluate
from utils.run.report import write_report

log = logging.getLogger(__name__)
ENTRIES = {"CBCT": "recon_CBCT.py", "ZSR": "recon_MRI_ZSR.py"}
STATE_SHARE = 0.02      # of a run's time, the most that keeping its state takes
UNRECORDED = ("resume", "source", "debug", "verbosity")
FILES = ("data", "projections", "flat", "dark", "geometry", "checkpoint_path", "config_path")


def noise_label(level: float) -> str:
    """A simulated measurement's noise as a folder name: clean, gaussian-<variance> or poisson-<photons>."""
    return "clean" if level == 0 else f"{'gaussian' if level < 100 else 'poisson'}-{level:g}"


def progress_bar(iterable, label: str, **options):
    """A progress bar on a terminal, nothing elsewhere."""
    return tqdm(iterable, label, disable=None, **options)


class Run:
    """The folder of one run: volumes, settings, metrics, figure, and what it takes to go on after an interruption.

    It is ``output-dir``/<config>/<data>/[CBCT/]<task>-<degree>/<method>/<noise>/<time>/.

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
        self.units, self.metrics, self.history = {}, {}, []
        self.begun = time.perf_counter()
        config = args.config_path.stem if args.config_path else "no-prior"
        measured = getattr(args, "projections", None)
        name = re.sub(r"(\.nii)?\.\w+$", "", (measured or args.data).name, flags=re.IGNORECASE)
        self.what = f"{args.task}-{args.degree}" if args.degree else "all-views"
        parent = Path(args.output_dir, config, name, *["CBCT"] * (problem == "CBCT"), self.what, args.method,
                      "measured" if measured else noise_label(args.sino_noise))
        self.name, self.modality = name, "CT" if problem == "CBCT" else "MR"
        self.settings = self._settings(ROOT / ENTRIES[problem])
        if args.resume:
            self.folder = args.resume
            for leftover in self.folder.glob(".partial-*"):
                leftover.unlink()
        else:
            self.folder = _new_folder(parent)
            self.save_text("args.yaml", yaml.safe_dump(self.settings, sort_keys=False))
        args.folder = self.folder

    def _settings(self, entry: Path) -> dict:
        """All that the volume depends on: flags, versions (that of the program is a digest), machine, content of files.

        ValueError when a run is to be repeated or continued with a file whose content has changed.
        """
        args = vars(self.args)
        settings = {key: str(value.absolute()) if isinstance(value, Path) else value for key, value in args.items()
                    if key not in UNRECORDED}
        settings["digests"] = {key: content_digest(args[key]) for key in FILES if args.get(key)}
        settings["versions"] = {"program": program_digest(entry), "python": platform.python_version(),
                                "torch": str(torch.__version__), "numpy": np.__version__,
                                "SimpleITK": sitk.Version.VersionString()}
        gpu = torch.cuda.get_device_name(self.args.device) if self.args.device.startswith("cuda") else None
        settings["machine"] = {"platform": platform.platform(), "threads": torch.get_num_threads(), "gpu": gpu}
        if self.args.source:
            earlier = yaml.safe_load(self.args.source.read_text(encoding="utf-8"))
            for key, digest in settings["digests"].items():
                if settings[key] == earlier.get(key) and digest != earlier["digests"].get(key):
                    raise ValueError(f"--{key.replace('_', '-')} {settings[key]}: its content has changed since "
                                     f"{self.args.source} was written; accepted: the same content")
            for key in ("versions", "machine"):
                if earlier.get(key) != settings[key]:
                    log.warning("%s: made with other %s, so voxels may differ by rounding: %s; now %s", self.args.source,
                                key, earlier.get(key), settings[key])
        return settings

    def resumable(self, generator, device, consistency=None) -> tuple:
        """(start, keep) for `algorithms.sampler.sample`, to go on after an interruption.

        ``keep`` saves x, the state of ``generator`` and ``consistency``'s memory in state.pt, at the first level and
        then as often as `STATE_SHARE` allows; ``start`` is None, or what was saved last, after which generator and
        consistency are as they were then.
        """
        path, due = self.folder / "state.pt", 0.0

        def keep(level, x):
            nonlocal due
            begun = time.perf_counter()
            if begun < due:
                return
            save(path, {"level": level, "x": x, "generator": generator.get_state(), "history": self.history,
                        "split": getattr(consistency, "split", None)})
            saved = time.perf_counter()
            due = saved + (saved - begun) / STATE_SHARE

        if not path.exists():
            return None, keep
        state = read_checkpoint(path)
        generator.set_state(state["generator"])
        if state["split"] is not None:
            consistency.split = state["split"].to(device)
        self.history = state["history"]
        log.info("going on at level %d", state["level"] + 1)
        return (state["level"], state["x"].to(device)), keep

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
        log.debug("  %s.nii.gz after %.1f s, peak memory so far %s", name, time.perf_counter() - self.begun, peak_memory())
        return unit

    def save_volume(self, name: str, volume: Volume) -> None:
        """Write a volume of another grid, such as the measurement."""
        write_volume(self.folder / f"{name}.nii.gz", volume)

    def watch(self, steps: int, label: str = "noise levels", misfit=None):
        """A callback for an algorithm of ``steps`` steps: its progress, and the intermediates if asked for.

        The callback takes a dict with 'level' (0, 1, ...), 'x0' and perhaps 'sigma'. ``misfit`` gives the relative
        data residual |A x0 - y| / |y| of an x0; it is shown, and kept in ``history`` with level and sigma.
        """
        bar = progress_bar(None, label, total=steps, position=0)
        start, every = time.perf_counter(), math.ceil(steps / 5)

        def callback(state):
            step = state["level"] + 1
            shown = {"sigma": state["sigma"]} if "sigma" in state else {}
            shown |= {"residual": misfit(state["x0"])} if misfit else {}
            self.history.append({"level": state["level"], **shown})
            figures = {key: f"{value:.3g}" for key, value in shown.items()}
            bar.set_postfix(figures)
            bar.update()
            if bar.disable and (step % every == 0 or step == steps):
                log.info("  %s: %d of %d, %s%.0f s", label, step, steps,
                         "".join(f"{key} {value}, " for key, value in figures.items()), time.perf_counter() - start)
            if self.args.save_intermediates:
                self._write(f"level-{step:04d}", state["x0"])
            if step == steps:
                bar.close()
        return callback

    def finish(self) -> None:
        """Write metrics, report and figure, remove what was kept for --resume, say a summary and, last, the folder.

        The figure comes last: a folder with it and without state.pt is that of a complete run.
        """
        if self.metrics:
            self.save_text("metrics.json", json.dumps(self.metrics, indent=2, allow_nan=False) + "\n")
            log.info(f"{'':10}{'PSNR dB':>9}{'SSIM':>8}{'inter-slice error':>20}")
            for name, metric in self.metrics.items():
                psnr, ssim, error = (math.nan if metric[key] is None else metric[key]
                                     for key in ("psnr", "ssim", "inter_slice_error"))
                log.info(f"{name:10}{psnr:9.2f}{ssim:8.4f}{error:20.5f}")
        volumes = {name: self.template.with_array(scale_from_unit(self.units.pop(name), *self.window))
                   for name in list(self.units)}        # one at a time: large ones are not all there twice
        if not self.args.no_report:
            write_report(self.folder / "report.html", title=f"{self.args.method}, {self.what}, {self.name}",
                         settings=self.settings, metrics=self.metrics, history=self.history, volumes=volumes,
                         window=self.window, modality=self.modality)
        save_panel(self.folder / "panel.png", {name: torch.from_numpy(volume.array) for name, volume in volumes.items()},
                   self.template.spacing, self.template.direction)
        (self.folder / "state.pt").unlink(missing_ok=True)
        log.info("%.0f s, peak memory %s", time.perf_counter() - self.begun, peak_memory())
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
