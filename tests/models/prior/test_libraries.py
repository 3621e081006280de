"""Priors of other libraries against these libraries themselves: the same weights, the same denoised image.

Of each library that is not installed, the tests skip.
"""
import hashlib
import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from models.prior import load_prior
from utils.cli import choices
from utils.io.prior_file import parse_card, read_prior

STEPS = (3, 50, 250, 600, 990)


def opened(tree, weights):
    card = parse_card(tree)
    return load_prior(card, choices.named(choices.NETWORKS, card.network).load()(card.architecture), weights, "cpu")


def randomised(module):
    """Weights that make every layer matter, drawn with one seed; zeros of a new network would hide layers."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data.normal_(0, 0.05, generator=generator)
    return module.eval()


def image(channels=1):
    return torch.rand(2, channels, 32, 32, generator=torch.Generator().manual_seed(1))


def check(prior, sigma, x, clean):
    """The prior's estimate at x, in [0, 1], is ``clean``."""
    found = x + sigma**2 * prior(x, sigma)
    assert (found - clean).norm() <= 1e-5 * clean.norm()


@pytest.fixture(scope="module")
def diffusers():
    return pytest.importorskip("diffusers", reason="diffusers is not installed")


@pytest.mark.parametrize("schedule, prediction", [("linear", "epsilon"), ("scaled_linear", "v_prediction"),
                                                  ("squaredcos_cap_v2", "sample"), ("sigmoid", "epsilon")])
def test_a_pipeline_of_diffusers(diffusers, tmp_path, schedule, prediction):
    unet = randomised(diffusers.UNet2DModel(
        sample_size=32, in_channels=1, out_channels=1, block_out_channels=(16, 32), layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8, attention_head_dim=8))
    scheduler = diffusers.DDPMScheduler(beta_schedule=schedule, prediction_type=prediction, clip_sample=False)
    diffusers.DDPMPipeline(unet=unet, scheduler=scheduler).save_pretrained(tmp_path)
    card, weights = read_prior(tmp_path)
    prior = load_prior(card, choices.named(choices.NETWORKS, card.network).load()(card.architecture), weights, "cpu")
    assert card.image_size == 32
    for step in STEPS:
        abar = scheduler.alphas_cumprod[step].double()
        noisy = abar.sqrt() * (2 * image() - 1) + (1 - abar).sqrt() * torch.randn(
            2, 1, 32, 32, generator=torch.Generator().manual_seed(step))
        noisy = noisy.float()
        with torch.no_grad():
            theirs = scheduler.step(unet(noisy, step).sample, step, noisy).pred_original_sample
        x = ((noisy / abar.sqrt()).float() + 1) / 2
        check(prior, ((1 - abar) / abar).sqrt().item() / 2, x, (theirs + 1) / 2)


@pytest.mark.parametrize("schedule, kind", [("linear_beta", "linear"), ("scaled_linear_beta", "scaled_linear"),
                                            ("cosine", "cosine"), ("sigmoid_beta", "sigmoid")])
def test_a_model_of_monai(tmp_path, schedule, kind):
    nets = pytest.importorskip("monai.networks.nets", reason="MONAI is not installed")
    from monai.networks.schedulers import DDPMScheduler
    architecture = {"in_channels": 1, "out_channels": 1, "channels": [16, 32], "attention_levels": [False, True],
                    "num_res_blocks": 1, "num_head_channels": 16, "norm_num_groups": 8}
    unet = randomised(nets.DiffusionModelUNet(spatial_dims=2, **architecture))
    save_file(unet.state_dict(), tmp_path / "unet.safetensors")
    scheduler = DDPMScheduler(num_train_timesteps=1000, schedule=schedule, clip_sample=False)
    prior = opened({"network": "monai", "architecture": architecture, "schedule": {"kind": kind},
                    "intensities": [0, 1]}, tmp_path / "unet.safetensors")
    for step in STEPS:
        abar = scheduler.alphas_cumprod[step].double()
        noisy = (abar.sqrt() * image() + (1 - abar).sqrt() * torch.randn(2, 1, 32, 32)).float()
        with torch.no_grad():
            theirs = scheduler.step(unet(noisy, torch.full((2,), step)), step, noisy)[1]
        check(prior, ((1 - abar) / abar).sqrt().item(), (noisy / abar.sqrt()).float(), theirs)


