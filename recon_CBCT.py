#!/usr/bin/env python3
"""Cone-beam CT from few or limited angles, with a 2D diffusion prior made coherent in 3D by ISCS."""
import logging
import math
import signal
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)     # Ctrl-C while all this is imported: no traceback

from utils.cli.messages import input_errors
from utils.cli.process import process
from utils.cli.settings import parse_args
from utils.io.yaml_file import read_yaml

if TYPE_CHECKING:     # what computes is imported once the command is known to be right
    import torch

    from algorithms.problem import Problem
    from physics.acquisition import Acquisition
    from utils.run.run import Run

log = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> None:
    options = parse_args("ct", argv, read_yaml)
    with process(options), ExitStack() as stack:
        run(options, stack)


def run(options: Any, stack: ExitStack) -> None:
    import torch

    from algorithms.problem import Problem
    from physics.acquisition import Acquisition
    from utils.io.geometry_file import geometry_text
    from utils.run.device import volumes_device
    from utils.run.explained import explained
    from utils.run.processes import joined, open_run
    from utils.run.samples import posterior_mean
    from utils.run.scan import chosen_views, intensities, read_scan
    from utils.run.setup import set_up

    with input_errors(debug=options.debug):      # everything that can be wrong is found here
        device, processes = stack.enter_context(joined(options))
        scan, place, source, notes = read_scan(options, processes)
        # At the most about a dozen volumes and three sets of projections are needed at a time.
        home = volumes_device(device, 12 * math.prod(scan.volume_shape) + 3 * scan.views * math.prod(scan.det_shape))
        shape = place.array.shape
        slices = (options.slice_begin, options.slice_end) if len(place.array) < scan.volume_shape[0] else (0, 0)
        with input_errors(described := str(options.geometry or options.projections)):
            acquisition = Acquisition(scan.in_voxels(), chosen_views(options, scan), options.projector, slices,
                                      measured=bool(options.projections), processes=processes)
        if acquisition.doubt:
            log.warning(f"{described}: {acquisition.doubt}")
        prior, method = set_up(options, device, place, 0, processes)
        run = stack.enter_context(open_run(processes, options, modality="ct", template=place, device=str(device),
                                           to_volume=lambda x: x[:, 0], window=intensities(options, scan),
                                           slice_axis=0))
    log.info(f"{options.method}: {' x '.join(map(str, shape))} voxels, {len(acquisition.views)} of {scan.views} views, "
             f"on {device}")
    generator = torch.Generator().manual_seed(options.seed)
    if options.method == "uncondition":
        problem = Problem(initial=torch.zeros(shape[0], 1, *shape[1:], device=home), spacing=place.spacing[2])
    else:
        given = scan.select(acquisition.views).in_mm(place.spacing[::-1])
        run.save_text("geometry.yaml", geometry_text(given))
        problem = measure(options, run, acquisition, given, torch.from_numpy(source).to(home), generator)
    run.save("recon", x := posterior_mean(problem, prior, method, generator, run, options.samples, options.seed))
    run.finish(explained(options, notes, scan, acquisition, problem, x))


def measure(options: Any, run: "Run", acquisition: "Acquisition", given: Any, source: "torch.Tensor",
            generator: "torch.Generator") -> "Problem":
    """The problem that the measurement poses, after the baselines; a ray of y is attenuated by exp(-attenuation y)."""
    import torch

    from models.window import CT_WINDOW
    from physics.noise import snr_db
    from utils.run.scan import as_measured, posed

    attenuation = (CT_WINDOW[1] - CT_WINDOW[0]) / 1000 * acquisition.full.geometry.mu_water
    if options.data:
        run.save("GT", torch.from_numpy(run.template.array)[:, None])
    if options.projections:
        y = source.div_(attenuation)[None]
    else:
        clean = acquisition.simulate(source[:, None])
        y = acquisition.noisy(clean, options.sino_noise, generator, attenuation)
        if options.sino_noise:
            log.info(f"measurement: SNR {snr_db(*map(acquisition.used, (clean, y))):.1f} dB")
        lines = attenuation * acquisition.used(y)[0]
        run.save_volume("measurement", as_measured(lines, acquisition.few.geometry, given))
        del clean
    if not options.projections or len(acquisition.views) < acquisition.full.geometry.views:
        run.save("FBP-FV", acquisition.fdk_of_all(y))
    y = acquisition.of_views(y)
    run.save("FBP-LV", acquisition.fdk(y))
    return posed(options, run, acquisition, y, attenuation, given.voxel_size[0])


if __name__ == "__main__":
    main()
