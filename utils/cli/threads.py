"""How many threads a program computes with, and how they wait; decided before PyTorch is imported."""
import math
import os
import sys
from contextlib import suppress
from pathlib import Path

CPUS = Path("/sys/devices/system/cpu")
CGROUP, OWN_CGROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def usable_cores() -> int | None:
    """Cores that this process may use: of its affinity, two threads of a core counting once, within its container.

    None where the system does not say (macOS, Windows).
    """
    if not hasattr(os, "sched_getaffinity"):
        return None
    cores = set()
    for cpu in os.sched_getaffinity(0):
        siblings = CPUS / f"cpu{cpu}/topology/thread_siblings_list"      # the same text for both threads of a core
        cores.add(siblings.read_text() if siblings.exists() else cpu)
    return max(1, math.ceil(min(len(cores), _quota())))


def _quota() -> float:
    """Processors' worth of time that control groups leave to this process; inf without a limit."""
    limits = [math.inf]
    with suppress(OSError, ValueError):                                             # version 2: of every level
        own = next(line for line in OWN_CGROUP.read_text().splitlines() if line.startswith("0::"))[3:].strip("/")
        for folder in (CGROUP / own, *(CGROUP / own).parents):
            if folder.is_relative_to(CGROUP):
                with suppress(OSError, ValueError):
                    limit, period = (folder / "cpu.max").read_text().split()
                    limits.append(math.inf if limit == "max" else int(limit) / int(period))
    with suppress(OSError, ValueError):                                             # version 1, as a container sees it
        quota, every = (int((CGROUP / "cpu" / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
        limits.append(quota / every if quota > 0 else math.inf)
    return min(limits)


def use_threads(wanted: int | None = None) -> None:
    """Let this process, and those that it starts, compute with ``wanted`` threads.

    None: as many as ``OMP_NUM_THREADS`` says, else one a core. Threads that wait sleep, as far as nothing else is set:
    spinning ones take the time of other work on the machine, and of each other where cores are shared.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if wanted is not None and "torch" in sys.modules:       # it has read the environment already
        sys.modules["torch"].set_num_threads(wanted)
    number = wanted or os.environ.get("OMP_NUM_THREADS") or usable_cores()
    if number:
        os.environ["OMP_NUM_THREADS"] = str(number)
