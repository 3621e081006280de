"""One volume on several processes: the volume of one process, one that writes, and one that dies."""
import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from algorithms.admm_tv import admm_tv
from algorithms.data_steps.ddnm import DDNM
from algorithms.data_steps.dds import DDS
from algorithms.noise.independent import Independent
from algorithms.problem import Problem, Sampling, Unconditional, reconstruct
from models.ncsnpp import NCSNpp
from models.slice_score import SliceScore
from op.processes import ALONE, Processes
from physics.acquisition import Acquisition
from physics.residual import residual
from physics.zsr import ZAverage
from utils.io.config import load_config
from utils.io.geometry_file import read_geometry

ROOT = Path(__file__).resolve().parents[1]
ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}
SIGMAS = [0.4, 0.1]
METHODS = {
    "DDS": Sampling(sigmas=SIGMAS, use_init=True, final_sigma=0.1,
                    data_step=partial(DDS, num_cg=3, w_dz=0.01, w_tv=0.01, dual=0.5)),
    "DDS from independent noise": Sampling(sigmas=SIGMAS, noise=Independent(), w_dps=0.1),
    "DDNM": Sampling(sigmas=SIGMAS, use_init=True, data_step=DDNM),
    "unconditional": Unconditional(sigmas=SIGMAS),
}


def volumes(processes: Processes) -> dict:
    """What every method makes of a small CT and a small MR problem; and all else of the CT."""
    torch.manual_seed(0)
    config = load_config(ROOT / "tests" / "data" / "ncsnpp_tiny.yaml")
    config.model.num_res_blocks, config.model.ch_mult, config.model.attn_resolutions = 1, [1, 2], []
    config.model.init_scale = 0.1
    score = SliceScore(NCSNpp(config), 2, "cpu", processes=processes)
    truth = torch.rand(5, 1, 16, 16)                # slices and views that two and four do not divide
    geometry = read_geometry(ROOT / "configs" / "geometry" / "demo.yaml").on_grid((5, 16, 16))
    scan = Acquisition(geometry.select(range(0, 360, 24)), range(0, 15, 2), processes=processes)
    y = scan.noisy(scan.full.A(truth), 1e4, torch.Generator().manual_seed(3), 0.1)
    assert len(y[0]) == len(range(15)[processes.part(15)])         # this process's views alone
    found = {"A": scan.full.all_views(y), "views that are used": scan.used(y),
             "FDK of all": scan.fdk_of_all(y), "FDK": scan.fdk(scan.of_views(y))}
    y, found["SIRT"] = scan.solvable(scan.of_views(y))
    found["weights"] = scan.few.all_views(scan.poisson_weights(scan.of_views(scan.full.A(truth)), 0.1))
    noisy = scan.on_window(scan.of_views(scan.noisy(scan.full.A(truth), 1e4, torch.Generator().manual_seed(0), 0.1)))
    found["variance"] = torch.tensor(scan.noise_variance(noisy))
    problem = Problem(operator=scan.operator, y=y, initial=found["SIRT"])
    found["residual"] = torch.tensor(problem.residual(found["SIRT"]))
    for name, method in METHODS.items():
        found[f"CT, {name}"] = reconstruct(problem, score, method)
    measured = Acquisition(geometry.select(range(0, 360, 24)), range(15), measured=True, processes=processes)
    wide = measured.full.all_views(measured.full.A(truth))
    wide[..., 200:312] += 1             # an object that is wider than the volume
    wide = measured.full.own_views(wide)
    found["FDK, measured"] = measured.fdk(wide)
    y_measured, found["SIRT, measured"] = measured.solvable(wide)
    found["y, measured"] = measured.operator.all_views(y_measured)
    found["residual of views"] = torch.from_numpy(residual(found["SIRT, measured"], found["y, measured"],
                                                           measured.operator).by_view)
    found["CT, ADMM-TV"] = admm_tv(scan.operator, y, outer=2, inner=4)
    operator = ZAverage((5, 1, 16, 8), 4)
    y = operator.A(torch.rand(5, 1, 16, 8))
    problem = Problem(operator=operator, y=y, initial=operator.A_dagger(y))
    for name, method in METHODS.items():
        found[f"MR, {name}"] = reconstruct(problem, score, method)
    return found


def save_volumes(folder: str) -> None:
    """In one of several processes: what it has in the end."""
    processes = Processes.started()
    with processes.connected(torch.device("cpu")):
        torch.save(volumes(processes), f"{folder}/{processes.rank}.pt")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_every_method_gives_the_volume_of_one_process(tmp_path):
    """Two processes here, to save time; four were seen to agree as well."""
    count, code = 2, f"import tests.test_processes as own; own.save_volumes({str(tmp_path)!r})"
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(count)}
    started = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT,
                                env=ONE_THREAD | place | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
               for rank in range(count)]
    expected = volumes(ALONE)
    assert [process.wait(300) for process in started] == [0] * count
    first, *others = (torch.load(tmp_path / f"{rank}.pt") for rank in range(count))
    for name, volume in expected.items():
        assert (first[name] - volume).norm() <= 2e-5 * volume.norm(), name
        assert all(torch.equal(first[name], other[name]) for other in others), name


def test_work_is_divided_without_rest():
    for things, count in ((7, 3), (2, 4), (0, 2), (360, 7)):
        parts = [range(things)[Processes(rank, count).part(things)] for rank in range(count)]
        assert [thing for part in parts for thing in part] == list(range(things))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc")
def test_a_dead_process_ends_all_and_another_number_goes_on(tmp_path):
    """One line of ours (torchrun adds a report), nothing half-written, and then the volume of an undisturbed run."""
    flags = ["--preset", "fast", "--slice-begin", "8", "--slice-end", "16", "--NFE", "15", "--no-report",
             "--device", "cpu"]
    started = subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port()),
         str(ROOT / "recon_MRI_ZSR.py"), *flags, "--output-dir", str(tmp_path)],
        env=ONE_THREAD, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    end = time.monotonic() + 300
    while not (found := list(tmp_path.rglob("state.pt"))) and started.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    (state,) = found
    children = map(int, Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text().split())
    second = next(pid for pid in children if b"\0RANK=1\0" in Path(f"/proc/{pid}/environ").read_bytes())
    os.kill(second, signal.SIGKILL)
    _, errors = started.communicate(timeout=120)
    lines = [line for line in errors.splitlines() if line.startswith("recon_MRI_ZSR.py: ")]
    assert started.returncode and len(lines) == 1 and f"go on with --resume {state.parent}" in lines[0]
    assert 'recon_MRI_ZSR.py", line' not in errors
    assert not list(state.parent.glob(".partial-*")) and not (state.parent / "recon.nii.gz").exists()
    for more in (["--resume", str(state.parent)], [*flags, "--output-dir", str(tmp_path / "whole")]):
        subprocess.run([sys.executable, ROOT / "recon_MRI_ZSR.py", *more], env=ONE_THREAD, check=True,
                       capture_output=True)
    import nibabel
    resumed, whole = (nibabel.load(folder / "recon.nii.gz").get_fdata() for folder in (
        state.parent, next((tmp_path / "whole").rglob("recon.nii.gz")).parent))
    assert abs(resumed - whole).max() < 1e-3 * whole.max()
