"""Times each stage against a rival on the same arrays, in the same run.

python -m tests.bench [STAGE ...]

Every row is the best of several runs after a warm-up, the rival's runs in between; ratio = rival / ours; difference
is |ours - rival| / |rival| of what the two compute, where that is the same thing.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from copy import deepcopy
from pathlib import Path
from unittest import mock

import torch
from torch.nn.functional import interpolate, pad

import recon_CBCT
from algorithms.cg import cgls
from algorithms.noise.slerp import Slerp
from models.ncsnpp import NCSNpp
from models.precision import choose_precision
from models.slice_score import SliceScore
from op import conv3x3, group_norm_silu, upfirdn2d
from op.processes import Processes
from physics.backends import cone_beam_operator
from physics.cone_beam import ConeBeam
from physics.fdk import fdk
from physics.views import svct_views
from tests.pipeline import CASES
from tests.published import published_network
from utils.io.config import load_config
from utils.io.geometry_file import read_geometry
from utils.train.training import Training

ROOT = Path(__file__).resolve().parents[1]


def best_of(functions, seconds=3.0):
    """Best time in seconds of each function, called in turn for about ``seconds`` in all (three times at least)."""
    times, end = [[] for _ in functions], time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[-1]) < 3:
        for function, taken in zip(functions, times):
            start = CLOCK()
            function()
            taken.append(CLOCK() - start)
    return [min(taken) for taken in times]


def scan(volume_shape, views):
    """The demo's scan, with a smooth volume [D, 1, H, W] in a frame of zeros: RTK treats the border its own way."""
    geometry = read_geometry(ROOT / "configs" / "geometry" / "demo.yaml").on_grid(volume_shape)
    inner = [size - 4 for size in volume_shape]
    coarse = torch.rand(1, 1, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    volume = pad(interpolate(coarse, inner, mode="trilinear")[0, 0][:, None], (2, 2, 2, 2, 0, 0, 2, 2))
    return geometry.select(svct_views(geometry, views)), volume


def projector(device):
    """A and A_T against the PyTorch reference, itk-rtk (CPU), ASTRA and torch_radon (CUDA); and what they cost."""
    geometry, volume = scan((48, 128, 128), 20)
    ours, reference, x = ConeBeam(geometry), ConeBeam(geometry, "reference"), volume.to(device)
    y = ours.A(x)
    yield "A, 48 x 128 x 128, compiled : reference", lambda: ours.A(x), lambda: reference.A(x)
    yield "A_T, 48 x 128 x 128, compiled : reference", lambda: ours.A_T(y), lambda: reference.A_T(y)

    size = "128 x 256 x 256, 20 views"
    geometry, volume = scan((128, 256, 256), 20)
    once, x_once = ConeBeam(geometry), volume.to(device)
    y_once = once.A(x_once)
    for name, rival in rivals(geometry, device):
        yield f"A, {size} : {name}", lambda: once.A(x_once), lambda rival=rival: rival.A(x_once)
        yield f"A_T, {size} : {name}", lambda: inside(once.A_T(y_once)), lambda rival=rival: inside(rival.A_T(y_once))
    for label, shape, views in (("slices", (256, 256, 256), 20), ("views", (128, 256, 256), 40)):
        geometry, volume = scan(shape, views)
        twice, x_twice = ConeBeam(geometry), volume.to(device)
        y_twice = twice.A(x_twice)
        yield f"A, {size} : twice the {label}", lambda: timed_only(once.A(x_once)), \
            lambda twice=twice, x_twice=x_twice: timed_only(twice.A(x_twice))
        yield f"A_T, {size} : twice the {label}", lambda: timed_only(once.A_T(y_once)), \
            lambda twice=twice, y_twice=y_twice: timed_only(twice.A_T(y_twice))


def reconstruction(device):
    """FDK and a step of conjugate gradients, 128 x 256 x 256 voxels and 20 views of 512 x 512."""
    geometry, x = scan((128, 256, 256), 20)
    operator = ConeBeam(geometry)
    cropped, (top, bottom, left, right) = operator.crop()
    y = operator.A(x.to(device))
    small = y[..., top:bottom, left:right].contiguous()

    def step():
        return cgls(cropped, small, torch.zeros_like(x, device=device), 1)

    for name, rival in rivals(geometry, device):
        if hasattr(rival, "fdk"):
            yield f"FDK : {name}", lambda: fdk(y, operator), lambda rival=rival: rival.fdk(y)
            yield f"one CG step from zero : {name}", lambda: timed_only(step()), \
                lambda rival=rival: timed_only(rival.cg(y, 1))


def rivals(geometry, device):
    """(name, operator) of the other projectors that can run here; says which cannot, and why."""
    if device.type == "cpu":
        try:
            from tests.rtk import Rtk
            yield "RTK", Rtk(geometry, torch.get_num_threads())
        except ImportError as error:
            print(f"without RTK (pip install itk-rtk): {error}")
    else:
        for name in ("astra", "torch_radon"):
            try:
                yield name, cone_beam_operator(geometry, name)
            except ValueError as error:
                print(f"without {name}: {error}")


def inside(x):
    """A volume [D, 1, H, W] without its border."""
    return x[2:-2, :, 2:-2, 2:-2]


def timed_only(_):
    """Nothing, for rows whose two sides compute different things."""


def peak_memory(device):
    """GiB that A and A_T of 133 x 512 x 512 voxels and 60 views need, PyTorch included; on CUDA, of its memory."""
    code = ("import torch; from physics.cone_beam import ConeBeam\n"
            "from utils.io.geometry_file import read_geometry\n"
            "from physics.views import svct_views\n"
            f"g = read_geometry('configs/geometry/demo.yaml').on_grid((133, 512, 512)); d = '{device}'\n"
            "operator = ConeBeam(g.select(svct_views(g, 60)))\n"
            "operator.A_T(operator.A(torch.rand(operator.domain_shape, device=d)))\n"
            "host = int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])\n"        # Linux
            "print(host / 2**20 if d == 'cpu' else torch.cuda.max_memory_allocated(d) / 2**30)")
    return float(subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True).stdout)


