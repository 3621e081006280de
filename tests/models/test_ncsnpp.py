"""The network against published numbers: scores, and the names, shapes and order of its parameters."""
import json

import numpy as np
import pytest
import torch

from models.checkpoint import load_weights
from models.ncsnpp import NCSNpp
from utils.io.config import load_config

ROOT_CONFIGS = ("AAPM_256_ncsnpp_Chung", "BMR_ZSR_256")


@pytest.fixture
def config(data_dir):
    return load_config(data_dir / "ncsnpp_tiny.yaml")


@pytest.mark.parametrize("use_ema, expected", [(True, "score"), (False, "score_raw")])
def test_score_of_the_published_implementation(data_dir, config, use_ema, expected):
    network = NCSNpp(config).eval()
    load_weights(network, data_dir / "ncsnpp_tiny.pth", use_ema)
    reference = np.load(data_dir / "ncsnpp_tiny.npz")
    with torch.no_grad():
        score = network(torch.from_numpy(reference["x"]), torch.from_numpy(reference["sigma"])).numpy()
    for ours, theirs in zip(score, reference[expected]):    # levels differ by orders of magnitude
        assert np.linalg.norm(ours - theirs) <= 1e-5 * np.linalg.norm(theirs)


@pytest.mark.parametrize("name", ROOT_CONFIGS)
def test_parameters_of_the_published_checkpoints(data_dir, name):
    config = load_config(data_dir.parents[1] / "configs" / "ve" / f"{name}.yaml")
    with torch.device("meta"):
        network = NCSNpp(config)
    state = [[key, list(value.shape)] for key, value in network.state_dict().items()]
    assert state == [list(item) for item in json.loads((data_dir / "AAPM_256_state_dict.json").read_text()).items()]
    parameters = [[key, list(value.shape), value.requires_grad] for key, value in network.named_parameters()]
    assert parameters == json.loads((data_dir / "AAPM_256_parameters.json").read_text())


def test_sigmas_fall_from_largest_to_smallest(config):
    sigmas = NCSNpp(config).sigmas
    assert len(sigmas) == config.model.num_scales
    assert sigmas[0].item() == pytest.approx(config.model.sigma_max)
    assert sigmas[-1].item() == pytest.approx(config.model.sigma_min)


@pytest.mark.parametrize("progressive", ["none", "output_skip"])
@pytest.mark.parametrize("progressive_input", ["none", "input_skip", "residual"])
def test_every_architecture_uses_all_its_parameters(config, progressive, progressive_input):
    config.model.progressive, config.model.progressive_input = progressive, progressive_input
    config.model.init_scale = 1.0    # at 0 nothing but the last layer would have a gradient
    network = NCSNpp(config)
    x = torch.randn(2, 1, 16, 24)    # neither square nor the config's size
    score = network(x, torch.tensor([0.1, 3.0]))
    assert score.shape == x.shape
    score.square().sum().backward()
    for name, parameter in network.named_parameters():
        assert not parameter.requires_grad or parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("section, key, value", [
    ("model", "resblock_type", "ddpm"), ("model", "progressive", "residual"), ("model", "fir", False),
    ("model", "conv_size", 5), ("model", "fir_kernel", [1, 2, 1]), ("model", "nf", 10), ("model", "ch_mult", []),
    ("model", "num_res_blocks", 0), ("model", "sigma_min", 500), ("data", "num_channels", 3),
    ("data", "image_size", 33), ("training", "sde", "subvpsde"), ("model", "nf", 36),
    ("training", "preconditioning", "vp"),
    ("model", "fir_kernel", [0, 0, 0, 0]), ("model", "ema_rate", 7.0),
])
def test_a_config_outside_what_is_built_is_named(config, section, key, value):
    config[section][key] = value
    with pytest.raises(ValueError, match=f"{section}.*{key}"):
        NCSNpp(config)


def test_an_image_that_the_levels_do_not_divide_is_refused(config):
    with pytest.raises(ValueError, match="16 x 18.*multiples of 4"):
        NCSNpp(config)(torch.zeros(1, 1, 16, 18), torch.ones(1))


@pytest.mark.parametrize("centered", [False, True])
def test_edm_preconditioning_denoises_as_its_formula_says(config, centered):
    """Karras et al. 2022, table 1, on intensities in [-1, 1], around whatever the layers answer."""
    config.training.preconditioning, config.data.centered = "edm", centered
    network = NCSNpp(config).eval()
    answer = torch.randn(3, 1, 16, 16)
    network._layers = lambda x, sigma: answer * x.std()
    x0, eps, sigma = torch.rand(3, 1, 16, 16), torch.randn(3, 1, 16, 16), torch.tensor([0.01, 0.7, 50.0])
    to_unit = (lambda image: image) if centered else (lambda image: 2 * image - 1)
    level = sigma[:, None, None, None]
    s, x = level * (1 if centered else 2), to_unit(x0 + level * eps)
    skip, out, into = 0.25 / (s**2 + 0.25), s * 0.5 / (s**2 + 0.25).sqrt(), 1 / (s**2 + 0.25).sqrt()
    layers = answer * (into * x).std()
    denoised = skip * x + out * layers
    score = network(x0 + level * eps, sigma)
    torch.testing.assert_close(to_unit(x0 + level * eps + level**2 * score), denoised, rtol=1e-4, atol=1e-4)
    target = (to_unit(x0) - skip * x) / out
    weighted = network.loss_weight(sigma)[:, None, None, None] * (level * score + eps).square()
    torch.testing.assert_close(weighted, (layers - target).square(), rtol=1e-2, atol=1e-4)


def test_the_plain_network_weighs_all_levels_alike(config):
    assert NCSNpp(config).loss_weight(torch.tensor([0.01, 50.0])).tolist() == [1, 1]
