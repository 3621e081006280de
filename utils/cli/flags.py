"""Command-line flags of the two demos, and how they refuse what they can't use.

Only the standard library is imported here: a wrong flag is answered before anything heavy is loaded.
"""
import argparse
import math
import os
import sys
import traceback
from contextlib import contextmanager
from pathlib import Path

METHODS = {"CBCT": ("DDS", "DDNM", "ADMM-TV", "uncondition"), "ZSR": ("DDS", "DDNM", "uncondition")}
NOISE_CONTROLS = ("SLERP", "None", "shared", "GP", "zero")
NOISE_LENGTH = 20.0     # mm
W_TV = 3.0
RENOISE_METHODS_WITH_ETA = ("DDS", "DiffPIR")
RENOISE_METHODS = ("DDPM", "DDIM", "DDS", "DiffPIR")
WEIGHTS = ("none", "poisson")
PROJECTORS = ("auto", "native", "torch_radon", "astra")
DEMO_GEOMETRY = Path(__file__).resolve().parents[2] / "configs" / "geometry" / "demo.yaml"


show_traceback = []    # not empty while a program runs with --debug


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the defaults that there are."""

    def _get_help_string(self, action):
        return action.help if action.default is None else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """An argument parser that shows defaults, and answers a mistake with one line and status 2."""

    def __init__(self, **options):
        super().__init__(formatter_class=_Formatter, **options)

    def error(self, message: str):
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}\n")


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


def existing_path(text: str) -> Path:
    """An argparse type: a file that exists and can be opened, or a folder."""
    return Path(text) if os.path.isdir(text) else existing_file(text)


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
        add("--degree", type=number(int, 1), metavar="N",
            help="LACT: degrees covered; SVCT: number of views, evenly chosen (default: 90; with --projections: "
                 "all views)")
    else:
        add("--task", type=one_of("ZSR"), default="ZSR", metavar="{ZSR}", help="z-axis super-resolution")
        add("--degree", type=number(int, 2), default=4, metavar="N",
            help="factor: how many slices one measured slice averages")
    add("--method", type=one_of(*METHODS[problem]), default="DDS", metavar=f"{{{','.join(METHODS[problem])}}}",
        help="reconstruction method; uncondition draws volumes from the prior alone")

    group = parser.add_argument_group("data")
    add = group.add_argument
    add("--data", type=existing_path, required=not ct, metavar="PATH",
        help="volume, NIfTI or a folder with a DICOM series "
             + ("(CT in HU): measurements are simulated from it, or with --projections it is only the reference for the "
                "metrics" if ct else "(MRI)"))
    add("--series", metavar="UID",
        help="which DICOM series, where --data holds several: its UID, the beginning of it, or its number")
    add("--slice-begin", type=number(int, 0), default=0, metavar="K", help="first slice along z")
    add("--slice-end", type=number(int, 0), default=0, metavar="K",
        help="slice after the last; both 0: the whole volume")
    if ct:
        add("--recon-size", type=number(int, 8, 4096), metavar="PIXELS",
            help="in-plane size that the slices are resized to, that of the prior works best (default: 256; with "
                 "--projections: that of the geometry file)")
    add("--sino-noise", type=number(float, 0), default=0.0, metavar="V",
        help="noise of the measurement: 0 none; below 100 Gaussian of variance V; from 100 on Poisson, V "
             "photons a ray")

    if ct:
        group = parser.add_argument_group("scanner")
        add = group.add_argument
        add("--geometry", type=existing_file, default=DEMO_GEOMETRY, metavar="FILE",
            help="YAML of the scan, see configs/geometry")
        add("--projections", type=existing_path, metavar="PATH",
            help="measured projections [views, v, u] to reconstruct: .npy, .mha, .nrrd, .nii.gz, .tif or a folder of "
                 "TIFFs; line integrals of attenuation, or counts where --flat or --i0 is given; needs --geometry")
        add("--flat", type=existing_path, metavar="PATH", help="counts without an object, one or several frames")
        add("--dark", type=existing_path, metavar="PATH", help="counts without radiation, one or several frames")
        add("--i0", type=number(float, above=0), metavar="N",
            help="counts without an object, one number for all pixels")
        add("--projector", type=one_of(*PROJECTORS), default="auto", metavar=f"{{{','.join(PROJECTORS)}}}",
            help="whose projector: auto is native; torch_radon and astra need CUDA and their packages")

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
    if ct:
        add("--weights", type=one_of(*WEIGHTS), default="none", metavar=f"{{{','.join(WEIGHTS)}}}",
            help="of the measured rays (DDS): poisson trusts each by its expected counts, for noisy scans")
    add("--w-tik", type=number(float, 0), default=0.0, metavar="W", help="weight of the Tikhonov term (DDS)")
    add("--w-dz", type=number(float, 0), default=0.0, metavar="W",
        help=f"weight of total variation from slice to slice, along {'z' if ct else 'y'} (DDS)")
    if ct:
        add("--w-tv", type=number(float, 0), metavar="W",
            help=f"weight of the total variation within slices (default: {W_TV:g}); ADMM-TV only")
    add("--w-dps", type=number(float, 0), default=0.0, metavar="W",
        help="weight of the posterior-sampling gradient (DDS, DDNM)")
    add("--sigma-max", type=number(float, above=0), default=378.0, metavar="S",
        help="first noise level, at most that of the prior's config; intensities are in [0, 1]")
    add("--sigma-min", type=number(float, above=0), default=0.01, metavar="S", help="last noise level")
    add("--noise-control", type=one_of(*NOISE_CONTROLS), default="SLERP", metavar=f"{{{','.join(NOISE_CONTROLS)}}}",
        help="noise of neighbouring slices: SLERP correlates it (ISCS), None draws it independently, shared is the same "
             "in all slices, GP correlates it over a length in mm, zero is none at all")
    add("--noise-length", type=number(float, above=0), metavar="MM",
        help=f"distance over which GP noise stays alike (default: {NOISE_LENGTH:g}); GP only")
    add("--renoise-method", type=one_of(*RENOISE_METHODS), default="DDPM",
        metavar=f"{{{','.join(RENOISE_METHODS)}}}", help="how a level's estimate is noised to the next level (DDS, DDNM)")
    add("--eta", type=number(float, 0, 1), metavar="E",
        help="share of new noise in DDS (default: 0.85) and DiffPIR (default: 0.5) re-noising")

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
    add("--no-report", type=truth, nargs="?", const=True, default=False, metavar="true|false",
        help="leave out report.html, the page with metrics and a viewer of the volumes")
    add("--resume", type=existing_path, metavar="RUN", help="go on with an interrupted run, given its folder")
    add("--from", type=existing_path, metavar="ARGS.YAML",
        help="repeat a run, given its args.yaml; other flags on the command line come before those in it")
    group = parser.add_argument_group("messages")
    add = group.add_argument
    loudness = group.add_mutually_exclusive_group()
    loudness.add_argument("-v", "--verbose", dest="verbosity", action="store_const", const=1, default=0,
                        help="timings and memory too")
    loudness.add_argument("-q", "--quiet", dest="verbosity", action="store_const", const=-1, default=0,
                        help="warnings and the folder only")
    add("--debug", action="store_true", help="show the traceback of an error")
    return parser


def parse_args(problem: str, argv=None) -> argparse.Namespace:
    """Parse and check the flags; a bad one ends the program with one line and status 2."""
    parser = build_parser(problem)
    args = parser.parse_args(_of_earlier_run(sys.argv[1:] if argv is None else argv))
    error = parser.error
    args.source = args.resume / "args.yaml" if args.resume else vars(args)["from"]
    del vars(args)["from"]
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
    if args.noise_control == "GP":
        args.noise_length = args.noise_length or NOISE_LENGTH
    elif args.noise_length is not None:
        error(f"--noise-length {args.noise_length:g}: {args.noise_control} noise has no length; accepted with "
              "--noise-control GP")
    if args.eta is not None and args.renoise_method not in RENOISE_METHODS_WITH_ETA:
        error(f"--eta {args.eta:g}: {args.renoise_method} has none; accepted with --renoise-method "
              f"{', '.join(RENOISE_METHODS_WITH_ETA)}")
    if args.method == "ADMM-TV":
        args.w_tv = W_TV if args.w_tv is None else args.w_tv
    elif getattr(args, "w_tv", None) is not None:
        error(f"--w-tv {args.w_tv:g}: not part of {args.method}; accepted with ADMM-TV")
    for flag, methods in (("weights", ["DDS"]), ("w_tik", ["DDS"]), ("w_dz", ["DDS"]), ("w_dps", ["DDS", "DDNM"])):
        value = getattr(args, flag, "none")
        if value not in (0, "none") and args.method not in methods:
            error(f"--{flag.replace('_', '-')} {value}: not part of {args.method}; accepted with {', '.join(methods)}")
    if problem == "CBCT":
        _check_scan(args, error)
    folder = args.output_dir
    while not os.path.exists(folder) and folder != folder.parent:
        folder = folder.parent
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK | os.X_OK):
        error(f"--output-dir {args.output_dir}: cannot be written ({folder} is "
              f"{'not writable' if os.path.isdir(folder) else 'not a folder'})")
    return args


def _check_scan(args: argparse.Namespace, error) -> None:
    """Which flags go together for a simulated and for a measured scan; sets the defaults that differ."""
    if args.projections is None:
        if args.data is None:
            error("--data or --projections is missing; give a volume to simulate from, or measured projections")
        for flag in ("flat", "dark", "i0"):
            if getattr(args, flag) is not None:
                error(f"--{flag} is for measured counts; it needs --projections")
        args.degree, args.recon_size = args.degree or 90, args.recon_size or 256
        return
    if args.geometry == DEMO_GEOMETRY:
        error("--projections needs --geometry: the scan that they were measured with, see configs/geometry")
    if args.sino_noise:
        error(f"--sino-noise {args.sino_noise:g}: measured projections have their own noise; accepted: 0")
    if args.method == "uncondition":
        error("--method uncondition uses no projections; leave --projections out")
    if args.flat is not None and args.i0 is not None:
        error("--flat and --i0 are both given; accepted is one of them")
    if args.dark is not None and args.flat is None and args.i0 is None:
        error("--dark needs --flat or --i0 beside it")


def recorded_flags(path: Path) -> list[str]:
    """The flags that a run's args.yaml holds, as a command line. ValueError for another file."""
    import yaml

    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        tree = None
    if not isinstance(tree, dict) or not {"method", "digests"} <= tree.keys() or not all(isinstance(k, str) for k in tree):
        raise ValueError(f"{path}: not the args.yaml of a run; accepted: a file that a run of this program wrote")
    return [part for name, value in tree.items() if value is not None and not isinstance(value, dict)
            for part in (f"--{name.replace('_', '-')}", str(value))]


