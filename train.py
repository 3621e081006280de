#!/usr/bin/env python3
"""Train a 2D diffusion prior (VE-SDE score network) on the slices of volumes; docs/training.md is the guide.

Denoising score matching (Vincent 2011; Song et al. 2021): x = x0 + sigma eps, loss w |sigma s(x, sigma) + eps|^2,
with the levels of utils.train.training.noise_levels and the weight of NCSNpp.loss_weight. Writes to --output

    checkpoint.pth   {optimizer, model, ema, step, scaler, run, prior}: continue with --resume, or use as a prior
    prior.safetensors, prior.yaml
                     the averaged weights alone, trained ones in half precision, and what they are: small, to share
    loss.csv         step, mean loss since the line before, images per second
    validation.csv   with --validation: step, mean squared error of denoised held-out images at every level
    samples/         images drawn from the prior, to look at

Several GPUs: torchrun --nproc-per-node 4 train.py ..., each with batches of --batch-size of its own.
"""
import hashlib
import importlib.util
import logging
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from utils.cli.flags import Parser
from utils.cli.messages import failures, input_errors, set_up_logging
from utils.cli.threads import use_threads
from utils.cli.types import existing_file, existing_path, number

log = logging.getLogger(__name__)

DESCRIPTION = "Train a 2D diffusion prior (VE-SDE score network) on slices of volumes; docs/training.md is the guide."
SAMPLES, SAMPLE_LEVELS = 8, 30      # images of the grid, noise levels from which they are drawn
MANY = 1_000_000_000


def parse_args(argv: list[str] | None = None) -> Namespace:
    """The flags, checked as far as that needs no heavy import."""
    parser = Parser(description=DESCRIPTION)
    add = parser.add_argument
    add("--config-path", type=existing_file, required=True, help="YAML of the network, see configs/ve")
    add("--modality", choices=("ct", "mr"), required=True, help="ct: axial slices in HU; mr: slices that contain z")
    add("--data", type=existing_path, nargs="+", required=True, metavar="PATH",
        help="NIfTI volumes, folders with such; every path counts as much, and every volume within a folder")
    add("--validation", type=existing_path, nargs="*", default=[], metavar="PATH",
        help="held-out volumes: NIfTI files, folders with such")
    add("--output", type=Path, required=True, metavar="FOLDER")
    add("--cache", type=Path, metavar="FOLDER", help="of the volumes' slices, float16; runs may share one "
                                                     "(default: OUTPUT/cache)")
    add("--steps", type=number(int, 1, MANY), default=2000, help="in all, those of a resumed run included")
    add("--batch-size", type=number(int, 1, 100_000), default=4, help="images a step, of each process")
    add("--lr", type=number(float, above=0, most=1), default=1e-3, help="peak; warms up, then falls to 0 as a cosine")
    add("--precision", choices=("auto", "float32", "bf16", "fp16"), default="auto",
        help="of the network's layers; auto: half precision on CUDA, float32 on the CPU")
    add("--seed", type=number(int, 0, 2**63 - 1), default=0)
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    add("--threads", type=number(int, 1, 10_000), metavar="N",
        help="of the processor (default: OMP_NUM_THREADS, else one for each core that the process may use)")
    add("--save-every", type=number(int, 1, MANY), default=200, metavar="STEPS")
    add("--validate-every", type=number(int, 1, MANY), default=500, metavar="STEPS", help="with --validation")
    add("--sample-every", type=number(int, 0, MANY), default=1000, metavar="STEPS", help="0: never")
    add("--tensorboard", action="store_true", help="log to OUTPUT/tensorboard too")
    add("--init", type=existing_file, metavar="FILE", help="start from the weights of another prior (fine-tuning)")
    add("--resume", action="store_true", help="go on from OUTPUT/checkpoint.pth")
    args = parser.parse_args(argv)
    args.cache = args.cache or args.output / "cache"
    checkpoint = args.output / "checkpoint.pth"
    if args.init and args.resume:
        parser.error("--init and --resume are both given; accepted is one of them")
    if not args.resume and checkpoint.exists():
        parser.error(f"--output {args.output}: {checkpoint} is there already; accepted: --resume, or another folder")
    if args.tensorboard and not importlib.util.find_spec("tensorboard"):
        parser.error("--tensorboard needs a package that is not installed: pip install tensorboard")
    return args


