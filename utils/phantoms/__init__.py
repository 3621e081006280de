"""Synthetic patients, to train and try everything without data: `thorax` (CT) and `head` (MR, T1).

python -m utils.phantoms thorax --seed 7 --shape 48 128 128 --spacing 4 2.8 2.8 --output thorax.nii.gz
"""
import os

import numpy as np

from utils.cli.flags import Parser
from utils.io.files import complete_file
from utils.phantoms.head import head
from utils.phantoms.thorax import thorax

__all__ = ["head", "thorax", "write_phantom"]

# Array order (z, y, x) of each generator as the image directions SimpleITK names.
ORIENTATION = {"thorax": "LPI", "head": "LPS"}


def write_phantom(path, kind, volume, spacing):
    """Write a generated volume [D, H, W] as int16 NIfTI: HU for a thorax, 1000 times a head.

    spacing: (z, y, x) in mm. The image is centred on the origin, with the orientation of its kind. The
    file appears under its name only when it is complete. Raises OSError or RuntimeError when it cannot
    be written.
    """
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(np.rint(volume * (1 if kind == "thorax" else 1000)).astype(np.int16))
    image.SetSpacing([float(s) for s in spacing[::-1]])
    towards = np.diag([1.0, 1.0, -1.0 if ORIENTATION[kind] == "LPI" else 1.0])
    image.SetDirection(towards.ravel().tolist())
    middle = (np.array(image.GetSize()) - 1) / 2 * image.GetSpacing()
    image.SetOrigin((-towards @ middle).tolist())
    with complete_file(path) as partial:
        sitk.WriteImage(image, str(partial))


def main(argv=None):
    parser = Parser(prog="utils.phantoms", description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=sorted(ORIENTATION))
    parser.add_argument("--seed", type=int, default=0, help="patient: a non-negative integer")
    parser.add_argument("--shape", type=int, nargs=3, default=[96, 128, 128], metavar=("D", "H", "W"),
                        help="voxels along z, y, x")
    parser.add_argument("--spacing", type=float, nargs=3, default=[2.0, 2.8, 2.8], metavar=("Z", "Y", "X"),
                        help="voxel size along z, y, x in mm")
    parser.add_argument("--output", required=True, help="file to write, .nii or .nii.gz")
    options = parser.parse_args(argv)
    if not options.output.endswith((".nii", ".nii.gz")):
        parser.error(f"--output is {options.output}: expected a name ending in .nii or .nii.gz")
    if options.seed < 0:
        parser.error(f"--seed is {options.seed}: expected a non-negative integer")
    make = {"thorax": thorax, "head": head}[options.kind]
    try:
        os.makedirs(os.path.dirname(options.output) or ".", exist_ok=True)
        volume = make(options.seed, tuple(options.shape), tuple(options.spacing))
        write_phantom(options.output, options.kind, volume, options.spacing)
    except (ValueError, OSError, RuntimeError) as error:
        parser.error(" ".join(str(error).split()))

