"""The flags of the two reconstructions, made from a table.

Only the standard library is imported here: a wrong flag is answered before anything heavy is loaded.
"""
import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from utils.cli import choices
from utils.cli.types import (
    existing_file,
    existing_path,
    nearest,
    number,
    one_of,
    polynomial,
    same_or_path,
    truth,
    word_or,
)

ROOT = Path(__file__).resolve().parents[2]
DESCRIPTIONS = {
    "ct": "Cone-beam CT from few or limited angles, with a 2D diffusion prior and noise that is consistent between "
          "slices (ISCS).",
    "mr": "MRI super-resolution along z, with a 2D diffusion prior and noise that is consistent between slices (ISCS)."}
LONGEST = 2000      # characters of an error
BARE = {"nargs": "?", "const": "true"}      # a flag that may stand without a value


@dataclass(frozen=True)
class Flag:
    """``--name METAVAR``; ``default`` is what it has where nobody gives it, said by ``help`` where that is None."""

    name: str
    kind: Any
    metavar: str
    help: str
    default: Any = None
    modality: str = ""      # "ct" or "mr" where it is that of one alone
    options: Any = None     # more for argparse


def chosen(name: str, table: tuple, help: str, default: str, modality: str = "") -> Flag:
    """The flag of a table of choices."""
    names = choices.names(table, modality or None)
    what = "; ".join(f"{choice.name} {choice.help}" for choice in table if choice.name in names)
    return Flag(name, one_of(*names), f"{{{','.join(names)}}}", f"{help}: {what}", default, modality)


def flag_groups(modality: str) -> dict[str, list[Flag]]:
    """The flags of "ct" or "mr", by the title of their group in --help."""
    groups = _of_problem(modality) | _of_solution(modality)
    found = {title: [flag for flag in flags if flag.modality in ("", modality)] for title, flags in groups.items()}
    return {title: flags for title, flags in found.items() if flags}


def _of_problem(modality: str) -> dict[str, list[Flag]]:
    """Task, data and scanner."""
    ct = modality == "ct"
    return {
        "task": [
            chosen("task", choices.TASKS, "what is missing", "LACT" if ct else "ZSR", modality),
            Flag("degree", number(int, 1 if ct else 2, 1_000_000), "N", "of the task (default: LACT 90, SVCT 90; with "
                 "--projections: all views)" if ct else "of the task: the factor", None if ct else 4),
            chosen("method", choices.METHODS, "how to reconstruct", "DDS", modality),
            Flag("preset", str, "NAME", "settings to start from, a file in configs/presets; flags come before them"),
        ],
        "data": [
            Flag("data", existing_path, "PATH", "volume, NIfTI or a folder with a DICOM series " + (
                "(CT in HU): measurements are simulated from it, or with --projections it is only the reference for "
                "the metrics" if ct else "(MRI)")),
            Flag("series", str, "UID", "which DICOM series, where --data holds several: its UID, the beginning of it, "
                                       "or its number"),
            Flag("slice-begin", number(int, 0, 1_000_000), "K", "first slice along z", 0),
            Flag("slice-end", number(int, 0, 1_000_000), "K", "slice after the last; both 0: the whole volume", 0),
            Flag("thick", existing_path, "PATH", "measured thick slices to super-resolve, NIfTI or a folder with a "
                 "DICOM series; --data beside it is a reference on the result's grid; slice ranges count thick slices",
                 None, "mr"),
            Flag("slice-profile", one_of("box", "gauss"), "{box,gauss}", "of --thick, what a slice weighs in it: "
                 "a gauss is at half its height as wide as the slice is thick, and needs more --num-cg", "box", "mr"),
            Flag("slice-thickness", number(float, above=0, most=1000), "MM", "of --thick, where it is not the spacing: "
                 "less with gaps (default: SliceThickness of DICOM, else the spacing)", None, "mr"),
            Flag("slice-axis", one_of("x", "y", "z"), "{x,y,z}", "axis of the file that thick slices are stacked along "
                 "(default: that of the largest spacing where it is 1.5 times the others, else z, the third)", None,
                 "mr"),
            Flag("window", one_of("percentile", "min-max"), "{percentile,min-max}", "intensities that the prior's 0 "
                 "and 1 stand for: percentiles of what is not air, or the published smallest and largest voxel",
                 "percentile", "mr"),
            Flag("recon-size", number(int, 8, 4096), "PIXELS", "in-plane size that the slices are resized to, that of "
                 "the prior works best (default: that of --prior, else 256; with --projections: that of the geometry "
                 "file)", None, "ct"),
            Flag("pixel-size", word_or("prior", number(float, above=0, most=1000)), "prior|MM", "pixels of the "
                 "reconstruction, in mm, " + (
                "in place of --recon-size" if ct else "to which the volume is resampled (of --thick, what lies within "
                "its slices)") + "; prior: those that the prior's card says", None),
            Flag("sino-noise", number(float, 0, 1e12), "V", "noise of the measurement: 0 none; below 100 Gaussian of "
                 "variance V; from 100 on Poisson, " + ("V photons a ray" if ct else "V counts, as published"), 0.0),
            Flag("oversample", number(int, 1, 16), "N", "simulate the measurement from " + (
                "pixels N times finer" if ct else "slices N times thinner") + " than those of the reconstruction, as "
                "no scanner measures what the operator computes", 1),
        ],
        "scanner": [
            Flag("geometry", existing_file, "FILE", "YAML of the scan, see configs/geometry; beside a scanner's own "
                 "files, keys that come before theirs; or RTK's geometry.xml of --projections",
                 ROOT / "configs" / "geometry" / "demo.yaml", "ct"),
            Flag("projections", existing_path, "PATH", "a measured scan to reconstruct: a scanner's own file or folder "
                 "(docs/my_scanner.md), or with --geometry projections [views, v, u]: .npy, .mha, .nrrd, .nii.gz, .tif "
                 "or a folder of TIFFs; line integrals of attenuation, or counts where --flat or --i0 is given", None,
                 "ct"),
            Flag("bin", number(int, 1, 64), "N", "means over N x N pixels while reading", 1, "ct"),
            Flag("every", number(int, 1, 100_000), "K", "every Kth view alone", 1, "ct"),
            Flag("mirror", truth, "true|false", "the scan with left and right exchanged: columns, offset and direction "
                 "of rotation; no data can tell", False, "ct", BARE),
            Flag("reverse", truth, "true|false", "the scan turning the other way", False, "ct", BARE),
            Flag("turn", number(float, -360, 360), "DEGREES", "added to all angles", 0.0, "ct"),
            Flag("fix-offset", truth, "true|false", "shift the detector sideways to where lines that were measured "
                 "twice have it", False, "ct", BARE),
            Flag("flat", existing_path, "PATH", "counts without an object, one or several frames", None, "ct"),
            Flag("dark", existing_path, "PATH", "counts without radiation, one or several frames", None, "ct"),
            Flag("i0", number(float, above=0, most=1e15), "N", "counts without an object, one number for all pixels",
                 None, "ct"),
            Flag("bad-pixels", existing_file, "FILE", "more bad pixels of the detector than are found by themselves: "
                 "an image [v, u] that is not 0 there, or a text with v and u a line", None, "ct"),
            chosen("projector", choices.PROJECTORS, "whose projector", "auto", "ct"),
        ],
        "corrections of measured projections": [
            Flag("scatter", number(float, 0, 0.9), "F", "subtract this part of the open beam's mean from every pixel",
                 0.0, "ct"),
            Flag("air", truth, "true|false", "scale every view so that its margin is air", False, "ct", BARE),
            Flag("rings", number(int, 0, 999), "N", "take out what a detector column adds to all views, as its mean "
                 "differs from the median of N (odd; 9 is usual); 0: nothing", 0, "ct"),
            Flag("beam-hardening", polynomial, "fit|A1,A2,..", "straighten line integrals, p' = A1 p + A2 p^2 ..; fit: "
                 "so that a body of one material is flat", None, "ct"),
            Flag("unit", one_of("HU", "mm"), "{HU,mm}", "of the volumes: HU, or attenuation per mm", "HU", "ct"),
        ]}


