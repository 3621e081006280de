"""The grid of runs that an evaluation's YAML asks for, checked."""
import hashlib
import itertools
import json
import os
import re
import string
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

from utils.cli import choices
from utils.cli.flags import flag_groups
from utils.cli.settings import preset_sections
from utils.cli.types import existing_file, existing_path
from utils.io.files import content_digest
from utils.io.schema import Check, is_line, nearest, read
from utils.io.yaml_file import read_yaml, short

ENTRIES = {"CT": "recon_CBCT.py", "MR": "recon_MRI_ZSR.py"}
TASKS = {choice.name: choices.MODALITIES[choice.modalities[0]] for choice in choices.TASKS}     # and their modality

SET_ELSEWHERE = {"data": "a volume's path", "slice-begin": "a volume's slices", "slice-end": "a volume's slices",
                 "recon-size": "a volume's size", "pixel-size": "a volume's size",
                 "task": "a task's task", "degree": "a task's degree",
                 "seed": "seeds", "output-dir": "--output", "output": "--output",
                 "resume": "no grid: it is for a single run", "from": "no grid: it is for a single run"}
OF_THE_MEASUREMENT = ("data", "scanner")        # groups of flags; what they change, the variants share


# What stands in a file ----------------------------------------------------------------------------

def _different(values: list) -> bool:
    return len({repr(value) for value in values}) == len(values) > 0


Line = Annotated[str, Check("a text of one line", is_line)]
Names = Annotated[tuple[str, ...], Check("a list of different names", _different)]
Seeds = Annotated[tuple[int, ...], Check("a list of different whole numbers of 0 or more",
                                         lambda seeds: _different(seeds) and min(seeds) >= 0)]
Count = Annotated[int, Check("a whole number of 1 or more", lambda count: count > 0)]
Slices = Annotated[tuple[int, ...], Check("[begin, end], whole numbers with begin below end",
                                          lambda slices: len(slices) == 2 and 0 <= slices[0] < slices[1])]
FlagValue = Annotated[bool | float | Line | None,
                      Check("a number, a text of one line, true or false, or null (flag left out)", lambda value: True)]
Flags = dict[str, FlagValue]
Sweep = dict[str, Annotated[tuple[FlagValue, ...], Check("a list of different values", _different)]]


@dataclass(frozen=True, kw_only=True)
class ModalityItem:
    entry: Line | None = None       # the program to run
    flags: Flags = field(default_factory=dict)


@dataclass(frozen=True)
class Modalities:
    CT: ModalityItem = field(default_factory=ModalityItem)
    MR: ModalityItem = field(default_factory=ModalityItem)


@dataclass(frozen=True, kw_only=True)
class VolumeItem:
    modality: Literal["CT", "MR"]
    path: Line
    slices: Slices | None = None
    size: Count | None = None       # in-plane, of CT
    flags: Flags = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TaskItem:
    task: Annotated[str, Check(" or ".join(TASKS), TASKS.__contains__)]
    degree: Count | None = None
    flags: Flags = field(default_factory=dict)
    volumes: Names | None = None    # None: all of its modality


@dataclass(frozen=True, kw_only=True)
class VariantItem:
    flags: Flags = field(default_factory=dict)
    baseline: bool = False          # what the others are compared with
    against: Line | None = None     # another variant to compare with
    samples: Count | None = None    # how many posterior samples to average
    sweep: Sweep = field(default_factory=dict)      # a variant for every combination of these values
    seeds: Seeds | None = None
    modality: Literal["CT", "MR"] | None = None
    tasks: Names | None = None
    volumes: Names | None = None


@dataclass(frozen=True, kw_only=True)
class GridFile:
    volumes: dict[str, VolumeItem]
    tasks: dict[str, TaskItem]
    variants: dict[str, VariantItem]
    seeds: Seeds
    flags: Flags = field(default_factory=dict)
    modalities: Modalities = field(default_factory=Modalities)
    keep: Names | None = None       # which files of a run to keep besides settings and metrics; None: all


# What it asks for ---------------------------------------------------------------------------------

@dataclass(frozen=True, kw_only=True)
class Cell:
    """A variant on a volume and a task: a row of the table, and one run for every seed."""

    volume: str
    task: str
    variant: str
    modality: str           # ct or mr
    entry: Path             # the program to run
    flags: dict             # its flags without dashes -> text, all but seed and output-dir
    identity: str           # of program and flags, with the content of files and presets instead of their names
    seeds: tuple
    samples: int            # how many posterior samples to average; 1: no mean, as of noisy measurements
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
    keep: tuple | None      # as in `GridFile`


