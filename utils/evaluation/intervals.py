"""Calibrate the 90 % interval of samples on an evaluation's means, and check it on those of other volumes.

    python -m utils.evaluation.intervals GRID.yaml FOLDER [--check GRID.yaml FOLDER] [--write configs/intervals.yaml]

The means with equal settings, whatever their volume, are calibrated together. What the interval covers is
measured on volumes that its factors do not come from: every volume with the factors of the others, and then those of
--check with the factors of all.
"""
import argparse
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from utils.cli.messages import input_errors
from utils.cli.types import existing_file, existing_path
from utils.evaluation.grid import Cell, read_grid
from utils.evaluation.records import Records
from utils.evaluation.samples import intensities, mean_key, mean_made
from utils.io.files import ROOT, complete_file
from utils.io.read import read_volume
from utils.io.yaml_file import read_yaml, yaml_text
from utils.run.interval import Calibration, calibrated, coverage, half_width, settings_of

# Of the mean, in the unit range. CT: air and lung, fat (from -610 HU), soft tissue (-90), bone (170).
EDGES = {"ct": (0.15, 0.35, 0.45), "mr": (0.15,)}


@dataclass(frozen=True)
class Case:
    """A mean of samples, and what it is compared with."""
    cell: Cell
    settings: dict[str, Any]
    volumes: tuple[torch.Tensor, torch.Tensor, torch.Tensor]    # mean, standard deviation, truth, in the unit range


def read_cases(grid: Path, output: Path) -> list[Case]:
    """The means of an evaluation that are there.

    Raises:
        ValueError: A file is not what an evaluation writes.
        OSError: One cannot be read.
    """
    records, found = Records(output), []
    for cell in read_grid(grid, ROOT).cells:
        if not cell.sample_seeds() or not mean_made(cell, records):
            continue
        sample, mean = records.result(cell.key(cell.sample_seeds()[0])), records.folder(mean_key(cell))
        low, high = intensities(sample / "args.yaml")
        files = {mean / "mean.nii.gz": low, mean / "std.nii.gz": 0.0, sample / "GT.nii.gz": low}
        volumes = [torch.from_numpy((read_volume(path).array - least) / (high - low)).float()
                   for path, least in files.items()]
        settings = settings_of(read_yaml(sample / "args.yaml")) | {"samples": cell.samples}
        found.append(Case(cell, settings, (volumes[0], volumes[1], volumes[2])))
    if not found:
        raise ValueError(f"{output}: no means of samples of {grid} are there; accepted: the folder of its evaluation, "
                         "of variants with `samples`")
    return found


def calibrate(cases: list[Case], measured: str = "") -> Calibration:
    """The calibration of cases with equal settings."""
    edges = EDGES[cases[0].cell.modality]
    factors = calibrated([case.volumes for case in cases], edges)
    return Calibration(settings=cases[0].settings, edges=edges, measured=measured,
                       factors=tuple(round(factor, 2) for factor in factors))


def covered(case: Case, calibration: Calibration) -> dict[str, float | None]:
    """What the interval of a case holds the truth of."""
    mean, std, truth = case.volumes
    return coverage(mean, half_width(mean, std, calibration), truth)


def calibrate_all(cases: list[Case], checked: list[Case]) -> dict[str, Calibration]:
    """A calibration for every group of cases with equal settings, after saying what they cover elsewhere."""
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(yaml_text(case.settings), []).append(case)
    found = {}
    for own in groups.values():
        tasks, volumes = (list(dict.fromkeys(getattr(case.cell, what) for case in own)) for what in ("task", "volume"))
        name = f"{own[0].cell.modality}, {' and '.join(tasks)}, {own[0].cell.variant}"
        if len(volumes) < 2:
            print(f"{name}: {volumes[0]} alone; two volumes or more are needed")
            continue
        elsewhere = []
        for case in own:
            others = calibrate([other for other in own if other.cell.volume != case.cell.volume])
            elsewhere.append(said(f"{case.cell.volume}, {case.cell.task}", covered(case, others)))
        calibration = calibrate(own)
        measured = f"on {', '.join(volumes)}, {' and '.join(tasks)}; by the others' factors {_range(elsewhere)}"
        outside = [said(f"{case.cell.volume}, {case.cell.task} (checked)", covered(case, calibration))
                   for case in checked if case.settings == calibration.settings]
        if outside:
            measured += f"; of other volumes {_range(outside)}"
        print(f"{name}: factors {', '.join(map(str, calibration.factors))}")
        found[name] = replace(calibration, measured=measured)
    return found


def said(name: str, parts: dict[str, float | None]) -> dict[str, float | None]:
    """Print what a case covers; returns it."""
    texts = [f"{where} {100 * part:.1f} %" for where, part in parts.items() if part is not None]
    print(f"  {name:40}{', '.join(texts)}")
    return parts


def _range(parts: list[dict[str, float | None]]) -> str:
    """Least and most of what cases cover, in words."""
    texts = []
    for where in ("whole", "foreground"):
        known = [100 * part for each in parts if (part := each[where]) is not None]
        texts.append(f"{min(known):.0f} to {max(known):.0f} % of the {'voxels' if where == 'whole' else where}")
    return " and ".join(texts) + " were covered"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m utils.evaluation.intervals", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", type=existing_file, metavar="GRID.yaml")
    parser.add_argument("folder", type=existing_path, metavar="FOLDER", help="of the evaluation of this grid")
    parser.add_argument("--check", nargs=2, type=existing_path, metavar=("GRID.yaml", "FOLDER"),
                        help="another evaluation, of volumes that nothing is calibrated on")
    parser.add_argument("--write", type=Path, metavar="FILE", help="the calibrations, as runs read them")
    args = parser.parse_args(argv)
    with input_errors():
        found = calibrate_all(read_cases(args.grid, args.folder), read_cases(*args.check) if args.check else [])
    if args.write:
        with complete_file(args.write) as partial:
            partial.write_text(yaml_text({name: asdict(each) for name, each in found.items()}), encoding="utf-8")


if __name__ == "__main__":
    main()
