#!/usr/bin/env python3
"""Run what is missing of a grid of reconstructions, and tabulate all of it:  python evaluate.py GRID.yaml

Every run is a process of its own. Killed at any time and started again, this goes on where it was. Linux and macOS.
"""
import ctypes
import fcntl
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from tqdm import tqdm

from utils.cli.flags import Parser
from utils.cli.messages import input_errors
from utils.cli.types import existing_file, number
from utils.evaluation.tables import average_samples, tabulate, write_results
from utils.io.files import ROOT, complete_file, program_digest
from utils.evaluation.grid import Cell, read_grid

LOCK_PATIENCE = 10      # seconds; the runs of an evaluation that was killed take a moment to die
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
PR_SET_PDEATHSIG = 1


class Job(NamedTuple):
    cell: Cell
    seed: int

    @property
    def key(self) -> str:
        return self.cell.key(self.seed)

    def __str__(self):
        return f"{self.cell}, seed {self.seed}"


def main(argv=None) -> int:
    parser = Parser(prog="evaluate.py", description="Run what is missing of a grid of reconstructions, and tabulate "
                                                    "all of it.")
    add = parser.add_argument
    add("grid", type=existing_file, metavar="GRID.yaml", help="what to run, see configs/evaluation")
    add("--output", type=Path, metavar="FOLDER", help="where runs and results go (default: results/evaluation/GRID)")
    add("--jobs", type=number(int, 1), default=1, metavar="N", help="runs at a time; more than 1 falsifies seconds")
    add("--samples", type=number(int, 1), default=1, metavar="K",
        help="also average K posterior samples of every variant that does not say itself how many; 1: none")
    add("--dry-run", action="store_true", help="show the commands of the missing runs, and do nothing")
    args = parser.parse_args(argv)
    output = (args.output or Path("results", "evaluation", args.grid.stem)).resolve()
    with input_errors(str(args.grid)):
        grid = read_grid(args.grid, ROOT, args.samples)
    jobs = {}
    for cell in grid.cells:
        for seed in (*cell.seeds, *cell.sample_seeds()):
            jobs.setdefault(cell.key(seed), Job(cell, seed))
    if args.dry_run:
        with input_errors():
            todo = missing(grid, jobs, Records(output))
        for job in todo:
            print(f"# {job}\n{shlex.join(command(job, output))}")
        return 0

    with ExitStack() as stack:
        with input_errors():
            lock = stack.enter_context(locked(output))
            records = Records(output)
        records.tidy()
        todo = missing(grid, jobs, records)
        print(f"{args.grid.stem}: {len(jobs)} runs, {len(jobs) - len(todo)} of them done, {args.jobs} at a time",
              flush=True)
        status = 0
        try:
            run_all(todo, jobs, records, args.jobs, grid.keep, lock)
            make_means(grid, records)
        except KeyboardInterrupt:
            status = 130
        rows = tabulate(grid, records.done, lambda cell: mean_made(cell, records))
        failures = list_failures(grid, jobs, records)
        write_results(output, args.grid.stem, grid, rows, records.known, failures)
    for failure in failures:
        print(f"failed: {failure}")
    if status == 130:
        print("interrupted: the same command goes on from here")
    print(output)
    return status or int(bool(failures))


# Runs ---------------------------------------------------------------------------------------------

class Records:
    """What is known of every run: a JSON file each in ``output``/records, complete or not there.

    ``state`` is "running", "done" or "failed"; ``folder`` is below ``output``, which may therefore be moved.
    """

    def __init__(self, output: Path):
        self.output, self.known = output, {}
        for path in sorted((output / "records").glob("[!.]*.json")):
            try:
                self.known[path.stem] = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise ValueError(f"{path}: not a record ({error}); remove it to do that run again") from None

    def done(self, key: str) -> dict | None:
        record = self.known.get(key)
        return record if record and record["state"] == "done" else None

    def folder(self, key: str) -> Path:
        return self.output / self.known[key]["folder"]

    def write(self, key: str, **record) -> None:
        path = self.output / "records" / f"{key}.json"
        path.parent.mkdir(exist_ok=True)
        with complete_file(path) as partial:
            partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        self.known[key] = record

    def discard(self, key: str) -> None:
        """Forget a run and remove its folder."""
        if key in self.known:
            shutil.rmtree(self.folder(key), ignore_errors=True)
            (self.output / "records" / f"{key}.json").unlink(missing_ok=True)
            del self.known[key]

    def tidy(self) -> None:
        """Remove what an evaluation that was killed left half done."""
        for key in [key for key, record in self.known.items() if record["state"] == "running"]:
            self.discard(key)
        for place in (".", "records", "means/*"):
            for path in self.output.glob(f"{place}/.partial-*"):
                path.unlink()


