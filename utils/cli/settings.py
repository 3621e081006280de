"""From flags, environment, preset and earlier run to one frozen value, checked."""
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from utils.cli import choices
from utils.cli.flags import ROOT, Flag, build_parser, flag_groups
from utils.cli.types import nearest

PRESETS = ROOT / "configs" / "presets"
MESSAGES = ("verbosity", "debug", "environment")
SINGLE = ("ADMM-TV", "uncondition")     # methods of one sample, and one prior at most
MEASURED = {"bin": 1, "every": 1, "mirror": False, "reverse": False, "turn": 0.0, "fix_offset": False, "air": False,
            "scatter": 0.0, "rings": 0, "beam_hardening": None, "unit": "HU"}    # of measured scans: what does nothing


class Options(SimpleNamespace):
    """The flags' values as attributes, with ``_`` for ``-``; nobody writes to them.

    ``modality`` is "ct" or "mr"; ``source`` the args.yaml that is repeated or gone on from, or None.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{name}: options are not changed once they are made")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{name}: options are not changed once they are made")


def parse_args(modality: str, argv: list[str] | None, read_yaml: Callable[[Path], Any]) -> Options:
    """The options of a command, checked; a bad one ends the program with one line and status 2.

    What stands in the command comes first, then the environment (with --environment), the run that --from or --resume
    names, the preset, and the defaults. A setting that belongs to a choice that is not made, such as --eta, is refused
    in the command and the environment, and otherwise left out.

    Args:
        modality: "ct" or "mr".
        argv: the command without the program; None is that of this process.
        read_yaml: reads a YAML file, raising ValueError or OSError.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = build_parser(modality)
    messages = parser.parse_args(argv)      # all that can be wrong with a flag alone is said here
    flags = {flag.name.replace("-", "_"): flag for flags in flag_groups(modality).values() for flag in flags}
    given = _parsed(modality, argv)
    if messages.environment:
        given = _environment(modality, flags) | given
    try:
        earlier, source = _earlier_run(modality, given, flags, read_yaml)
        preset = _preset(modality, given, earlier, flags, read_yaml)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    before = _without_replaced(preset | _without_parameters(earlier, given), given)
    _check_belonging(modality, given, before | given, parser.error)
    values = _with_defaults(modality, before | given, flags)
    values |= {name: getattr(messages, name) for name in MESSAGES}
    options = Options(modality=modality, source=source, **{k: v for k, v in values.items() if k != "from"})
    _check(options, parser.error)
    return options


def _parsed(modality: str, argv: list[str]) -> dict:
    """The flags that stand in ``argv``, without those that have a default of their own."""
    found = vars(build_parser(modality, defaults=False).parse_args(argv))
    return {name: value for name, value in found.items() if name not in MESSAGES}


def _environment(modality: str, flags: dict[str, Flag]) -> dict:
    """The settings in environment variables; an empty one is none."""
    wanted = {name: os.environ.get(name.upper()) for name in flags if name not in ("preset", "resume", "from")}
    return _from_texts(modality, {name: text for name, text in wanted.items() if text}, "")


def _from_texts(modality: str, texts: dict[str, str], where: str) -> dict:
    """Flags from their values as texts; an error names ``where`` they stand."""
    parser = build_parser(modality, defaults=False)
    parser.where = where and f"{where}: "
    found = vars(parser.parse_args([f"--{name.replace('_', '-')}={text}" for name, text in texts.items()]))
    return {name: value for name, value in found.items() if name in texts}


