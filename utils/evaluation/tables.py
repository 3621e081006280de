"""What an evaluation makes of its runs: the mean of posterior samples, and the tables."""
import csv
import json
from pathlib import Path
from statistics import fmean, stdev

from utils.io.files import complete_file
from utils.evaluation.grid import Cell, Grid

SLICE_AXIS = {"CT": 0, "MR": 1}    # of [D, H, W], along which the prior's slices are stacked

BASELINES = {"FBP-FV": "FDK of all views", "FBP-LV": "FDK", "IR": "SIRT", "ATy": "pseudo-inverse"}
VIEWS = ("axial", "coronal", "sagittal")

# The tables of results.md: a metric's name, title and digits; those of the first with the differences.
MAIN = {"psnr": ("PSNR dB", 2), "ssim": ("SSIM", 4), "inter_slice_error": ("inter-slice error", 5),
        "sharpness": ("sharpness", 3),
        "seconds": ("seconds", 0), "peak_memory_gb": ("peak memory GB", 2)}
BY_VIEW = {f"{view}_{metric}": (f"{metric.upper()} {view}", digits)
           for metric, digits in (("psnr", 2), ("ssim", 4)) for view in VIEWS}
DIFFERENCES = ("psnr", "ssim", "inter_slice_error")


# Posterior samples --------------------------------------------------------------------------------

def average_samples(folders: list, target: Path, modality: str, data: Path, first: dict) -> dict:
    """Mean and voxel-wise sample standard deviation of the ``recon`` of several runs of one measurement.

    ``folders`` are those of the runs; ``target`` gets ``mean.nii.gz`` and ``std.nii.gz`` in the input's units and
    place. One sample is in memory at a time (Welford 1962, Technometrics 4, 419-420). Returns the metrics of the
    mean, as `utils.run.metrics.evaluate` gives them for a run: in the prior's unit range, which is `CT_WINDOW` for CT
    and the range of the whole input file ``data`` for MRI. ``first`` are the metrics that the first run reported;
    ValueError when they do not come out again here, since the figures of the mean were then not comparable.
    """
    # Heavy, and only needed here: runs are started from a small process, as its size counts into theirs.
    import numpy as np
    import torch

    from utils.run.metrics import evaluate
    from models.window import CT_WINDOW
    from utils.io.nifti import write_volume
    from utils.io.read import read_volume

    if modality == "CT":
        low, high = CT_WINDOW
    else:
        scan = read_volume(data).array
        low, high = float(scan.min()), float(scan.max())

    def metrics(array):
        return evaluate(*(torch.from_numpy(((x - low) / (high - low)).astype(np.float32)) for x in (array, truth)),
                        SLICE_AXIS[modality])

    truth = read_volume(folders[0] / "GT.nii.gz").array
    for count, folder in enumerate(folders, 1):
        sample = read_volume(folder / "recon.nii.gz")
        if count == 1:
            found = metrics(sample.array)
            for name in ("psnr", "ssim", "inter_slice_error"):
                if first[name] is not None and not np.isclose(found[name], first[name], rtol=1e-3):
                    raise ValueError(f"{folder}: {name} of recon.nii.gz is {found[name]:g}, its metrics.json says "
                                     f"{first[name]:g}; the mean would not be comparable")
            mean, squares = np.zeros(truth.shape), np.zeros(truth.shape)
        step = sample.array - mean
        mean += step / count
        squares += step * (sample.array - mean)
    target.mkdir(parents=True, exist_ok=True)
    write_volume(target / "mean.nii.gz", sample.with_array(mean))
    write_volume(target / "std.nii.gz", sample.with_array(np.sqrt(squares / (count - 1))))
    return metrics(mean.astype(np.float32))


# The tables ---------------------------------------------------------------------------------------

def tabulate(grid: Grid, done, mean_made) -> list[dict]:
    """The rows: for every volume and task the baselines of its measurement, the variants, the means of samples.

    ``done`` gives the record of a run by its key, ``mean_made`` that of a cell's mean, both None where there is
    none. A row has ``row`` (its title), ``kind`` (baseline, variant or mean), ``runs``, ``against`` (the variant
    compared with), ``pairs``, ``folder`` (of a mean), and what `statistics` gives.
    """
    groups = {}
    for cell in grid.cells:
        groups.setdefault((cell.volume, cell.task), []).append(cell)
    rows = []
    for (volume, task), cells in groups.items():
        for row in _group_rows(cells, grid.baseline, done, mean_made):
            rows.append({"volume": volume, "task": task, **row})
    return rows


def _group_rows(cells: list[Cell], baseline: str | None, done, mean_made):
    runs = {cell.variant: {seed: record for seed in (*cell.seeds, *cell.sample_seeds())
                           if (record := done(cell.key(seed)))} for cell in cells}
    values = {variant: {seed: figures(record) for seed, record in own.items()} for variant, own in runs.items()}
    measured = {}    # the baselines of the measurement, for every seed from the first variant that ran it
    for cell in cells:
        for seed in cell.seeds:
            for name in runs[cell.variant][seed]["metrics"] if seed in runs[cell.variant] else ():
                if name != "recon":
                    measured.setdefault(name, {}).setdefault(seed, figures(runs[cell.variant][seed], name))
    for name, own in measured.items():
        yield _row("baseline", BASELINES.get(name, name), own, baseline, values)
    for cell in cells:
        own = {seed: values[cell.variant][seed] for seed in cell.seeds if seed in values[cell.variant]}
        yield _row("variant", cell.variant, own, cell.against, values)
        if record := mean_made(cell) if cell.sample_seeds() else None:
            mean = figures(record)
            row = _row("mean", f"{cell.variant}, mean of {cell.samples} samples",
                       dict.fromkeys(cell.sample_seeds(), mean), cell.against, values)
            # One volume, compared with the runs of all its seeds: it has no spread of its own.
            yield row | {"folder": record["folder"]} | {f"{metric}_spread": None for metric in (*MAIN, *BY_VIEW)}


