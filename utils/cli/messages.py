"""What a program says, and how it ends when something outside it goes wrong."""
import errno
import logging
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from utils.cli.flags import ROOT, program, speaks

LEVELS = {-1: logging.WARNING, 0: logging.INFO, 1: logging.DEBUG}    # by -q, nothing, -v
ROOMS = [path.name for path in ROOT.iterdir() if path.is_dir() and (path / "__init__.py").exists()]


def set_up_logging(verbosity: int) -> None:
    """Progress goes to standard output as plain lines, warnings to standard error: -1 warnings only, 1 timings too."""
    class Progress(logging.Filter):
        def filter(self, record):
            return record.levelno < logging.WARNING

    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:          # closed: what opens the number next must not get the program's lines
            nowhere = os.open(os.devnull, os.O_WRONLY)
            if nowhere != number:
                os.dup2(nowhere, number)
            setattr(sys, name, open(number, "w", closefd=False))      # noqa: SIM115
        stream = getattr(sys, name)
        if hasattr(stream, "reconfigure"):      # a name that the terminal can't show ends no run
            stream.reconfigure(errors="backslashreplace")
    progress, warnings = logging.StreamHandler(sys.stdout), logging.StreamHandler(sys.stderr)
    progress.addFilter(Progress())
    warnings.setLevel(logging.WARNING)
    if not speaks():
        logging.disable(logging.CRITICAL)
    logging.raiseExceptions = False             # a reader that has gone is no error of the run
    logging.basicConfig(handlers=[progress, warnings], format="%(message)s", level=logging.WARNING, force=True)
    for name in (*ROOMS, "__main__", "recon_CBCT", "recon_MRI_ZSR"):
        logging.getLogger(name).setLevel(LEVELS[verbosity])


@contextmanager
def input_errors(source: str = "", debug: bool = False) -> Iterator[None]:
    """End the program with one line and status 2 when reading or checking the user's input fails.

    Args:
        source: the flag or file to name, where the error itself cannot.
        debug: show the traceback first.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        if debug:
            traceback.print_exc()
        reason = str(error)
        if isinstance(error, OSError) and error.strerror:
            reason = f"{error.filename}: {error.strerror}"
        _say(f"{program()}: error: {source}{': ' * bool(source)}{' '.join(reason.split())}")
        raise SystemExit(2) from None


@contextmanager
def failures(debug: bool = False) -> Iterator[None]:
    """End with one line where a run is interrupted, or disk or memory run out; what it wrote stays.

    An error that left a run has its folder as ``run_folder``, which --resume goes on from. SIGTERM is as Ctrl-C, with
    status 143.
    """
    def terminate(number, frame):
        raise KeyboardInterrupt(number)

    try:
        before = {signal.SIGTERM: signal.signal(signal.SIGTERM, terminate),
                  signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler)}
    except ValueError:      # not in the main thread
        before = {}
    try:
        yield
    except (KeyboardInterrupt, MemoryError, OSError, RuntimeError, FloatingPointError) as error:
        reason, status = _reason(error)
        if not reason or debug:
            raise
        folder = getattr(error, "run_folder", None)
        again = (isinstance(error, (KeyboardInterrupt, MemoryError, ConnectionError))
                 or getattr(error, "errno", None) == errno.ENOSPC)
        _say(f"{program()}: {reason}{f'; go on with --resume {folder}' if folder and again else ''}")
        raise SystemExit(status) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(line: str) -> None:
    """A line on standard error, if there is one; of several processes, the first says it."""
    if not speaks():
        return
    try:
        print(line, file=sys.stderr, flush=True)
    except (OSError, ValueError, AttributeError):
        sys.stderr = open(os.devnull, "w")      # noqa: SIM115, for what the interpreter says at its end


def _reason(error: BaseException) -> tuple[str | None, int]:
    """What to say and the exit status; no text for what is a defect of the program."""
    text = " ".join(str(error).split())
    if isinstance(error, KeyboardInterrupt):
        terminated = error.args[:1] == (signal.SIGTERM,)
        return ("terminated", 143) if terminated else ("interrupted", 130)
    if isinstance(error, FloatingPointError):
        return f"error: {text}", 1
    if isinstance(error, MemoryError) or "out of memory" in text or "DefaultCPUAllocator" in text:
        return "error: out of memory; fewer or smaller slices, or a smaller --batch-size, need less", 1
    if isinstance(error, BrokenPipeError):
        return "error: nobody reads the output any more", 1
    if isinstance(error, OSError):
        path = f"{error.filename}: " if error.filename else ""
        return f"error: {path}{'no space left on the disk' if error.errno == errno.ENOSPC else text}", 1
    return None, 1