def _earlier_run(modality: str, given: dict, flags: dict, read_yaml: Callable) -> tuple[dict, Path | None]:
    """The settings of the run that --from or --resume names, and its args.yaml."""
    source, run = given.get("from"), given.get("resume")
    if source and run:
        raise ValueError("--from and --resume are both given; accepted is one of them")
    if run:
        if rest := sorted(set(given) - {"resume"}):
            raise ValueError(f"--resume {run} goes on with the flags of that run; --{rest[0].replace('_', '-')} is not "
                             "accepted")
        if (run / "panel.png").exists() and not (run / "state.pt").exists():
            raise ValueError(f"--resume {run}: that run is complete")
        source = run / "args.yaml"
    if source is None:
        return {}, None
    tree = read_yaml(source)
    if not isinstance(tree, dict) or not {"method", "task", "digests"} <= tree.keys():
        raise ValueError(f"{source}: not the args.yaml of a run; accepted: a file that a run of this program wrote")
    if tree["task"] not in choices.names(choices.TASKS, modality):
        script = "recon_MRI_ZSR.py" if modality == "ct" else "recon_CBCT.py"
        raise ValueError(f"{source}: a run of {tree['task']}; accepted here: "
                         f"{', '.join(choices.names(choices.TASKS, modality))} ({script} does the other)")
    texts = {name: str(value) for name, value in tree.items()
             if value is not None and not isinstance(value, (dict, list)) and name in flags}
    return _from_texts(modality, texts, str(source)), source


# What the words in a preset's sections mean: whether they hold for the settings that are known by then.
CONDITIONS: dict[str, Callable[[dict], bool]] = {
    "always": lambda known: True,
    "simulated": lambda known: known.get("projections") is None and known.get("thick") is None,
    "demo-prior": lambda known: known["own"].isdisjoint({"prior", "checkpoint_path", "config_path"}),
    "own-prior": lambda known: "checkpoint_path" in known["own"],
    "noisy": lambda known: known.get("projections") is not None or bool(known.get("sino_noise")),
    "from-noise": lambda known: known.get("method") == "uncondition" or not known.get("use_init", False),
} | {task.name: lambda known, name=task.name: known.get("task") == name for task in choices.TASKS} | {
    method.name: lambda known, name=method.name: known.get("method", "DDS") == name for method in choices.METHODS}


def _preset(modality: str, given: dict, earlier: dict, flags: dict, read_yaml: Callable) -> dict:
    """The settings of --preset NAME.

    configs/presets/NAME.yaml has a section for each modality, and in it sections that hold under `CONDITIONS`, the
    later ones first; before them those of another preset, where ``like`` names one.
    """
    name = given.get("preset")
    if name is None or earlier:
        return {}
    found: dict = {}
    for path, words, settings in preset_sections(modality, name, read_yaml):
        for word in words.split():
            if word not in CONDITIONS:
                raise ValueError(f"{path}: {modality}.{words}: accepted are sections named by {', '.join(CONDITIONS)}")
        if all(CONDITIONS[word](found | given | {"own": set(given)}) for word in words.split()):
            texts = {}
            for key, value in settings.items():
                if key.replace("-", "_") not in flags:
                    raise ValueError(f"{path}: {modality}.{words}.{key}: no such flag{nearest(key, flags)}")
                text = str(value).lower() if isinstance(value, bool) else str(value)
                if key in ("data", "prior", "checkpoint-path", "config-path", "geometry"):
                    text = str(ROOT / text)
                texts[key.replace("-", "_")] = text
            found |= _from_texts(modality, texts, str(path))
    return found


def preset_sections(modality: str, name: str, read_yaml: Callable) -> list[tuple[Path, str, dict]]:
    """The file, name and settings of every section of a preset for a modality, in the order in which they hold.

    Raises:
        ValueError: there is no such preset, or its file is none.
    """
    known = sorted(file.stem for file in PRESETS.glob("*.yaml"))
    if name not in known:
        raise ValueError(f"--preset: {name!r}; accepted: {', '.join(known)}{nearest(name, known)}")
    return _sections(modality, PRESETS / f"{name}.yaml", read_yaml)


def _sections(modality: str, path: Path, read_yaml: Callable) -> list[tuple[Path, str, dict]]:
    """The file, name and settings of every section for a modality; those of the preset that a file is like first."""
    tree = read_yaml(path)
    sections = tree.get(modality, {}) if isinstance(tree, dict) else None
    if not isinstance(sections, dict) or not all(isinstance(section, dict) for section in sections.values()):
        raise ValueError(f"{path}: {modality}: accepted are sections, named by {', '.join(CONDITIONS)}, of flags")
    base = PRESETS / f"{tree['like']}.yaml" if "like" in tree else None
    if base and (base == path or not base.exists()):
        raise ValueError(f"{path}: like: {tree['like']}; accepted is the name of another preset")
    return ((_sections(modality, base, read_yaml) if base else [])
            + [(path, str(words), settings) for words, settings in sections.items()])