def _of_solution(modality: str) -> dict[str, list[Flag]]:
    """Prior, sampling and how the program runs."""
    ct = modality == "ct"
    return {
        "prior": [
            Flag("prior", existing_path, "PATH", "a folder with prior.yaml and weights, or as diffusers saves one; its "
                 "prior.yaml; or weights with that beside them" + " (not needed for ADMM-TV)" * ct),
            Flag("prior-2", existing_path if ct else same_or_path, "PATH" if ct else "PATH|same", "a second prior, of "
                 "slices of a perpendicular plane, that has every other level" + (
                     "; coronal or sagittal as its card says" if ct else ": of those that are stacked along x; same: "
                     "the first prior")),
            Flag("checkpoint-path", existing_file, "FILE", "in place of that, weights whose card is elsewhere"),
            Flag("config-path", existing_file, "FILE", "which is this one, or a config of the published layout, see "
                 "configs/ve"),
        ],
        "sampling": [
            Flag("use-init", truth, "true|false", "start from the measurement's own reconstruction, noised to "
                 "sigma-max (DDS, DDNM)", False, options=BARE),
            Flag("NFE", number(int, 1, 100_000), "N", "number of noise levels" + " (not ADMM-TV)" * ct, 1000),
            Flag("sigma-max", number(float, above=0, most=1e6), "S", "first noise level, at most that of the prior's "
                 "config; intensities are in [0, 1] (default: that of the config)"),
            Flag("sigma-min", number(float, above=0, most=1e6), "S", "last noise level", 0.01),
            chosen("noise-control", choices.NOISE_CONTROLS, "noise of neighbouring slices", "SLERP"),
            chosen("renoise-method", choices.RENOISE_METHODS, "how a level's estimate is noised to the next level "
                                                              "(DDS, DDNM)", "DDPM"),
            Flag("flips", truth, "true|false", "show the prior the slices mirrored, left and right, on every other "
                 "pair of levels, so that its errors change sides (DDS, DDNM)", False, "ct", BARE),
            Flag("samples", number(int, 1, 1000), "K", "reconstructions with other noise to average: their mean is the "
                 "reconstruction, their standard deviation goes to std.nii.gz, and half of a calibrated "
                 "interval, where there is one, to interval.nii.gz (DDS, DDNM)", 1),
        ],
        "settings of one method, noise control or re-noising rule": [
            Flag(parameter.name.replace("_", "-"), parameter.kind, parameter.metavar,
                 _of_choices(parameter, [choice for choice in having if modality in choice.modalities]))
            for parameter, having in choices.parameters(choices.METHODS, choices.NOISE_CONTROLS,
                                                        choices.RENOISE_METHODS).items()
            if parameter.modality in ("", modality)],
        "running": [
            Flag("gpu", number(int, 0, 1000), "K", "CUDA device index, where CUDA is used", 0),
            Flag("device", str, "D", "auto, cpu, cuda or cuda:K", "auto"),
            Flag("threads", number(int, 1, 10_000), "N", "of the processor (default: OMP_NUM_THREADS, else one for "
                                                         "each core that the process may use)"),
            Flag("seed", number(int, 0, 2**63 - 1), "N", "of all random numbers", 42),
            Flag("batch-size", number(int, 1, 100_000), "N", "slices a network call; they change no result", 8),
            chosen("precision", choices.PRECISIONS, "of the network's layers", "auto"),
            Flag("compile", truth, "true|false", "compile the network before its first level (torch.compile), which "
                 "takes a minute or more: for many slices and levels, on CUDA", False, options=BARE),
            Flag("output-dir", Path, "FOLDER", 'where the run\'s folder goes, and a link "latest" to it',
                 Path("results")),
            Flag("output", Path, "FOLDER", "the run's folder itself, new or empty, instead of one below --output-dir"),
            Flag("save-intermediates", truth, "true|false", "also write the volume estimated at every noise level",
                 False, options=BARE),
            Flag("no-report", truth, "true|false", "leave out report.html, the page with metrics and a viewer of the "
                                                   "volumes", False, options=BARE),
            Flag("resume", existing_path, "RUN", "go on with an interrupted run, given its folder"),
            Flag("from", existing_path, "ARGS.YAML", "repeat a run, given its args.yaml; other flags come before those "
                                                     "in it, with what belonged to them"),
        ]}


