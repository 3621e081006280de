"""On a GPU that is none: tensors that only say that they are on CUDA, so that operations between devices are found.

Nothing is computed. What the compiled code would be handed is looked at, too; what autograd does backwards is left out,
since that asks for a real device.
"""
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import algorithms.noise.slerp
import models.layers
import models.prior.schedule
import physics.fdk
import physics.sirt
from algorithms.admm_tv import admm_tv
from algorithms.noise.gaussian_process import GaussianProcess
from algorithms.noise.independent import Independent
from algorithms.planes import SecondPlane
from algorithms.problem import Problem, Sampling, reconstruct
from algorithms.renoise.ddpm import DDPM
from algorithms.sampler import sample
from models.ncsnpp import NCSNpp
from models.prior.denoiser import Denoiser
from models.prior.schedule import Betas, Sigmas, named_betas
from models.slice_score import SliceScore
from op import build
from op.processes import ALONE
from physics.acquisition import Acquisition
from physics.margin import extend_rows
from physics.noise import add_noise, poisson_weights
from physics.zsr import ZProfile
from tests.test_processes import METHODS, SIGMAS
from utils.io.config import load_config
from utils.io.geometry_file import read_geometry
from utils.train.training import Training

ROOT, CUDA = Path(__file__).resolve().parents[1], torch.device("cuda", 0)
ONE = {torch.bool: True, torch.int64: 1, torch.int32: 1}