def _made(values: dict) -> list[choices.Choice]:
    """The choices that have parameters, as they are made in ``values``."""
    return [choices.named(table, values.get(name, default)) for name, table, default in (
        ("method", choices.METHODS, "DDS"), ("noise_control", choices.NOISE_CONTROLS, "SLERP"),
        ("renoise_method", choices.RENOISE_METHODS, "DDPM"))]


def _without_parameters(earlier: dict, given: dict) -> dict:
    """The settings of an earlier run without those of choices that are now made otherwise."""
    replaced = [before for before, now in zip(_made(earlier), _made(earlier | given)) if before is not now]
    gone = {parameter.name for choice in replaced for parameter in choice.parameters}
    return {name: value for name, value in earlier.items() if name not in gone}


def _without_replaced(before: dict, given: dict) -> dict:
    """The settings of a preset or an earlier run without those that the ones given exclude."""
    gone: set[str] = set()
    for name, excluded in (("prior", {"checkpoint_path", "config_path"}), ("checkpoint_path", {"prior"}),
                           ("pixel_size", {"recon_size"}), ("recon_size", {"pixel_size"})):
        gone |= excluded if name in given else set()
    if given.get("method") in SINGLE:
        gone |= {"samples", "prior_2"}
    if given.get("noise_control") == "zero":
        gone |= {"samples"}
    if given.get("samples", 1) > 1 and before.get("noise_control") == "zero":
        gone |= {"noise_control"}       # without noise, samples would all be the same
    return {name: value for name, value in before.items() if name not in gone}


def _check_belonging(modality: str, given: dict, values: dict, error: Callable) -> None:
    """End the program where a parameter is given whose choice is not made."""
    made = _made(values)
    tables = {"method": choices.METHODS, "noise-control": choices.NOISE_CONTROLS,
              "renoise-method": choices.RENOISE_METHODS}
    for flag, table in tables.items():
        for parameter, having in choices.parameters(table).items():
            value = given.get(parameter.name)
            if (value is None or value == _neutral(having, parameter)
                    or any(parameter in choice.parameters for choice in made)):
                continue
            own = next(choice for choice in made if choice in table)
            text = f"{value:g}" if isinstance(value, float) else value
            error(f"--{parameter.name.replace('_', '-')} {text}: not part of {own.name}; accepted with --{flag} "
                  f"{', '.join(choice.name for choice in having if modality in choice.modalities)}")


def _neutral(having: list, parameter: choices.Parameter) -> Any:
    """The value that does nothing, and may be given with any choice: a weight of 0, weights none."""
    default = having[0].parameters[parameter]
    return default if default in (0.0, "none") else None


def _with_defaults(modality: str, values: dict, flags: dict[str, Flag]) -> dict:
    """All settings: those of choices that are not made are None."""
    of_choices = {parameter.name: None for parameter in choices.parameters(
        choices.METHODS, choices.NOISE_CONTROLS, choices.RENOISE_METHODS) if parameter.modality in ("", modality)}
    for choice in _made(values):
        of_choices |= {parameter.name: values.get(parameter.name, default)
                       for parameter, default in choice.parameters.items() if parameter.name in of_choices}
    result = {name: values.get(name, flag.default) for name, flag in flags.items()} | of_choices
    if modality == "ct" and result["projections"] is not None and "geometry" not in values:
        result["geometry"] = None       # the default is the demo's
    if modality == "ct" and result["projections"] is None:
        result["degree"] = result["degree"] or 90
        result["recon_size"] = result["recon_size"] or (None if result["prior"] or result["pixel_size"] else 256)
    return result


