"""Check a prior: python -m models.prior PRIOR prints its card and how it denoises; docs/my_prior.md is the guide."""
from argparse import Namespace
from typing import Any

from utils.cli.flags import Parser
from utils.cli.messages import failures, input_errors, set_up_logging
from utils.cli.types import existing_file, existing_path

DESCRIPTION = """Print what a prior's card says, denoise slices with it, and say what in the card would fit better. The
status is 1 where the prior does not denoise."""
ABOUT = ("name", "network", "prediction", "schedule", "intensities", "window", "modality", "plane", "pixel_size",
         "image_size", "licence", "source", "about")


def parse_args(argv: list[str] | None = None) -> Namespace:
    """The flags."""
    parser = Parser(description=DESCRIPTION, prog="python -m models.prior")
    parser.add_argument("prior", type=existing_path, metavar="PRIOR", help="a folder, a card, or weights with a card "
                                                                           "beside them")
    parser.add_argument("--config-path", type=existing_file, metavar="FILE", help="the card, where it is elsewhere")
    parser.add_argument("--modality", choices=("ct", "mr"), help="of the slices, where the card does not say it")
    parser.add_argument("--data", type=existing_path, metavar="PATH", help="a volume to denoise slices of (default: "
                                                                           "that of the demo)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    set_up_logging(-1)
    with failures():
        with input_errors():
            said = check(args)
        raise SystemExit(1 if said else 0)


def check(args: Namespace) -> str:
    """Print the card and how the prior denoises; returns what is wrong, or "".

    Raises:
        ValueError, OSError: files that are not as described.
    """
    from dataclasses import replace

    import torch

    from models.prior import levels, make_prior
    from models.prior.selftest import self_test, verdict
    from models.window import CT_WINDOW
    from utils.run.selftest import sample_slices
    from utils.run.setup import find_prior, open_prior

    card, weights = find_prior(args.prior, args.config_path)
    modality = card.modality or args.modality
    if modality is None:
        raise ValueError(f"{weights}: its card has no modality; accepted: one, or --modality")
    card = replace(card, modality=modality)
    window = CT_WINDOW if modality == "ct" else None
    for key in ABOUT:
        print(f"{key.replace('_', ' '):12}{shown(getattr(card, key))}")
    low, high = levels(card, window)
    print(f"{'levels':12}{low:.4g} to {high:.4g}, of intensities from 0 to 1")
    prior = open_prior(card, weights, torch.device(args.device), weights)
    print(f"{'parameters':12}{sum(value.numel() for value in prior.network.parameters()) / 1e6:.1f} million")
    images = sample_slices(modality, card.image_size, args.data)
    results, better = self_test(
        card, lambda other: make_prior(other, prior.network, args.device, window=window), images, thorough=True)
    print("\nsigma   error / sigma^2   noise found   shift / sigma")
    for result in results:
        print(f"{result.sigma:<8g}{result.error:15.4f}{result.found:14.3f}{result.shift:16.3f}")
    for words, share in better[:3]:
        print(f"{share:.2f} times that error with {words}")
    said = verdict(results, better)
    print(said or "it denoises as its card says")
    return said


def shown(value: Any) -> str:
    """A value of a card in words."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {entry}" for key, entry in value.items())
    if isinstance(value, (list, tuple)):
        return " to ".join(f"{entry:g}" for entry in value)
    return "not said" if value is None else str(value)


if __name__ == "__main__":
    main()
