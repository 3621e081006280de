#!/usr/bin/env bash
# MRI super-resolution along z. With nothing set this runs the bundled demo: a real brain, slices 4 times too thick.
# Every flag of recon_MRI_ZSR.py can come from the environment or be added:  DATA=scan.nii.gz bash recon_ZSR.sh --NFE 50
# What it starts with is configs/presets/fast.yaml; PRESET=best takes longer, PRESET=published has the published settings.
set -eu
unset PYTHONSAFEPATH                  # the program imports from its own folder
HERE=$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")
exec "${PYTHON:-$(command -v python || echo python3)}" "$HERE/recon_MRI_ZSR.py" --preset "${PRESET:-fast}" --environment "$@"
