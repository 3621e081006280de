#!/usr/bin/env python3
"""Train a 2D diffusion prior (VE-SDE score network) on the slices of volumes.

Denoising score matching (Vincent 2011; Song et al. 2021): x = x0 + sigma eps with sigma log-uniform in
[sigma_min, sigma_max], loss |sigma s(x, sigma) + eps|^2. Writes to --output

    checkpoint.pth   {optimizer, model, ema, step}: continue with --resume, or use as a prior
    prior.pth        the averaged weights alone, trained ones in half precision: small, to share
    loss.csv         step, mean loss since the line before, images per second
"""
import math
import time
from pathlib import Path

from utils.args import Parser, input_errors, number


def parse_args(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--config-path", type=Path, required=True, help="YAML of the network, see configs/ve")
    parser.add_argument("--modality", choices=("ct", "mr"), required=True,
                        help="ct: axial slices in HU; mr: slices that contain z")
    parser.add_argument("--data", type=Path, nargs="*", default=[], metavar="FILE", help="NIfTI volumes")
    parser.add_argument("--phantoms", type=number(int, 0), default=0, metavar="N", help="synthetic volumes to add")
    parser.add_argument("--phantom-seed", type=number(int, 0), default=1000, metavar="S",
                        help="their seeds are S to S + N - 1")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--steps", type=number(int, 1), default=2000, help="in all, those of a resumed run included")
    parser.add_argument("--batch-size", type=number(int, 1), default=4)
    parser.add_argument("--lr", type=number(float, above=0), default=1e-3,
                        help="peak; warms up, then falls to 0 as a cosine")
    parser.add_argument("--seed", type=number(int, 0), default=0)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    parser.add_argument("--save-every", type=number(int, 1), default=200, metavar="STEPS")
    parser.add_argument("--resume", action="store_true", help="go on from OUTPUT/checkpoint.pth")
    args = parser.parse_args(argv)
    if not args.data and not args.phantoms:
        parser.error("nothing to train on; give --data, --phantoms or both")
    return args


def load_slices(args, size: int):
    """A `SliceSampler` over the real volumes and the synthetic ones."""
    import numpy as np
    from tqdm import tqdm

    from utils import phantom
    from utils.slices import SliceSampler, ct_slices, mr_slices
    from utils.volume import Volume, read_volume

    if args.modality == "ct":
        real = [ct_slices(read_volume(path, "LPI")) for path in args.data]
    else:
        real = [mr_slices(read_volume(path)) for path in args.data]
    synthetic = []
    for seed in tqdm(range(args.phantom_seed, args.phantom_seed + args.phantoms), "phantoms", disable=None):
        rng = np.random.default_rng(seed)
        if args.modality == "ct":
            pixel = rng.uniform(330, 480) / size
            array = phantom.thorax(seed, (24, size, size), (rng.uniform(2, 5), pixel, pixel))
            synthetic.append(ct_slices(Volume(array)))
        else:
            synthetic.append(mr_slices(Volume(phantom.head(seed, (112, 160, 128), (1.0, 1.0, 1.0)))))
    return SliceSampler([real, synthetic], size, args.modality)


class Training:
    """Network, averaged weights and optimizer of a run, and their file."""

    def __init__(self, args, config, device):
        import torch

        from models.ncsnpp import NCSNpp
        from utils.checkpoint import EMA, load_weights, trainable

        torch.manual_seed(args.seed)
        self.network = NCSNpp(config).to(device)
        self.parameters = trainable(self.network)
        self.ema = EMA(self.network, config.model.ema_rate)
        self.optimizer = torch.optim.Adam(self.parameters, lr=args.lr)
        self.step, self.folder = 0, args.output
        if args.resume:
            path = self.folder / "checkpoint.pth"
            state = load_weights(self.network, path, use_ema=False)
            try:
                self.ema.load_state_dict(state["ema"])
                self.optimizer.load_state_dict(state["optimizer"])
                self.step = state["step"]
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{path}: cannot be continued, it is not a checkpoint of this program's training "
                                 f"({error})") from None

    def save(self) -> None:
        from utils.checkpoint import save

        save(self.folder / "checkpoint.pth",
             {"optimizer": self.optimizer.state_dict(), "model": self.network.state_dict(),
              "ema": self.ema.state_dict(), "step": self.step})
        names = [name for name, p in self.network.named_parameters() if p.requires_grad]
        averages = {name: value.half() for name, value in zip(names, self.ema.shadow_params)}
        save(self.folder / "prior.pth", self.network.state_dict() | averages)


def train(args, config, slices, training, device) -> None:
    import numpy as np
    import torch
    from tqdm import tqdm

    low, high = math.log(config.model.sigma_min), math.log(config.model.sigma_max)
    warm_up = max(1, min(100, args.steps // 10))
    log = args.output / "loss.csv"
    if training.step == 0:
        log.write_text("")
    losses, since = [], time.perf_counter()
    training.network.train()
    for step in tqdm(range(training.step, args.steps), "training", initial=training.step, total=args.steps,
                     disable=None):
        # All randomness of a step comes from (seed, step): a resumed run continues exactly.
        rng = np.random.default_rng((args.seed, step))
        generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
        torch.manual_seed(generator.initial_seed())    # for dropout
        x0 = slices.batch(args.batch_size, rng).to(device)
        eps = torch.randn(x0.shape, generator=generator).to(device)
        # Stratified: one level from every equal part of the range, so that steps differ less.
        u = (torch.arange(args.batch_size) + torch.rand(args.batch_size, generator=generator)) / args.batch_size
        sigma = torch.exp(low + (high - low) * u).to(device)
        scale = sigma[:, None, None, None]

        rate = min((step + 1) / warm_up, 0.5 * (1 + math.cos(math.pi * step / args.steps)))
        for group in training.optimizer.param_groups:
            group["lr"] = args.lr * rate
        training.optimizer.zero_grad(set_to_none=True)
        loss = (scale * training.network(x0 + scale * eps, sigma) + eps).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(training.parameters, 1.0)
        training.optimizer.step()
        training.ema.update(training.network)
        training.step = step + 1

        losses.append(loss.item())
        last = training.step == args.steps
        if training.step % 50 == 0 or last:
            now = time.perf_counter()
            speed = len(losses) * args.batch_size / (now - since)
            with log.open("a") as file:
                file.write(f"{training.step},{np.mean(losses):.5f},{speed:.2f}\n")
            losses, since = [], now
        if training.step % args.save_every == 0 or last:
            training.save()
    print(args.output)


def main(argv=None) -> None:
    args = parse_args(argv)
    from models.ncsnpp import check_config
    from utils.config import load_config
    from utils.device import choose_device

    with input_errors():
        config = load_config(args.config_path)
        device = choose_device(args.device)
        with input_errors(args.config_path):
            check_config(config)
        training = Training(args, config, device)
        slices = load_slices(args, config.data.image_size)
        args.output.mkdir(parents=True, exist_ok=True)
    train(args, config, slices, training, device)


if __name__ == "__main__":
    main()
