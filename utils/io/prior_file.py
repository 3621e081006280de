"""Priors on disk: the card that says what a prior is, beside its weights or in place of a library's own files."""
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from utils.io.config import config_of
from utils.io.files import complete_file, file_digest
from utils.io.schema import Check, read
from utils.io.yaml_file import read_yaml, short, yaml_text

CARD = "prior.yaml"
WEIGHTS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
DIFFUSERS_WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors",
                     "diffusion_pytorch_model.bin")
NO_CARD = "no prior.yaml beside it says what it is; accepted: one, or a config of the published layout"

# What a card need not say, by its network; ncsnpp's is in its config, diffusers' in its scheduler.
LINEAR = {"kind": "linear"}
EDM = {"prediction": "edm", "schedule": {"kind": "sigmas", "sigma_min": 0.002, "sigma_max": 80.0},
       "intensities": [-1, 1]}
DEFAULTS: dict[str, dict[str, Any]] = {
    "adm": {"prediction": "epsilon", "schedule": LINEAR, "intensities": [-1, 1]},
    "monai": {"prediction": "epsilon", "schedule": LINEAR, "intensities": [0, 1]},
    "diffusers": {"prediction": "epsilon", "intensities": [-1, 1]},
    "edm": EDM,
    "edm2": EDM,
    "deepinv": {"prediction": "denoised", "schedule": {"kind": "sigmas", "sigma_min": 0.002, "sigma_max": 0.2},
                "intensities": [0, 1]},
}
# The schedules of diffusers' schedulers, which share these keys.
SCHEDULERS = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine", "sigmoid": "sigmoid"}