def _of_earlier_run(argv) -> list[str]:
    """``argv`` behind the flags of the run that --from or --resume names."""
    earlier = Parser(add_help=False, allow_abbrev=False)
    for flag in ("--from", "--resume"):
        earlier.add_argument(flag, type=existing_path, dest=flag[2:])
    found, rest = earlier.parse_known_args(argv)
    source = vars(found)["from"]
    if source and found.resume:
        earlier.error("--from and --resume are both given; accepted is one of them")
    if found.resume:
        if rest := [flag for flag in rest if flag not in ("-v", "--verbose", "-q", "--quiet", "--debug")]:
            earlier.error(f"--resume {found.resume} goes on with the flags of that run; {rest[0]} is not accepted")
        if (found.resume / "panel.png").exists() and not (found.resume / "state.pt").exists():
            earlier.error(f"--resume {found.resume}: that run is complete")
        source = found.resume / "args.yaml"
    if source is None:
        return list(argv)
    with input_errors():
        return [*recorded_flags(source), *argv]


@contextmanager
def input_errors(source=""):
    """End the program with one line and status 2 when reading or checking the user's input fails.

    ``source`` is the flag or file to name, where the error itself cannot. With --debug the traceback comes first.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        if show_traceback:
            traceback.print_exc()
        reason = f"{error.filename}: {error.strerror}" if getattr(error, "strerror", None) else str(error)
        print(f"{Path(sys.argv[0]).name}: error: {source}{': ' * bool(source)}{reason}", file=sys.stderr)
        raise SystemExit(2) from None