def _of_choices(parameter: choices.Parameter, having: list) -> str:
    """The help of a parameter, with the choices that have it and their defaults."""
    defaults = {choice.name: choice.parameters[parameter] for choice in having}
    same = len(set(defaults.values())) == 1
    shown = ", ".join(defaults if same else (f"{name} {value:g}" for name, value in defaults.items()))
    default = f"; default: {next(iter(defaults.values()))}" if same else ", by default"
    return f"{parameter.help} ({shown}{default})"


class Parser(argparse.ArgumentParser):
    """An argument parser that shows defaults, takes no abbreviations, and answers a mistake in one line, status 2."""

    where = ""      # what errors name before their text

    def __init__(self, **options: Any):
        super().__init__(formatter_class=_Formatter, allow_abbrev=False, **options)

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:     # type: ignore[override]
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            flag = unknown[0].split("=")[0]
            self.error(f"unrecognized arguments: {' '.join(unknown)}"
                       + nearest(flag, self._option_string_actions) * flag.startswith("-"))
        return found

    def error(self, message: str) -> NoReturn:
        line = " ".join(message.split())
        line = line if len(line) <= LONGEST else line[:LONGEST] + "..."
        self.exit(2, f"{self.prog}: error: {self.where}{line}\n" * speaks())


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the defaults that there are."""

    def _get_help_string(self, action):
        return action.help if action.default in (None, argparse.SUPPRESS) else super()._get_help_string(action)


def build_parser(modality: str, defaults: bool = True) -> Parser:
    """The parser of "ct" or "mr"; without ``defaults`` it gives the flags alone that stand in the command."""
    parser = Parser(description=DESCRIPTIONS[modality])
    for title, flags in flag_groups(modality).items():
        group = parser.add_argument_group(title)
        for flag in flags:
            group.add_argument(f"--{flag.name}", type=flag.kind, metavar=flag.metavar, help=flag.help,
                               default=flag.default if defaults else argparse.SUPPRESS, **flag.options or {})
    group = parser.add_argument_group("messages")
    group.add_argument("--environment", action="store_true", help="take settings from environment variables too, DATA "
                                                                  "for --data, NUM_CG for --num-cg")
    loudness = group.add_mutually_exclusive_group()
    loudness.add_argument("-v", "--verbose", dest="verbosity", action="store_const", const=1, default=0,
                          help="timings and memory too")
    loudness.add_argument("-q", "--quiet", dest="verbosity", action="store_const", const=-1,
                          help="warnings and the folder only")
    group.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def speaks() -> bool:
    """Whether this process says something: of several that torchrun starts, the first."""
    return os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0"


def program() -> str:
    """The name that errors begin with."""
    return Path(sys.argv[0]).name