def main(argv: list[str] | None = None) -> None:
    with failures():
        args = parse_args(argv)
        set_up_logging(0)
        use_threads(args.threads)
        from op.processes import Processes
        from utils.io.config import load_config
        from utils.io.files import clear_partial
        from utils.run.device import choose_device

        with input_errors():
            processes = Processes.started()
            if processes.rank:
                logging.disable(logging.WARNING)    # one of them speaks
            config = load_config(args.config_path)
            with input_errors("--device"):
                device = choose_device(args.device, processes.local)
            training = set_up(args, config, device, processes)
            slices, validation = load_slices(args, training.card, processes)
            args.output.mkdir(parents=True, exist_ok=True)
            if args.resume and processes.rank == 0:
                clear_partial(args.output, args.output / "samples", args.cache)
        with processes.connected(device):
            train(args, config, training, slices, validation)


def set_up(args: Namespace, config: Any, device: Any, processes: Any) -> Any:
    """The `Training`: the network, new or from a file, and what belongs to it."""
    import torch

    from models.checkpoint import load_weights
    from models.precision import choose_precision
    from models.prior import score_settings
    from models.window import CT_WINDOW
    from utils.cli import choices
    from utils.io.intensity import MR_WINDOWS
    from utils.io.prior_file import parse_card
    from utils.train.slices import find_volumes
    from utils.train.training import Training

    torch.manual_seed(args.seed)
    with input_errors(str(args.config_path)):
        network = choices.named(choices.NETWORKS, config.model.name).load()(config)
        if config.training.sde != "vesde":
            raise ValueError(f"training.sde: {config.training.sde!r}; accepted, to train: 'vesde'")
    find_volumes([*args.data, *args.validation])    # mistakes there are said before the long part
    if args.init:
        load_weights(network, args.init)
    network.to(device, memory_format=torch.channels_last)       # the layout that convolutions are fastest in
    window = list(CT_WINDOW) if args.modality == "ct" else MR_WINDOWS[0]
    with input_errors("--precision"):
        precision = choose_precision(args.precision, device, training=True)
    digest = hashlib.sha256(repr(sorted(config.to_dict().items())).encode()).hexdigest()[:12]
    training = Training(network, args.output, config.model.ema_rate, precision, processes,
                        {"modality": args.modality, "window": window} | score_settings(config),
                        {"--modality": args.modality, "--seed": args.seed, "--batch-size": args.batch_size,
                         "--steps": args.steps, "--lr": args.lr, "--precision": precision,
                         "--config-path, content": digest, "number of processes": processes.count},
                        parse_card({"network": config.model.name, "architecture": config.to_dict(),
                                    "modality": args.modality, "window": window}, args.config_path))
    if args.resume:
        training.resume()
    return training


def load_slices(args: Namespace, card: Any, processes: Any) -> tuple[Any, Any]:
    """A `SliceSampler` over the training volumes, a group for every path, and one over the held-out ones, or None."""
    from utils.train.monitor import steadily
    from utils.train.slices import NoContrast, SliceSampler, check_apart, find_volumes, volume_slices

    def load(path):
        try:
            return volume_slices(path, args.modality, args.cache)
        except NoContrast as error:
            return error

    paths = find_volumes([*args.data, *args.validation])
    # Volumes that are not in the cache are read now; several processes first share that, then find the files there.
    for path in steadily(paths[processes.rank::processes.count], "reading volumes", processes.rank > 0):
        load(path)
    stacks = {}
    for path in paths:
        stack = load(path)
        if isinstance(stack, NoContrast):
            log.warning(f"{stack}; left out")
        else:
            stacks[path] = stack
    held_out = {path: stacks.pop(path) for path in find_volumes(args.validation) if path in stacks}
    check_apart(stacks, held_out)
    groups = [[stacks[path] for path in find_volumes([each]) if path in stacks] for each in args.data]
    about = card.image_size, args.modality, card.intensities
    return SliceSampler(groups, *about), SliceSampler([list(held_out.values())], *about) if held_out else None


