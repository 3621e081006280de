"""The runs of a grid: which are missing, and who does them, each a process of its own. Linux and macOS."""
import ctypes
import json
import logging
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import fmean
from textwrap import shorten
from typing import Any, NamedTuple

from distributed import Client, KilledWorker, LocalCluster, as_completed, get_worker
from distributed.client import FutureCancelledError
from tqdm import tqdm

from utils.cli.threads import usable_cores
from utils.evaluation.grid import Cell, Grid
from utils.evaluation.records import Record, Records, folder_name
from utils.evaluation.samples import mean_made
from utils.io.files import ROOT, content_digest, program_digest
from utils.io.schema import read

LIBC: Any = ctypes.CDLL(None) if sys.platform == "linux" else None
PR_SET_PDEATHSIG = 1
PATIENCE = 30       # seconds, for a scheduler to answer


class Job(NamedTuple):
    """A run: a cell of the grid with a seed."""
    cell: Cell
    seed: int

    @property
    def key(self) -> str:
        """As in `Cell.key`."""
        return self.cell.key(self.seed)

    def __str__(self):
        return f"{self.cell}, seed {self.seed}"

    def command(self, output: Path) -> list[str]:
        """The words of its command line."""
        flags = [part for flag, value in self.cell.flags.items() for part in (f"--{flag}", value)]
        return [sys.executable, str(self.cell.entry), *flags, "--seed", str(self.seed), "--output-dir",
                str(output / folder_name("runs", self, self.key))]

    def shown(self, output: Path) -> str:
        """Its name, and its command for a shell."""
        return f"# {self}\n{shlex.join(self.command(output))}"


def jobs_of(grid: Grid) -> dict[str, Job]:
    """All runs of the grid by their keys."""
    jobs: dict[str, Job] = {}
    for cell in grid.cells:
        for seed in (*cell.seeds, *cell.sample_seeds()):
            jobs.setdefault(cell.key(seed), Job(cell, seed))
    return jobs


def missing(grid: Grid, jobs: dict[str, Job], records: Records) -> list[Job]:
    """The jobs without a result; those to be averaged also need their volumes."""
    averaged = {cell.key(seed) for cell in grid.cells for seed in cell.sample_seeds()}
    averaged -= {key for cell in grid.cells if mean_made(cell, records) for key in map(cell.key, cell.sample_seeds())}
    return [job for key, job in jobs.items() if not records.done(key)
            or (key in averaged and not (records.result(key) / "recon.nii.gz").exists())]


@contextmanager
def cluster(jobs: int, address: str | None = None) -> Iterator[Client]:
    """The Dask cluster that does the runs: ``jobs`` at a time in this process, or the one of a running scheduler.

    Its workers need this program and the folders under the same names, as on a shared file system.

    Raises:
        OSError: nobody answers at the address.
    """
    with ExitStack() as stack:
        if not address:         # threads that wait for the runs, which are processes
            local = stack.enter_context(LocalCluster(
                n_workers=jobs, threads_per_worker=1, processes=False, memory_limit=0, dashboard_address="127.0.0.1:0",
                silence_logs=logging.CRITICAL))
        yield stack.enter_context(Client(address or local, timeout=PATIENCE))


