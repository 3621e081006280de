"""Means and deviations of posterior samples: runs of one variant on one measurement that differ in their seeds."""
import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from utils.evaluation.grid import Cell, Grid
from utils.evaluation.records import Record, Records, folder_name
from utils.io.schema import read
from utils.io.yaml_file import read_yaml

SLICE_AXIS = {"ct": 0, "mr": 1}    # of [D, H, W], along which the prior's slices are stacked


@dataclass(frozen=True)
class Intensities:
    """What 0 and 1 stand for in the metrics of a run, in the input's units."""
    low: float
    high: float


def mean_key(cell: Cell) -> str:
    """Names what the mean of a cell's samples depends on."""
    return hashlib.sha256(" ".join(map(cell.key, cell.sample_seeds())).encode()).hexdigest()[:16]


def mean_made(cell: Cell, records: Records) -> Record | None:
    """The record of the cell's mean, where its volumes are there."""
    key = mean_key(cell)
    record = records.done(key)
    return record if record and (records.folder(key) / "std.nii.gz").exists() else None


def make_means(grid: Grid, records: Records) -> None:
    """Average the samples of every cell that asks for it and has them all."""
    for cell in grid.cells:
        keys = [cell.key(seed) for seed in cell.sample_seeds()]
        runs = [run for run in map(records.done, keys) if run]
        if not keys or mean_made(cell, records) or len(runs) < len(keys):
            continue
        key = mean_key(cell)
        record = Record(state="running", name=f"{cell}, mean of {len(keys)}", folder=folder_name("means", cell, key))
        target = records.begin(key, record)
        try:
            metrics = average_samples([records.result(each) for each in keys], target, cell.modality,
                                      runs[0].metrics["recon"])
            record = replace(record, state="done", metrics={"recon": metrics},
                             seconds=sum(run.seconds or 0 for run in runs),
                             peak_memory_gb=max(run.peak_memory_gb or 0 for run in runs))
        except (ValueError, OSError) as error:
            record = replace(record, state="failed", error=" ".join(str(error).split()))
        records.write(key, record)
        print(f"{record.name}: {record.summary}", flush=True)


def average_samples(folders: list[Path], target: Path, modality: str, first: dict) -> dict:
    """Mean and voxel-wise sample standard deviation of the ``recon`` of several runs of one measurement.

    One sample is in memory at a time (Welford 1962, Technometrics 4, 419-420).

    Args:
        folders: Those of the runs; the first one's args.yaml says which intensities are 0 and 1 in the metrics.
        target: Gets ``mean.nii.gz`` and ``std.nii.gz`` in the input's units and place.
        modality: "ct" or "mr".
        first: The metrics that the first run reported.

    Returns:
        The metrics of the mean, as `utils.run.metrics.evaluate` gives them for a run.

    Raises:
        ValueError: When the first run's metrics do not come out again here, since the figures of the mean were then not
            comparable.
    """
    # Heavy, and only needed here: runs are started from a small process, as its size counts into theirs.
    import numpy as np
    import torch

    from utils.io.nifti import write_volume
    from utils.io.read import read_volume
    from utils.run.metrics import evaluate

    low, high = intensities(folders[0] / "args.yaml")

    def metrics(array):
        return evaluate(*(torch.from_numpy(((x - low) / (high - low)).astype(np.float32)) for x in (array, truth)),
                        SLICE_AXIS[modality], sample.direction)

    truth = read_volume(folders[0] / "GT.nii.gz").array
    mean, squares = np.zeros(truth.shape), np.zeros(truth.shape)
    for count, folder in enumerate(folders, 1):
        sample = read_volume(folder / "recon.nii.gz")
        if count == 1:
            found = metrics(sample.array)
            for name in ("psnr", "ssim", "inter_slice_error"):
                if first.get(name) is not None and not np.isclose(found[name], first[name], rtol=1e-3):
                    raise ValueError(f"{folder}: {name} of recon.nii.gz is {found[name]:g}, its metrics.json says "
                                     f"{first[name]:g}; the mean would not be comparable")
        step = sample.array - mean
        mean += step / count
        squares += step * (sample.array - mean)
    write_volume(target / "mean.nii.gz", sample.with_array(mean))
    write_volume(target / "std.nii.gz", sample.with_array(np.sqrt(squares / (count - 1))))
    return metrics(mean.astype(np.float32))


def intensities(path: Path) -> tuple[float, float]:
    """(low, high) of a run's args.yaml."""
    tree = read_yaml(path)
    try:
        found = read(Intensities, tree.get("intensities") if isinstance(tree, dict) else None, "intensities")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return found.low, found.high