def _check(options: Options, error: Callable) -> None:
    """End the program with one line where settings do not go together."""
    if options.sigma_max is not None and options.sigma_min >= options.sigma_max:
        error(f"--sigma-min {options.sigma_min:g} --sigma-max {options.sigma_max:g}: accepted is sigma-min below "
              "sigma-max")
    begin, end = options.slice_begin, options.slice_end
    if end < begin or end == begin > 0:
        error(f"--slice-begin {begin} --slice-end {end}: an empty range; accepted is begin below end, or 0 and 0 for "
              "all slices")
    _check_prior(options, error)
    if options.method in SINGLE:
        for flag, value, neutral in (("samples", options.samples, 1), ("prior-2", options.prior_2, None)):
            if value != neutral:
                error(f"--{flag} {value}: not part of {options.method}; accepted with --method DDS, DDNM")
    if options.samples > 1 and options.noise_control == "zero":
        error(f"--samples {options.samples}: without noise all are the same; accepted: another --noise-control")
    if options.modality == "ct":
        _check_scan(options, error)
    else:
        _check_thick(options, error)
    if options.output is not None and os.path.isdir(options.output) and os.listdir(options.output):
        error(f"--output {options.output}: there are files in it; accepted: a folder that is new or empty")
    flag, wanted = ("--output", options.output) if options.output else ("--output-dir", options.output_dir)
    folder = wanted
    while not os.path.exists(folder) and folder != folder.parent:
        folder = folder.parent
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK | os.X_OK):
        error(f"{flag} {wanted}: cannot be written ({folder} is "
              f"{'not writable' if os.path.isdir(folder) else 'not a folder'})")


def _check_prior(options: Options, error: Callable) -> None:
    """Which flags say what the prior is."""
    if options.prior and (options.checkpoint_path or options.config_path):
        other = "checkpoint-path" if options.checkpoint_path else "config-path"
        error(f"--prior and --{other} are both given; accepted is --prior alone, or --checkpoint-path with "
              "--config-path")
    if options.pixel_size == "prior" and not (options.prior or options.config_path):
        error("--pixel-size prior: needs a prior, whose card says it")
    if options.method == "ADMM-TV" or options.prior:
        return
    for name in ("checkpoint_path", "config_path"):
        if getattr(options, name) is None:
            error(f"--{name.replace('_', '-')} is missing; --method {options.method} needs a prior, by --prior or "
                  "--checkpoint-path with --config-path")


def _check_thick(options: Options, error: Callable) -> None:
    """Which flags go together for simulated and for measured thick slices."""
    if options.w_tik == "noise":
        error("--w-tik noise: is found in projections; accepted: a number of 0 or more")
    if options.thick is None:
        if options.data is None:
            error("--data or --thick is missing; give an MRI volume to simulate from, or measured thick slices")
        if options.slice_profile != "box" or options.slice_thickness is not None:
            error("--slice-profile and --slice-thickness are for measured slices; they need --thick")
        return
    if options.sino_noise:
        error(f"--sino-noise {options.sino_noise:g}: measured slices have their own noise; accepted: 0")
    if options.method == "uncondition":
        error("--method uncondition uses no measurement; leave --thick out")
    if options.oversample > 1:
        error(f"--oversample {options.oversample}: is for simulated slices; accepted with --thick: 1")


def _check_scan(options: Options, error: Callable) -> None:
    """Which flags go together for a simulated and for a measured scan."""
    if options.pixel_size and options.recon_size:
        error("--pixel-size and --recon-size are both given; accepted is one of them")
    if options.projections is None:
        if options.data is None:
            error("--data or --projections is missing; give a volume to simulate from, or measured projections")
        for name in ("flat", "dark", "i0", "bad_pixels"):
            if getattr(options, name) is not None:
                error(f"--{name.replace('_', '-')} is for measured counts; it needs --projections")
        for name, neutral in MEASURED.items():
            if getattr(options, name) != neutral:
                error(f"--{name.replace('_', '-')} is for measured projections; it needs --projections")
        return
    if options.sino_noise:
        error(f"--sino-noise {options.sino_noise:g}: measured projections have their own noise; accepted: 0")
    if options.oversample > 1:
        error(f"--oversample {options.oversample}: measured projections are not simulated; accepted: 1")
    if options.method == "uncondition":
        error("--method uncondition uses no projections; leave --projections out")
    if options.flat is not None and options.i0 is not None:
        error("--flat and --i0 are both given; accepted is one of them")
    if options.dark is not None and options.flat is None and options.i0 is None:
        error("--dark needs --flat or --i0 beside it")
    if options.rings and options.rings % 2 == 0:
        error(f"--rings {options.rings}: accepted: odd numbers, from 3 on")
