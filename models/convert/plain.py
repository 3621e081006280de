"""Pickles as plain data: what they hold of tensors, numbers, texts and lists, and of other objects their attributes.

A pickle is a program. Here it may make these and nothing else: every class of another program becomes a `Plain`, an
empty box for what is put into it, and every other name that the file asks for ends the reading.
"""
import collections
import io
import pickle
import zipfile
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import torch

from models.checkpoint import UNREADABLE

# Of these packages, whose objects stand beside weights, classes are made boxes. Their code is not imported.
BOXED = ("torch_utils.", "dnnlib.", "training.", "torch.nn.", "torch.optim.", "numpy.", "lightning.", "argparse.",
         "pytorch_lightning.", "lightning_fabric.", "omegaconf.", "typing.", "pathlib.", "torchmetrics.")
SAFE = {"set", "frozenset", "list", "dict", "tuple", "int", "float", "bool", "str", "complex", "object"}


class Plain(dict):
    """What stands for an object of another program: ``made_of`` are its arguments, ``state`` its attributes."""

    origin = ""
    made_of: tuple = ()         # of the class, for objects that are made without a call
    state: Any = MappingProxyType({})

    def __init__(self, *made_of: Any, **_: Any):
        super().__init__()
        self.made_of = made_of

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __hash__(self) -> int:      # type: ignore[override]  # it may be a key
        return id(self)

    def extend(self, items: Any) -> None:
        """As a list."""

    append = add = extend


def read_plain(path: str | Path) -> Any:
    """The content of a pickle, or of a file of `torch.save`, as plain data and `Plain`.

    Raises:
        ValueError: naming the file, when it asks for anything else, or is none.
        OSError: it cannot be read.
    """
    try:
        with open(path, "rb") as stream:
            if zipfile.is_zipfile(stream) and any(name.endswith("/constants.pkl")
                                                  for name in zipfile.ZipFile(stream).namelist()):
                raise pickle.UnpicklingError("a program of TorchScript; accepted: weights")
            stream.seek(0)
            if stream.read(2) == b"PK" or str(path).endswith((".pt", ".pth", ".ckpt", ".bin")):
                module = SimpleNamespace(Unpickler=_Unpickler, load=_load, UnpicklingError=pickle.UnpicklingError,
                                         __name__="plain")
                return torch.load(path, map_location="cpu", pickle_module=module, weights_only=False)
            stream.seek(0)
            return _Unpickler(stream).load()
    except UNREADABLE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path}: not a pickle of weights ({reason[:200]})") from None


class _Unpickler(pickle.Unpickler):
    """Finds the names of `_MADE`, types of numbers, and boxes; anything else is refused before it is looked up."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _MADE:
            return _MADE[module, name]
        if module in ("builtins", "__builtin__") and name in SAFE:
            return Plain if name == "object" else getattr(__import__("builtins"), name)
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if f"{module}.".startswith(BOXED) and "." not in name:
            return type(name, (Plain,), {"origin": f"{module}.{name}"})
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is no plain data; nothing of it was run")


def _load(stream: Any, **options: Any) -> Any:
    return _Unpickler(stream, **options).load()


def _persistent(meta: Any) -> Plain:
    """An object that EDM keeps with its source code: its attributes without the code."""
    box = type(str(meta["class_name"]), (Plain,), {"origin": str(meta["class_name"])})()
    box.state = meta["state"]
    return box


def _storage(content: bytes) -> Any:
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


_MADE: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("collections", "defaultdict"): lambda *arguments: {},
    ("copyreg", "_reconstructor"): lambda kind, base, state: kind(),
    ("copy_reg", "_reconstructor"): lambda kind, base, state: kind(),
    ("_codecs", "encode"): lambda text, encoding="latin1": bytes(str(text), "latin1"),
    ("torch", "Size"): lambda sizes=(): tuple(sizes),
    ("torch", "device"): lambda *names: "cpu",
    ("torch._utils", "_rebuild_tensor_v2"): lambda *arguments: torch._utils._rebuild_tensor_v2(*arguments[:6]),
    ("torch._utils", "_rebuild_parameter"): lambda data, *more: data,
    ("torch._utils", "_rebuild_parameter_with_state"): lambda data, *more: data,
    ("torch.storage", "_load_from_bytes"): _storage,
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): _persistent,
}
