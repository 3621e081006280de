"""The runs of a grid: which are missing, several at a time, each a process of its own. Linux and macOS."""
import ctypes
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import IO, Any, NamedTuple

from tqdm import tqdm

from utils.cli.threads import usable_cores
from utils.evaluation.grid import Cell, Grid
from utils.evaluation.records import Record, Records, folder_name
from utils.evaluation.samples import mean_made
from utils.io.files import ROOT, content_digest, program_digest
from utils.io.schema import read

LIBC: Any = ctypes.CDLL(None) if sys.platform == "linux" else None
PR_SET_PDEATHSIG = 1


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


def run_all(todo: list[Job], jobs: dict[str, Job], records: Records, workers: int, keep: tuple | None,
            lock: IO) -> None:
    """Run ``todo``, ``workers`` at a time, and record each one that ends.

    Raises:
        KeyboardInterrupt: at Ctrl-C and SIGTERM, which end those at work; what had ended by then is recorded.
    """
    queue, interrupted = deque(todo), []
    running: dict[int, tuple[Job, subprocess.Popen, float]] = {}
    environment = dict(os.environ)
    if workers > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (usable_cores() or os.cpu_count() or 1) // workers)))

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
        while running or (queue and not interrupted):
            while queue and len(running) < workers and not interrupted:
                job = queue.popleft()
                process = _start(job, records, environment, lock)
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
            record = _finish(job, process.returncode, records, keep, time.monotonic() - begun, memory)
            left = [*queue, *(job for job, *_ in running.values())]
            bar.update()
            tqdm.write(f"[{len(todo) - len(left)}/{len(todo)}] {job}: {record.summary}"
                       f"{_time_left(left, jobs, records, workers)}", file=sys.stdout)
            sys.stdout.flush()
    finally:
        bar.close()
        end_runs()
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if interrupted:
        raise KeyboardInterrupt


def _start(job: Job, records: Records, environment: dict, lock: IO) -> subprocess.Popen:
    """Start a run, in a folder that nothing of an earlier try is left in."""
    line = job.command(records.output)
    folder = records.begin(job.key, Record(
        state="running", name=str(job), folder=folder_name("runs", job, job.key), command=tuple(line),
        program=program_digest() if job.cell.entry.parent == ROOT else content_digest(job.cell.entry)[:12]))
    with open(folder / "stdout.txt", "wb") as stdout, open(folder / "stderr.txt", "wb") as stderr:
        # A session of its own: Ctrl-C reaches this program alone, which ends the runs.
        return subprocess.Popen(line, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=stdout,
                                stderr=stderr, start_new_session=True, pass_fds=[lock.fileno()],
                                preexec_fn=_die_with_parent if LIBC else None)  # there are no threads


def _die_with_parent() -> None:
    """In a new run, before its program starts (Linux): end with the evaluation, even where that is killed."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _finish(job: Job, status: int, records: Records, keep: tuple | None, seconds: float, memory: float) -> Record:
    """Record what came of a run; returns the record."""
    record = replace(records.known[job.key], state="failed", seconds=seconds, peak_memory_gb=memory)
    folder = records.folder(job.key)
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
    records.write(job.key, record)
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
