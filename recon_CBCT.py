#!/usr/bin/env python3
"""Cone-beam CT from few or limited angles, with a 2D diffusion prior made coherent in 3D by ISCS."""
import logging
import math

from utils.cli.flags import input_errors, parse_args
from utils.cli.messages import failures, set_up_logging

log = logging.getLogger(__name__)


def main(argv=None) -> None:
    args = parse_args("CBCT", argv)
    set_up_logging(args.verbosity)
    with failures(args):
        reconstruct(args)


def reconstruct(args) -> None:
    import torch

    from algorithms.admm_tv import OUTER, admm_tv
    from algorithms.consistency import ddnm, dds
    from algorithms.guidance import dps
    from algorithms.noise import noise_source
    from algorithms.predictor_corrector import predictor_corrector
    from algorithms.sampler import sample
    from algorithms.schedule import sigma_levels
    from models.slice_score import SliceScore
    from models.ncsnpp import NCSNpp
    from physics.backends import cone_beam_operator
    from physics.fdk import check_fdk, fdk
    from physics.noise import add_noise, poisson_weights, snr_db
    from physics.sirt import sirt
    from physics.views import lact_views, svct_views
    from models.checkpoint import check_prior, load_weights
    from utils.io.config import check_levels, load_config
    from utils.run.device import choose_device, volumes_device
    from utils.run.result import Run, progress_bar
    from utils.io.volume import CT_WINDOW, Volume

    # 1. What is asked for: scan, volume, prior, operator. Everything that can be wrong is found here.
    with input_errors():
        device = choose_device(args.device, args.gpu)
        args.device = str(device)       # for args.yaml
        scan, place, p = measured_scan(args) if args.projections else simulated_scan(args)
        # At the most about a dozen volumes and two sets of projections are needed at a time.
        home = volumes_device(device, 12 * math.prod(scan.volume_shape) + 2 * scan.views * math.prod(scan.det_shape))
        truth = torch.from_numpy(place.array)[:, None].to(home) if args.data else None
        with input_errors(f"--degree {args.degree}"):
            choose = svct_views if args.task == "SVCT" else lact_views
            views = choose(scan, args.degree) if args.degree else list(range(scan.views))
        scan_in_voxels, depth = scan.in_voxels(), len(place.array)
        with input_errors(f"--geometry {args.geometry}, --projector {args.projector}"):
            full = cone_beam_operator(scan_in_voxels, args.projector)
            few = cone_beam_operator(scan_in_voxels.select(views), args.projector)
            doubt = check_fdk(scan)
            operator, window = few.crop()       # to where the volume's shadow falls
            if depth < scan.volume_shape[0]:    # slices of a measured volume
                slab = scan_in_voxels.slab(args.slice_begin, args.slice_end)
                operator = cone_beam_operator(slab.select(views).crop(*window), args.projector)
        if args.method != "ADMM-TV":
            config = load_config(args.config_path)
            check_levels(config, args.sigma_min, args.sigma_max)
            with input_errors(args.config_path):
                network = NCSNpp(config)
            weights_file = load_weights(network, args.checkpoint_path)
            check_prior(weights_file, args.checkpoint_path, "ct", config, place.array.shape[2])
            score = SliceScore(network, args.batch_size, device,
                               lambda batches: progress_bar(batches, "slice batches", position=1, leave=False))
        run = Run(args, "CBCT", place, lambda x: x[:, 0], CT_WINDOW, slice_axis=0)
    height, width = place.array.shape[1:]
    log.info(f"{args.method}: {depth} x {height} x {width} voxels, {len(views)} of {scan.views} views, on {device}")
    if doubt:
        log.warning(doubt)
    generator = torch.Generator().manual_seed(args.seed)
    noise = noise_source(args.noise_control, (depth, 1, height, width), generator, home, spacing=place.spacing[2],
                         length=args.noise_length)
    sigmas = sigma_levels(args.NFE, args.sigma_min, args.sigma_max)

    if args.method == "uncondition":
        block = config.sampling
        start, keep = run.resumable(generator, home)
        x = predictor_corrector(score, noise, sigmas, snr=block.snr, n_steps_each=block.n_steps_each,
                                callback=run.watch(args.NFE), keep=keep, start=start)
        run.save("recon", x)
        return run.finish()

    # 2. The measurement y: line integrals in voxels of unit intensity; a ray is attenuated by exp(-attenuation y).
    attenuation = (CT_WINDOW[1] - CT_WINDOW[0]) / 1000 * scan_in_voxels.mu_water
    run.save_text("geometry.yaml", scan.select(views).to_yaml())
    if truth is not None:
        run.save("GT", truth)
    if args.projections:
        y_all = torch.from_numpy(p).div_(attenuation)[None].to(home)
    else:
        clean = full.A(truth)
        y_all = add_noise(clean, args.sino_noise, generator, attenuation)
        log.info(f"measurement: SNR {snr_db(clean[:, views], y_all[:, views]):.1f} dB")
        (dv, du), lines = scan.det_spacing or (1.0, 1.0), attenuation * y_all[0, views]
        run.save_volume("measurement", Volume(lines.cpu().numpy(), (du, dv, 1.0)))
        del clean, lines
    y = y_all[:, views].contiguous()

    # 3. Baselines, from the measurement alone.
    chosen = slice(args.slice_begin, args.slice_end) if depth < scan.volume_shape[0] else slice(None)
    if not args.projections or len(views) < scan.views:
        run.save("FBP-FV", fdk(y_all, full)[chosen])
    run.save("FBP-LV", fdk(y, few)[chosen])
    initial = sirt(y, few, progress=lambda steps: progress_bar(steps, "SIRT", leave=False))
    run.save("IR", initial[chosen])
    rows, columns = slice(*window[:2]), slice(*window[2:])
    weights = poisson_weights(y[..., rows, columns], attenuation) if args.weights == "poisson" else None
    if operator.domain_shape != few.domain_shape:       # take out what the rays met above and below the slices
        outside = initial.clone()
        outside[chosen] = 0
        y, initial = y - few.A(outside), initial[chosen].contiguous()
        del outside
    y = y[..., rows, columns].contiguous()
    del full, few, y_all

    # 4. Reconstruction.
    scale = y.norm()

    def misfit(x0):
        return ((operator.A(x0) - y).norm() / scale).item()

    if args.method == "ADMM-TV":
        x = admm_tv(operator, y, lam=args.w_tv, callback=run.watch(OUTER, "ADMM steps", misfit))
    else:
        consistency = (dds(operator, y, args.num_cg, args.w_tik, weights, args.w_dz) if args.method == "DDS" else
                       ddnm(operator, y))
        guidance = dps(score, operator, y, args.w_dps, weights) if args.w_dps else None
        start, keep = run.resumable(generator, home, consistency)
        x = sample(score, consistency, noise, sigmas, renoise_method=args.renoise_method, eta=args.eta,
                   guidance=guidance, x_init=initial if args.use_init else None,
                   final_sigma=args.sigma_min if args.method == "DDS" else None,
                   callback=run.watch(args.NFE, misfit=misfit), keep=keep, start=start)
    run.save("recon", x)
    run.finish()


