#!/usr/bin/env python3
"""MRI super-resolution along z, with a 2D diffusion prior made coherent in 3D by ISCS."""
import logging

from utils.cli.messages import failures, input_errors, set_up_logging
from utils.cli.settings import parse_args
from utils.io.yaml_file import read_yaml

log = logging.getLogger(__name__)


def main(argv=None) -> None:
    options = parse_args("mr", argv, read_yaml)
    set_up_logging(options.verbosity)
    with failures(options.debug):
        run(options)


def run(options) -> None:
    import torch

    from algorithms.problem import Problem, reconstruct
    from physics.noise import add_noise, snr_db
    from physics.zsr import ZAverage
    from utils.io.intensity import mr_window, scale_from_unit, scale_to_unit
    from utils.io.read import read_volume
    from utils.io.volume import slice_axis
    from utils.run.device import choose_device, volumes_device
    from utils.run.run import Run
    from utils.run.setup import set_up

    # 1. What is asked for: volume, prior, operator. Everything that can be wrong is found here.
    with input_errors(debug=options.debug):
        device = choose_device(options.device, options.gpu)
        volume = read_volume(options.data, series=options.series, modality="mr")
        axis = slice_axis(volume, options.slice_axis)
        volume = volume.with_axis_first(axis)
        window = mr_window(volume.array, options.window)
        log.info(f"{options.data}: stacked along {'xyz'[axis]} of the file, "
                 f"{volume.where(options.slice_begin, options.slice_end)}")
        volume = whole_thick_slices(options, volume.crop(options.slice_begin, options.slice_end))
        with input_errors(str(options.data)):
            truth = torch.from_numpy(scale_to_unit(volume.array, *window, clip=False))
        # [D, H, W] -> [H, 1, W, D]: the prior sees slices that contain z, one for every y.
        home = volumes_device(device, 12 * truth.numel())     # at the most a dozen volumes are needed at a time
        truth = truth.permute(1, 2, 0)[:, None].contiguous().to(home)
        operator = ZAverage(truth.shape, options.degree)
        prior, method = set_up(options, device)
        run = Run(options, modality="mr", template=volume, to_volume=to_volume, window=window, slice_axis=1,
                  device=str(device))
    log.info(f"{options.method} {options.task}-{options.degree}: {' x '.join(map(str, volume.array.shape))} voxels, on "
             f"{device}")
    generator = torch.Generator().manual_seed(options.seed)
    with run:
        problem = Problem(initial=torch.zeros_like(truth), spacing=volume.spacing[1])
        if options.method != "uncondition":
            # 2. The measurement, thick slices and noise; and the baseline, from the measurement alone.
            run.save("GT", truth)
            clean = operator.A(truth)
            y = add_noise(clean, options.sino_noise, generator)
            log.info(f"measurement: SNR {snr_db(clean, y):.1f} dB")
            run.save_volume("y", volume.thicken(scale_from_unit(to_volume(y).cpu(), *window), options.degree))
            problem = Problem(operator=operator, y=y, initial=operator.A_dagger(y), spacing=volume.spacing[1])
            run.save("ATy", problem.initial)
        # 3. Reconstruction.
        run.save("recon", reconstruct(problem, prior, method, generator, observer=run))
        run.finish()


def whole_thick_slices(options, volume):
    """The volume without the last slices that make no whole thick one."""
    depth = len(volume.array)
    if depth < options.degree:
        raise ValueError(f"--degree {options.degree}: more than the {depth} slices of {options.data}")
    if depth % options.degree:
        log.info(f"{depth} slices are not a multiple of {options.degree}: the last {depth % options.degree} are left out")
    return volume.crop(0, depth - depth % options.degree)


def to_volume(x):
    """Slices [H, 1, W, D] as a volume [D, H, W]."""
    return x[:, 0].permute(2, 0, 1)


if __name__ == "__main__":
    main()