Two = Annotated[tuple[float, ...], Check("two numbers that rise", lambda ends: len(ends) == 2 and ends[0] < ends[1])]
Positive = Annotated[float, Check("a number above 0", lambda value: value > 0)]


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a prior is.

    Attributes:
        network: a name in the table of networks.
        architecture: what its code makes it of; for ncsnpp a config of the published layout.
        prediction: what it predicts, see `models.prior.denoiser.Denoiser`.
        schedule: ``kind`` and the values of `models.prior.schedule.make_schedule`, for the model's intensities.
        intensities: of the model at both ends of the window.
        window: HU, or the rule for MR, that these stand for.
        modality, plane: of the slices that it was trained on.
        pixel_size: of these in mm; ``image_size`` in pixels.
        sampling: of samples from the prior alone, ``snr`` and ``n_steps_each`` of the corrector.
        weights: name of the file beside the card, and its ``sha256``.
        name, about, licence, source: for people.
    """

    network: str
    architecture: dict[str, Any]
    prediction: Literal["score", "epsilon", "v", "sample", "denoised", "edm"]
    schedule: dict[str, Any]
    intensities: Two
    window: Two | Literal["percentile", "min-max"] | None = None
    modality: Literal["ct", "mr"] | None = None
    plane: Literal["axial", "coronal", "sagittal"] | None = None
    pixel_size: Positive | None = None
    image_size: int | None = None
    sampling: dict[str, float] = field(default_factory=lambda: {"snr": 0.16, "n_steps_each": 1})
    weights: str | None = None
    sha256: str | None = None
    name: str | None = None
    about: str | None = None
    licence: str | None = None
    source: str | None = None


class NoCard(ValueError):
    """Weights that nothing beside them describes."""


def read_prior(path: str | Path, config: str | Path | None = None) -> tuple[Card, Path]:
    """A prior's card and its file of weights.

    Args:
        path: a folder (of a prior.yaml and weights, or as diffusers saves a pipeline or a U-Net), a card, or a file
            of weights with a card beside it: ``<its name>.yaml``, else prior.yaml.
        config: in place of that card, a config of the published layout or a card elsewhere.

    Raises:
        NoCard: a file of weights, and no card or config.
        ValueError, OSError: in one line that names the file, and the key.
    """
    path = Path(path)
    if config is not None:
        return _of_weights(path, Path(config))
    if path.is_dir():
        own = path / CARD
        tree = _diffusers(path) | (read_tree(own) if own.exists() else {})
        if not tree:
            raise ValueError(f"{path}: holds no {CARD}, and no config.json of diffusers; accepted: a folder of a prior")
        return parse_card(tree, own if own.exists() else path), _weights(path, tree.get("weights"))
    if path.suffix in (".yaml", ".yml"):
        tree = read_tree(path)
        return parse_card(tree, path), _weights(path.parent, tree.get("weights") or _beside(path, WEIGHTS))
    if path.suffix == ".pkl":
        raise ValueError(f"{path}: a pickle, whose reading runs code from it; accepted: what python -m models.convert "
                         "makes of it")
    found = next((name for name in (path.with_suffix(".yaml"), path.with_name(CARD)) if name.exists()), None)
    if found is None:
        raise NoCard(f"{path}: {NO_CARD}")
    return _of_weights(path, found)


def _of_weights(path: Path, found: Path) -> tuple[Card, Path]:
    """The card ``found`` for a file of weights, which need not be the one that it names."""
    tree = read_tree(found)
    if tree.get("weights", path.name) != path.name:
        tree = {key: value for key, value in tree.items() if key not in ("weights", "sha256")}
    return parse_card(tree, found), path


def parse_card(tree: Any, where: str | Path = "prior") -> Card:
    """The card that a tree of YAML stands for, with what its network has by default.

    Raises:
        ValueError: in one line, ``where``, the key, what was found, what is accepted.
    """
    if not isinstance(tree, dict) or not isinstance(tree.get("architecture", {}), dict):
        raise ValueError(f"{where}: {short(tree)}; accepted: a card with network, architecture and more")
    if not isinstance(tree.get("network"), str):
        raise ValueError(f"{where}: network: {short(tree.get('network'))}; accepted: a text, one of the networks")
    defaults = dict(DEFAULTS.get(tree["network"], {}))
    try:
        if tree.get("network") == "ncsnpp":
            config = config_of(tree.get("architecture"))
            defaults, tree = _of_config(config), tree | {"architecture": {}}
        size = next((tree.get("architecture", {}).get(key) for key in ("image_size", "sample_size", "img_resolution")
                     if isinstance(tree.get("architecture", {}).get(key), int)), None)
        card = read(Card, {"image_size": size} | defaults | tree)
        if not isinstance(card.schedule.get("kind"), str):
            raise ValueError(f"schedule.kind: {short(card.schedule.get('kind'))}; accepted: a text")
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return card if tree["network"] != "ncsnpp" else Card(**vars(card) | {"architecture": config})


def card_text(card: Card) -> str:
    """The YAML of a card: `parse_card` makes an equal one of it."""
    tree = {key: value for key, value in vars(card).items() if value is not None}
    tree["architecture"] = tree["architecture"].to_dict() if card.network == "ncsnpp" else tree["architecture"]
    last = ("architecture",)
    tree = {key: tree[key] for key in tree if key not in last} | {key: tree[key] for key in last}
    return yaml_text(json.loads(json.dumps(tree)))      # tuples as lists


def write_prior(folder: Path, name: str, state: dict[str, Any], card: Card) -> None:
    """Write ``name``.safetensors and ``name``.yaml, with the name and the digest of the weights in the card.

    Args:
        folder: where; it exists.
        name: of both, before their endings.
        state: names and tensors.
        card: what the prior is.

    Raises:
        OSError: they cannot be written.
    """
    from safetensors.torch import save

    content = save({key: value.detach().cpu().contiguous() for key, value in state.items()})
    card = replace(card, weights=f"{name}.safetensors", sha256=hashlib.sha256(content).hexdigest())
    for ending, data in ((".safetensors", content), (".yaml", card_text(card).encode())):
        with complete_file(folder / f"{name}{ending}") as partial:
            partial.write_bytes(data)


def prior_digest(card: Card, weights: Path) -> str:
    """Identifies a prior, wherever its files are."""
    return hashlib.sha256((card_text(card) + file_digest(weights)).encode()).hexdigest()


def check_digest(card: Card, weights: Path) -> None:
    """ValueError where the file of weights is not the one that its card describes."""
    if card.sha256 and card.weights == weights.name and file_digest(weights) != card.sha256:
        raise ValueError(f"{weights}: another file than its card describes (sha256); accepted: that file, or a card "
                         "without sha256")


def read_tree(path: Path) -> dict[str, Any]:
    """The tree of a card's file; of a config of the published layout, the card that it stands for."""
    tree = read_yaml(path)
    if isinstance(tree, dict) and "network" not in tree and "model" in tree:
        return {"network": "ncsnpp", "architecture": tree}
    if not isinstance(tree, dict):
        raise ValueError(f"{path}: {short(tree)}; accepted: a card, or a config of the published layout")
    return tree