def read_grid(path: str | Path, root: Path, samples: int = 1) -> Grid:
    """Read and check a grid.

    Args:
        path: The YAML file; relative paths in it start at ``root``, ``${NAME}`` is taken from the environment.
        root: The repository.
        samples: How many posterior samples to average, of the variants that don't say themselves.

    Raises:
        ValueError: In one line that names the file, the key and what is accepted.
        OSError: When a file cannot be read.
    """
    tree = read_yaml(path)
    try:
        return _grid(read(GridFile, tree), root, samples)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _grid(file: GridFile, root: Path, samples: int) -> Grid:
    _check(file)
    variants, baseline = _variants(file.variants)
    known = {modality: _flags_of(modality) for modality in ENTRIES}
    digests: dict = {}
    cells = [_cell(file, names, item, known, root, samples, digests) for names, item in _combinations(file, variants)]
    for where, wanted in (("volume", file.volumes), ("task", file.tasks), ("variant", variants)):
        for name in wanted:
            if all(getattr(cell, where) != name for cell in cells):
                raise ValueError(f"{where}s.{name}: nothing to run; no other part of the grid goes with it")
    for name, item in variants.items():
        number = item.samples or samples
        if number > 1 and all(cell.samples == 1 for cell in cells if cell.variant == name):
            raise ValueError(f"variants.{name}: {number} samples of measurements with --sino-noise: the seed draws "
                             "that noise too, so the mean would be of several measurements; accepted: a task without")
    if file.keep is not None and any(cell.samples > 1 for cell in cells) and not {"GT.nii.gz", "recon.nii.gz"} <= set(
            file.keep):
        raise ValueError("keep: GT.nii.gz and recon.nii.gz are needed for the mean of samples")
    return Grid(tuple(cells), baseline, file.keep)


def _check(file: GridFile) -> None:
    """What can be said about the file without the programs that it runs."""
    for section in ("volumes", "tasks", "variants"):
        if not getattr(file, section):
            raise ValueError(f"{section}: {{}}; accepted: a section with one item or more")
    for section, references in (("tasks", ("volumes",)), ("variants", ("tasks", "volumes"))):
        for name, item in getattr(file, section).items():
            for other in references:
                for unknown in set(getattr(item, other) or ()) - set(getattr(file, other)):
                    raise ValueError(f"{section}.{name}.{other}: {short(unknown)}; "
                                     f"{nearest(unknown, getattr(file, other))}")
    for name, volume in file.volumes.items():
        if volume.modality != "CT" and volume.size is not None:
            raise ValueError(f"volumes.{name}.size: it is for CT; {volume.modality} volumes keep theirs")


def _combinations(file: GridFile, variants: dict) -> Iterator[tuple]:
    """(volume, task, variant), and the item of the variant, of all that go together."""
    for volume, task, variant in itertools.product(file.volumes, file.tasks, variants):
        problem, item, modality = file.tasks[task], variants[variant], file.volumes[volume].modality
        if (TASKS[problem.task] == modality == (item.modality or modality) and volume in (problem.volumes or [volume])
                and volume in (item.volumes or [volume]) and task in (item.tasks or [task])):
            yield (volume, task, variant), item


def _cell(file: GridFile, names: tuple, item: VariantItem, known: dict, root: Path, samples: int,
          digests: dict) -> Cell:
    volume, task, variant = names
    scan, problem = file.volumes[volume], file.tasks[task]
    own, known = getattr(file.modalities, scan.modality), known[scan.modality]
    flags: dict = {"data": scan.path}
    for where, more in (("flags", file.flags), (f"modalities.{scan.modality}.flags", own.flags),
                        (f"volumes.{volume}.flags", scan.flags), (f"tasks.{task}.flags", problem.flags),
                        (f"variants.{variant}.flags", item.flags)):
        _check_flags(where, more, known, own.entry is None)
        flags |= more
    begin, end = scan.slices or (None, None)
    flags |= {"task": problem.task, "degree": problem.degree, "recon-size": scan.size, "slice-begin": begin,
              "slice-end": end}
    entry = _file("entry", own.entry or ENTRIES[scan.modality], root)
    flags, content = _resolve(flags, known, root, None if own.entry else scan.modality.lower(), digests)
    number = item.samples or samples
    if flags.get("sino-noise", "0") not in ("0", "0.0"):
        number = 1      # the seed draws that noise too, so that a mean would be of several measurements
    return Cell(volume=volume, task=task, variant=variant, modality=scan.modality.lower(), entry=entry, flags=flags,
                identity=f"{entry.relative_to(root) if entry.is_relative_to(root) else entry} {content}",
                seeds=item.seeds or file.seeds, samples=number, against=item.against)


