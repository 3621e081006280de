#!/usr/bin/env python3
"""Train a 2D diffusion prior (VE-SDE score network) on the slices of volumes; docs/training.md is the guide.

Denoising score matching (Vincent 2011; Song et al. 2021): x = x0 + sigma eps, loss w |sigma s(x, sigma) + eps|^2,
with the levels of utils.train.training.noise_levels and the weight of NCSNpp.loss_weight. Writes to --output

    checkpoint.pth   {optimizer, model, ema, step, scaler, run, prior}: continue with --resume, or use as a prior
    prior.pth        {model, prior}: the averaged weights alone, trained ones in half precision: small, to share
    loss.csv         step, mean loss since the line before, images per second
    validation.csv   with --validation: step, mean squared error of denoised held-out images at every level
    samples/         images drawn from the prior, to look at

Several GPUs: torchrun --nproc-per-node 4 train.py ..., each with batches of --batch-size of its own.
"""
import hashlib
import importlib.util
import math
import time
from pathlib import Path

from utils.cli.flags import Parser, existing_file, existing_path, input_errors, number

SAMPLES, SAMPLE_LEVELS = 8, 30      # images of the grid, noise levels from which they are drawn


def parse_args(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--config-path", type=Path, required=True, help="YAML of the network, see configs/ve")
    add("--modality", choices=("ct", "mr"), required=True, help="ct: axial slices in HU; mr: slices that contain z")
    add("--data", type=existing_path, nargs="*", default=[], metavar="PATH", help="NIfTI volumes, folders with such")
    add("--phantoms", type=number(int, 0), default=0, metavar="N", help="synthetic volumes to add")
    add("--phantom-seed", type=number(int, 0), default=1000, metavar="S", help="their seeds are S to S + N - 1")
    add("--validation", type=existing_path, nargs="*", default=[], metavar="PATH",
        help="held-out volumes: NIfTI files, folders with such")
    add("--output", type=Path, required=True, metavar="FOLDER")
    add("--cache", type=Path, metavar="FOLDER", help="of the volumes' slices, float16; runs may share one "
                                                     "(default: OUTPUT/cache)")
    add("--steps", type=number(int, 1), default=2000, help="in all, those of a resumed run included")
    add("--batch-size", type=number(int, 1), default=4, help="images a step, of each process")
    add("--lr", type=number(float, above=0), default=1e-3, help="peak; warms up, then falls to 0 as a cosine")
    add("--precision", choices=("auto", "float32", "bf16", "fp16"), default="auto",
        help="of the network's layers; auto: bf16 on CUDA, float32 on the CPU")
    add("--seed", type=number(int, 0), default=0)
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    add("--save-every", type=number(int, 1), default=200, metavar="STEPS")
    add("--validate-every", type=number(int, 1), default=500, metavar="STEPS", help="with --validation")
    add("--sample-every", type=number(int, 0), default=1000, metavar="STEPS", help="0: never")
    add("--tensorboard", action="store_true", help="log to OUTPUT/tensorboard too")
    add("--init", type=existing_file, metavar="FILE", help="start from the weights of another prior (fine-tuning)")
    add("--resume", action="store_true", help="go on from OUTPUT/checkpoint.pth")
    args = parser.parse_args(argv)
    args.cache = args.cache or args.output / "cache"
    checkpoint = args.output / "checkpoint.pth"
    if not args.data and not args.phantoms:
        parser.error("nothing to train on; give --data, --phantoms or both")
    if args.init and args.resume:
        parser.error("--init and --resume are both given; accepted is one of them")
    if not args.resume and checkpoint.exists():
        parser.error(f"--output {args.output}: {checkpoint} is there already; accepted: --resume, or another folder")
    if args.tensorboard and not importlib.util.find_spec("tensorboard"):
        parser.error("--tensorboard needs a package that is not installed: pip install tensorboard")
    return args


def load_slices(args, size: int, processes):
    """A `SliceSampler` over the training volumes, real and synthetic, and one over the held-out ones, or None."""
    from tqdm import tqdm

    from utils.train.slices import SliceSampler, find_volumes, phantom_slices, volume_slices

    real, quiet = find_volumes([*args.data, *args.validation]), True if processes.rank else None
    held_out = find_volumes(args.validation)
    seeds = range(args.phantom_seed, args.phantom_seed + args.phantoms)
    makers = [lambda path=path: volume_slices(path, args.modality, args.cache) for path in real]
    makers += [lambda seed=seed: phantom_slices(seed, args.modality, size, args.cache) for seed in seeds]
    # Volumes that are not in the cache are read now; several processes first share that, then find the files there.
    for make in tqdm(makers[processes.rank::processes.count], "reading volumes", disable=quiet):
        make()
    stacks = [make() for make in makers]
    training, validation = stacks[:len(real) - len(held_out)], stacks[len(real) - len(held_out):len(real)]
    return (SliceSampler([training, stacks[len(real):]], size, args.modality),
            SliceSampler([validation], size, args.modality) if validation else None)


def draw_batch(args, model, slices, step: int, rank: int):
    """Images x0 and noise eps [batch, 1, size, size], levels sigma [batch] and a seed for dropout, of one step.

    All of it comes from (seed, step, rank) alone: a resumed run continues exactly.
    """
    import numpy as np
    import torch

    from utils.train.training import noise_levels

    rng = np.random.default_rng((args.seed, step, rank))
    generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
    x0 = slices.batch(args.batch_size, rng)
    eps = torch.randn(x0.shape, generator=generator)
    # Stratified: one level from every equal part of the distribution, so that steps differ less.
    u = (torch.arange(args.batch_size) + torch.rand(args.batch_size, generator=generator)) / args.batch_size
    return x0, eps, noise_levels(u, model.sigma_min, model.sigma_max), generator.initial_seed()


class Training:
    """Network, averaged weights, optimizer and gradient scaler of a run, and their files."""

    def __init__(self, args, config, device, processes):
        import torch

        from models.ncsnpp import NCSNpp
        from models.checkpoint import EMA, load_weights, trainable
        from utils.train.slices import MR_PERCENTILE
        from utils.train.training import check_same_run, choose_precision
        from models.window import CT_WINDOW

        torch.manual_seed(args.seed)
        self.network = NCSNpp(config)
        if args.init:
            load_weights(self.network, args.init)
        # On CUDA in the layout that convolutions in half precision are fastest in.
        self.network.to(device, memory_format=torch.channels_last if device.type == "cuda" else torch.preserve_format)
        self.parameters = trainable(self.network)
        self.ema = EMA(self.network, config.model.ema_rate)
        self.optimizer = torch.optim.Adam(self.parameters, lr=args.lr)
        self.precision = choose_precision(args.precision, device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == "fp16")
        self.step, self.folder, self.processes = 0, args.output, processes
        window = list(CT_WINDOW) if args.modality == "ct" else f"minimum to {MR_PERCENTILE}th percentile"
        self.prior = {"modality": args.modality, "window": window, "image_size": config.data.image_size,
                      "preconditioning": config.training.preconditioning,
                      "sigma_min": config.model.sigma_min, "sigma_max": config.model.sigma_max}
        # What must stay as it is for a resumed run to be the uninterrupted one.
        digest = hashlib.sha256(repr(sorted(config.to_dict().items())).encode()).hexdigest()[:12]
        self.run = {"--modality": args.modality, "--seed": args.seed, "--batch-size": args.batch_size,
                    "--steps": args.steps, "--lr": args.lr, "--precision": self.precision,
                    "--config-path, content": digest, "number of processes": processes.count}
        if args.resume:
            path = self.folder / "checkpoint.pth"
            state = load_weights(self.network, path, use_ema=False)
            check_same_run(path, state.get("run"), self.run)
            self.ema.load_state_dict(state["ema"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            self.step = state["step"]

    def update(self, x0, eps, sigma, rate: float, stop: bool = False) -> tuple[float, bool]:
        """One step, of learning rate ``rate``, on images x0 with noise eps [batch, 1, H, W] of levels sigma [batch].

        Returns the loss and whether to ``stop``, averaged over the processes and asked of any: the same in all of them.
        Raises Diverged, and leaves the weights as they were, where the loss or its gradient is not finite.
        """
        import torch

        from utils.train.training import PRECISIONS, Diverged

        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        dtype, scale = PRECISIONS[self.precision], sigma[:, None, None, None]
        with torch.autocast(x0.device.type, dtype, enabled=dtype is not torch.float32):
            score = self.network(x0 + scale * eps, sigma).float()
        loss = (self.network.loss_weight(sigma)[:, None, None, None] * (scale * score + eps).square()).mean()
        self.scaler.scale(loss).backward()
        # One message for the gradients, the loss and whether to stop: all processes go the same way.
        loss, stop = loss.detach(), torch.tensor(float(stop), device=x0.device)
        self.processes.average([parameter.grad for parameter in self.parameters] + [loss, stop])
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        if not math.isfinite(loss) or not (self.scaler.is_enabled() or math.isfinite(norm)):
            raise Diverged(f"the loss of step {self.step + 1} or its gradient is not finite; stopped, {self.folder} holds "
                           "what was saved before; a lower --lr, or --precision float32, may help")
        self.scaler.step(self.optimizer)     # with fp16, a step whose gradient overflowed changes nothing
        self.scaler.update()
        self.ema.update(self.network)
        self.step += 1
        return loss.item(), bool(stop)

    def save(self) -> None:
        from models.checkpoint import save

        save(self.folder / "checkpoint.pth",
             {"optimizer": self.optimizer.state_dict(), "model": self.network.state_dict(),
              "ema": self.ema.state_dict(), "step": self.step, "scaler": self.scaler.state_dict(), "run": self.run,
              "prior": self.prior})
        names = [name for name, p in self.network.named_parameters() if p.requires_grad]
        averages = {name: value.half() for name, value in zip(names, self.ema.shadow_params)}
        save(self.folder / "prior.pth", {"model": self.network.state_dict() | averages, "prior": self.prior})


def report(args, config, training, monitor, validation, device) -> None:
    """Validate the averaged weights and draw images from them, at the steps that are due."""
    import numpy as np
    import torch
    from tqdm import tqdm

    from algorithms.noise import noise_source
    from algorithms.sampler import sample
    from algorithms.schedule import sigma_levels
    from utils.train.monitor import VALIDATION_IMAGES, VALIDATION_SEED, denoising_errors, validation_levels
    from utils.train.training import averaged_weights

    step, low, high = training.step, config.model.sigma_min, config.model.sigma_max
    last = step == args.steps
    if validation and (step % args.validate_every == 0 or last):
        images = validation.batch(VALIDATION_IMAGES, np.random.default_rng(VALIDATION_SEED)).to(device)
        levels = validation_levels(low, high)
        with averaged_weights(training.network, training.ema) as network:
            errors = denoising_errors(network, images, levels, 4 * args.batch_size)    # no gradients: less memory
        columns = {f"{level:g}": f"{error:.4g}" for level, error in zip(levels, errors)}
        monitor.row("validation", step, columns, header=True)
        tqdm.write(f"validation, step {step}: " + ", ".join(f"{error} at {level}" for level, error in columns.items()))
    if step and args.sample_every and (step % args.sample_every == 0 or last):
        generator = torch.Generator().manual_seed(args.seed)
        noise = noise_source("None", (SAMPLES, 1, *[config.data.image_size] * 2), generator, device)
        with averaged_weights(training.network, training.ema) as network:
            images = sample(lambda x, sigma: network(x, torch.full((SAMPLES,), sigma, device=device)),
                            lambda x0, sigma: x0, noise, sigma_levels(SAMPLE_LEVELS, low, high), renoise_method="DDIM")
        monitor.picture("samples", step, (images + 1) / 2 if config.data.centered else images)


def train(args, config, training, slices, validation, processes, device) -> None:
    import torch
    from tqdm import tqdm

    from utils.train.monitor import Monitor
    from utils.train.training import ahead, learning_rate, stop_signals

    writes = processes.rank == 0
    monitor = Monitor(args.output, training.step, args.tensorboard) if writes else None
    steps = range(training.step, args.steps)
    # A GPU does not wait for its images; on a CPU the threads would only be in each other's way.
    batches = (ahead if device.type == "cuda" else map)(
        lambda step: draw_batch(args, config.model, slices, step, processes.rank), steps)
    losses, seconds = [], 0.0
    if writes and training.step == 0:
        report(args, config, training, monitor, validation, device)
    training.network.train()
    with stop_signals() as received:
        for step in tqdm(steps, "training", initial=training.step, total=args.steps, disable=None if writes else True):
            began = time.perf_counter()
            *tensors, seed = next(batches)
            torch.manual_seed(seed)    # for dropout
            rate = learning_rate(step, args.steps, args.lr)
            loss, stop = training.update(*(tensor.to(device) for tensor in tensors), rate, bool(received))

            losses.append(loss)
            seconds += time.perf_counter() - began
            last = training.step == args.steps
            if writes and (training.step % 50 == 0 or last):
                speed = len(losses) * args.batch_size * processes.count / seconds
                columns = {"loss": f"{sum(losses) / len(losses):.5f}", "images per second": f"{speed:.2f}"}
                monitor.row("loss", training.step, columns)
                monitor.scalars("loss", training.step, {"learning rate": rate})
                losses, seconds = [], 0.0
            if writes and (training.step % args.save_every == 0 or last or stop):
                training.save()
            if stop and not last:
                if writes:
                    print(f"stopped after step {training.step} of {args.steps}; the same command with --resume"
                          f"{' in place of --init' if args.init else ''} goes on")
                raise SystemExit(128 + (received or [15])[0])
            if writes:
                report(args, config, training, monitor, validation, device)
    if writes:
        print(args.output)


def main(argv=None) -> None:
    args = parse_args(argv)
    from models.ncsnpp import check_config
    from utils.io.config import load_config
    from utils.run.device import choose_device
    from utils.train.slices import find_volumes
    from utils.train.training import Diverged, Processes

    processes = Processes()
    with input_errors():
        config = load_config(args.config_path)
        device = choose_device(args.device, processes.local)
        with input_errors(args.config_path):
            check_config(config)
        find_volumes([*args.data, *args.validation])
        training = Training(args, config, device, processes)
        slices, validation = load_slices(args, config.data.image_size, processes)
        args.output.mkdir(parents=True, exist_ok=True)
    try:
        with processes.connected(device):
            train(args, config, training, slices, validation, processes, device)
    except Diverged as error:
        raise SystemExit(f"train.py: error: {error}") from None


if __name__ == "__main__":
    main()