class Fake(FakeTensorMode):
    """In which every number that is asked for is one, and every truth holds."""

    def dispatch(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default:
            return ONE.get(args[0].dtype, 1.0)
        if func is torch.ops.aten.nonzero.default:
            return args[0].new_empty((args[0].numel(), args[0].ndim), dtype=torch.long)
        return super().dispatch(func, types, args, kwargs)


MODE = Fake()       # of all tests, so that they may share what they made in it


def moved(module, device=None, memory_format=None):
    """In place of nn.Module.to, which cannot move fake tensors: parameters and buffers, and nothing else."""
    for each in module.modules() if device is not None else ():
        for name, value in each._parameters.items():
            each._parameters[name] = value if value is None else nn.Parameter(value.detach().to(device),
                                                                              value.requires_grad)
        for name, value in each._buffers.items():
            each._buffers[name] = value if value is None else value.to(device)
    return module


def handed(self, function, *arguments):
    """In place of calling compiled code, which takes the rays' vectors from the host's memory."""
    found = {argument.device for argument in arguments if isinstance(argument, torch.Tensor)
             and not (argument.dtype == torch.float64 and function.startswith("cone_beam"))}
    if found != {CUDA}:
        raise RuntimeError(f"{function}: not all on the same device: {found}")


def gradient(outputs, inputs, weights):
    """In place of torch.autograd.grad."""
    return [torch.zeros_like(outputs * weights) + torch.zeros_like(inputs)]


@pytest.fixture
def fake(monkeypatch):
    """All kernels that have CUDA sources count as built."""
    monkeypatch.setattr(build, "load", lambda name, sources: object())
    monkeypatch.setattr(build.Compiled, "call", handed)
    monkeypatch.setattr(build.Compiled, "has", lambda self, function, x: True)
    monkeypatch.setattr(nn.Module, "to", moved)
    monkeypatch.setattr(torch.autograd, "grad", gradient)
    monkeypatch.setattr(physics.sirt.sirt, "__defaults__", (2, True, None))     # iterations
    with MODE:
        yield


def network():
    config = load_config(ROOT / "tests" / "data" / "ncsnpp_tiny.yaml")
    config.model.num_res_blocks, config.model.ch_mult, config.model.attn_resolutions = 1, [1, 2], [8]
    return NCSNpp(config)


@cache
def prior():
    return SliceScore(Denoiser(network(), "v", Betas(named_betas("linear")), (2.0, -1.0)), 5, CUDA)


def scan():
    geometry = read_geometry(ROOT / "configs" / "geometry" / "demo.yaml").on_grid((5, 16, 16))
    return Acquisition(geometry.select(range(0, 360, 90)), range(0, 4, 2))


@cache
def ct_problem():
    """As recon_CBCT.py makes it: measured, with all baselines."""
    acquisition = scan()
    y = add_noise(acquisition.simulate(torch.rand(5, 1, 16, 16, device=CUDA)), 1e4, torch.Generator(), 0.1)
    assert acquisition.fdk_of_all(y).device == acquisition.fdk(acquisition.of_views(y)).device == CUDA
    assert extend_rows(y, acquisition.full.geometry)[0].device == CUDA
    y, initial = acquisition.solvable(acquisition.of_views(y))
    return Problem(operator=acquisition.operator, y=y, initial=initial, spacing=1.0,
                   weights=poisson_weights(y, 0.1))


@cache
def mr_problem():
    operator = ZProfile((5, 1, 16, 8), 4, "gauss", 1.2)
    y = operator.A(torch.rand(operator.domain_shape, device=CUDA))
    return Problem(operator=operator, y=y, initial=operator.A_dagger(y), spacing=1.0)


@pytest.mark.parametrize("problem", [ct_problem, mr_problem], ids=["CT", "MR"])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_stays_on_the_device(fake, name, problem):
    assert reconstruct(problem(), prior(), METHODS[name]).device == CUDA


def test_two_planes_and_other_noise_stay_on_the_device(fake):
    problem, score = mr_problem(), prior()
    for noise in (GaussianProcess(noise_length=4.0), Independent()):
        method = Sampling(sigmas=SIGMAS, noise=noise, second=SecondPlane(prior=score, spacing=1.0))
        assert reconstruct(problem, score, method).device == CUDA


@pytest.mark.parametrize("device, order", [("cpu", "score data noise score data"),
                                           (CUDA, "score noise data score data")])
def test_a_gpu_does_not_wait_for_noise(fake, device, order):
    """On a GPU the host draws while the network is at work; the numbers are in the same order."""
    x, seen = torch.rand(2, 1, 4, 4, device=device), []

    def noted(name):
        return lambda *_: seen.append(name) or x
    sample(noted("score"), noted("data"), noted("noise"), SIGMAS, DDPM(), x)
    assert " ".join(seen) == order


def test_total_variation_stays_on_the_device(fake):
    problem = ct_problem()
    assert admm_tv(problem.operator, problem.y, outer=1, inner=2).device == CUDA


def test_volumes_on_the_host_pass_through_the_network_and_back(fake):
    assert prior()(torch.rand(3, 1, 16, 16), 0.3).device.type == "cpu"
    assert prior().vjp(torch.rand(3, 1, 16, 16), 0.3, torch.rand(3, 1, 16, 16)).device.type == "cpu"


def train(tmp_path):
    training = Training(moved(network(), CUDA), tmp_path, 0.999, "float32", ALONE, {}, {}, None)
    x0, eps, sigma = torch.rand(2, 1, 16, 16), torch.rand(2, 1, 16, 16), torch.rand(2)

    def backward():
        for parameter in training.parameters:
            parameter.grad = torch.zeros_like(parameter)

    training.scaler.scale = lambda loss: SimpleNamespace(backward=backward)
    training.update(x0.to(CUDA), eps.to(CUDA), sigma.to(CUDA), 1e-3)
    return training


def test_a_step_of_training_stays_on_the_device(fake, tmp_path):
    training = train(tmp_path)
    assert {value.device for value in (*training.parameters, *training.ema.shadow_params)} == {CUDA}


def on_the_host(module, name):
    original = getattr(module, name)
    return module, name, lambda *arguments, **options: original(*arguments, **options).cpu()


@pytest.mark.parametrize("module, name, planted", [
    on_the_host(physics.fdk, "_ramp"), on_the_host(models.prior.schedule.Betas, "time"),
    (algorithms.noise.slerp, "draw", lambda count, shape, *_: torch.randn(count, *shape[1:])),
    on_the_host(physics.cone_beam.ConeBeam, "_adjoint"), on_the_host(models.layers, "conv3x3")],
    ids=lambda value: value if isinstance(value, str) else "")
def test_what_is_left_on_the_host_is_noticed(fake, monkeypatch, module, name, planted):
    """Each as if a `.to` were missing somewhere."""
    monkeypatch.setattr(module, name, planted)
    problem = ct_problem if module is not physics.fdk else ct_problem.__wrapped__
    with pytest.raises(RuntimeError, match="device"):
        reconstruct(problem(), prior(), METHODS["DDS"])


def test_kernels_are_looked_at(fake):
    rays = scan().full.rays
    with pytest.raises(RuntimeError, match="cone_beam_project: not all on the same device"):
        physics.cone_beam.cone_beam._compiled_project(torch.rand(5, 16, 16, device=CUDA), rays, torch.rand(5, 16, 16))
    assert Sigmas(0.1, 1).time(torch.ones(2, device=CUDA)).device == CUDA
