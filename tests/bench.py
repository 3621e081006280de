"""Times each stage against a rival on the same arrays, in the same run: python -m tests.bench [STAGE ...]

Every row is the best of several runs after a warm-up, the rival's runs in between; ratio = rival / ours.
"""
import argparse
import time
from pathlib import Path

import torch

from algorithms.noise import slerp_slices
from models.ncsnpp import NCSNpp
from op import cone_beam, upfirdn2d
from physics.ct import ConeBeam, demo_geometry, svct_views
from utils.config import load_config

ROOT = Path(__file__).resolve().parents[1]


def best_of(functions, seconds=3.0):
    """Best time in seconds of each function, called in turn for about ``seconds`` in all (three times at least)."""
    for function in functions:
        function()
    times, end = [[] for _ in functions], time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[-1]) < 3:
        for function, taken in zip(functions, times):
            start = time.perf_counter()
            function()
            taken.append(time.perf_counter() - start)
    return [min(taken) for taken in times]


def projector(device):
    """The compiled projector against its PyTorch reference, demo size: 48 x 128 x 128, 20 views of 512 x 512."""
    rays = ConeBeam(demo_geometry(svct_views(20)), (48, 128, 128)).rays
    volume = torch.rand(48, 128, 128, device=device)
    projections = cone_beam.project(volume, rays)
    for name, function, x in (("A", cone_beam.project, volume), ("A_T", cone_beam.backproject, projections)):
        yield (f"projector {name}, compiled : reference",
               lambda: function(x, rays), lambda: function(x, rays, "reference"))


def resampling(device):
    """Compiled FIR resampling against PyTorch's convolutions, forward and backward."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], device=device) / 8
    kernel = torch.outer(taps, taps)
    steps = {"down": dict(down=2, pad=(1, 1)), "up": dict(up=2, pad=(2, 1)), "filter": dict(pad=(2, 2))}
    for name, options in steps.items():
        x = torch.rand(8, 32, 64, 64, device=device, requires_grad=True)

        def run(impl, x=x, options=options):
            upfirdn2d.upfirdn2d(x, kernel, impl=impl, **options).sum().backward()
        yield f"upfirdn2d {name}, compiled : reference", lambda: run(None), lambda: run("reference")


def noise(device):
    """ISCS noise in closed form against interpolating 16 n slices and keeping every 16th."""
    z0, z1 = torch.randn(2, 1, 1, 256, 256, device=device)
    yield "ISCS noise of 64 slices of 256 x 256, closed form : 16 n", \
        lambda: slerp_slices(z0, z1, 64), lambda: slerp_slices(z0, z1, 64 * 16)[::16].contiguous()


def network(device):
    """The demo's CT network, a batch of 8 slices, against one slice at a time."""
    model = NCSNpp(load_config(ROOT / "configs" / "ve" / "demo_CT_128.yaml")).to(device).eval().requires_grad_(False)
    x, sigma = torch.rand(8, 1, 128, 128, device=device), torch.full((8,), 0.1, device=device)
    yield "network, 8 slices, in a batch : one by one", \
        lambda: model(x, sigma), lambda: [model(x[k:k + 1], sigma[k:k + 1]) for k in range(8)]


STAGES = {stage.__name__: stage for stage in (projector, resampling, noise, network)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"of {', '.join(STAGES)}; all without any")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    for name in args.stages:
        if name not in STAGES:
            parser.error(f"{name}; stages are {', '.join(STAGES)}")
    device = torch.device(args.device)

    def timed(function):
        def call():
            function()
            if device.type == "cuda":
                torch.cuda.synchronize()
        return call

    print(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads")
    print(f"{'ours : rival':62}{'ours ms':>10}{'rival ms':>10}{'ratio':>8}")
    for name in args.stages or STAGES:
        for label, ours, rival in STAGES[name](device):
            a, b = best_of([timed(ours), timed(rival)])
            print(f"{label:62}{1e3 * a:10.2f}{1e3 * b:10.2f}{b / a:8.2f}", flush=True)


if __name__ == "__main__":
    main()
