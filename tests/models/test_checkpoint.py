"""Weights: strict, safe, with the averages in the order of the trainable parameters."""
import os
import pickle
import zipfile
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from models.checkpoint import EMA, load_weights, read_checkpoint, trainable
from models.prior import check_own_words, score_settings
from utils.io.files import save_tensors
from utils.io.prior_file import read_prior


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.fixed = nn.Parameter(torch.zeros(3), requires_grad=False)
        self.first = nn.Linear(2, 2)
        self.second = nn.Linear(2, 1)


@pytest.fixture
def checkpoint():
    torch.manual_seed(1)
    network = Network()
    network.fixed.data.fill_(7)
    ema = EMA(network, 0.9)
    for shadow in ema.shadow_params:
        shadow += 1
    return {"optimizer": {}, "model": {f"module.{k}": v for k, v in network.state_dict().items()},
            "ema": ema.state_dict(), "step": 5}


def test_averages_are_used_and_fixed_parameters_come_from_the_model(tmp_path, checkpoint):
    save_tensors(tmp_path / "c.pth", checkpoint)
    network = Network()
    load_weights(network, tmp_path / "c.pth")
    assert torch.equal(network.first.weight, checkpoint["model"]["module.first.weight"] + 1)
    assert torch.equal(network.second.bias, checkpoint["model"]["module.second.bias"] + 1)
    assert network.fixed.tolist() == [7, 7, 7]
    load_weights(network, tmp_path / "c.pth", use_ema=False)
    assert torch.equal(network.first.weight, checkpoint["model"]["module.first.weight"])


def test_a_bare_state_dict_is_accepted(tmp_path, checkpoint):
    save_tensors(tmp_path / "c.pth", {k.removeprefix("module."): v.half() for k, v in checkpoint["model"].items()})
    network = Network()
    load_weights(network, tmp_path / "c.pth")
    assert network.first.weight.dtype == torch.float32
    torch.testing.assert_close(network.first.weight, checkpoint["model"]["module.first.weight"],
                               rtol=1e-3, atol=1e-3, check_dtype=False)


@pytest.mark.parametrize("spoil, reason", [
    (lambda c: c["model"].pop("module.first.bias"), "first.bias is missing"),
    (lambda c: c["model"].update(extra=torch.zeros(1)), "extra is not part"),
    (lambda c: c["model"].update({"module.first.bias": torch.zeros(5)}), r"first.bias has shape \[5\], expected \[2\]"),
    (lambda c: c["model"]["module.first.bias"].fill_(torch.nan), "first.bias holds NaN"),
    (lambda c: c["ema"]["shadow_params"].pop(), "not a list of 4 tensors"),
    (lambda c: c["ema"]["shadow_params"].reverse(), "ema of first.weight has shape"),
    (lambda c: c.update(model=3), "no state dict"),
    (lambda c: c.update(ema=None), "ema.shadow_params"),
    (lambda c: c["model"].update({0: torch.zeros(1)}), "no state dict"),
    (lambda c: c["model"].update({"module.first.bias": torch.full((2,), 1e300, dtype=torch.float64)}),
     "first.bias holds NaN or infinite"),
    (lambda c: c["model"].update({"module.first.bias": torch.zeros(2, dtype=torch.complex64)}), "is torch.complex64"),
    (lambda c: c["model"].update({"module.first.weight": torch.zeros(2, 2).to_sparse()}), "torch.sparse_coo"),
    (lambda c: c["model"].update({"module.first.bias": torch.zeros(2, device="meta")}), "on meta"),
])
def test_what_does_not_fit_is_named(tmp_path, checkpoint, spoil, reason):
    spoil(checkpoint)
    save_tensors(tmp_path / "c.pth", checkpoint)
    with pytest.raises(ValueError, match=reason) as error:
        load_weights(Network(), tmp_path / "c.pth")
    assert str(tmp_path / "c.pth") in str(error.value) and "\n" not in str(error.value)


class Payload:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (self.marker,)


def test_code_in_the_file_does_not_run(tmp_path, checkpoint):
    marker = str(tmp_path / "ran")
    checkpoint["optimizer"] = Payload(marker)
    torch.save(checkpoint, tmp_path / "c.pth")
    with pytest.raises(ValueError, match="not a checkpoint of plain tensors"):
        load_weights(Network(), tmp_path / "c.pth")
    assert not os.path.exists(marker)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 broken zip", b"training:\n  sde: vesde\n",
                                     b"50,0.8,0.7\n"])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "c.pth").write_bytes(content)
    with pytest.raises(ValueError, match="not a checkpoint"):
        read_checkpoint(tmp_path / "c.pth")


def test_a_truncated_checkpoint_is_refused(tmp_path, checkpoint):
    save_tensors(tmp_path / "c.pth", checkpoint)
    (tmp_path / "c.pth").write_bytes((tmp_path / "c.pth").read_bytes()[:-200])
    with pytest.raises(ValueError, match="not a checkpoint"):
        read_checkpoint(tmp_path / "c.pth")