def resampling(device):
    """FIR resampling, compiled on CUDA, against PyTorch's convolutions, forward and backward; on CPU these do it."""
    if device == "cpu":
        return
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], device=device) / 8
    kernel = torch.outer(taps, taps)
    steps = {"down": dict(down=2, pad=(1, 1)), "up": dict(up=2, pad=(2, 1)), "filter": dict(pad=(2, 2))}
    for name, options in steps.items():
        x = torch.rand(8, 32, 64, 64, device=device, requires_grad=True)

        def run(impl, x=x, options=options):
            y = upfirdn2d.upfirdn2d(x, kernel, impl=impl, **options)
            y.sum().backward()
            return y.detach()
        yield f"upfirdn2d {name}, compiled : reference", lambda: run(None), lambda: run("reference")


def noise(device):
    """ISCS noise in closed form against interpolating 16 n slices and keeping every 16th."""
    z0, z1 = torch.randn(2, 1, 1, 256, 256, device=device)
    yield "ISCS noise of 64 slices of 256 x 256, closed form : 16 n", \
        lambda: timed_only(Slerp.between(z0, z1, 64)), \
        lambda: timed_only(Slerp.between(z0, z1, 64 * 16)[::16].contiguous())


def network(device):
    """Networks as a reconstruction runs them, against plain PyTorch and, with --published, the published code."""
    for name, slices in (("demo_CT_128", 8), ("AAPM_256_ncsnpp_Chung", 1)):
        config = load_config(ROOT / "configs" / "ve" / f"{name}.yaml")
        size = config.data.image_size
        model = with_weights(NCSNpp(config)).to(device)
        x, levels = torch.rand(slices, 1, size, size, device=device), torch.full((slices,), 0.1, device=device)
        plain = deepcopy(model).eval().requires_grad_(False)
        what = f"{name}, {slices} x {size} x {size}"
        rivals = {"plain PyTorch": lambda plain=plain, x=x, levels=levels: referenced(plain, x, levels)}
        if PUBLISHED and config.training.preconditioning == "none":
            theirs = published_network(PUBLISHED, config).to(device).eval().requires_grad_(False)
            theirs.load_state_dict(model.state_dict())
            rivals["published"] = lambda theirs=theirs, x=x, levels=levels: theirs(x, levels)
        for precision in ("float32", "bf16", "fp16"):
            with suppress(ValueError):      # the processor does not have it
                choose_precision(precision, device)
                score = SliceScore(deepcopy(model), slices, device, precision=precision)
                for rival, function in rivals.items():
                    yield f"{what}, {precision} : {rival}", lambda score=score, x=x: score(x, 0.1), function


def with_weights(model):
    """The model with random weights where a new one has almost zeros, which hide what is before them."""
    for parameter in model.parameters():
        if parameter.ndim == 4 and parameter.abs().max() < 1e-3:
            torch.nn.init.normal_(parameter, std=0.02)
    return model


@torch.no_grad()
def referenced(model, x, levels):
    """The network without the compiled operations, contiguous and in float32."""
    with ExitStack() as stack:
        for function in (conv3x3.conv3x3, group_norm_silu.group_norm_silu, upfirdn2d.upfirdn2d):
            *defaults, _ = function.__defaults__
            stack.enter_context(mock.patch.object(function, "__defaults__", (*defaults, "reference")))
        return model(x, levels)


PUBLISHED: Path | None = None       # --published
CLOCK = time.perf_counter           # --cpu-time