def test_a_denoiser_of_deepinv(tmp_path):
    models = pytest.importorskip("deepinv.models", reason="deepinv is not installed")
    architecture = {"name": "DRUNet", "in_channels": 1, "out_channels": 1, "nc": [8, 16, 16, 16], "nb": 1}
    denoiser = randomised(models.DRUNet(**{k: v for k, v in architecture.items() if k != "name"}, pretrained=None))
    save_file(denoiser.state_dict(), tmp_path / "w.safetensors")
    prior = opened({"network": "deepinv", "architecture": architecture}, tmp_path / "w.safetensors")
    for sigma in (0.005, 0.01, 0.05, 0.1, 0.15):
        with torch.no_grad():
            theirs = denoiser(image(), sigma)
        check(prior, sigma, image(), theirs)


@pytest.mark.parametrize("kind", ["SongUNet", "DhariwalUNet"])
def test_the_preconditioning_of_edm(tmp_path, kind):
    models = pytest.importorskip("deepinv.models", reason="deepinv is not installed")
    shape = {"img_resolution": 32, "model_channels": 128, "channel_mult": [1, 1], "num_blocks": 1,
             "attn_resolutions": [16]}
    network = randomised((models.NCSNpp if kind == "SongUNet" else models.ADMUNet)(
        in_channels=1, out_channels=1, augment_dim=0, pretrained=None, pixel_std=0.5, **shape,
        _was_trained_on_minus_one_one=True))
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    prior = opened({"network": "edm", "architecture": {"model_type": kind, "img_channels": 1, **shape}},
                   tmp_path / "w.safetensors")
    for sigma in (0.01, 0.1, 0.5, 2.0, 20.0):
        x = image() + sigma * torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(3))
        with torch.no_grad():
            theirs = network(x, torch.full((2,), sigma))
        check(prior, sigma, x, theirs)


@pytest.mark.parametrize("case", ["000", "001", "010", "011", "100", "101", "110", "111"])
def test_answers_of_guided_diffusion_are_those_of_the_published_code(data_dir, case):
    """tests/data/adm_outputs.npz was made with the published code, its weights drawn as here."""
    known = np.load(data_dir / "adm_outputs.npz")
    new_order, scale_shift, updown = (digit == "1" for digit in case)
    network = choices.named(choices.NETWORKS, "adm").load()(
        {"image_size": 16, "in_channels": 1, "num_channels": 32, "num_res_blocks": 1, "channel_mult": "1,2",
         "attention_resolutions": "8", "num_heads": 2, "num_heads_upsample": 4, "use_scale_shift_norm": scale_shift,
         "resblock_updown": updown, "learn_sigma": True, "use_new_attention_order": new_order}).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data.normal_(0, 0.1, generator=generator)
    with torch.no_grad():
        found = network(torch.from_numpy(known["x"]), torch.from_numpy(known["time"]))
    assert (found - torch.from_numpy(known[case])).norm() <= 1e-5 * np.linalg.norm(known[case])


@pytest.mark.parametrize("network, case", [
    *(("adm", case) for case in ("guided 256 unconditional", "DDS AAPM 256", "improved 64", "plain 64",
                                 "FFHQ 256 (DPS)")),
    *(("edm2", case) for case in ("XS", "S", "L, ImageNet 64"))])
def test_names_and_shapes_are_those_of_the_published_code(data_dir, network, case):
    """tests/data/*_parameters.json were made with the published code: digests of its names and shapes, in order."""
    known = json.loads((data_dir / f"{network}_parameters.json").read_text())[case]
    with torch.device("meta"):
        made = choices.named(choices.NETWORKS, network).load()(known["architecture"])
    found = {name: list(value.shape) for name, value in made.state_dict().items()}
    assert len(found) == known["count"]
    assert hashlib.sha256(json.dumps(found).encode()).hexdigest() == known["sha256"]


