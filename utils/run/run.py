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

from models.checkpoint import read_checkpoint
from utils.run.device import peak_memory
from utils.run.figure import save_panel
from utils.io.files import ROOT, save_tensors as save, complete_file, content_digest, program_digest
from utils.run.metrics import evaluate
from utils.run.progress import progress_bar
from utils.run.report import write_report
from utils.io.volume import Volume, scale_from_unit, write_volume

log = logging.getLogger(__name__)
ENTRIES = {"ct": "recon_CBCT.py", "mr": "recon_MRI_ZSR.py"}
STATE_SHARE = 0.02      # of a run's time, the most that keeping its state takes
UNRECORDED = ("resume", "source", "debug", "verbosity", "environment", "preset", "modality")
FILES = ("data", "projections", "flat", "dark", "geometry", "checkpoint_path", "config_path")


def noise_label(level: float) -> str:
    """A simulated measurement's noise as a folder name: clean, gaussian-<variance> or poisson-<photons>."""
    return "clean" if level == 0 else f"{'gaussian' if level < 100 else 'poisson'}-{level:g}"


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

    def __init__(self, args, *, modality: str, template: Volume, to_volume, window, slice_axis: int, device: str):
        problem, self.device = modality, device
        self.args, self.template, self.to_volume = args, template, to_volume
        self.window, self.slice_axis = window, slice_axis
        self.units, self.metrics, self.history = {}, {}, []
        self.begun = time.perf_counter()
        config = args.config_path.stem if args.config_path else "no-prior"
        measured = getattr(args, "projections", None)
        name = re.sub(r"(\.nii)?\.\w+$", "", (measured or args.data).name, flags=re.IGNORECASE)
        self.what = f"{args.task}-{args.degree}" if args.degree else "all-views"
        parent = Path(args.output_dir, config, name, *["CBCT"] * (problem == "ct"), self.what, args.method,
                      "measured" if measured else noise_label(args.sino_noise))
        self.name, self.modality = name, "CT" if problem == "ct" else "MR"
        self.settings = self._settings(ROOT / ENTRIES[problem])
        if args.resume:
            self.folder = args.resume
            for leftover in self.folder.glob(".partial-*"):
                leftover.unlink()
        else:
            self.folder = _new_folder(parent)
            self.save_text("args.yaml", yaml.safe_dump(self.settings, sort_keys=False))

    def _settings(self, entry: Path) -> dict:
        """All that the volume depends on: flags, versions (that of the program is a digest), machine, content of files.

        ValueError when a run is to be repeated or continued with a file whose content has changed.
        """
        args = vars(self.args)
        settings = {key: str(value.absolute()) if isinstance(value, Path) else value for key, value in args.items()
                    if key not in UNRECORDED}
        settings["device"] = self.device
        settings["digests"] = {key: content_digest(args[key]) for key in FILES if args.get(key)}
        settings["versions"] = {"program": program_digest(entry), "python": platform.python_version(),
                                "torch": str(torch.__version__), "numpy": np.__version__,
                                "SimpleITK": sitk.Version.VersionString()}
        gpu = torch.cuda.get_device_name(self.device) if self.device.startswith("cuda") else None
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

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if error is not None:
            error.run_folder = self.folder

    due = 0.0

    def keep(self, state):
        begun = time.perf_counter()
        if begun < self.due:
            return
        save(self.folder / "state.pt", {**state(), "history": self.history})
        saved = time.perf_counter()
        self.due = saved + (saved - begun) / STATE_SHARE

    def kept(self):
        if not (self.folder / "state.pt").exists():
            return None
        state = read_checkpoint(self.folder / "state.pt")
        self.history = state["history"]
        log.info("going on at level %d", state["level"] + 1)
        return state

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

    def begin(self, steps, label):
        self.steps, self.label = steps, label
        self.bar = progress_bar(None, label, total=steps, position=0)
        self.start, self.every = time.perf_counter(), math.ceil(steps / 5)

    def estimate(self, level, x0, sigma=None, residual=None):
        step = level + 1
        shown = {"sigma": sigma} if sigma is not None else {}
        shown |= {"residual": residual} if residual is not None else {}
        self.history.append({"level": level, **shown})
        figures = {key: f"{value:.3g}" for key, value in shown.items()}
        self.bar.set_postfix(figures)
        self.bar.update()
        if self.bar.disable and (step % self.every == 0 or step == self.steps):
            log.info("  %s: %d of %d, %s%.0f s", self.label, step, self.steps,
                     "".join(f"{key} {value}, " for key, value in figures.items()), time.perf_counter() - self.start)
        if self.args.save_intermediates:
            self._write(f"level-{step:04d}", x0)
        if step == self.steps:
            self.bar.close()

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
