"""In which precision a network computes: what is chosen, what is refused, what stays in float32; one graph."""
import pytest
import torch

import models.precision
from models.ncsnpp import NCSNpp
from models.precision import choose_precision, describe
from models.prior.denoiser import Denoiser
from models.prior.schedule import Betas, named_betas
from models.slice_score import SliceScore
from utils.io.config import load_config

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")


@pytest.fixture
def network(data_dir):
    config = load_config(data_dir / "ncsnpp_tiny.yaml")
    config.model.init_scale = 1.0
    torch.manual_seed(0)
    return NCSNpp(config)


@pytest.mark.parametrize("capability, expected", [((7, 5), "fp16"), ((8, 0), "bf16"), ((12, 0), "bf16")])
def test_auto_is_what_the_device_is_fast_in(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert choose_precision("auto", CPU) == "float32" and choose_precision("auto", CUDA) == "fp16"
    assert choose_precision("auto", CPU, training=True) == "float32"
    assert choose_precision("auto", CUDA, training=True) == expected
    assert choose_precision("float32", CUDA) == "float32" and choose_precision("fp16", CUDA) == "fp16"


@pytest.mark.parametrize("found, accepted", [({}, []), ({"avx512_bf16": True}, ["bf16"]),
                                             ({"amx_fp16": True}, ["fp16"])])
def test_half_precision_needs_a_processor_that_has_it(monkeypatch, found, accepted):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    for name in ("bf16", "fp16"):
        if name in accepted:
            assert choose_precision(name, CPU) == name
        else:
            with pytest.raises(ValueError, match=f"precision {name}: .*accepted: auto, float32"):
                choose_precision(name, CPU)


def test_tf32_is_said(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert describe("float32", CUDA) == "float32 (convolutions in TF32)" and describe("float32", CPU) == "float32"


def test_half_precision_is_near_and_its_ends_are_in_float32(network):
    x = torch.rand(2, 1, 16, 16)
    whole = SliceScore(network, 2, CPU)(x, 0.3)
    types = {}
    for name, module in network.named_modules():
        module.register_forward_hook(lambda module, inputs, output, name=name: types.update({name: output.dtype}))
    half = SliceScore(network, 2, CPU, precision="bf16")(x, 0.3)
    assert half.dtype == torch.float32 and 0 < (half - whole).norm() < 0.05 * whole.norm()
    layers = network.all_modules
    first_block = next(i for i, layer in enumerate(layers) if type(layer).__name__ == "ResidualBlock")
    attention = next(i for i, layer in enumerate(layers) if type(layer).__name__ == "Attention")
    assert types["all_modules.3"] == torch.bfloat16
    for name in (f"{len(layers) - 1}", "2", f"{first_block}", f"{attention}", f"{attention}.GroupNorm_0"):
        assert types[f"all_modules.{name}"] == torch.float32, name


@pytest.fixture
def small(data_dir):
    config = load_config(data_dir / "ncsnpp_tiny.yaml")
    config.model.num_res_blocks, config.model.ch_mult, config.model.attn_resolutions = 1, [1, 2], []
    config.model.init_scale = 0.1
    return NCSNpp(config).eval().requires_grad_(False)


@pytest.fixture
def graphs():
    return []


@pytest.fixture
def backend(graphs):
    """Of torch.compile: notes what it compiles, and runs it as it is."""
    def compiled(graph, inputs):
        graphs.append(graph)
        return graph.forward
    return compiled


def test_the_network_is_one_graph(small, graphs, backend):
    """On the CPU in float32, with the compiled operations, and in half precision, as on a GPU."""
    compiled = torch.compile(small, fullgraph=True, backend=backend)
    x, sigma = torch.rand(2, 1, 16, 16), torch.tensor([0.3, 2.0])
    with torch.no_grad():
        for level in (sigma, 2 * sigma):        # from level to level nothing is compiled again
            torch.testing.assert_close(compiled(x, level), small(x, level))
        assert len(graphs) == 1
        with models.precision.autocast("bf16", CPU):
            assert compiled(x, sigma).isfinite().all()
    assert len(graphs) == 2


def test_slices_in_batches_are_compiled_once(small, graphs, backend, caplog):
    """Whatever the level, and for a smaller last batch; the compiled network is the same to rounding."""
    caplog.set_level("INFO")
    denoiser = Denoiser(small, "v", Betas(named_betas("linear")), (2.0, -1.0))
    plain, score = SliceScore(denoiser, 2, CPU), SliceScore(denoiser, 2, CPU, backend=backend)
    x = torch.rand(5, 1, 16, 12)
    for sigma in (0.1, 0.4, 2.0):
        torch.testing.assert_close(score(x, sigma), plain(x, sigma), rtol=1e-5, atol=1e-5)
    assert len(graphs) == 1 and caplog.text.count("network compiled in") == 1
    v = torch.rand_like(x)
    torch.testing.assert_close(score.vjp(x, 0.1, v), plain.vjp(x, 0.1, v), rtol=1e-3, atol=1e-4)
    assert len(graphs) == 1
