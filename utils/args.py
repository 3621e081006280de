"""Command-line flags of the two demos, and how they refuse what they can't use.

Only the standard library is imported here: a wrong flag is answered before anything heavy is loaded.
"""
import argparse
import math
import os
import sys
from contextlib import contextmanager
from pathlib import Path

METHODS = {"CBCT": ("DDS", "DDNM", "ADMM-TV", "uncondition"), "ZSR": ("DDS", "DDNM", "uncondition")}
NOISE_CONTROLS = ("SLERP", "None")
RENOISE_METHODS = ("DDPM", "DDIM", "DDS", "DiffPIR")


class Parser(argparse.ArgumentParser):
    """An argument parser that shows defaults, and answers a mistake with one line and status 2."""

    def __init__(self, **options):
        super().__init__(formatter_class=argparse.ArgumentDefaultsHelpFormatter, **options)

    def error(self, message: str):
        self.exit(2, f"{self.prog}: error: {message}\n")


def one_of(*choices):
    """An argparse type: one of ``choices``, upper and lower case alike."""
    def convert(text: str) -> str:
        for choice in choices:
            if text.lower() == choice.lower():
                return choice
        raise argparse.ArgumentTypeError(f"{text!r}; accepted: {', '.join(choices)}")
    return convert


def number(kind, least=-math.inf, most=math.inf, above=None):
    """An argparse type: a finite ``kind`` (int or float) in [least, most], or larger than ``above``."""
    word = "whole number" if kind is int else "number"
    limits = [f"of {least:g} or more"] * (least > -math.inf) + [f"of {most:g} or less"] * (most < math.inf)
    limits += [f"above {above:g}"] if above is not None else []
    accepted = " ".join([f"a {word}", " and ".join(limits)]).strip()

    def convert(text: str):
        try:
            value = kind(text)
            finite = math.isfinite(value)
        except (ValueError, OverflowError):
            finite = False
        if not (finite and least <= value <= most and (above is None or value > above)):
            raise argparse.ArgumentTypeError(f"{text!r}; accepted: {accepted}")
        return value
    return convert


def truth(text: str) -> bool:
    """An argparse type: true/false, yes/no, 1/0."""
    try:
        return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[text.lower()]
    except KeyError:
        raise argparse.ArgumentTypeError(f"{text!r}; accepted: true, false") from None


def existing_file(text: str) -> Path:
    """An argparse type: a file that exists and can be opened."""
    path = Path(text)
    if not os.path.isfile(path):    # unlike Path.is_file, False for a path that can't be looked at
        raise argparse.ArgumentTypeError(f"{text}: no such file")
    if not os.access(path, os.R_OK):
        raise argparse.ArgumentTypeError(f"{text}: cannot be read (permissions)")
    return path


def not_yet(text: str) -> float:
    """An argparse type for a weight whose term is not built: only zero is accepted."""
    if number(float, 0)(text) != 0:
        raise argparse.ArgumentTypeError(f"{text!r}; this term is not implemented, accepted: 0")
    return 0.0


