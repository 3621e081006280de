#!/usr/bin/env python3
"""MRI super-resolution along z, with a 2D diffusion prior made coherent in 3D by ISCS."""
import logging
import signal
from contextlib import ExitStack
from typing import Any

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)     # Ctrl-C while all this is imported: no traceback

from utils.cli.messages import input_errors
from utils.cli.process import process
from utils.cli.settings import parse_args
from utils.io.yaml_file import read_yaml

log = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> None:
    options = parse_args("mr", argv, read_yaml)
    with process(options), ExitStack() as stack:
        run(options, stack)


def run(options: Any, stack: ExitStack) -> None:
    import torch

    from algorithms.problem import Problem
    from physics.noise import add_noise, snr_db
    from physics.zsr import ZAverage, as_slices, as_volume, thick_slices
    from utils.io.intensity import scale_from_unit, scale_to_unit
    from utils.run.device import volumes_device
    from utils.run.processes import joined, open_run
    from utils.run.samples import posterior_mean
    from utils.run.scan import read_mr
    from utils.run.setup import set_up

    # 1. What is asked for: volume, prior, operator. Everything that can be wrong is found here.
    with input_errors(debug=options.debug):
        device, processes = stack.enter_context(joined(options))
        volume, window = read_mr(options)
        with input_errors(str(options.data)):
            truth = torch.from_numpy(scale_to_unit(volume.array, *window, clip=False))
        home = volumes_device(device, 12 * truth.numel())     # at the most a dozen volumes are needed at a time
        truth = as_slices(truth).to(home)
        operator = ZAverage(truth.shape, options.degree)
        prior, method = set_up(options, device, volume, 1, processes)
        run = stack.enter_context(open_run(processes, options, modality="mr", template=volume, device=str(device),
                                           to_volume=as_volume, window=window, slice_axis=1))
    log.info(f"{options.method} {options.task}-{options.degree}: {' x '.join(map(str, volume.array.shape))} voxels, on "
             f"{device}")
    generator = torch.Generator().manual_seed(options.seed)
    problem = Problem(initial=torch.zeros_like(truth), spacing=volume.spacing[1])
    if options.method != "uncondition":
        # 2. The measurement, thick slices and noise; and the baseline, from the measurement alone.
        run.save("GT", truth)
        clean = thick_slices(truth, options.degree, options.oversample)
        y = add_noise(clean, options.sino_noise, generator)
        if options.sino_noise:
            log.info(f"measurement: SNR {snr_db(clean, y):.1f} dB")
        run.save_volume("y", volume.thicken(scale_from_unit(as_volume(y).cpu(), *window), options.degree))
        problem = Problem(operator=operator, y=y, initial=operator.A_dagger(y), spacing=volume.spacing[1])
        run.save("ATy", problem.initial)
    run.save("recon", posterior_mean(problem, prior, method, generator, run, options.samples, options.seed))
    run.finish()


if __name__ == "__main__":
    main()
