"""The grid of runs that an evaluation's YAML asks for, checked."""
import hashlib
import itertools
import json
import os
import re
import string
from dataclasses import dataclass
from pathlib import Path

from utils.io.files import content_digest
from utils.io.yaml_file import parse_yaml

ENTRIES = {"CT": "recon_CBCT.py", "MR": "recon_MRI_ZSR.py"}
TASKS = {"SVCT": "CT", "LACT": "CT", "ZSR": "MR"}

FILE_FLAGS = ("checkpoint-path", "config-path", "geometry", "projections", "flat", "dark")
SET_ELSEWHERE = {"data": "a volume's path", "slice-begin": "a volume's slices", "slice-end": "a volume's slices",
                 "recon-size": "a volume's size", "task": "a task's task", "degree": "a task's degree",
                 "seed": "seeds", "output-dir": "--output"}
MEASUREMENT_FLAGS = ("sino-noise", "geometry", "projections", "flat", "dark", "i0")


def _whole(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _list_of(value, test) -> bool:
    return isinstance(value, list) and bool(value) and all(map(test, value)) and len(set(value)) == len(value)


# What a value may be: how an error calls it, and the test.
SECTION = "a section with keys", lambda value: isinstance(value, dict)
ITEMS = "a section with one item or more", lambda value: isinstance(value, dict) and bool(value)
TEXT = "a text", lambda value: isinstance(value, str) and bool(value)
NAMES = "a list of different names", lambda value: _list_of(value, lambda name: isinstance(name, str))
SEEDS = "a list of different whole numbers", lambda value: _list_of(value, _whole)
COUNT = "a whole number of 1 or more", lambda value: _whole(value) and value > 0
YES = "true or false", lambda value: isinstance(value, bool)
RANGE = "[begin, end], whole numbers", lambda value: _list_of(value, _whole) and len(value) == 2
FLAG_VALUE = "a number, a text, true or false, or null (flag left out)", \
    lambda value: value is None or isinstance(value, (str, int, float))
FLAG_VALUES = "a list of different values", lambda value: _list_of(value, FLAG_VALUE[1])
MODALITY = "CT or MR", lambda value: isinstance(value, str) and value in ENTRIES
TASK = " or ".join(TASKS), lambda value: isinstance(value, str) and value in TASKS

GRID = {"volumes": ITEMS, "tasks": ITEMS, "variants": ITEMS, "seeds": SEEDS, "flags": SECTION,
        "modalities": SECTION, "keep": NAMES}
VOLUME = {"modality": MODALITY, "path": TEXT, "slices": RANGE, "size": COUNT, "flags": SECTION}
TASK_KEYS = {"task": TASK, "degree": COUNT, "flags": SECTION, "volumes": NAMES}
VARIANT = {"flags": SECTION, "baseline": YES, "against": TEXT, "samples": COUNT, "sweep": SECTION, "seeds": SEEDS,
           "modality": MODALITY, "tasks": NAMES, "volumes": NAMES}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A variant on a volume and a task: a row of the table, and one run for every seed."""

    volume: str
    task: str
    variant: str
    modality: str           # CT or MR
    entry: Path             # the program to run
    flags: dict             # its flags without dashes -> text, all but seed and output-dir
    identity: str           # of program and flags, with the content of files instead of their names
    seeds: tuple
    samples: int            # how many posterior samples to average; 1: no mean
    against: str | None     # the variant to compare with

    def __str__(self):
        return f"{self.volume}, {self.task}, {self.variant}"

    def key(self, seed: int) -> str:
        """Names what a run depends on; runs that agree in that are one run, whatever their variant is called."""
        return hashlib.sha256(f"{self.identity} seed {seed}".encode()).hexdigest()[:16]

    def sample_seeds(self) -> tuple:
        """The first ``samples`` of the seeds, and where those are too few the numbers after the largest."""
        if self.samples < 2:
            return ()
        after = max(self.seeds) + 1
        return (*self.seeds, *range(after, after + self.samples))[:self.samples]


@dataclass(frozen=True)
class Grid:
    cells: tuple
    baseline: str | None    # the variant that is marked as baseline
    keep: tuple | None      # which files of a run to keep besides settings and metrics; None: all


def read_grid(path: str | Path, root: Path, samples: int = 1) -> Grid:
    """Read and check a grid; relative paths in it start at ``root``, ``${NAME}`` is taken from the environment.

    ``samples`` is for the variants that don't say themselves. Raises ValueError in one line that names the place
    and what is accepted, OSError when a file cannot be read.
    """
    try:
        tree = parse_yaml(Path(path).read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"not a YAML file ({error})") from None
    _check("the grid", tree, GRID, required=("volumes", "tasks", "variants", "seeds"))
    modalities = tree.get("modalities", {})
    _check("modalities", modalities, dict.fromkeys(ENTRIES, SECTION))
    for name, item in modalities.items():
        _check(f"modalities.{name}", item, {"entry": TEXT, "flags": SECTION})
    _check_items("volumes", tree["volumes"], VOLUME, required=("modality", "path"))
    _check_items("tasks", tree["tasks"], TASK_KEYS, required=("task",))
    _check_items("variants", tree["variants"], VARIANT)
    for where, names in (("tasks", ("volumes",)), ("variants", ("tasks", "volumes"))):
        for name, item in tree[where].items():
            for other in names:
                for missing in set(item.get(other, ())) - set(tree[other]):
                    raise ValueError(f"{where}.{name}.{other}: {missing!r}; accepted: {', '.join(tree[other])}")
    for where, item in [("", tree), *((f"{section}.{name}.", item) for section in
                                      ("modalities", "volumes", "tasks", "variants")
                                      for name, item in tree.get(section, {}).items())]:
        _check_flags(f"{where}flags", item.get("flags", {}), where.startswith("variants."))
    for name, item in tree["volumes"].items():
        if item["modality"] != "CT" and "size" in item:
            raise ValueError(f"volumes.{name}: size is for CT; {item['modality']} volumes keep theirs")
    variants, baseline = _variants(tree["variants"])

    digests, cells = {}, []
    for volume, task, variant in itertools.product(tree["volumes"], tree["tasks"], variants):
        scan, problem, settings = tree["volumes"][volume], tree["tasks"][task], variants[variant]
        modality = scan["modality"]
        if (TASKS[problem["task"]] != modality or settings.get("modality", modality) != modality
                or volume not in problem.get("volumes", [volume]) or volume not in settings.get("volumes", [volume])
                or task not in settings.get("tasks", [task])):
            continue
        own = modalities.get(modality, {})
        flags = {"data": scan["path"], **tree.get("flags", {}), **own.get("flags", {}), **scan.get("flags", {}),
                 "task": problem["task"], "degree": problem.get("degree"), "recon-size": scan.get("size"),
                 **dict(zip(("slice-begin", "slice-end"), scan.get("slices", ()))),
                 **problem.get("flags", {}), **settings.get("flags", {})}
        entry = _file("entry", own.get("entry", ENTRIES[modality]), root)
        flags, identity = _resolve(flags, root, digests)
        cell = Cell(volume=volume, task=task, variant=variant, modality=modality, entry=entry, flags=flags,
                    identity=f"{entry.relative_to(root) if entry.is_relative_to(root) else entry} {identity}",
                    seeds=tuple(settings.get("seeds", tree["seeds"])), samples=settings.get("samples", samples),
                    against=settings["against"])
        if cell.samples > 1 and flags.get("sino-noise", "0") not in ("0", "0.0"):
            raise ValueError(f"variants.{variant}: {cell.samples} samples of a measurement with --sino-noise "
                             f"{flags['sino-noise']}: the seed draws that noise too, so the mean would be of several "
                             "measurements; accepted: samples without sino-noise")
        cells.append(cell)
    for where, names in (("volume", tree["volumes"]), ("task", tree["tasks"]), ("variant", variants)):
        for name in names:
            if all(getattr(cell, where) != name for cell in cells):
                raise ValueError(f"{where}s.{name}: nothing to run; no other part of the grid goes with it")
    keep = tuple(tree["keep"]) if "keep" in tree else None
    averaged = any(cell.samples > 1 for cell in cells)
    if keep is not None and averaged and not {"GT.nii.gz", "recon.nii.gz"} <= set(keep):
        raise ValueError("keep: GT.nii.gz and recon.nii.gz are needed for the mean of samples")
    return Grid(tuple(cells), baseline, keep)


def _check(where: str, tree, kinds: dict, required=()) -> None:
    if not SECTION[1](tree):
        raise ValueError(f"{where}: {tree!r}; accepted: a section with the keys {', '.join(kinds)}")
    for key, value in tree.items():
        if key not in kinds:
            raise ValueError(f"{where}: unknown key {key!r}; accepted: {', '.join(kinds)}")
        words, test = kinds[key]
        if not test(value):
            raise ValueError(f"{where}: {key}: {value!r}; accepted: {words}")
    for key in required:
        if key not in tree:
            raise ValueError(f"{where}: {key} is missing")


def _check_items(section: str, items: dict, kinds: dict, required=()) -> None:
    for name, item in items.items():
        if not TEXT[1](name):
            raise ValueError(f"{section}: the name {name!r}; accepted: a text (in quotes)")
        _check(f"{section}.{name}", item, kinds, required)


def _check_flags(where: str, flags: dict, of_variant: bool) -> None:
    for name, value in flags.items():
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]*", name):
            raise ValueError(f"{where}: {name!r}; accepted: a flag's name without the dashes before it")
        if name in SET_ELSEWHERE:
            raise ValueError(f"{where}: {name} is set by {SET_ELSEWHERE[name]}")
        if of_variant and name in MEASUREMENT_FLAGS:
            raise ValueError(f"{where}: {name} changes the measurement, which the variants share; accepted in the "
                             "flags of a task, a volume or the grid")
        if not FLAG_VALUE[1](value):
            raise ValueError(f"{where}: {name}: {value!r}; accepted: {FLAG_VALUE[0]}")


def _variants(items: dict) -> tuple[dict, str | None]:
    """One variant for every combination of the values of its sweep, and the name of the baseline."""
    variants = {}
    for name, item in items.items():
        sweep = item.get("sweep", {})
        for flag, values in sweep.items():
            if not FLAG_VALUES[1](values):
                raise ValueError(f"variants.{name}.sweep: {flag}: {values!r}; accepted: {FLAG_VALUES[0]}")
        _check_flags(f"variants.{name}.sweep", dict.fromkeys(sweep), of_variant=True)
        if sweep and item.get("baseline"):
            raise ValueError(f"variants.{name}: baseline: true with a sweep; accepted: one set of flags")
        for values in itertools.product(*sweep.values()):
            swept = dict(zip(sweep, values))
            suffix = "".join(f", {flag} {_text(value)}" for flag, value in swept.items())
            if name + suffix in variants:
                raise ValueError(f"variants.{name}: there are two variants {name + suffix!r}")
            variants[name + suffix] = item | {"flags": item.get("flags", {}) | swept, "suffix": suffix}
    marked = [name for name, item in variants.items() if item.get("baseline")]
    if len(marked) > 1:
        raise ValueError(f"variants: {' and '.join(marked)} are both baseline; accepted: one")
    baseline = marked[0] if marked else None
    for name, item in variants.items():
        against = item.get("against", baseline)
        if against is not None and against + item["suffix"] in variants:    # the same value of the same sweep
            against += item["suffix"]
        if against is not None and against not in variants:
            raise ValueError(f"variants.{name}: against: {against!r}; accepted: {', '.join(variants)}")
        item["against"] = None if against == name else against
    return variants, baseline


def _text(value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _file(flag: str, text: str, root: Path) -> Path:
    try:
        path = root / Path(string.Template(text).substitute(os.environ)).expanduser()
    except KeyError as error:
        raise ValueError(f"{flag}: {text}: the environment variable {error.args[0]} is not set") from None
    except ValueError:
        raise ValueError(f"{flag}: {text}: accepted are variables as ${{NAME}}, and $$ for a dollar sign") from None
    if not path.exists():
        raise ValueError(f"{flag}: {path}: no such file")
    return path


def _resolve(flags: dict, root: Path, digests: dict) -> tuple[dict, str]:
    """The flags as text, files as absolute paths; and as JSON with the content of the files instead."""
    flags = {name: _text(value) for name, value in flags.items() if value is not None}
    content = dict(flags)
    for name in flags.keys() & {"data", *FILE_FLAGS}:
        path = _file(name, flags[name], root)
        if path not in digests:
            digests[path] = content_digest(path)
        flags[name], content[name] = str(path), digests[path]
    return flags, json.dumps(content, sort_keys=True)
