"""A run of a reconstruction: its folder, what it leaves there, and what it says meanwhile."""
import json
import logging
import math
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from algorithms.observer import Observer
from utils.io.files import complete_file
from utils.io.intensity import scale_from_unit
from utils.io.nifti import write_volume
from utils.io.volume import Volume
from utils.io.yaml_file import yaml_text
from utils.run.device import peak_memory
from utils.run.figure import save_panel
from utils.run.folder import data_name, is_complete, owned, run_folder, task_label
from utils.run.interval import Calibration, calibration_for, coverage, half_width
from utils.run.metrics import by_slice, evaluate
from utils.run.progress import Progress, print_line
from utils.run.provenance import record
from utils.run.report import write_report
from utils.run.resume import StateFile
from utils.run.words import name_of

log = logging.getLogger(__name__)


class NotFinite(FloatingPointError):
    """A volume of the run holds values that are NaN or infinite: it has diverged, and going on would not help."""


class Run(Observer):
    """The folder of one run and what belongs there; also the observer of `algorithms.reconstruct`.

    The folder is a new one, see `utils.run.folder.run_folder`, or that of an interrupted run, ``options.resume``. It
    gets the settings at once, volumes as they are saved, and the rest from `finish`. It is held for this process from
    the start until the end of a ``with`` statement that the run is to be used in; an error that ends the statement
    carries ``run_folder``, from which the run can go on.

    Args:
        options: an object with the options as attributes; it is not changed.
        modality: "ct" or "mr".
        template: the volume whose grid and place the results have.
        to_volume: turns what the sampler works on, [n, 1, H, W] in the unit range, into an array [D, H, W].
        window: (low, high), the intensities that 0 and 1 stand for, in the input's units.
        slice_axis: the axis of [D, H, W] that the prior's slices are stacked along.
        device: where the run computes, for its settings.

    Raises:
        ValueError: the folder is that of a complete run, or another process works on it; its state is damaged; a file
            has another content than in the run that is repeated or resumed; configs/intervals.yaml is no list of
            calibrations.
    """

    def __init__(self, options: Any, *, modality: str, template: Volume,
                 to_volume: Callable[[torch.Tensor], torch.Tensor], window: tuple[float, float], slice_axis: int,
                 device: str):
        self.options, self.modality, self.template, self.to_volume = options, modality, template, to_volume
        self.window, self.slice_axis, self.device = window, slice_axis, device
        self.unit = "" if modality == "mr" else "1/mm" if getattr(options, "unit", "HU") == "mm" else "HU"
        self.units: dict[str, torch.Tensor] = {}
        self.metrics: dict[str, dict] = {}
        self.slices: dict[str, dict] = {}
        self.history: list[dict] = []
        self.spread: torch.Tensor | None = None     # in the unit range, as what follows
        self.interval: torch.Tensor | None = None
        self.progress: Progress | None = None
        self.begun, self.date = time.perf_counter(), datetime.now()

        low, high = map(float, window)
        self.settings = record(options, device) | {"intensities": {"low": low, "high": high}}
        self.calibration: Calibration | None = calibration_for(self.settings) if options.samples > 1 else None
        self.folder: Path = options.resume or run_folder(options, modality)
        with ExitStack() as held:
            held.enter_context(owned(self.folder))
            if is_complete(self.folder):
                raise ValueError(f"{self.folder}: that run is complete")
            if not options.resume:
                self.save_text("args.yaml", yaml_text(self.settings))
            self.state = StateFile(self.folder / "state.pt", (self.folder / "args.yaml").read_text(encoding="utf-8"))
            self.state.read()       # what is wrong with it is found before the measurement is made
            self.held = held.pop_all()

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, kind: object, error: Any, trace: object) -> None:
        if self.progress:
            self.progress.close()
        self.held.close()
        if error is not None and not isinstance(error, NotFinite) and not is_complete(self.folder):
            with suppress(AttributeError):
                error.run_folder = self.folder

    # ---- What is saved -----------------------------------------------------------------------------------------------

    def save_text(self, name: str, text: str) -> None:
        """Write a text file ``name``."""
        with complete_file(self.folder / name) as partial:
            partial.write_text(text, encoding="utf-8")

    def save_volume(self, name: str, volume: Volume) -> None:
        """Write a volume of another grid, such as the measurement."""
        write_volume(self.folder / f"{name}.nii.gz", volume)

    def save(self, name: str, x: torch.Tensor) -> None:
        """Write [n, 1, H, W] as ``name``.nii.gz, show it in the figure, and compare it with "GT" if saved.

        Raises:
            NotFinite: x holds NaN or infinite values.
        """
        _check_finite(x, name_of(name))
        self.units[name] = unit = self._write(name, x)
        if name == "recon" and getattr(self.options, "projections", None):
            _say_beyond(unit, self.window, self.unit)
        if name != "GT" and "GT" in self.units:
            truth = self.units["GT"]
            self.metrics[name] = evaluate(unit, truth, self.slice_axis, self.template.direction)
            self.slices[name] = by_slice(unit, truth, self.slice_axis)
        if name == "recon" and self.spread is not None:
            self._save_interval(unit, self.spread)

    def save_spread(self, std: torch.Tensor) -> None:
        """Write the standard deviation [n, 1, H, W] of the samples as std.nii.gz, in the input's units."""
        _check_finite(std, name_of("std"))
        self.spread = self.to_volume(std).float().cpu()
        self.save_volume("std", self._width(self.spread))

    def _save_interval(self, mean: torch.Tensor, spread: torch.Tensor) -> None:
        """Write half the width of the interval about ``mean`` as interval.nii.gz, where it is calibrated."""
        if self.calibration is None:
            log.info("std.nii.gz is the samples' standard deviation, and no interval: of runs with these settings the "
                     "errors were not measured")
            return
        self.interval = half_width(mean, spread, self.calibration)
        self.save_volume("interval", self._width(self.interval))
        if "GT" in self.units:
            self.metrics["recon"]["coverage"] = coverage(mean, self.interval, self.units["GT"])

    def _width(self, unit: torch.Tensor) -> Volume:
        """A difference of intensities in the unit range, as a volume in the input's units."""
        return self.template.with_array(unit * (self.window[1] - self.window[0]))

    def _write(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """Write [n, 1, H, W] in the input's units; returns it as [D, H, W] in the unit range."""
        unit = self.to_volume(x).float().cpu()
        self.save_volume(name, self.template.with_array(scale_from_unit(unit, *self.window)))
        log.debug("  %s.nii.gz after %.1f s, peak memory so far %s", name, time.perf_counter() - self.begun,
                  peak_memory())
        return unit

    # ---- The observer of a reconstruction ----------------------------------------------------------------------------

    def begin(self, steps: int, label: str) -> None:
        """A loop of ``steps`` steps starts."""
        if self.progress:
            self.progress.close()
        self.progress = Progress(steps, label, position=0)

    def estimate(self, level: int, x0: torch.Tensor, sigma: float | None = None, residual: float | None = None) -> None:
        """After every level (0, 1, ...): note and say where it is, and keep x0 if intermediates are asked for.

        Raises:
            NotFinite: x0 holds NaN or infinite values.
        """
        _check_finite(x0, f"the estimate of level {level + 1}")
        figures = {key: value for key, value in (("sigma", sigma), ("residual", residual)) if value is not None}
        self.history.append({"level": level, **figures})
        if self.progress:
            self.progress.step(figures, level + 1)
        if self.options.save_intermediates:
            self._write(f"level-{level + 1:04d}", x0)

    def kept(self) -> dict | None:
        """The state of an interrupted run, tensors on the CPU, after which the history is as it was; None without."""
        state = self.state.read()
        if state is not None:
            self.history = state.pop("history")
            log.info("going on at level %d", len(self.history) + 1)
        return state

    def keep(self, make_state: Callable[[], dict]) -> None:
        """Before every level but the first: save ``make_state()``, tensors and plain values, where that is due."""
        self.state.keep(lambda: {**make_state(), "history": self.history})

    # ---- The end -----------------------------------------------------------------------------------------------------

    def finish(self, sections: Sequence[tuple[str, str, str]] = ()) -> None:
        """Write metrics, report and figure, remove what was kept to go on with, say a summary and, last, the folder.

        Args:
            sections: more of the report: title, drawing and note, in HTML.
        """
        if self.metrics:
            self.save_text("metrics.json", json.dumps(self.metrics, indent=2, allow_nan=False) + "\n")
            self._say_metrics()
        volumes = {name: self.template.with_array(scale_from_unit(self.units.pop(name), *self.window))
                   for name in list(self.units)}        # one at a time: large ones are not all there twice
        took = time.perf_counter() - self.begun
        if not self.options.no_report:
            write_report(self.folder / "report.html",
                         title=f"{self.options.method}, {task_label(self.options)}, {data_name(self.options)}",
                         about={"date": f"{self.date:%Y-%m-%d %H:%M}", "duration": _duration(took)
                                + " since it was resumed" * bool(self.options.resume), "command": shlex.join(sys.argv)},
                         settings=self.settings, metrics=self.metrics, slices=self.slices, history=self.history,
                         volumes=volumes, window=self.window, modality="ct" if self.unit == "HU" else "mr",
                         slice_axis=self.slice_axis, more=sections,
                         spread=None if self.spread is None else self._width(self.spread),
                         interval=None if self.interval is None else self._width(self.interval),
                         calibrated_on=self.calibration.measured if self.calibration else "")
        save_panel(self.folder / "panel.png", volumes, self.metrics, self.unit)
        (self.folder / "state.pt").unlink(missing_ok=True)
        log.info("%.0f s, peak memory %s", time.perf_counter() - self.begun, peak_memory())
        print_line(str(self.folder))

    def _say_metrics(self) -> None:
        log.info(f"{'':10}{'PSNR dB':>9}{'SSIM':>8}{'inter-slice error':>20}")
        for name, metric in self.metrics.items():
            psnr, ssim, error = (math.nan if metric[key] is None else metric[key]
                                 for key in ("psnr", "ssim", "inter_slice_error"))
            log.info(f"{name:10}{psnr:9.2f}{ssim:8.4f}{error:20.5f}   {name_of(name)}")
        for where, part in self.metrics.get("recon", {}).get("coverage", {}).items():
            if part is not None:
                log.info(f"the 90 % interval holds the truth of {100 * part:.1f} % of the voxels ({where})")


def _say_beyond(unit: torch.Tensor, window: tuple[float, float], name: str) -> None:
    """Say how many voxels of a measured scan lie above the prior's window; they are not clipped."""
    above = int((unit > 1).sum())
    if above:
        low, high = window
        log.info(f"{above} voxels above {high:.4g} {name}, the most that the prior knows, are kept as they came out, "
                 f"up to {low + float(unit.max()) * (high - low):.4g}")


def _check_finite(x: torch.Tensor, name: str) -> None:
    if not all(end.isfinite() for end in torch.aminmax(x)):     # NaN is passed on
        raise NotFinite(f"{name} is not finite: it holds NaN or infinite values, so the run ends")


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
