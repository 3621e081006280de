#!/usr/bin/env python3
"""Cone-beam CT from few or limited angles, with a 2D diffusion prior made coherent in 3D by ISCS."""
from utils.args import input_errors, parse_args


def main(argv=None) -> None:
    args = parse_args("CBCT", argv)

    import torch

    from algorithms.admm_tv import OUTER, admm_tv
    from algorithms.consistency import ddnm, dds
    from algorithms.noise import noise_source
    from algorithms.pc import predictor_corrector
    from algorithms.sampler import sample
    from algorithms.schedule import sigma_levels
    from models.denoiser import SliceScore
    from models.ncsnpp import NCSNpp
    from physics.ct import FULL_TURN, ConeBeam, demo_geometry, fdk, lact_views, sirt, svct_views
    from physics.noise import add_noise, snr_db
    from utils.checkpoint import load_weights
    from utils.config import check_levels, load_config
    from utils.device import choose_device
    from utils.result import Run, progress_bar
    from utils.volume import CT_WINDOW, Volume, read_volume, scale_to_unit

    # 1. What is asked for: volume, prior, operator. Everything that can be wrong is found here.
    with input_errors():
        device = choose_device(args.device, args.gpu)
        volume = read_volume(args.data, "LPI").crop(args.slice_begin, args.slice_end)
        views = (svct_views if args.task == "SVCT" else lact_views)(args.degree)
        with input_errors(f"--recon-size {args.recon_size}"):
            shape = volume.array.shape[0], args.recon_size, args.recon_size
            operator = ConeBeam(demo_geometry(views), shape)
        with input_errors(args.data):
            volume = volume.with_array(scale_to_unit(volume.array, *CT_WINDOW)).resize(args.recon_size)
        truth = torch.from_numpy(volume.array)[:, None].to(device)
        if args.method != "ADMM-TV":
            config = load_config(args.config_path)
            check_levels(config, args.sigma_min, args.sigma_max)
            with input_errors(args.config_path):
                network = NCSNpp(config)
            load_weights(network, args.checkpoint_path)
            score = SliceScore(network, args.batch_size, device,
                               lambda batches: progress_bar(batches, "slice batches", position=1, leave=False))
        run = Run(args, "CBCT", volume, lambda x: x[:, 0], CT_WINDOW, slice_axis=0)
    print(f"{args.method} {args.task}-{args.degree}: {' x '.join(map(str, shape))} voxels, "
          f"{len(views)} views, on {device}", flush=True)
    generator = torch.Generator().manual_seed(args.seed)
    noise = noise_source(args.noise_control, truth.shape, generator, device)
    sigmas = sigma_levels(args.NFE, args.sigma_min, args.sigma_max)

    if args.method == "uncondition":
        block = config.sampling
        x = predictor_corrector(score, noise, sigmas, snr=block.snr, n_steps_each=block.n_steps_each,
                                callback=run.watch(args.NFE))
        run.save("recon", x)
        return run.finish()

    # 2. The measurement: all views of the full turn, noise, and of those the views of the task.
    run.save("GT", truth)
    full = ConeBeam(demo_geometry(range(FULL_TURN)), shape)
    clean = full.A(truth)
    y_full = add_noise(clean, args.sino_noise, generator)
    y = y_full[:, views].contiguous()
    print(f"measurement: SNR {snr_db(clean[:, views], y):.1f} dB", flush=True)
    (dv, du), origin = operator.geometry.det_spacing, (0.0, 0.0, 0.0)
    run.save_volume("measurement", Volume(y[0].cpu().numpy(), (du, dv, 1.0), origin))

    # 3. Baselines, from the measurement alone.
    run.save("FBP-FV", fdk(y_full, full))
    run.save("FBP-LV", fdk(y, operator))
    del clean, y_full, full
    initial = sirt(y, operator, progress=lambda steps: progress_bar(steps, "SIRT", leave=False))
    run.save("IR", initial)

    # 4. Reconstruction.
    if args.method == "ADMM-TV":
        x = admm_tv(operator, y, callback=run.watch(OUTER, "ADMM steps"))
    else:
        consistency = dds(operator, y, args.num_cg, args.w_tik) if args.method == "DDS" else ddnm(operator, y)
        x = sample(score, consistency, noise, sigmas, renoise_method=args.renoise_method,
                   x_init=initial if args.use_init else None,
                   final_sigma=args.sigma_min if args.method == "DDS" else None, callback=run.watch(args.NFE))
    run.save("recon", x)
    run.finish()


if __name__ == "__main__":
    main()
