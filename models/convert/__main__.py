"""Convert a prior: python -m models.convert FILE --card CARD --output FOLDER; docs/my_prior.md is the guide."""
from argparse import Namespace
from pathlib import Path
from typing import Any

from utils.cli.flags import Parser
from utils.cli.messages import failures, input_errors, set_up_logging
from utils.cli.types import existing_file

DESCRIPTION = """Convert weights to safetensors and a prior.yaml, without running code from the file: pickles of EDM,
checkpoints of guided diffusion, Lightning and others, with averaged weights where there are any."""


def parse_args(argv: list[str] | None = None) -> Namespace:
    """The flags."""
    parser = Parser(description=DESCRIPTION, prog="python -m models.convert")
    parser.add_argument("file", type=existing_file, metavar="FILE", help="the weights")
    parser.add_argument("--card", type=existing_file, metavar="FILE",
                        help="YAML that says what they are: a prior.yaml, or a config of the published layout; of a "
                             "pickle of EDM only what the pickle does not say (default: a card beside the weights)")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--name", default="prior", help="of the two files, before their endings")
    parser.add_argument("--half", action="store_true", help="store in half precision")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    set_up_logging(0)
    with failures(), input_errors():
        convert(args)


def convert(args: Namespace) -> None:
    """Read, find the network's tensors, write.

    Raises:
        ValueError, OSError: in one line that names the file.
    """
    from models.checkpoint import load_content
    from models.convert.states import edm_card, find_state
    from utils.cli import choices
    from utils.io.prior_file import parse_card, write_prior

    content = read(args.file)
    tree = edm_card(content, str(args.file)) | card_tree(args)
    card = parse_card(tree, args.card or args.file)
    with input_errors(str(args.card or args.file)):
        network = choices.named(choices.NETWORKS, card.network).load()(card.architecture)
    network = getattr(network, "module", network)
    try:
        load_content(network, args.file, content)
    except (ValueError, AttributeError):
        load_content(network, args.file, find_state(content, list(network.state_dict()), str(args.file)))
    state = {name: (value.half() if args.half and value.is_floating_point() else value)
             for name, value in network.state_dict().items()}
    args.output.mkdir(parents=True, exist_ok=True)
    write_prior(args.output, args.name, state, card)
    print(f"{sum(value.numel() for value in state.values())} numbers; see that they denoise: python -m models.prior "
          f"{args.output / f'{args.name}.yaml'}")


def read(path: Path) -> Any:
    """The content of a file: the safe way, and where it holds more than that allows, as plain data."""
    from models.checkpoint import read_checkpoint
    from models.convert.plain import read_plain

    if path.suffix == ".pkl":
        return read_plain(path)
    try:
        return read_checkpoint(path)
    except ValueError:
        if path.suffix == ".safetensors":
            raise
        return read_plain(path)


def card_tree(args: Namespace) -> dict:
    """The tree of the card, or of the one that lies beside the weights; {} without either."""
    from utils.io.prior_file import CARD, read_tree

    beside = (args.file.with_suffix(".yaml"), args.file.with_name(CARD))
    found = args.card or next((path for path in beside if path.exists()), None)
    return read_tree(found) if found else {}


if __name__ == "__main__":
    main()
