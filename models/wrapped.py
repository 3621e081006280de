"""Networks that other libraries build, from the keywords in a prior's card."""
import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class Wrapped(nn.Module):
    """A network of another library: ``module`` has the names of its parameters, ``call`` (module, m, time) asks it.

    ``multiple`` divides the sizes of images that it takes, ``channels`` is how many it is shown.
    """

    def __init__(self, module: nn.Module, call: Callable, multiple: int, channels: int):
        super().__init__()
        self.module, self.call, self.multiple, self.channels = module, call, multiple, channels

    def forward(self, m: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        return self.call(self.module, m, time.expand(len(m)))


def build(module: str, name: str, keywords: dict[str, Any]) -> Any:
    """``name`` of ``module``, an installed package or a part of one, made with these keywords.

    Raises:
        ValueError: a package that is not installed, a class that it does not have, keywords that do not go with it.
    """
    package = module.partition(".")[0]
    try:
        kind = getattr(importlib.import_module(module), name)
    except ImportError as error:
        missing = (getattr(error, "name", None) or package).partition(".")[0]
        raise ValueError(f"a prior of {package} needs a package that is not installed: pip install {missing}") from None
    except AttributeError:
        raise ValueError(f"architecture: {package} has no {name}") from None
    try:
        return kind(**keywords)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, AssertionError) as error:
        raise ValueError(f"architecture: {package}'s {name} cannot be made of it ({' '.join(str(error).split())[:200]})"
                         ) from None
