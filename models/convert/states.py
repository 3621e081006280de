"""Weights within what other programs save: by the names of a network's tensors, wherever and under which prefix."""
from collections.abc import Iterator
from typing import Any

import torch

from models.convert.plain import Plain

PRECONDITIONED = {"EDMPrecond": "edm", "Precond": "edm2"}      # classes that hold a network, and its name here


def find_state(content: Any, names: list[str], where: str) -> dict[str, torch.Tensor]:
    """The tensors of a network, from a state dict somewhere in ``content``; averaged ones before others.

    Names may carry one prefix, and without their dots, as some programs keep averages.

    Args:
        content: what a file holds.
        names: of the network's tensors.
        where: the file, for messages.

    Raises:
        ValueError: no state dict has them all; names the first that is missing where most are there.
    """
    best: tuple[int, str, str] = (0, "", "")
    found: list[tuple[bool, dict]] = []
    for place, state in _states(content, ""):
        for flat in (False, True):
            wanted = {name: name.replace(".", "") if flat else name for name in names}
            first = max(wanted.values(), key=len)
            for prefix in {key[:-len(first)] for key in state if key.endswith(first)}:
                missing = [name for name, short in wanted.items() if prefix + short not in state]
                if not missing:
                    found.append(("ema" in (place + prefix).lower(),
                                  {name: state[prefix + short] for name, short in wanted.items()}))
                elif len(names) - len(missing) > best[0]:
                    best = len(names) - len(missing), missing[0], prefix
    if found:
        return max(found, key=lambda one: one[0])[1]
    hint = (f"{best[0]} of its {len(names)} tensors are there, behind {best[2]!r}; tensor {best[1]} is missing"
            if best[0] else f"no tensor is called {names[0]} or ends like that")
    raise ValueError(f"{where}: no state dict of this network ({hint}); is the card of another?")


def _states(content: Any, place: str, depth: int = 0) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    """The dicts of tensors in ``content``, and where they are."""
    if isinstance(content, Plain) and "_modules" in content.state:
        yield place, module_state(content)
    elif isinstance(content, dict):
        tensors = {key: value for key, value in content.items() if isinstance(key, str) and torch.is_tensor(value)}
        if tensors:
            yield place, tensors
        for key, value in content.items() if depth < 3 else ():
            yield from _states(value, f"{place}.{key}", depth + 1)


def module_state(module: Plain, prefix: str = "") -> dict[str, torch.Tensor]:
    """The state dict of a module that was pickled as an object."""
    found = {}
    for kind in ("_parameters", "_buffers"):
        hidden = module.state.get("_non_persistent_buffers_set", ())
        for name, value in module.state.get(kind, {}).items():
            if torch.is_tensor(value) and name not in hidden:
                found[f"{prefix}{name}"] = value
    for name, child in module.state.get("_modules", {}).items():
        if isinstance(child, Plain):
            found |= module_state(child, f"{prefix}{name}.")
    return found


def edm_card(content: Any, where: str) -> dict[str, Any]:
    """What a snapshot of EDM or EDM2 says of its network, as keys of a card; {} of anything else.

    Raises:
        ValueError: a snapshot of another preconditioning, or of classes of images.
    """
    module = next((content[key] for key in ("ema", "net", "model") if isinstance(content, dict)
                   and isinstance(content.get(key), Plain)), None)
    if module is None or "_init_kwargs" not in module.state:
        return {}
    if module.origin not in PRECONDITIONED:
        raise ValueError(f"{where}: a network within {module.origin}; accepted: {', '.join(PRECONDITIONED)}, of EDM "
                         "and EDM2")
    keywords = {**dict(module.state["_init_kwargs"] or {})}
    levels = {key: float(keywords.pop(key, None) or 0) for key in ("sigma_min", "sigma_max")}
    levels = {key: level for key, level in levels.items() if 0 < level < float("inf")}      # 0 and inf: no limit
    architecture = {key: value for key, value in keywords.items() if _is_plain(value)}
    card: dict[str, Any] = {"network": PRECONDITIONED[module.origin], "architecture": architecture}
    if levels:
        card["schedule"] = {"kind": "sigmas", "sigma_min": 0.002, "sigma_max": 80.0} | levels
    return card


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str)) or (
        isinstance(value, (list, tuple)) and all(map(_is_plain, value)))
