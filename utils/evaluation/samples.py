"""Means and deviations of posterior samples: runs of one variant on one measurement that differ in their seeds."""
import hashlib
from pathlib import Path

from utils.evaluation.grid import Cell, Grid
from utils.evaluation.records import Record, Records, folder_name

SLICE_AXIS = {"ct": 0, "mr": 1}    # of [D, H, W], along which the prior's slices are stacked


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
        key, name = mean_key(cell), f"{cell}, mean of {len(keys)}"
        settings = {"name": name, "folder": folder_name("means", cell, key)}
        target = records.begin(key, Record(state="running", **settings))
        try:
            metrics = average_samples([records.result(each) for each in keys], target, cell, runs[0].metrics["recon"])
            record = Record(state="done", **settings, metrics={"recon": metrics},
                            seconds=sum(run.seconds or 0 for run in runs),
                            peak_memory_gb=max(run.peak_memory_gb or 0 for run in runs))
        except (ValueError, OSError) as error:
            record = Record(state="failed", **settings, error=" ".join(str(error).split()))
        records.write(key, record)
        print(f"{name}: {record.summary}", flush=True)


def average_samples(folders: list[Path], target: Path, cell: Cell, first: dict) -> dict:
    """Mean and voxel-wise sample standard deviation of the ``recon`` of several runs of one measurement.

    One sample is in memory at a time (Welford 1962, Technometrics 4, 419-420).

    Args:
        folders: Those of the runs.
        target: Gets ``mean.nii.gz`` and ``std.nii.gz`` in the input's units and place.
        cell: The runs'; its input says what the unit range of the metrics is: `CT_WINDOW` for CT, the
            `mr_window` of the whole input for MR.
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

    from models.window import CT_WINDOW
    from utils.io.intensity import mr_window
    from utils.io.nifti import write_volume
    from utils.io.read import read_volume
    from utils.run.metrics import evaluate

    if cell.modality == "ct":
        low, high = CT_WINDOW
    else:
        scan = read_volume(cell.flags["data"], series=cell.flags.get("series")).array
        low, high = mr_window(scan, cell.flags.get("window", "percentile"))

    def metrics(array):
        return evaluate(*(torch.from_numpy(((x - low) / (high - low)).astype(np.float32)) for x in (array, truth)),
                        SLICE_AXIS[cell.modality])

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
