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
    from physics.zsr import as_slices, as_volume, repeated, slice_operator, thick_slices
    from utils.io.intensity import scale_from_unit
    from utils.run.device import volumes_device
    from utils.run.processes import joined, open_run
    from utils.run.samples import posterior_mean
    from utils.run.scan import read_mr, thickness
    from utils.run.setup import set_up

    with input_errors(debug=options.debug):      # everything that can be wrong is found here
        device, processes = stack.enter_context(joined(options))
        volume, window, source = read_mr(options)
        home = volumes_device(device, 12 * volume.array.size)     # at the most a dozen volumes are needed at a time
        depth, height, width = volume.array.shape
        operator = slice_operator((height, 1, width, depth), options.degree, options.slice_profile,
                                  thickness(options, options.degree * volume.spacing[2]))
        prior, method = set_up(options, device, volume, 1, processes)
        run = stack.enter_context(open_run(processes, options, modality="mr", template=volume, device=str(device),
                                           to_volume=as_volume, window=window, slice_axis=1))
    log.info(f"{options.method} {options.task}-{options.degree}: {' x '.join(map(str, volume.array.shape))} voxels, on "
             f"{device}")
    generator = torch.Generator().manual_seed(options.seed)
    problem = Problem(initial=torch.zeros(operator.domain_shape, device=home), spacing=volume.spacing[1])
    if options.method != "uncondition":
        # 2. The measurement, thick slices and noise; and the baseline, from the measurement alone.
        y = as_slices(torch.from_numpy(source)).to(home)
        if options.data:
            run.save("GT", as_slices(torch.from_numpy(volume.array)))
        if not options.thick:
            y = add_noise(clean := thick_slices(y, options.degree, options.oversample), options.sino_noise, generator)
            if options.sino_noise:
                log.info(f"measurement: SNR {snr_db(clean, y):.1f} dB")
        run.save_volume("y", volume.thicken(scale_from_unit(as_volume(y).cpu(), *window), options.degree))
        problem = Problem(operator=operator, y=y, initial=repeated(y, options.degree), spacing=volume.spacing[1])
        run.save("ATy", problem.initial)
    run.save("recon", posterior_mean(problem, prior, method, generator, run, options.samples, options.seed))
    run.finish()


if __name__ == "__main__":
    main()