def simulated_scan(args):
    """The scan of the volume's own voxels, the volume in unit intensities, and no projections."""
    from physics.geometry import read_geometry
    from utils.io.volume import read_unit_ct

    scan = read_geometry(args.geometry, "mu_water")
    volume = read_unit_ct(args.data, args.slice_begin, args.slice_end, args.recon_size, args.series)
    with input_errors(f"--recon-size {args.recon_size} with --geometry {args.geometry}"):
        scan = scan.on_grid(volume.array.shape, volume.spacing[::-1] if scan.unit == "mm" else (1.0, 1.0, 1.0))
    return scan, volume, None


def measured_scan(args):
    """The scan on its whole target grid; the chosen slices of the reference, or without one of its place, empty;
    and the line integrals of attenuation [views, v, u]."""
    from physics.geometry import read_geometry
    from utils.io.projections import read_line_integrals
    from utils.io.volume import empty_volume, read_unit_ct

    scan = read_geometry(args.geometry, "mu_water", "volume_shape")
    depth, height, width = scan.volume_shape
    if args.recon_size:
        z, y, x = scan.voxel_size
        scan = scan.on_grid((depth, args.recon_size, args.recon_size),
                            (z, y * height / args.recon_size, x * width / args.recon_size))
    place = empty_volume(scan.volume_shape, scan.voxel_size, scan.volume_centre)
    if args.data:
        place = read_unit_ct(args.data, 0, 0, scan.volume_shape[2], args.series)
        if place.array.shape != scan.volume_shape:
            raise ValueError(f"{args.data}: {' x '.join(map(str, place.array.shape))} voxels (z, y, x) are no reference "
                             f"for the {' x '.join(map(str, scan.volume_shape))} of {args.geometry}")
    place = place.crop(args.slice_begin, args.slice_end)
    p, dark = read_line_integrals(args.projections, (scan.views, *scan.det_shape), args.flat, args.dark, args.i0)
    if dark:
        log.warning(f"{args.projections}: {dark} of {p.size} pixels counted nothing above dark; they got the least that "
                    "could be counted")
    return scan, place, p


if __name__ == "__main__":
    main()
