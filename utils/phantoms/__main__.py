"""Write a synthetic patient to a file.

python -m utils.phantoms thorax --seed 7 --shape 48 128 128 --spacing 4 2.8 2.8 --output thorax.nii.gz
"""
import os

from utils.cli.flags import Parser
from utils.phantoms import ORIENTATION, head, thorax, write_phantom


def main(argv: list[str] | None = None) -> None:
    """Draw and write what the command asks for; a mistake ends the program with one line and status 2."""
    parser = Parser(prog="utils.phantoms", description="Synthetic patients, to train and try everything without data: "
                                                       "thorax (CT) and head (MR, T1).")
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


if __name__ == "__main__":
    main()
