"""Weights as other programs save them: nothing in the file runs, the right tensors are found, the prior is the same."""
import io
import os
import pickle
import sys
import types

import pytest
import torch
import yaml
from safetensors.torch import load_file

from models.adm import UNet
from models.convert.__main__ import main as convert_main
from models.convert.plain import Plain, read_plain
from models.convert.states import edm_card, find_state
from models.prior import load_prior
from models.prior.__main__ import main as check
from utils.cli import choices
from utils.io.prior_file import read_prior
from utils.run.setup import open_prior

ARCHITECTURE = {"image_size": 16, "in_channels": 1, "num_channels": 32, "num_res_blocks": 1, "channel_mult": "1,2",
                "attention_resolutions": "8", "num_heads": 2}
CARD = {"network": "adm", "architecture": ARCHITECTURE, "modality": "ct", "source": "a test"}


class Payload:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(3)
    return UNet(ARCHITECTURE)


@pytest.fixture
def convert(tmp_path):
    """A function that converts a file; gives the folder."""
    def run(path, *flags):
        (tmp_path / "card.yml").write_text(yaml.safe_dump(CARD))
        convert_main([str(path), "--card", str(tmp_path / "card.yml"), "--output", str(tmp_path / "out"), *flags])
        return tmp_path / "out"
    return run


def lit_ema(state):
    """As latent diffusion keeps averages: behind a prefix, without dots."""
    return {f"model_ema.net{name.replace('.', '')}": value + 1 for name, value in state.items()}


FORMS = {
    "bare": lambda state: state,
    "Lightning": lambda state: {"state_dict": {f"model.net.{name}": value for name, value in state.items()}
                                | {"loss.weight": torch.ones(1)}, "epoch": 3, "hyper_parameters": {"lr": 1.0}},
    "averages beside": lambda state: {"state_dict": {f"net.{name}": value - 1 for name, value in state.items()}
                                      | {f"ema_net.{name}": value for name, value in state.items()}},
    "averages without dots": lambda state: {"state_dict": {f"net.{n}": v for n, v in state.items()} | lit_ema(
        {name: value - 1 for name, value in state.items()})},
    "another name": lambda state: {"model_state": state, "epoch": 1},
}


@pytest.mark.parametrize("form", FORMS)
def test_the_tensors_are_found_and_the_prior_is_the_same(tmp_path, network, convert, form):
    torch.save(FORMS[form](dict(network.state_dict())), tmp_path / "w.ckpt")
    card, weights = read_prior(convert(tmp_path / "w.ckpt"))
    found = load_file(weights)
    for name, value in network.state_dict().items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6)
    assert (card.source, card.weights, card.modality) == ("a test", "prior.safetensors", "ct")
    x = torch.rand(1, 1, 16, 16)
    assert open_prior(card, weights, torch.device("cpu"), weights)(x, 0.3).isfinite().all()


def test_a_checkpoint_with_objects_is_read_as_plain_data(tmp_path, network, convert, monkeypatch):
    """Of a class of Lightning's, that need not be there, nothing is imported."""
    module = types.ModuleType("pytorch_lightning.callbacks")
    module.Best = type("Best", (), {"__module__": "pytorch_lightning.callbacks"})
    monkeypatch.setitem(sys.modules, "pytorch_lightning", types.ModuleType("pytorch_lightning"))
    monkeypatch.setitem(sys.modules, "pytorch_lightning.callbacks", module)
    best = module.Best()
    best.score = 3
    torch.save({"state_dict": {f"model.{n}": v for n, v in network.state_dict().items()}, "callbacks": {"a": best}},
               tmp_path / "w.ckpt")
    monkeypatch.undo()
    content = read_plain(tmp_path / "w.ckpt")
    assert isinstance(content["callbacks"]["a"], Plain) and content["callbacks"]["a"].state == {"score": 3}
    assert (convert(tmp_path / "w.ckpt", "--half") / "prior.safetensors").exists()
    assert load_file(tmp_path / "out" / "prior.safetensors")["out.2.weight"].dtype == torch.float16


@pytest.mark.parametrize("name", ["w.pkl", "w.pt", "w.ckpt", "w.pth", "w.bin"])
@pytest.mark.parametrize("form", ["torch", "pickle", "legacy"])
def test_nothing_in_a_file_runs(tmp_path, capsys, convert, name, form):
    marker = str(tmp_path / "ran")
    content = {"ema": torch.ones(2), "state_dict": {"a": torch.ones(1)}, "extra": Payload(marker)}
    if form == "pickle":
        (tmp_path / name).write_bytes(pickle.dumps(content))
    else:
        torch.save(content, tmp_path / name, _use_new_zipfile_serialization=form == "torch")
    with pytest.raises(SystemExit) as stop:
        convert(tmp_path / name)
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.count("\n") == 1 and f"{name}: no" in said
    assert not os.path.exists(marker) and not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["w.pkl", "w.pt", "w.pth", "w.ckpt", "prior.safetensors", "w.bin"])
def test_nothing_in_a_prior_runs(tmp_path, capsys, name):
    marker, folder = str(tmp_path / "ran"), tmp_path / "prior"
    folder.mkdir()
    (folder / name).write_bytes(pickle.dumps({"state_dict": Payload(marker)}))
    (folder / "prior.yaml").write_text(yaml.safe_dump(CARD | {"weights": name}))
    with pytest.raises(SystemExit) as stop:
        check([str(folder / name)])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.count("\n") == 1 and name in said and not os.path.exists(marker)


