"""The tables of an evaluation: statistics over its runs, as JSON, CSV and Markdown."""
import csv
import html
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict
from statistics import fmean, stdev

from utils.evaluation.grid import Cell, Grid
from utils.evaluation.records import METRICS, VIEWS, Record, Records
from utils.io.files import complete_file

BASELINES = {"FBP-FV": "FDK of all views", "FBP-LV": "FDK", "IR": "SIRT", "ATy": "pseudo-inverse"}

# The tables of results.md: a metric's name, title and digits; those of the first with the differences.
MAIN = {"psnr": ("PSNR dB", 2), "ssim": ("SSIM", 4), "inter_slice_error": ("inter-slice error", 5),
        "sharpness": ("sharpness", 3),
        "seconds": ("seconds", 0), "peak_memory_gb": ("peak memory GB", 2)}
BY_VIEW = {f"{view}_{metric}": (f"{metric.upper()} {view}", digits)
           for metric, digits in (("psnr", 2), ("ssim", 4)) for view in VIEWS}
DIFFERENCES = ("psnr", "ssim", "inter_slice_error")


def tabulate(grid: Grid, done: Callable[[str], Record | None],
             mean_made: Callable[[Cell], Record | None]) -> list[dict]:
    """The rows: for every volume and task the baselines of its measurement, the variants, the means of samples.

    Args:
        grid: What was to be run.
        done: Gives the record of a run by its key, None where there is none.
        mean_made: Gives the record of a cell's mean.

    Returns:
        Rows with ``row`` (its title), ``kind`` (baseline, variant or mean), ``runs``, ``against`` (the variant compared
        with), ``pairs``, ``folder`` (of a mean), and what `statistics` gives.
    """
    groups: dict[tuple, list[Cell]] = {}
    for cell in grid.cells:
        groups.setdefault((cell.volume, cell.task), []).append(cell)
    rows = []
    for (volume, task), cells in groups.items():
        for row in _group_rows(cells, grid.baseline, done, mean_made):
            rows.append({"volume": volume, "task": task, **row})
    return rows


def _group_rows(cells: list[Cell], baseline: str | None, done: Callable, mean_made: Callable) -> Iterator[dict]:
    runs = {cell.variant: {seed: record for seed in (*cell.seeds, *cell.sample_seeds())
                           if (record := done(cell.key(seed)))} for cell in cells}
    values = {variant: {seed: figures(record) for seed, record in own.items()} for variant, own in runs.items()}
    # The baselines of the measurement, for every seed from the first variant that ran it.
    measured: dict[str, dict] = {}
    for cell in cells:
        for seed in cell.seeds:
            for name in runs[cell.variant][seed].metrics if seed in runs[cell.variant] else ():
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
            yield row | {"folder": record.folder} | {f"{metric}_spread": None for metric in (*MAIN, *BY_VIEW)}


def _row(kind: str, title: str, own: dict, against: str | None, values: dict) -> dict:
    reference = values.get(against, {})
    pairs = [(own[seed], reference[seed]) for seed in own if seed in reference]
    return {"row": title, "kind": kind, "runs": len(own), "against": against if pairs else "", "pairs": len(pairs),
            "folder": "", **statistics(list(own.values()), pairs)}


def figures(record: Record, name: str = "recon") -> dict:
    """The metrics of one volume of a run, flat; of its reconstruction also what the run took."""
    metrics = record.metrics[name]
    values = {key: metrics.get(key) for key in METRICS}
    values |= {f"{view}_{key}": metrics.get(view, {}).get(key) for key in ("psnr", "ssim") for view in VIEWS}
    return values | ({key: getattr(record, key) for key in ("seconds", "peak_memory_gb")} if name == "recon" else {})


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


def write_results(name: str, grid: Grid, rows: list[dict], records: Records, failures: list[str]) -> None:
    """Write results.json, results.csv and results.md into the evaluation's folder."""
    output = records.output
    done = [(cell, seed, records.known[cell.key(seed)]) for cell in grid.cells
            for seed in sorted({*cell.seeds, *cell.sample_seeds()}) if cell.key(seed) in records.known]
    runs = [{"volume": cell.volume, "task": cell.task, "variant": cell.variant, "seed": seed,
             **{key: value for key, value in asdict(record).items() if value not in (None, "", ())}}
            for cell, seed, record in done]
    with complete_file(output / "results.json") as partial:
        partial.write_text(json.dumps({"grid": name, "baseline": grid.baseline, "rows": rows, "runs": runs,
                                       "failures": failures}, indent=2) + "\n", encoding="utf-8")
    with complete_file(output / "results.csv") as partial, open(partial, "w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    programs = {record.program for _, _, record in done if record.state == "done"}
    with complete_file(output / "results.md") as partial:
        partial.write_text(markdown(name, grid.baseline, rows, failures, len(programs)), encoding="utf-8")


def markdown(name: str, baseline: str | None, rows: list[dict], failures: list[str], programs: int) -> str:
    """The text of results.md; ``programs`` is the number of versions of the source code that made the runs."""
    lines = [f"# {plain(name)}", "", "Mean ± sample standard deviation over the runs (one a seed)."]
    if any(row["against"] for row in rows):
        lines[-1] += (" Δ: paired difference, of the same volume, task and seed, "
                      + (f"to **{plain(baseline)}** where the row names no other variant." if baseline else
                         "to the variant that the row names."))
    lines[-1] += (" Seconds and peak memory (the host's, not a GPU's) are of a whole process, with start-up and "
                  "baselines; seconds of a mean of samples are those of all its runs.")
    if programs > 1:
        lines += ["", f"**The runs were made by {programs} versions of the source code.**"]
    for volume, task in dict.fromkeys((row["volume"], row["task"]) for row in rows):
        own = [row for row in rows if (row["volume"], row["task"]) == (volume, task)]
        lines += ["", f"## {plain(volume)}, {plain(task)}", "", *_table(own, baseline, MAIN, DIFFERENCES),
                  "", *_table(own, baseline, BY_VIEW, ())]
        lines += [f"\n{plain(row['row'])}: `{row['folder']}`" for row in own if row["folder"]]
    if failures:
        lines += ["", "## Failed, tried again at the next start", "", *(f"- {plain(failure)}" for failure in failures)]
    return "\n".join(lines) + "\n"


def _table(rows: list[dict], baseline: str | None, metrics: dict, differences: tuple) -> Iterator[str]:
    titles = ["", "runs"]
    for metric, (title, _) in metrics.items():
        titles += [title] + ["Δ"] * (metric in differences)
    yield from (f"| {' | '.join(titles)} |", "|---" * len(titles) + "|")
    for row in rows:
        other = row["against"] if row["against"] != baseline else ""
        parts = [plain(row["row"]) + f" (Δ to {plain(other)})" * bool(other), str(row["runs"])]
        for metric, (_, digits) in metrics.items():
            parts.append(shown(row, metric, f".{digits}f"))
            if metric in differences:
                parts.append(shown(row, f"{metric}_difference", f"+.{digits}f"))
        yield f"| {' | '.join(parts)} |"


def plain(text: str) -> str:
    """One line of Markdown that shows a text as it is, without HTML, links or columns of its own."""
    return re.sub(r"([\\`*\[\]|])", r"\\\1", html.escape(" ".join(text.split()), quote=False))


def shown(row: dict, name: str, form: str) -> str:
    """A mean with its spread."""
    if row[name] is None:
        return "–"
    spread = row[f"{name}_spread"]
    return f"{row[name]:{form}}" + (f" ± {spread:{form.lstrip('+')}}" if spread is not None else "")