EDM2 = {"img_resolution": 16, "img_channels": 1, "model_channels": 16, "label_dim": 0}
EDM2_CASES = {
    "plain": {"channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [8], "channels_per_head": 8},
    "noise and embedding": {
        "channel_mult": [1, 2, 2], "channel_mult_noise": 2, "channel_mult_emb": 3, "num_blocks": 2,
        "attn_resolutions": [16, 4], "channels_per_head": 16, "res_balance": 0.5, "attn_balance": 0.2,
        "concat_balance": 0.3, "clip_act": 2.0},
    "three channels": {"img_channels": 3, "channel_mult": [1, 1], "num_blocks": 1, "attn_resolutions": [],
                       "clip_act": None}}


def edm2(case):
    """A network of EDM2 whose parameters and buffers are drawn with one seed."""
    network = choices.named(choices.NETWORKS, "edm2").load()(EDM2 | EDM2_CASES[case]).eval()
    generator = torch.Generator().manual_seed(0)
    for value in network.state_dict().values():
        value.copy_(torch.empty(value.shape).normal_(0, 1, generator=generator))
    return network


@pytest.mark.parametrize("case", EDM2_CASES)
def test_answers_of_edm2_are_those_of_the_published_code(data_dir, case):
    """tests/data/edm2_outputs.npz was made with the published code, its weights drawn as here."""
    known, network = np.load(data_dir / "edm2_outputs.npz"), edm2(case)
    x = torch.randn(3, network.channels, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = network(x, torch.from_numpy(known["time"]))
        one = network(x[1:], torch.from_numpy(known["time"])[1:2])      # a level that all have
    assert (found - torch.from_numpy(known[case])).norm() <= 1e-5 * np.linalg.norm(known[case])
    torch.testing.assert_close(one[:1], found[1:2], rtol=1e-4, atol=1e-4)


def test_layers_of_edm2_keep_the_mean_square():
    from models.edm2 import Layer, joined, silu, summed, unit
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 4, 64, 64, 64, generator=generator)
    for found in (Layer(64, 96, 3, 3)(a[..., 1:-1, 1:-1]), summed(a, b, 0.3), joined(a, b[:, :16], 0.3), silu(a),
                  unit(7 * a, 1)):
        assert found[..., 1:-1, 1:-1].square().mean().item() == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("network", ["edm", "edm2"])
@pytest.mark.parametrize("architecture, message", [
    ({"label_dim": 10}, "label_dim: a network with classes; accepted: 0"),
    ({"sigma_data": 1.0}, "sigma_data: 1.0; accepted: 0.5")])
def test_networks_of_edm_that_are_used_otherwise_are_refused(network, architecture, message):
    with pytest.raises(ValueError, match=message):
        choices.named(choices.NETWORKS, network).load()(architecture)


@pytest.mark.parametrize("architecture, message", [
    ({"resample_filter": [1, 3, 3, 1]}, "resample_filter: .1, 3, 3, 1. is not supported; accepted: img_resolution"),
    ({"num_blocks": 1.5}, "num_blocks: 1.5; accepted: a whole number"),
    ({"channel_mult": "1,2"}, "channel_mult: '1,2'; accepted: a list"),
    ({"channel_mult": []}, "channel_mult: ..; accepted: one number or more"),
    ({"img_resolution": 20}, "channel_mult: .1, 2, 3, 4.; accepted: .* halve img_resolution 20 into whole numbers"),
    ({"model_channels": 50, "channels_per_head": 20}, "channels_per_head: 20; accepted: what divides 150 channels")])
def test_a_wrong_keyword_of_edm2_is_named(architecture, message):
    with pytest.raises(ValueError, match=f"architecture: {message}"):
        choices.named(choices.NETWORKS, "edm2").load()(architecture)