def build_parser(problem: str) -> argparse.ArgumentParser:
    """The flags of "CBCT" (cone-beam CT) or "ZSR" (MRI z-axis super-resolution)."""
    ct = problem == "CBCT"
    parser = Parser(
        description="Cone-beam CT from few or limited angles, with a 2D diffusion prior and noise that is "
                    "consistent between slices (ISCS)." if ct else
                    "MRI super-resolution along z, with a 2D diffusion prior and noise that is consistent "
                    "between slices (ISCS).")
    add = parser.add_argument

    if ct:
        add("--task", type=one_of("LACT", "SVCT"), default="LACT", metavar="{LACT,SVCT}",
            help="limited-angle or sparse-view CT")
        add("--degree", type=number(int, 1, 360), default=90, metavar="N",
            help="LACT: degrees covered, of a view each; SVCT: number of views over the full turn (1-360)")
    else:
        add("--task", type=one_of("ZSR"), default="ZSR", metavar="{ZSR}", help="z-axis super-resolution")
        add("--degree", type=number(int, 2), default=4, metavar="N",
            help="factor: how many slices one measured slice averages")
    add("--method", type=one_of(*METHODS[problem]), default="DDS", metavar=f"{{{','.join(METHODS[problem])}}}",
        help="reconstruction method; uncondition draws volumes from the prior alone")

    group = parser.add_argument_group("data")
    add = group.add_argument
    add("--data", type=existing_file, required=True, metavar="FILE",
        help=f"volume, NIfTI ({'CT in HU' if ct else 'MRI'})")
    add("--slice-begin", type=number(int, 0), default=0, metavar="K", help="first slice along z")
    add("--slice-end", type=number(int, 0), default=0, metavar="K",
        help="slice after the last; both 0: the whole volume")
    if ct:
        add("--recon-size", type=number(int, 8, 4096), default=256, metavar="PIXELS",
            help="in-plane size that the slices are resized to; that of the prior works best")
    add("--sino-noise", type=number(float, 0), default=0.0, metavar="V",
        help="noise of the measurement: 0 none; below 100 Gaussian of variance V; from 100 on Poisson, V "
             "photons a ray")

    group = parser.add_argument_group("prior")
    add = group.add_argument
    add("--checkpoint-path", type=existing_file, metavar="FILE", help="the prior's weights"
        + (" (not needed for ADMM-TV)" if ct else ""))
    add("--config-path", type=existing_file, metavar="FILE", help="the prior's YAML, see configs/ve")

    group = parser.add_argument_group("sampling")
    add = group.add_argument
    add("--use-init", type=truth, nargs="?", const=True, default=False, metavar="true|false",
        help="start from the measurement's own reconstruction, noised to sigma-max (DDS, DDNM)")
    add("--NFE", type=number(int, 1), default=1000, metavar="N", help="number of noise levels (not ADMM-TV)")
    add("--num-cg", type=number(int, 1), default=5, metavar="N", help="conjugate-gradient steps a level (DDS)")
    add("--w-tik", type=number(float, 0), default=0.0, metavar="W", help="weight of the Tikhonov term (DDS)")
    add("--w-dz", type=not_yet, default=0.0, metavar="W", help="weight of total variation along z (only 0 yet)")
    add("--w-dps", type=not_yet, default=0.0, metavar="W",
        help="weight of the posterior-sampling gradient (only 0 yet)")
    add("--sigma-max", type=number(float, above=0), default=378.0, metavar="S",
        help="first noise level, at most that of the prior's config; intensities are in [0, 1]")
    add("--sigma-min", type=number(float, above=0), default=0.01, metavar="S", help="last noise level")
    add("--noise-control", type=one_of(*NOISE_CONTROLS), default="SLERP", metavar=f"{{{','.join(NOISE_CONTROLS)}}}",
        help="noise of neighbouring slices: SLERP correlates it (ISCS), None draws it independently")
    add("--renoise-method", type=one_of(*RENOISE_METHODS), default="DDPM",
        metavar=f"{{{','.join(RENOISE_METHODS)}}}", help="how a level's estimate is noised to the next level (DDS, DDNM)")

    group = parser.add_argument_group("running")
    add = group.add_argument
    add("--gpu", type=number(int, 0), default=0, metavar="K", help="CUDA device index, where CUDA is used")
    add("--device", default="auto", metavar="D", help="auto, cpu, cuda or cuda:K")
    add("--seed", type=number(int, 0, 2**63 - 1), default=42, metavar="N", help="of all random numbers")
    add("--batch-size", type=number(int, 1), default=8, metavar="N",
        help="slices a network call; the result does not depend on it")
    add("--output-dir", type=Path, default=Path("results"), metavar="FOLDER", help="where the run's folder goes")
    add("--save-intermediates", type=truth, nargs="?", const=True, default=False, metavar="true|false",
        help="also write the volume estimated at every noise level")
    return parser


def parse_args(problem: str, argv=None) -> argparse.Namespace:
    """Parse and check the flags; a bad one ends the program with one line and status 2."""
    parser = build_parser(problem)
    args, error = parser.parse_args(argv), parser.error
    if args.sigma_min >= args.sigma_max:
        error(f"--sigma-min {args.sigma_min:g} --sigma-max {args.sigma_max:g}: accepted is sigma-min below "
              "sigma-max")
    if args.slice_end < args.slice_begin or args.slice_end == args.slice_begin > 0:
        error(f"--slice-begin {args.slice_begin} --slice-end {args.slice_end}: an empty range; accepted is begin "
              "below end, or 0 and 0 for all slices")
    if args.method != "ADMM-TV":
        for flag in ("checkpoint_path", "config_path"):
            if getattr(args, flag) is None:
                error(f"--{flag.replace('_', '-')} is missing; --method {args.method} needs a prior")
    folder = args.output_dir
    while not os.path.exists(folder) and folder != folder.parent:
        folder = folder.parent
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK | os.X_OK):
        error(f"--output-dir {args.output_dir}: cannot be written ({folder} is "
              f"{'not writable' if os.path.isdir(folder) else 'not a folder'})")
    return args


@contextmanager
def input_errors(source=""):
    """End the program with one line and status 2 when reading or checking the user's input fails.

    ``source`` is the flag or file to name, where the error itself cannot.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        reason = f"{error.filename}: {error.strerror}" if getattr(error, "strerror", None) else str(error)
        print(f"{Path(sys.argv[0]).name}: error: {source}{': ' * bool(source)}{reason}", file=sys.stderr)
        raise SystemExit(2) from None