def _of_config(config: Any) -> dict:
    """What a config of the published layout says of its prior."""
    model, vp = config.model, config.training.sde == "vpsde"
    return {"prediction": "epsilon" if vp else "score", "image_size": config.data.image_size,
            "schedule": {"kind": "vp", "beta_min": model.beta_min, "beta_max": model.beta_max} if vp else
            {"kind": "sigmas", "sigma_min": model.sigma_min, "sigma_max": model.sigma_max},
            "intensities": [-1, 1] if config.data.centered else [0, 1],
            "sampling": {"snr": config.sampling.snr, "n_steps_each": config.sampling.n_steps_each}}


def _diffusers(folder: Path) -> dict:
    """What the configs of a folder of diffusers say: of a pipeline, or of a U-Net and its scheduler; {} of others."""
    network = next((path for path in (folder / "unet" / "config.json", folder / "config.json") if path.exists()), None)
    if network is None:
        return {}
    tree: dict[str, Any] = {"network": "diffusers", "architecture": _json(network)}
    if tree["architecture"].get("_class_name") != "UNet2DModel":
        raise ValueError(f"{network}: {short(tree['architecture'].get('_class_name'))}; accepted: a UNet2DModel, of "
                         "images themselves")
    scheduler = next((path for path in (folder / "scheduler" / "scheduler_config.json",
                                        folder / "scheduler_config.json") if path.exists()), None)
    if scheduler:
        values = _json(scheduler)
        if values.get("trained_betas"):
            tree["schedule"] = {"kind": "betas", "betas": values["trained_betas"]}
        elif values.get("beta_schedule") in SCHEDULERS:
            tree["schedule"] = {"kind": SCHEDULERS[values["beta_schedule"]], "zero_terminal_snr":
                                bool(values.get("rescale_betas_zero_snr")), "steps": values["num_train_timesteps"]}
            tree["schedule"] |= {key: values[key] for key in ("beta_start", "beta_end") if key in values}
        else:
            raise ValueError(f"{scheduler}: {short(values.get('_class_name'))}, beta_schedule "
                             f"{short(values.get('beta_schedule'))}; accepted: {', '.join(SCHEDULERS)}")
        prediction = values.get("prediction_type", "epsilon")
        tree["prediction"] = {"v_prediction": "v"}.get(prediction, prediction)
    return tree


def _json(path: Path) -> dict:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a JSON file ({error})") from None
    if not isinstance(tree, dict):
        raise ValueError(f"{path}: {short(tree)}; accepted: an object of keys")
    return tree


def _weights(folder: Path, name: str | None) -> Path:
    """The file of weights in a folder: the one that its card names, diffusers', or the only one that there is."""
    if name is not None:
        if Path(name).name != name:
            raise ValueError(f"{folder}: weights: {short(name)}; accepted: the name of a file in the card's folder")
        found = [folder / name]
    else:
        found = [path for part in (folder, folder / "unet") for file in DIFFUSERS_WEIGHTS
                 if (path := part / file).exists()][:1]
        found = found or sorted(path for path in folder.iterdir() if path.suffix in WEIGHTS)
    if len(found) != 1:
        raise ValueError(f"{folder}: {len(found)} files of weights ({', '.join(path.name for path in found[:5])}); "
                         "accepted: one, or one that prior.yaml names (weights)")
    if not found[0].is_file():
        raise FileNotFoundError(f"{found[0]}: no such file")
    return found[0]


def _beside(card: Path, endings: Iterable[str]) -> str | None:
    """The name of the file of weights that is called like a card."""
    return next((path.name for ending in endings if (path := card.with_suffix(ending)).exists()), None)