@contextmanager
def locked(output: Path):
    """A file in ``output`` that is locked as long as it, or the copy that a run inherits, is open.

    ValueError when somebody else has it.
    """
    output.mkdir(parents=True, exist_ok=True)
    patience = time.monotonic() + LOCK_PATIENCE
    with open(output / ".lock", "w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > patience:
                    raise ValueError(f"{output}: another evaluation, or a run of one, is at work there") from None
                time.sleep(0.1)
        yield lock


def missing(grid, jobs: dict, records: Records) -> list[Job]:
    """The jobs without a result; those to be averaged also need their volumes."""
    averaged = {cell.key(seed) for cell in grid.cells for seed in cell.sample_seeds()}
    averaged -= {key for cell in grid.cells if mean_made(cell, records) for key in map(cell.key, cell.sample_seeds())}
    return [job for key, job in jobs.items() if not records.done(key)
            or key in averaged and not (result_folder(records, key) / "recon.nii.gz").exists()]


def command(job: Job, output: Path) -> list[str]:
    flags = [part for flag, value in job.cell.flags.items() for part in (f"--{flag}", value)]
    return [sys.executable, str(job.cell.entry), *flags, "--seed", str(job.seed),
            "--output-dir", str(output / "runs" / folder_name(job, job.key))]


def folder_name(what, key: str) -> str:
    return re.sub(r"[^\w.-]+", "_", str(what)) + f"-{key}"


def run_all(todo: list, jobs: dict, records: Records, workers: int, keep, lock) -> None:
    """Run ``todo``, ``workers`` at a time, and record each one that ends.

    Ctrl-C (and SIGTERM) ends those at work and raises KeyboardInterrupt; what had ended by then is recorded.
    """
    queue, running, interrupted = deque(todo), {}, []
    environment = dict(os.environ)
    if workers > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, os.cpu_count() // workers)))

    def end_runs():
        for pid in running:
            with suppress(ProcessLookupError, PermissionError):    # it has just ended
                os.killpg(pid, signal.SIGKILL)

    def interrupt(*_):    # instead of an exception, which could come between the start of a run and its entry here
        interrupted.append(True)
        end_runs()

    handlers = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    tqdm.monitor_interval = 0    # no threads: a run is forked
    bar = tqdm(total=len(todo), unit="run", disable=None, leave=False)
    try:
        while running or queue and not interrupted:
            while queue and len(running) < workers and not interrupted:
                job = queue.popleft()
                process = start(job, records, environment, lock)
                running[process.pid] = job, process, time.monotonic()
                if interrupted:
                    end_runs()
            pid, status, usage = os.wait4(-1, 0)
            job, process, begun = running.pop(pid)
            process.returncode = os.waitstatus_to_exitcode(status)
            if interrupted and process.returncode == -signal.SIGKILL:
                records.discard(job.key)
                continue
            memory = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9    # bytes on macOS, else KiB
            record = finish(job, process.returncode, records, keep, seconds=time.monotonic() - begun,
                            peak_memory_gb=memory)
            left = [*queue, *(job for job, *_ in running.values())]
            bar.update()
            tqdm.write(f"[{len(todo) - len(left)}/{len(todo)}] {job}: {summary(record)}"
                       f"{time_left(left, jobs, records, workers)}", file=sys.stdout)
            sys.stdout.flush()
    finally:
        bar.close()
        end_runs()
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if interrupted:
        raise KeyboardInterrupt


def start(job: Job, records: Records, environment: dict, lock) -> subprocess.Popen:
    """Start a run, in a folder that nothing of an earlier try is left in."""
    records.discard(job.key)
    name, line = f"runs/{folder_name(job, job.key)}", command(job, records.output)
    records.write(job.key, state="running", name=str(job), folder=name, command=line,
                  program=program_digest(job.cell.entry))
    folder = records.folder(job.key)
    folder.mkdir(parents=True)
    with open(folder / "stdout.txt", "wb") as stdout, open(folder / "stderr.txt", "wb") as stderr:
        # A session of its own: Ctrl-C reaches this program alone, which ends the runs.
        return subprocess.Popen(line, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=stdout,
                                stderr=stderr, start_new_session=True, pass_fds=[lock.fileno()],
                                preexec_fn=die_with_parent if LIBC else None)  # noqa: PLW1509, there are no threads


def die_with_parent() -> None:
    """In a new run, before its program starts (Linux): end with the evaluation, even where that is killed."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def finish(job: Job, status: int, records: Records, keep, **measured) -> dict:
    """Record what came of a run; returns the record."""
    record = {key: records.known[job.key][key] for key in ("name", "folder", "command", "program")} | measured
    folder = records.folder(job.key)
    try:
        if status:
            said = (folder / "stderr.txt").read_text(errors="replace").split("\n")
            ended = f"exit status {status}" if status > 0 else f"killed by {signal.Signals(-status).name}"
            raise ValueError("; ".join([line.strip() for line in said if line.strip()][-1:] + [ended]))
        result = ROOT / (folder / "stdout.txt").read_text(errors="replace").rstrip("\n").split("\n")[-1]
        metrics = json.loads((result / "metrics.json").read_text(encoding="utf-8"))
        if "recon" not in metrics:
            raise ValueError(f"{result}/metrics.json: no metrics of recon")
        record |= {"state": "done", "result": str(result.relative_to(folder)), "metrics": metrics}
    except (ValueError, OSError) as error:
        record |= {"state": "failed", "error": str(error)}
    else:
        for path in result.iterdir():
            if keep is not None and path.name not in (*keep, "args.yaml", "metrics.json"):
                path.unlink()
    records.write(job.key, **record)
    return record


def result_folder(records: Records, key: str) -> Path:
    return records.folder(key) / records.known[key]["result"]


def summary(record: dict) -> str:
    if record["state"] == "failed":
        return f"failed: {record['error']}"
    psnr = record["metrics"]["recon"].get("psnr")
    return (f"{'PSNR undefined' if psnr is None else f'{psnr:.2f} dB'}, {record['seconds']:.0f} s, "
            f"{record['peak_memory_gb']:.2f} GB")


def time_left(left: list, jobs: dict, records: Records, workers: int) -> str:
    """How long ``left`` will take, judged by the runs of the same row, else of the volume, else by all."""
    known, likes = {}, lambda cell: ((cell.volume, cell.task, cell.variant), (cell.volume,), ())
    for key, job in jobs.items():
        if record := records.done(key):
            for like in likes(job.cell):
                known.setdefault(like, []).append(record["seconds"])
    if not left or not known:
        return ""
    seconds = sum(next(fmean(known[like]) for like in likes(job.cell) if like in known) for job in left) / workers
    return (f"; {seconds:.0f} s left" if seconds < 120 else f"; {seconds / 60:.0f} min left" if seconds < 7200 else
            f"; {seconds / 3600:.1f} h left")


# Means of samples ---------------------------------------------------------------------------------

def mean_key(cell: Cell) -> str:
    return hashlib.sha256(" ".join(map(cell.key, cell.sample_seeds())).encode()).hexdigest()[:16]


def mean_made(cell: Cell, records: Records) -> dict | None:
    record = records.done(mean_key(cell))
    return record if record and (records.output / record["folder"] / "std.nii.gz").exists() else None


def make_means(grid, records: Records) -> None:
    """Average the samples of every cell that asks for it and has them all."""
    for cell in grid.cells:
        keys = [cell.key(seed) for seed in cell.sample_seeds()]
        if not keys or mean_made(cell, records) or not all(map(records.done, keys)):
            continue
        key = mean_key(cell)
        record = {"name": f"{cell}, mean of {len(keys)}", "folder": f"means/{folder_name(cell, key)}"}
        records.discard(key)
        runs = [records.done(each) for each in keys]
        try:
            metrics = average_samples([result_folder(records, each) for each in keys],
                                      records.output / record["folder"], cell.modality, cell.flags["data"],
                                      runs[0]["metrics"]["recon"])
            record |= {"state": "done", "metrics": {"recon": metrics},
                       "seconds": sum(run["seconds"] for run in runs),
                       "peak_memory_gb": max(run["peak_memory_gb"] for run in runs)}
        except (ValueError, OSError) as error:
            record |= {"state": "failed", "error": str(error)}
        records.write(key, **record)
        print(f"{record['name']}: {summary(record)}", flush=True)


def list_failures(grid, jobs: dict, records: Records) -> list[str]:
    known = [records.known[key] for key in (*jobs, *(mean_key(cell) for cell in grid.cells if cell.sample_seeds()))
             if key in records.known]
    return [f"{record['name']}: {record['error']}" for record in known if record["state"] == "failed"]


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
