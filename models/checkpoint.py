"""Weights on disk: the published checkpoint layout, read without running code from the file."""
import pickle
import struct
import warnings
import zipfile
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

# What torch.load raises, besides OSError, for a file that is no checkpoint.
UNREADABLE = (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError,
              AssertionError, OverflowError, MemoryError, struct.error, zipfile.BadZipFile)


# What programs call weights, averaged weights, and put before the names of tensors.
STATES = ("model", "state_dict", "model_state_dict", "model_state", "net")
AVERAGES = ("ema", "model_ema", "ema_model", "ema_state_dict", "state_dict_ema", "params_ema")
PREFIXES = ("_orig_mod.", "module.")


class EMA:
    """Exponential moving average of the trainable parameters, in their order.

    After n updates the decay is min(rate, (1 + n) / (10 + n)), so that the average forgets its start.
    """

    def __init__(self, network: nn.Module, rate: float):
        self.decay, self.num_updates = rate, 0
        self.shadow_params = [p.detach().clone() for p in trainable(network)]

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take in the parameters after a step of training."""
        self.num_updates += 1
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        for shadow, parameter in zip(self.shadow_params, trainable(network)):
            shadow.lerp_(parameter, 1 - decay)

    def state_dict(self) -> dict:
        """What `load_state_dict` goes on from, in the published layout."""
        return {"decay": self.decay, "num_updates": self.num_updates, "shadow_params": self.shadow_params}

    def load_state_dict(self, state: dict) -> None:
        """Continue from what `state_dict` gave for the same network."""
        self.decay, self.num_updates = state["decay"], state["num_updates"]
        for shadow, saved in zip(self.shadow_params, state["shadow_params"], strict=True):
            shadow.copy_(saved)


def trainable(network: nn.Module) -> list[nn.Parameter]:
    """The parameters that training changes, in the order that averages have on disk."""
    return [p for p in network.parameters() if p.requires_grad]


def read_checkpoint(path: str | Path) -> dict:
    """Read a dict of tensors and plain values, without running code from the file: `torch.save` or safetensors.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: naming the file, when it is anything else.
    """
    try:
        if str(path).endswith(".safetensors"):
            return load_file(path)
        _check_sizes(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")     # about protocols of pickles; what cannot be read is said below
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (*UNREADABLE, SafetensorError, OSError) as error:
        if isinstance(error, OSError) and error.filename:       # without a name: of a file that is cut
            raise
        reason = shorten(f"{type(error).__name__}: {error}", 120, placeholder=" ...")
        raise ValueError(f"{path}: not a checkpoint of plain tensors ({reason})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}; accepted: a dict of weights")
    return content


def _check_sizes(path: str | Path) -> None:
    """ValueError for a file that unpacks to more than it is, which `torch.save` never writes."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            claimed, stored = sum(item.file_size for item in archive.infolist()), Path(path).stat().st_size
        if claimed > stored:
            raise ValueError(f"{claimed} bytes in a file of {stored}")


def load_weights(network: nn.Module, path: str | Path, use_ema: bool = True) -> dict:
    """Load weights into ``network``, strictly.

    Args:
        network: its parameters are written to.
        path: a file that holds ``{optimizer, model, ema, step}`` with ``model`` a state dict and ``ema.shadow_params``
            a list in the order of the trainable parameters, or is a bare state dict; `STATES`, `AVERAGES` and
            `PREFIXES` are what else other programs call these.
        use_ema: take the averaged weights where the file has them.

    Returns:
        The file's content.

    Raises:
        ValueError: naming the file and the first tensor that is missing, extra, misshapen or not finite; or averaged
            weights whose form is not known, which would otherwise be passed over.
    """
    return load_content(network, path, read_checkpoint(path), use_ema)


def load_content(network: nn.Module, path: str | Path, content: dict, use_ema: bool = True) -> dict:
    """`load_weights` of what `read_checkpoint` gave for the file ``path``."""
    state = next((content[name] for name in STATES if isinstance(content.get(name), dict)), content)
    averages = next((name for name in AVERAGES if name in content), None) if state is not content else None
    if use_ema and averages and not _is_list_of_averages(content[averages]):
        averaged = content[averages]
        if isinstance(averaged, dict):
            averaged = next((averaged[name] for name in STATES if name in averaged), averaged)
        if not isinstance(averaged, dict):
            raise ValueError(f"{path}: {averages} holds averaged weights in a form that is not known; accepted: a list "
                             f"{averages}.shadow_params, or a state dict")
        state = state | averaged
    _load(network, path, state)
    if use_ema and averages and _is_list_of_averages(content[averages]):
        names = [name for name, p in network.named_parameters() if p.requires_grad]
        shadow = content[averages]["shadow_params"]
        if not isinstance(shadow, list) or len(shadow) != len(names):
            raise ValueError(f"{path}: {averages}.shadow_params is not a list of {len(names)} tensors; is the "
                             "checkpoint of another config?")
        for name, value, parameter in zip(names, shadow, trainable(network)):
            _check(path, f"{averages} of {name}", value, parameter)
            parameter.data.copy_(value)
    return content


def _is_list_of_averages(content: Any) -> bool:
    return isinstance(content, dict) and "shadow_params" in content


def _load(network: nn.Module, path: str | Path, state: dict) -> None:
    """Load a state dict whose names may carry `PREFIXES`; ValueError for any tensor that does not fit."""
    if not all(isinstance(name, str) and torch.is_tensor(value) for name, value in state.items()):
        raise ValueError(f"{path}: holds no state dict of weights")
    for prefix in PREFIXES:
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    expected = network.state_dict()
    for name in expected:
        if name not in state:
            raise ValueError(f"{path}: tensor {name} is missing; is the checkpoint of another config?")
    for name, value in state.items():
        if name not in expected:
            raise ValueError(f"{path}: tensor {name} is not part of this network; is the checkpoint of another "
                             "config?")
        _check(path, name, value, expected[name])
    network.load_state_dict(state)


def _check(path: str | Path, name: str, value: Any, expected: torch.Tensor) -> None:
    if not torch.is_tensor(value) or value.shape != expected.shape:
        found = f"shape {list(value.shape)}" if torch.is_tensor(value) else type(value).__name__
        raise ValueError(f"{path}: tensor {name} has {found}, expected {list(expected.shape)}; is the checkpoint "
                         "of another config?")
    if value.layout != torch.strided or value.device.type != "cpu" or not value.dtype.is_floating_point:
        raise ValueError(f"{path}: tensor {name} is {value.dtype}, {value.layout}, on {value.device}; accepted: real "
                         "numbers, dense, on cpu")
    if not torch.isfinite(value.to(expected.dtype)).all():
        raise ValueError(f"{path}: tensor {name} holds NaN or infinite values")