def train(args: Namespace, config: Any, training: Any, slices: Any, validation: Any) -> None:
    """Take the steps that are missing, save and report; a signal stops after a step, with status 128 + its number."""
    import torch

    from utils.run.progress import progress_bar
    from utils.train.monitor import Monitor
    from utils.train.processes import ahead, stop_signals
    from utils.train.training import draw_batch, learning_rate

    rank, count, device = training.processes.rank, training.processes.count, training.parameters[0].device
    monitor = Monitor(args.output, training.step, args.steps, args.batch_size * count, args.tensorboard
                      ) if rank == 0 else None
    levels = config.model.sigma_min, config.model.sigma_max
    steps = range(training.step, args.steps)
    # A GPU does not wait for its images; on a CPU the threads would only be in each other's way.
    batches = (ahead if device.type == "cuda" else map)(
        lambda step: draw_batch(slices, levels, args.batch_size, args.seed, step, rank), steps)
    if monitor and training.step == 0:
        report(args, config, training, monitor, validation)
    training.network.train()
    with stop_signals() as received:
        for step in progress_bar(steps, "training", initial=training.step, total=args.steps) if monitor else steps:
            began = time.perf_counter()
            *tensors, seed = next(batches)
            torch.manual_seed(seed)    # for dropout
            rate = learning_rate(step, args.steps, args.lr)
            loss, stop = training.update(*(tensor.to(device) for tensor in tensors), rate, bool(received))
            last = training.step == args.steps
            if monitor:
                monitor.done(training.step, loss, rate, time.perf_counter() - began)
                if training.step % args.save_every == 0 or last or stop:
                    training.save()
                if stop and not last:
                    monitor.say(f"stopped after step {training.step} of {args.steps}; the same command with --resume"
                                f"{' in place of --init' if args.init else ''} goes on")
                else:
                    report(args, config, training, monitor, validation)
            if stop and not last:
                raise SystemExit(128 + (received or [15])[0])
    if monitor:
        monitor.say(str(args.output))


def report(args: Namespace, config: Any, training: Any, monitor: Any, validation: Any) -> None:
    """Validate the averaged weights and draw images from them, at the steps that are due."""
    import numpy as np
    import torch

    from algorithms.noise import noise_source
    from algorithms.noise.independent import Independent
    from algorithms.renoise.ddim import DDIM
    from algorithms.sampler import noisy, sample
    from algorithms.schedule import sigma_levels
    from utils.train.monitor import VALIDATION_IMAGES, VALIDATION_SEED, denoising_errors, validation_levels
    from utils.train.training import averaged_weights

    step, low, high = training.step, config.model.sigma_min, config.model.sigma_max
    last, device = step == args.steps, training.parameters[0].device
    if validation and (step % args.validate_every == 0 or last):
        images = validation.batch(VALIDATION_IMAGES, np.random.default_rng(VALIDATION_SEED)).to(device)
        levels = validation_levels(low, high)
        with averaged_weights(training.network, training.ema) as network:
            errors = denoising_errors(network, images, levels, 4 * args.batch_size)    # no gradients: less memory
        columns = {f"{level:g}": f"{error:.4g}" for level, error in zip(levels, errors)}
        monitor.row("validation", step, columns, header=True)
        monitor.say(f"validation, step {step}: " + ", ".join(f"{error} at {level}" for level, error in columns.items()))
    if step and args.sample_every and (step % args.sample_every == 0 or last):
        noise = noise_source(Independent(), (SAMPLES, 1, *[config.data.image_size] * 2),
                             torch.Generator().manual_seed(args.seed), device)
        sigmas = sigma_levels(SAMPLE_LEVELS, low, high)
        with averaged_weights(training.network, training.ema) as network:
            images = sample(lambda x, sigma: network(x, torch.full((SAMPLES,), sigma, device=device)),
                            lambda x0, sigma: x0, noise, sigmas, DDIM(), noisy(noise, float(sigmas[0])))
        monitor.picture("samples", step, (images + 1) / 2 if config.data.centered else images)


if __name__ == "__main__":
    main()
