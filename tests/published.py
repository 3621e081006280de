"""The published network, from a checkout of github.com/duchenhe/ISCS, beside ours in one process."""
import importlib
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch


def published_network(folder: Path, config: Any) -> torch.nn.Module:
    """NCSNpp of the checkout, with new weights; its packages are called as ours are, and build CUDA code when imported.

    Raises:
        FileNotFoundError: the folder is no such checkout.
    """
    if not (folder / "models" / "ncsnpp.py").is_file():
        raise FileNotFoundError(f"{folder}: no checkout of the published code; models/ncsnpp.py is missing")
    theirs = ("models", "op", "sde_lib")
    ours = {name: module for name, module in sys.modules.items() if name.split(".")[0] in theirs}
    for name in ours:
        del sys.modules[name]
    sys.path.insert(0, str(folder))
    try:
        with mock.patch("torch.utils.cpp_extension.load", lambda *args, **options: SimpleNamespace()):
            importlib.import_module("op")
            return importlib.import_module("models.ncsnpp").NCSNpp(config)
    finally:
        sys.path.remove(str(folder))
        for name in [name for name in sys.modules if name.split(".")[0] in theirs]:
            del sys.modules[name]
        sys.modules.update(ours)