def _row(kind: str, title: str, own: dict, against: str | None, values: dict) -> dict:
    reference = values.get(against, {})
    pairs = [(own[seed], reference[seed]) for seed in own if seed in reference]
    return {"row": title, "kind": kind, "runs": len(own), "against": against if pairs else "", "pairs": len(pairs),
            "folder": "", **statistics(list(own.values()), pairs)}


def figures(record: dict, name: str = "recon") -> dict:
    """The metrics of one volume of a run, flat; of its reconstruction also what the run took."""
    metrics = record["metrics"][name]
    values = {key: metrics.get(key) for key in (*DIFFERENCES, "sharpness")}
    values |= {f"{view}_{key}": metrics.get(view, {}).get(key) for key in ("psnr", "ssim") for view in VIEWS}
    return values | ({key: record[key] for key in ("seconds", "peak_memory_gb")} if name == "recon" else {})


def statistics(own: list, pairs: list) -> dict:
    """Mean and sample standard deviation of every metric, and of the differences within ``pairs``."""
    result = {}
    for metric in (*MAIN, *BY_VIEW):
        numbers = [values[metric] for values in own if values.get(metric) is not None]
        differences = [ours[metric] - theirs[metric] for ours, theirs in pairs
                       if ours.get(metric) is not None and theirs.get(metric) is not None]
        for suffix, sample in (("", numbers), ("_difference", differences)):
            result[f"{metric}{suffix}"] = fmean(sample) if sample else None
            result[f"{metric}{suffix}_spread"] = stdev(sample) if len(sample) > 1 else None
    return result


def write_results(output: Path, name: str, grid: Grid, rows: list, known: dict, failures: list) -> None:
    """Write results.json, results.csv and results.md; ``known`` has the records of all runs by their keys."""
    runs = [{"volume": cell.volume, "task": cell.task, "variant": cell.variant, "seed": seed,
             **known[cell.key(seed)]} for cell in grid.cells
            for seed in sorted({*cell.seeds, *cell.sample_seeds()}) if cell.key(seed) in known]
    with complete_file(output / "results.json") as partial:
        partial.write_text(json.dumps({"grid": name, "baseline": grid.baseline, "rows": rows, "runs": runs,
                                       "failures": failures}, indent=2) + "\n", encoding="utf-8")
    with complete_file(output / "results.csv") as partial, open(partial, "w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    programs = {run["program"] for run in runs if run["state"] == "done"}
    with complete_file(output / "results.md") as partial:
        partial.write_text(markdown(name, grid.baseline, rows, failures, len(programs)), encoding="utf-8")


def markdown(name: str, baseline: str | None, rows: list, failures: list, programs: int) -> str:
    lines = [f"# {name}", "", "Mean ± sample standard deviation over the runs (one a seed)."]
    if any(row["against"] for row in rows):
        lines[-1] += (" Δ: paired difference, of the same volume, task and seed, "
                      + (f"to **{baseline}** where the row names no other variant." if baseline else
                         "to the variant that the row names."))
    lines[-1] += (" Seconds and peak memory (the host's, not a GPU's) are of a whole process, with start-up and "
                  "baselines; seconds of a mean of samples are those of all its runs.")
    if programs > 1:
        lines += ["", f"**The runs were made by {programs} versions of the source code.**"]
    for volume, task in dict.fromkeys((row["volume"], row["task"]) for row in rows):
        own = [row for row in rows if (row["volume"], row["task"]) == (volume, task)]
        lines += ["", f"## {volume}, {task}"]
        for metrics, differences in ((MAIN, DIFFERENCES), (BY_VIEW, ())):
            titles = ["", "runs"]
            for metric, (title, _) in metrics.items():
                titles += [title] + ["Δ"] * (metric in differences)
            lines += ["", f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
            for row in own:
                other = row["against"] if row["against"] != baseline else ""
                parts = [row["row"].replace("|", "\\|") + f" (Δ to {other})" * bool(other), str(row["runs"])]
                for metric, (_, digits) in metrics.items():
                    parts.append(shown(row, metric, f".{digits}f"))
                    if metric in differences:
                        parts.append(shown(row, f"{metric}_difference", f"+.{digits}f"))
                lines.append(f"| {' | '.join(parts)} |")
        lines += [f"\n{row['row']}: `{row['folder']}`" for row in own if row["folder"]]
    if failures:
        lines += ["", "## Failed, tried again at the next start", "", *(f"- {failure}" for failure in failures)]
    return "\n".join(lines) + "\n"


def shown(row: dict, name: str, form: str) -> str:
    if row[name] is None:
        return "–"
    spread = row[f"{name}_spread"]
    return f"{row[name]:{form}}" + (f" ± {spread:{form.lstrip('+')}}" if spread is not None else "")
