#!/usr/bin/env python3
"""Run what is missing of a grid of reconstructions, and tabulate all of it.

    python evaluate.py GRID.yaml

Every run is a process of its own, here or on the workers of a Dask cluster. Killed at any time and started again, this
goes on where it was. Linux and macOS.
"""
import argparse
import os
import signal
import sys
from contextlib import ExitStack
from pathlib import Path


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line; a mistake in it ends the program with one line and status 2."""
    from utils.cli.flags import Parser
    from utils.cli.types import existing_file, number

    parser = Parser(prog="evaluate.py",
                    description="Run what is missing of a grid of reconstructions, and tabulate all of it.")
    add = parser.add_argument
    add("grid", type=existing_file, metavar="GRID.yaml", help="what to run, see configs/evaluation")
    add("--output", type=Path, metavar="FOLDER", help="where runs and results go (default: results/evaluation/GRID)")
    add("--jobs", type=number(int, 1), default=1, metavar="N", help="runs at a time; more than 1 falsifies seconds")
    add("--scheduler", metavar="ADDRESS", help="of a running Dask cluster whose workers do the runs (default: this "
                                               "machine alone)")
    add("--samples", type=number(int, 1), default=1, metavar="K",
        help="also average K posterior samples of every variant that does not say itself how many; 1: none")
    add("--dry-run", action="store_true", help="show the commands of the missing runs, and do nothing")
    args = parser.parse_args(argv)
    args.output = Path(os.path.realpath(args.output or Path("results", "evaluation", args.grid.stem)))
    if any(ord(letter) < 32 or 0xD800 <= ord(letter) < 0xE000 for letter in str(args.output)):
        parser.error(f"--output {str(args.output)!r}: accepted is a name of one line, in UTF-8")
    return args


def main(argv: list[str] | None = None) -> int:
    """Evaluate a grid; returns the exit status: 0, 1 where runs failed, 130 when interrupted."""
    args = parse(argv)

    from utils.cli.messages import input_errors
    from utils.evaluation.grid import read_grid
    from utils.evaluation.records import Records
    from utils.evaluation.samples import make_means, mean_key, mean_made
    from utils.evaluation.scheduler import cluster, failed, jobs_of, missing, run_all
    from utils.evaluation.tables import tabulate, write_results
    from utils.io.files import ROOT
    from utils.run.folder import owned

    with ExitStack() as stack:
        with input_errors():
            grid = read_grid(args.grid, ROOT, args.samples)
            jobs = jobs_of(grid)
            if args.dry_run:
                for job in missing(grid, jobs, Records(args.output)):
                    print(job.shown(args.output))
                return 0
            args.output.mkdir(parents=True, exist_ok=True)
            stack.enter_context(owned(args.output))
            records = Records(args.output)
            records.tidy()
            todo = missing(grid, jobs, records)
            client = stack.enter_context(cluster(args.jobs, args.scheduler))
        where = f"on {args.scheduler}, {client.dashboard_link}" if args.scheduler else f"{args.jobs} at a time"
        print(f"{args.grid.stem}: {len(jobs)} runs, {len(jobs) - len(todo)} of them done, {where}", flush=True)
        status = 0
        try:
            try:
                run_all(todo, jobs, records, client, grid.keep, None if args.scheduler else args.jobs)
                make_means(grid, records)
            except KeyboardInterrupt:
                status = 130
            rows = tabulate(grid, records.done, lambda cell: mean_made(cell, records))
            failures = failed([*jobs, *(mean_key(cell) for cell in grid.cells if cell.sample_seeds())], records)
            write_results(args.grid.stem, grid, rows, records, failures)
        except OSError as error:        # a full disk, say
            print(f"evaluate.py: error: {error}; the same command goes on from here", file=sys.stderr)
            return 1
    for failure in failures:
        print(f"failed: {failure}")
    if status == 130:
        print("interrupted: the same command goes on from here")
    print(args.output)
    return status or int(bool(failures))


def end_at_once(*_: object) -> None:
    """Ctrl-C and SIGTERM before a run is started: nothing is lost, nothing to tidy up."""
    os.write(2, b"evaluate.py: interrupted; the same command goes on from here\n")
    os._exit(130)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end_at_once)      # until `run_all` has its own
    sys.exit(main())
