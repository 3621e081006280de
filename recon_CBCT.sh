#!/usr/bin/env bash
# Cone-beam CT. With nothing set this runs the bundled demo: 20 views of a real chest.
# Every flag of recon_CBCT.py can come from the environment or be added:  DATA=scan.nii.gz bash recon_CBCT.sh --NFE 50
# Measured projections:  PROJECTIONS=scan.npy GEOMETRY=scan.yaml bash recon_CBCT.sh
# What it starts with is configs/presets/fast.yaml; PRESET=best takes longer, PRESET=published has the published settings.
set -eu
unset PYTHONSAFEPATH                  # the program imports from its own folder
HERE=$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")
exec "${PYTHON:-$(command -v python || echo python3)}" "$HERE/recon_CBCT.py" --preset "${PRESET:-fast}" --environment "$@"
