#!/usr/bin/env python3
"""MRI super-resolution along z, with a 2D diffusion prior made coherent in 3D by ISCS."""
import logging

from utils.cli.flags import input_errors, parse_args
from utils.cli.messages import failures, set_up_logging

log = logging.getLogger(__name__)


def main(argv=None) -> None:
    args = parse_args("ZSR", argv)
    set_up_logging(args.verbosity)
    with failures(args):
        reconstruct(args)


def reconstruct(args) -> None:
    import torch

    from algorithms.consistency import ddnm, dds
    from algorithms.guidance import dps
    from algorithms.noise import noise_source
    from algorithms.predictor_corrector import predictor_corrector
    from algorithms.sampler import sample
    from algorithms.schedule import sigma_levels
    from models.slice_score import SliceScore
    from models.ncsnpp import NCSNpp
    from physics.noise import add_noise, snr_db
    from physics.zsr import ZAverage
    from models.checkpoint import check_prior, load_weights
    from utils.io.config import check_levels, load_config
    from utils.run.device import choose_device, volumes_device
    from utils.run.result import Run, progress_bar
    from utils.io.intensity import scale_from_unit, scale_to_unit
    from utils.io.read import read_volume

    # 1. What is asked for: volume, prior, operator. Everything that can be wrong is found here.
    with input_errors():
        device = choose_device(args.device, args.gpu)
        args.device = str(device)       # for args.yaml
        volume = read_volume(args.data, series=args.series)
        window = float(volume.array.min()), float(volume.array.max())
        volume = volume.crop(args.slice_begin, args.slice_end)
        depth = volume.array.shape[0]
        if depth < args.degree:
            raise ValueError(f"--degree {args.degree}: more than the {depth} slices of {args.data}")
        if depth % args.degree:
            log.info(f"{depth} slices are not a multiple of {args.degree}: the last {depth % args.degree} are left out")
            volume = volume.crop(0, depth - depth % args.degree)
        # [D, H, W] -> [H, 1, W, D]: the prior sees slices that contain z, one for every y.
        with input_errors(args.data):
            truth = torch.from_numpy(scale_to_unit(volume.array, *window))
        home = volumes_device(device, 12 * truth.numel())     # at the most a dozen volumes are needed at a time
        truth = truth.permute(1, 2, 0)[:, None].contiguous().to(home)
        operator = ZAverage(truth.shape, args.degree)
        config = load_config(args.config_path)
        check_levels(config, args.sigma_min, args.sigma_max)
        with input_errors(args.config_path):
            network = NCSNpp(config)
        check_prior(load_weights(network, args.checkpoint_path), args.checkpoint_path, "mr", config)
        score = SliceScore(network, args.batch_size, device,
                           lambda batches: progress_bar(batches, "slice batches", position=1, leave=False))
        run = Run(args, "ZSR", volume, to_volume, window, slice_axis=1)
    log.info(f"{args.method} {args.task}-{args.degree}: {' x '.join(map(str, volume.array.shape))} voxels, on {device}")
    generator = torch.Generator().manual_seed(args.seed)
    noise = noise_source(args.noise_control, truth.shape, generator, home, spacing=volume.spacing[1],
                         length=args.noise_length)
    sigmas = sigma_levels(args.NFE, args.sigma_min, args.sigma_max)

    if args.method == "uncondition":
        block = config.sampling
        start, keep = run.resumable(generator, home)
        x = predictor_corrector(score, noise, sigmas, snr=block.snr, n_steps_each=block.n_steps_each,
                                callback=run.watch(args.NFE), keep=keep, start=start)
        run.save("recon", x)
        return run.finish()

    # 2. The measurement: thick slices, and noise.
    run.save("GT", truth)
    clean = operator.A(truth)
    y = add_noise(clean, args.sino_noise, generator)
    log.info(f"measurement: SNR {snr_db(clean, y):.1f} dB")
    run.save_volume("y", volume.thicken(scale_from_unit(to_volume(y).cpu(), *window), args.degree))

    # 3. The baseline, from the measurement alone.
    initial = operator.A_dagger(y)
    run.save("ATy", initial)

    # 4. Reconstruction.
    consistency = (dds(operator, y, args.num_cg, args.w_tik, w_dz=args.w_dz) if args.method == "DDS" else
                   ddnm(operator, y))
    guidance = dps(score, operator, y, args.w_dps) if args.w_dps else None
    scale = y.norm()
    start, keep = run.resumable(generator, home, consistency)
    x = sample(score, consistency, noise, sigmas, renoise_method=args.renoise_method, eta=args.eta,
               guidance=guidance, x_init=initial if args.use_init else None, keep=keep, start=start,
               callback=run.watch(args.NFE, misfit=lambda x0: ((operator.A(x0) - y).norm() / scale).item()))
    run.save("recon", x)
    run.finish()


def to_volume(x):
    """Slices [H, 1, W, D] as a volume [D, H, W]."""
    return x[:, 0].permute(2, 0, 1)


if __name__ == "__main__":
    main()