def _variants(items: dict) -> tuple[dict, str | None]:
    """One variant for every combination of the values of its sweep, and the name of the baseline."""
    variants, suffixes = {}, {}
    for name, item in items.items():
        if item.sweep and item.baseline:
            raise ValueError(f"variants.{name}: baseline: true with a sweep; accepted: one set of flags")
        for values in itertools.product(*item.sweep.values()):
            swept = dict(zip(item.sweep, values))
            suffix = "".join(f", {flag} {_text(value)}" for flag, value in swept.items())
            if name + suffix in variants:
                raise ValueError(f"variants.{name}: there are two variants {name + suffix!r}")
            variants[name + suffix], suffixes[name + suffix] = replace(item, flags=item.flags | swept), suffix
    marked = [name for name, item in variants.items() if item.baseline]
    if len(marked) > 1:
        raise ValueError(f"variants: {' and '.join(marked)} are both baseline; accepted: one")
    baseline = marked[0] if marked else None
    for name, item in variants.items():
        against = item.against or baseline
        if against is not None and against + suffixes[name] in variants:    # the same value of the same sweep
            against += suffixes[name]
        if against is not None and against not in variants:
            raise ValueError(f"variants.{name}.against: {against!r}; {nearest(against, variants)}")
        variants[name] = replace(item, against=None if against == name else against)
    return variants, baseline


# Flags --------------------------------------------------------------------------------------------

def _flags_of(modality: str) -> dict[str, tuple]:
    """The flags of the modality's program by their names without dashes: the group of each, and its argparse type."""
    return {flag.name: (group, flag.kind) for group, flags in flag_groups(modality.lower()).items() for flag in flags}


def _check_flags(where: str, flags: dict, known: dict, all_known: bool) -> None:
    """Refuse flags that the program has not (unless it is one of the user's own), or that are not for this place."""
    for name, value in flags.items():
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]*", name) or (all_known and name not in known):
            raise ValueError(f"{where}.{name}: unknown flag; {nearest(name.lstrip('-'), known)}")
        if name in SET_ELSEWHERE:
            raise ValueError(f"{where}.{name}: set by {SET_ELSEWHERE[name]}")
        group, _ = known.get(name, (None, None))
        if where.startswith("variants.") and group in OF_THE_MEASUREMENT and name != "projector":
            raise ValueError(f"{where}.{name}: it changes the measurement, which the variants share; accepted in the "
                             "flags of a task, a volume or the grid")
        if name == "noise-control" and value is None:
            raise ValueError(f"{where}.{name}: null, which leaves the flag out, so that noise is SLERP; write "
                             '"None", in quotes, for independent noise')


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _file(flag: str, text: str, root: Path) -> Path:
    try:
        path = root / Path(string.Template(text).substitute(os.environ)).expanduser()
    except KeyError as error:
        raise ValueError(f"{flag}: {text}: the environment variable {error.args[0]} is not set") from None
    except (ValueError, RuntimeError):      # RuntimeError: ~ of somebody who has no home
        raise ValueError(f"{flag}: {text}: accepted are variables as ${{NAME}}, and $$ for a dollar sign") from None
    if not os.path.exists(path):
        raise ValueError(f"{flag}: {path}: no such file")
    return path


def _resolve(flags: dict, known: dict, root: Path, modality: str | None, digests: dict) -> tuple[dict, str]:
    """The flags as text, files as absolute paths; and as JSON with the content of files and presets instead.

    ``modality`` says whose presets; None: the program is the user's own. ``digests`` keeps what was read.
    """
    flags = {name: _text(value) for name, value in flags.items() if value is not None}
    content = dict(flags)
    for name in flags:
        if name in known and known[name][1] in (existing_file, existing_path):
            path = _file(name, flags[name], root)
            if path not in digests:
                digests[path] = content_digest(path)
            flags[name], content[name] = str(path), digests[path]
    if modality and "preset" in flags:
        preset = modality, flags["preset"]
        if preset not in digests:
            digests[preset] = [section[1:] for section in preset_sections(*preset, read_yaml)]
        content["preset"] = digests[preset]
    return flags, json.dumps(content, sort_keys=True)
