#!/usr/bin/env bash
# MRI super-resolution along z. With nothing set this runs the bundled demo: a synthetic head, slices 4 times too thick.
# Any setting can come from the environment, any flag be added:  DATA=scan.nii.gz bash recon_ZSR.sh --NFE 50
set -eu
HERE=$(dirname "$0")

DATA=${DATA:-$HERE/demo/head.nii.gz}    # MRI, NIfTI
if [ -n "${CHECKPOINT_PATH:-}" ]; then  # your own weights, of the published architecture if CONFIG_PATH is not set
    CONFIG_PATH=${CONFIG_PATH:-$HERE/configs/ve/BMR_ZSR_256.yaml}
fi
CHECKPOINT_PATH=${CHECKPOINT_PATH:-$HERE/demo/prior_MR_96.pth}
CONFIG_PATH=${CONFIG_PATH:-$HERE/configs/ve/demo_MR_96.yaml}
DEGREE=${DEGREE:-4}                   # how many slices one measured slice averages
METHOD=${METHOD:-DDS}                 # DDS, DDNM, uncondition
NOISE_CONTROL=${NOISE_CONTROL:-SLERP} # SLERP (ISCS), None (independent noise), shared, GP, zero
RENOISE_METHOD=${RENOISE_METHOD:-DDPM}
USE_INIT=${USE_INIT:-true}            # start from the pseudo-inverse
if [ "$METHOD" = uncondition ] || [ "$USE_INIT" = false ]; then
    NFE=${NFE:-100}                   # from noise alone: more levels, from one that hides everything
    SIGMA_MAX=${SIGMA_MAX:-50}
fi
NFE=${NFE:-20}                        # noise levels
SIGMA_MAX=${SIGMA_MAX:-0.5}           # the first
SIGMA_MIN=${SIGMA_MIN:-0.01}          # the last
NUM_CG=${NUM_CG:-1}                   # one step is exact for this operator
PYTHON=${PYTHON:-$(command -v python || echo python3)}

exec "$PYTHON" "$HERE"/recon_MRI_ZSR.py --data "$DATA" --checkpoint-path "$CHECKPOINT_PATH" --config-path "$CONFIG_PATH" \
    --degree "$DEGREE" --method "$METHOD" --noise-control "$NOISE_CONTROL" --renoise-method "$RENOISE_METHOD" \
    --use-init "$USE_INIT" --NFE "$NFE" --sigma-max "$SIGMA_MAX" --sigma-min "$SIGMA_MIN" --num-cg "$NUM_CG" "$@"