def training(device):
    """A step of train.py against a plain loop (float32, contiguous): the full config on a GPU, the demo's on a CPU."""
    name, batch = ("AAPM_256_ncsnpp_Chung", 8) if device.type == "cuda" else ("demo_CT_128", 4)
    path = ROOT / "configs" / "ve" / f"{name}.yaml"
    config = load_config(path)
    size = config.data.image_size
    network = NCSNpp(config).to(device, memory_format=torch.channels_last)
    precision = choose_precision("auto", device, training=True)
    ours = Training(network, Path(os.devnull), config.model.ema_rate, precision, Processes(), {}, {}, None)
    plain, rate = NCSNpp(config).to(device), 1e-3
    adam = torch.optim.Adam(plain.parameters(), lr=rate)
    x0, eps, sigma = (draw(*shape, device=device) for draw, shape in (
        (torch.rand, (batch, 1, size, size)), (torch.randn, (batch, 1, size, size)), (torch.rand, (batch,))))

    def plain_step():
        adam.zero_grad()
        scale = sigma[:, None, None, None]
        loss = (scale * plain(x0 + scale * eps, sigma) + eps).square().mean()
        loss.backward()
        adam.step()
    yield f"training step, {name}, {batch} images : plain loop", \
        lambda: timed_only(ours.update(x0, eps, sigma, rate)), plain_step, batch


def whole(case, device):
    """Of `tests.pipeline`, a line for each number of processes, which share the threads or have a GPU each."""
    most = torch.cuda.device_count() if device.type == "cuda" else torch.get_num_threads()
    for count in (1, 2, 4):
        if count > most and (case == "pipeline" or device.type == "cuda"):      # times, or devices
            return
        launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(count), "--module"] * (count > 1)
        threads = {"OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // count))}
        command = [sys.executable, "-m", *launch, "tests.pipeline", case, str(device)]
        found = json.loads(subprocess.run(command, cwd=ROOT, env=os.environ | threads, check=True,
                                          stdout=subprocess.PIPE).stdout.splitlines()[-1])
        seconds = found.pop("seconds")
        shape, views, iterations, levels, _ = CASES[case]
        yield (f"{case}, {' x '.join(map(str, shape))}, {views} views, SIRT-{iterations}, levels {levels}, processes "
               f"{count}: " + ", ".join([*(f"{name} {value:.1f} s" for name, value in seconds.items()),
                                         *(f"{value:.2f} {name}" for name, value in found.items())]))


def demo_overhead():
    """Seconds of the CT demo, and of what it spends on the report, on its state for --resume, on complete files."""
    from utils.io import files
    from utils.run import resume, run

    spent = dict.fromkeys(("report.html", "state for --resume", "complete files"), 0.0)

    def clocked(function, name):
        def call(*args, **options):
            begun = time.perf_counter()
            try:
                return function(*args, **options)
            finally:
                spent[name] += time.perf_counter() - begun
        return call

    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        for module, function, name in (
                (run, "write_report", "report.html"), (resume, "save_tensors", "state for --resume"),
                (files.os, "replace", "complete files")):
            stack.enter_context(mock.patch.object(module, function, clocked(getattr(module, function), name)))
        begun = time.perf_counter()
        recon_CBCT.main(["--preset", "fast", "--quiet", "--output-dir", folder])
        return time.perf_counter() - begun, spent


STAGES = {stage.__name__: stage for stage in (projector, reconstruction, resampling, noise, network, training)}
WHOLE = (*CASES, "demo")


def main():
    global PUBLISHED, CLOCK
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"{', '.join([*STAGES, *WHOLE])}; all without any")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--published", type=Path, help="a checkout of github.com/duchenhe/ISCS, for `network`")
    parser.add_argument("--cpu-time", action="store_true", help="count processor time, where others use the machine")
    args = parser.parse_args()
    PUBLISHED, CLOCK = args.published, time.process_time if args.cpu_time else time.perf_counter
    for name in args.stages:
        if name not in (*STAGES, *WHOLE):
            parser.error(f"{name}; stages are {', '.join([*STAGES, *WHOLE])}")
    device = torch.device(args.device)

    def timed(function):
        def call():
            result = function()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            return result
        return call

    print(f"torch {torch.__version__}, {torch.cuda.get_device_name(device) if device.type == 'cuda' else device}, "
          f"{torch.get_num_threads()} threads")
    print(f"{'ours : rival':62}{'ours ms':>10}{'rival ms':>10}{'ratio':>8}{'difference':>12}")
    stages = args.stages or [*STAGES, *WHOLE]
    for name in stages:
        for label, ours, rival, *images in STAGES[name](device) if name in STAGES else ():
            pair = [timed(function) for function in (ours, rival)]
            found, expected = (function() for function in pair)         # warm-up
            difference = f"{(found - expected).norm() / expected.norm():12.1e}" if found is not None else ""
            a, b = best_of(pair)
            print(f"{label:62}{1e3 * a:10.2f}{1e3 * b:10.2f}{b / a:8.2f}{difference}", flush=True)
            if images:
                print(f"{'    images a second':62}{images[0] / a:10.2f}{images[0] / b:10.2f}", flush=True)
    if "projector" in stages:
        print(f"peak memory of A and A_T, 133 x 512 x 512 voxels, 60 views: {peak_memory(device):.2f} GiB")
    for name in CASES:
        for line in whole(name, device) if name in stages else ():
            print(line, flush=True)
    if "demo" in stages:
        seconds, spent = demo_overhead()
        print(f"CT demo, {seconds:.1f} s: " + ", ".join(f"{name} {part:.2f} s ({part / seconds:.1%})"
                                                       for name, part in spent.items()))


if __name__ == "__main__":
    main()