def run_all(todo: list[Job], jobs: dict[str, Job], records: Records, client: Client, keep: tuple | None,
            workers: int | None) -> None:
    """Run ``todo`` on a cluster, and record each one that ends.

    Args:
        todo: the runs.
        jobs: all of the grid, by their keys.
        records: where they are recorded.
        client: see `cluster`.
        keep: files of a run to keep, or None.
        workers: runs at a time on this machine, which share its cores; None: the cluster's workers are as they are.

    Raises:
        KeyboardInterrupt: at Ctrl-C and SIGTERM, which end those at work; what had ended by then is recorded.
    """
    cores = usable_cores() or os.cpu_count() or 1
    threads = {"OMP_NUM_THREADS": str(max(1, cores // workers))} if workers and workers > 1 else {}
    # Keys of its own: nobody else's runs on the cluster are meant.
    futures = {client.submit(run_one, str(records.output), job.key, _record(job, records), keep, threads, pure=False):
               job for job in todo}
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGINT, signal.SIGTERM)}
    tqdm.monitor_interval = 0
    try:
        with tqdm(total=len(todo), unit="run", disable=None, leave=False) as bar:
            left = {job.key: job for job in todo}
            for future in as_completed(futures):
                job = futures[future]
                try:
                    record = future.result()
                    records.known[job.key] = record
                except (KilledWorker, FutureCancelledError, OSError, ValueError) as error:
                    reason = shorten(str(error), 500, placeholder=" ...")
                    record = replace(_record(job, records), state="failed", error=reason)
                    records.write(job.key, record)
                del left[job.key]
                bar.update()
                tqdm.write(f"[{len(todo) - len(left)}/{len(todo)}] {job}: {record.summary}"
                           f"{_time_left(list(left.values()), jobs, records, sum(client.ncores().values()) or 1)}",
                           file=sys.stdout)
                sys.stdout.flush()
    except KeyboardInterrupt:
        for number in before:           # once is enough
            signal.signal(number, signal.SIG_IGN)
        client.cancel(list(futures), force=True)
        client.run(end_runs, [job.key for job in todo])
        records.read()
        records.tidy()
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _record(job: Job, records: Records) -> Record:
    return Record(state="running", name=str(job), folder=folder_name("runs", job, job.key),
                  command=tuple(job.command(records.output)),
                  program=program_digest() if job.cell.entry.parent == ROOT else content_digest(job.cell.entry)[:12])


def run_one(output: str, key: str, record: Record, keep: tuple | None, environment: dict) -> Record:
    """On a worker: a run, in a folder that nothing of an earlier try is left in; it is recorded there and then."""
    records = Records(Path(output))
    folder, begun = records.begin(key, record), time.monotonic()
    gpus = len(re.findall(r"^GPU ", _gpus(), re.MULTILINE))
    if gpus > 1 and isinstance(get_worker().name, int):         # one each, in turn
        environment = environment | {"CUDA_VISIBLE_DEVICES": str(get_worker().name % gpus)}
    with open(folder / "stdout.txt", "wb") as stdout, open(folder / "stderr.txt", "wb") as stderr:
        # A session of its own: Ctrl-C reaches the evaluation alone, which ends the runs.
        process = subprocess.Popen(record.command, cwd=ROOT, env=os.environ | environment, stdin=subprocess.DEVNULL,
                                   stdout=stdout, stderr=stderr, start_new_session=True,
                                   preexec_fn=_die_with_worker if LIBC else None)
    RUNNING[key] = process
    try:
        _, status, usage = os.wait4(process.pid, 0)
    finally:
        del RUNNING[key]
    process.returncode = os.waitstatus_to_exitcode(status)
    memory = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9    # bytes on macOS, else KiB
    if process in INTERRUPTED:          # the evaluation that did that tidies up
        INTERRUPTED.remove(process)
        return record
    record = _result(replace(record, seconds=time.monotonic() - begun, peak_memory_gb=memory), folder,
                     process.returncode, keep)
    records.write(key, record)
    return record


RUNNING: dict[str, subprocess.Popen] = {}       # of this worker
INTERRUPTED: set[subprocess.Popen] = set()      # those that `end_runs` ended


def end_runs(keys: Iterable[str]) -> None:
    """On a worker: end its runs that have one of these keys."""
    for process in [RUNNING[key] for key in keys if key in RUNNING]:
        INTERRUPTED.add(process)
        with suppress(ProcessLookupError, PermissionError):     # it has just ended
            os.killpg(process.pid, signal.SIGKILL)


def _die_with_worker() -> None:
    """In a new run, before its program starts (Linux): end with the worker, even where that is killed."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@cache
def _gpus() -> str:
    """What nvidia-smi lists, nothing without it."""
    try:
        return subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""


def _result(record: Record, folder: Path, status: int, keep: tuple | None) -> Record:
    """The record of a run that has ended with this status (negative: the number of a signal)."""
    try:
        if status:
            said = (folder / "stderr.txt").read_text(errors="replace").split("\n")
            ended = f"exit status {status}" if status > 0 else f"killed by {signal.Signals(-status).name}"
            raise ValueError("; ".join([line.strip() for line in said if line.strip()][-1:] + [ended]))
        last = (folder / "stdout.txt").read_text(errors="replace").rstrip("\n").split("\n")[-1]
        result = Path(os.path.realpath(ROOT / last))
        metrics = json.loads((result / "metrics.json").read_text(encoding="utf-8"))
        if "recon" not in read(dict[str, dict], metrics, f"{result}/metrics.json"):
            raise ValueError(f"{result}/metrics.json: no metrics of recon")
        record = replace(record, state="done", result=str(result.relative_to(folder)), metrics=metrics)
        for path in result.iterdir():
            if keep is not None and path.name not in (*keep, "args.yaml", "metrics.json"):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    except (ValueError, OSError, RecursionError) as error:
        record = replace(record, state="failed", error=" ".join(str(error).split()))
    return record


def _time_left(left: list[Job], jobs: dict[str, Job], records: Records, workers: int) -> str:
    """How long ``left`` will take, judged by the runs of the same row, else of the volume, else by all."""
    known: dict[tuple, list] = {}
    for key, job in jobs.items():
        if record := records.done(key):
            for like in _likes(job.cell):
                known.setdefault(like, []).append(record.seconds)
    if not left or not known:
        return ""
    seconds = sum(next(fmean(known[like]) for like in _likes(job.cell) if like in known) for job in left) / workers
    return (f"; {seconds:.0f} s left" if seconds < 120 else f"; {seconds / 60:.0f} min left" if seconds < 7200 else
            f"; {seconds / 3600:.1f} h left")


def _likes(cell: Cell) -> tuple[tuple, ...]:
    return (cell.volume, cell.task, cell.variant), (cell.volume,), ()


def failed(keys: Iterable[str], records: Records) -> list[str]:
    """A line for every run and mean of these keys that failed."""
    known = [records.known[key] for key in keys if key in records.known]
    return [f"{record.name}: {record.error}" for record in known if record.state == "failed"]