def test_a_checkpoint_that_unpacks_to_more_than_it_is_is_refused(tmp_path, checkpoint):
    save_tensors(tmp_path / "whole.pth", checkpoint)
    with zipfile.ZipFile(tmp_path / "whole.pth") as whole, \
            zipfile.ZipFile(tmp_path / "c.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in whole.namelist():
            archive.writestr(name, whole.read(name))
        archive.writestr("whole/data/99", bytes(10 ** 6))
    with pytest.raises(ValueError, match="c.pth: not a checkpoint.*bytes in a file of"):
        read_checkpoint(tmp_path / "c.pth")


def test_the_average_follows_its_formula():
    network = Network()
    ema = EMA(network, 0.5)
    expected = ema.shadow_params[0].clone()
    for n in range(1, 30):
        network.first.weight.data.normal_()
        ema.update(network)
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * network.first.weight.data
    torch.testing.assert_close(ema.shadow_params[0], expected)
    assert len(ema.shadow_params) == len(trainable(network)) == 4


def test_a_failed_save_leaves_the_old_file(tmp_path):
    save_tensors(tmp_path / "c.pth", {"a": torch.ones(1)})
    with pytest.raises((AttributeError, pickle.PicklingError)):
        save_tensors(tmp_path / "c.pth", {"a": lambda: 0})
    assert read_checkpoint(tmp_path / "c.pth")["a"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["c.pth"]


@pytest.fixture
def card(data_dir):
    return read_prior("a.pth", data_dir / "ncsnpp_tiny.yaml")[0]


def test_a_checkpoint_agrees_with_its_card(card):
    own = {"modality": "ct", "window": [-1000.0, 1600.0], **score_settings(card.architecture)}
    check_own_words({"prior": own}, "a.pth", card)
    check_own_words({"a": torch.ones(1)}, "a.pth", card)     # a published one says nothing
    with pytest.raises(ValueError, match="a.pth: a prior of CT slices; accepted: MR"):
        check_own_words({"prior": own}, "a.pth", replace(card, modality="mr"))
    with pytest.raises(ValueError, match=r"a.pth: a prior of CT in the window .*; its card says \[-160, 240\]"):
        check_own_words({"prior": own}, "a.pth", replace(card, modality="ct", window=(-160, 240)))


@pytest.mark.parametrize("key, value, named", [
    ("sigma_max", 50, "model.sigma_max: 50; its config says 378"), ("centered", True, "data.centered: True"),
    ("fir_kernel", [1, 2, 2, 1], "model.fir_kernel: .1, 2, 2, 1."),
    ("preconditioning", "edm", "training.preconditioning: edm"),
    ("scale_by_sigma", False, "model.scale_by_sigma"), ("attn_resolutions", [8], "model.attn_resolutions")])
def test_a_prior_is_used_with_the_config_that_it_was_trained_with(card, key, value, named):
    own = {"modality": "mr", **score_settings(card.architecture), key: value}
    with pytest.raises(ValueError, match=f"a.pth: a prior with {named}"):
        check_own_words({"prior": own}, "a.pth", card)


@pytest.mark.parametrize("stored", [
    lambda weights, averages: {"state_dict": averages},
    lambda weights, averages: {"model": weights, "model_ema": averages},
    lambda weights, averages: {"model_state_dict": weights, "ema": {"model": averages}},
    lambda weights, averages: {f"_orig_mod.module.{name}": value for name, value in averages.items()},
    lambda weights, averages: {"state_dict": weights,
                               "state_dict_ema": {f"module.{k}": v for k, v in averages.items()}},
], ids=range(5))
def test_averaged_weights_under_each_usual_name(tmp_path, stored):
    weights, averages = (Network().state_dict() for _ in range(2))
    averages = {name: torch.randn_like(value) for name, value in averages.items()}
    torch.save(stored(weights, averages), tmp_path / "w.pth")
    network = Network()
    load_weights(network, tmp_path / "w.pth")
    assert all(torch.equal(value, averages[name]) for name, value in network.state_dict().items())


def test_averaged_weights_of_an_unknown_form_are_not_passed_over(tmp_path):
    torch.save({"model": Network().state_dict(), "ema": [torch.zeros(3)]}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="ema holds averaged weights in a form that is not known"):
        load_weights(Network(), tmp_path / "w.pth")


def test_safetensors(tmp_path):
    state = Network().state_dict()
    save_file(state, tmp_path / "w.safetensors")
    network = Network()
    load_weights(network, tmp_path / "w.safetensors")
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    (tmp_path / "w.safetensors").write_bytes((8).to_bytes(8, "little") + b'{"a":{}}')
    with pytest.raises(ValueError, match="w.safetensors: not a checkpoint"):
        load_weights(network, tmp_path / "w.safetensors")


@pytest.mark.parametrize("length", [0, 1, 100, 5000, -1])
def test_a_file_that_is_cut_is_named(tmp_path, length):
    torch.save({"model": Network().state_dict() | {"fill": torch.zeros(5000)}}, tmp_path / "w.pth")
    (tmp_path / "w.pth").write_bytes((tmp_path / "w.pth").read_bytes()[:length])
    with pytest.raises(ValueError, match="w.pth: not a checkpoint"):
        read_checkpoint(tmp_path / "w.pth")