def edm_pickle(state, keywords, inner="model", origin="EDMPrecond"):
    """As EDM pickles a network: objects that come with their source code, made by a function of its own package."""
    package, module = types.ModuleType("torch_utils"), types.ModuleType("torch_utils.persistence")

    class Persistent:
        def __init__(self, name, state):
            self.name, self.state = name, state

        def __reduce__(self):
            return module._reconstruct_persistent_obj, (
                {"type": "class", "version": 6, "module_src": "raise SystemExit('it ran')", "class_name": self.name,
                 "state": self.state},)

    def _reconstruct_persistent_obj(meta):
        raise AssertionError

    _reconstruct_persistent_obj.__module__ = "torch_utils.persistence"
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    module._reconstruct_persistent_obj = _reconstruct_persistent_obj
    sys.modules |= {"torch_utils": package, "torch_utils.persistence": module}
    try:
        def nested(names, name):
            own = {n: torch.nn.Parameter(v) for n, v in names.items() if "." not in n}
            below = sorted({n.split(".")[0] for n in names if "." in n})
            return Persistent(name, {"_parameters": own, "_buffers": {}, "_modules": {
                child: nested({n.partition(".")[2]: v for n, v in names.items() if n.split(".")[0] == child}, "Layer")
                for child in below}, "_init_kwargs": keywords, "_init_args": ()})
        stream = io.BytesIO()
        pickle.dump({"ema": nested({f"{inner}.{n}": v for n, v in state.items()}, origin), "loss_fn": None}, stream)
        return stream.getvalue()
    finally:
        del sys.modules["torch_utils"], sys.modules["torch_utils.persistence"]


def test_a_pickle_of_edm_brings_its_card(tmp_path):
    state = {"map.weight": torch.rand(3, 2), "enc.a.bias": torch.rand(4)}
    keywords = {"img_resolution": 32, "img_channels": 1, "model_type": "SongUNet", "channel_mult": [1, 2],
                "sigma_min": 0, "sigma_max": float("inf")}
    (tmp_path / "w.pkl").write_bytes(edm_pickle(state, keywords))
    content = read_plain(tmp_path / "w.pkl")
    found = find_state(content, list(state), "w.pkl")
    assert all(torch.equal(found[name], value) for name, value in state.items())
    card = {"network": "edm", "architecture": {key: keywords[key] for key in list(keywords)[:4]}}
    assert edm_card(content, "w.pkl") == card       # 0 and inf limit nothing
    (tmp_path / "w.pkl").write_bytes(edm_pickle(state, keywords | {"sigma_max": 40.0}))
    limited = {"kind": "sigmas", "sigma_min": 0.002, "sigma_max": 40.0}
    assert edm_card(read_plain(tmp_path / "w.pkl"), "w.pkl") == card | {"schedule": limited}
    (tmp_path / "w.pkl").write_bytes(edm_pickle(state, keywords, origin="VPPrecond"))
    with pytest.raises(ValueError, match="w.pkl: a network within VPPrecond; accepted: EDMPrecond, Precond, of EDM"):
        edm_card(read_plain(tmp_path / "w.pkl"), "w.pkl")


def test_a_pickle_of_edm2_becomes_a_prior(tmp_path):
    keywords = {"img_resolution": 16, "img_channels": 1, "label_dim": 0, "model_channels": 16, "channel_mult": [1, 2],
                "num_blocks": 1, "attn_resolutions": [8], "channels_per_head": 16, "use_fp16": True}
    network = choices.named(choices.NETWORKS, "edm2").load()(keywords)
    state = {name: value.half() for name, value in network.state_dict().items()}
    (tmp_path / "w.pkl").write_bytes(edm_pickle(state, keywords, inner="unet", origin="Precond"))
    convert_main([str(tmp_path / "w.pkl"), "--output", str(tmp_path / "out")])
    card, weights = read_prior(tmp_path / "out")
    assert (card.network, card.prediction, card.image_size) == ("edm2", "edm", 16)
    assert card.architecture == keywords and card.schedule["sigma_max"] == 80
    loaded = load_prior(card, choices.named(choices.NETWORKS, "edm2").load()(card.architecture), weights, "cpu")
    assert all(torch.equal(value, state[name].float()) for name, value in loaded.network.state_dict().items())


def test_a_program_of_torchscript_is_refused(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "w.pt")
    with pytest.raises(ValueError, match="w.pt: not a pickle of weights .a program of TorchScript"):
        read_plain(tmp_path / "w.pt")


def test_a_tensor_that_is_missing_is_named(network):
    state = dict(network.state_dict())
    state.pop("out.2.bias")
    with pytest.raises(ValueError, match=r"w.pt: no state dict of this network .*tensor out.2.bias is missing"):
        find_state({"state_dict": {f"model.{n}": v for n, v in state.items()}}, list(network.state_dict()), "w.pt")
    with pytest.raises(ValueError, match="no tensor is called"):
        find_state({"a": torch.ones(1)}, list(network.state_dict()), "w.pt")
