"""What a program says, and how it ends when something outside it goes wrong."""
import errno
import logging
import sys
from contextlib import contextmanager
from pathlib import Path

from utils.cli.flags import show_traceback

LEVELS = {-1: logging.WARNING, 0: logging.INFO, 1: logging.DEBUG}    # by -q, nothing, -v


def set_up_logging(verbosity: int) -> None:
    """Messages go to standard output as plain lines: -1 warnings only, 0 the run's progress, 1 timings too."""
    logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.WARNING, force=True)
    for name in ("__main__", "recon_CBCT", "recon_MRI_ZSR", "utils", "models"):
        logging.getLogger(name).setLevel(LEVELS[verbosity])


@contextmanager
def failures(args):
    """End with one line where a run is interrupted, or disk or memory run out; what it wrote stays.

    ``args.folder``, once there is one, is the run's folder, which --resume goes on from. With ``args.debug`` the
    traceback is shown.
    """
    show_traceback.extend([True] * args.debug)
    try:
        yield
    except (KeyboardInterrupt, MemoryError, OSError, RuntimeError) as error:
        reason, status = _reason(error)
        if not reason or args.debug:
            raise
        folder = getattr(args, "folder", None)
        resume = f"; go on with --resume {folder}" if folder else ""
        print(f"{Path(sys.argv[0]).name}: {reason}{resume}", file=sys.stderr)
        raise SystemExit(status) from None
    finally:
        show_traceback.clear()


def _reason(error) -> tuple:
    """What to say and the exit status; no text for what is a defect of the program."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", 130
    if isinstance(error, MemoryError) or "out of memory" in str(error) or "DefaultCPUAllocator" in str(error):
        return "error: out of memory; a smaller --recon-size or slice range, or --batch-size, needs less", 1
    if isinstance(error, OSError):
        path = f"{error.filename}: " if error.filename else ""
        return f"error: {path}{'no space left on the disk' if error.errno == errno.ENOSPC else error}", 1
    return None, 1
