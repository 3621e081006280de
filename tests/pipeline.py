"""One CT volume as recon_CBCT.py makes it, without files: seconds of each part, and memory of a process.

python -m tests.pipeline CASE [DEVICE], alone or as torchrun's --module: see `CASES`. Prints one line of JSON.
"""
import json
import resource
import sys
import time
from functools import partial
from pathlib import Path

import torch

from algorithms.data_steps.dds import DDS
from algorithms.problem import Problem, Sampling, reconstruct
from algorithms.schedule import sigma_levels
from models.ncsnpp import NCSNpp
from models.precision import choose_precision
from models.slice_score import SliceScore
from op.processes import Processes
from physics.acquisition import Acquisition
from physics.sirt import sirt
from physics.views import svct_views
from utils.io.config import load_config
from utils.io.geometry_file import read_geometry

ROOT = Path(__file__).resolve().parents[1]
# Voxels, views (of 512 x 512 pixels), SIRT iterations, levels, whether a network.
CASES = {"pipeline": ((32, 256, 256), 20, 100, 3, True), "memory": ((128, 128, 128), 360, 2, 1, False)}


def measure(case: str, device: torch.device, processes: Processes) -> dict:
    """Seconds of each part of a case, and the most memory (GB) that one of the processes had."""
    shape, views, iterations, levels, with_network = CASES[case]
    geometry = read_geometry(ROOT / "configs" / "geometry" / "demo.yaml").on_grid(shape)
    acquisition = Acquisition(geometry.select(svct_views(geometry, views)), range(views), processes=processes)
    generator = torch.Generator().manual_seed(0)
    seconds: dict[str, float] = {}

    def clocked(name, function, *arguments):
        begun = time.perf_counter()
        result = function(*arguments)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds[name] = seconds.get(name, 0) + time.perf_counter() - begun
        return result

    def prior(x, sigma):
        return -x / (1 + sigma**2)

    if with_network:
        name = "AAPM_256_ncsnpp_Chung" if device.type == "cuda" else "demo_CT_128"
        prior = SliceScore(NCSNpp(load_config(ROOT / "configs" / "ve" / f"{name}.yaml")), 8, device,
                           precision=choose_precision("auto", device), processes=processes)
    begun = time.perf_counter()
    volume = torch.rand(shape[0], 1, *shape[1:], generator=generator).to(device)
    y = clocked("simulation", acquisition.simulate, volume)
    clocked("FDK", acquisition.fdk, y)
    initial = clocked("SIRT", sirt, y, acquisition.few, iterations)
    problem = Problem(operator=acquisition.operator, y=acquisition.on_window(y).contiguous(), initial=initial)
    del y, volume
    method = Sampling(sigmas=sigma_levels(levels, 0.01, 0.5).tolist(), use_init=True, data_step=partial(DDS, num_cg=5))
    clocked("levels", reconstruct, problem, partial(clocked, "network in them", prior), method, generator)
    seconds["all"] = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20         # Linux counts KiB
    most = processes.largest(torch.tensor([peak])).item()
    found = {"seconds": seconds, "GiB": most}
    if device.type == "cuda":
        found["GiB of the GPU"] = torch.cuda.max_memory_allocated(device) / 2**30
    return found


def main() -> None:
    case, name = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "cpu"
    processes = Processes.started()
    device = torch.device(name if name == "cpu" or processes.count == 1 else f"cuda:{processes.local}")
    with processes.connected(device):
        found = measure(case, device, processes)
        if processes.rank == 0:
            print(json.dumps(found))


if __name__ == "__main__":
    main()
