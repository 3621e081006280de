#!/usr/bin/env bash
# Cone-beam CT. With nothing set this runs the bundled demo: 20 views of a synthetic chest.
# Any setting can come from the environment, any flag be added:  DATA=scan.nii.gz bash recon_CBCT.sh --NFE 50
set -eu
HERE=$(dirname "$0")

DATA=${DATA:-$HERE/demo/thorax.nii.gz}  # CT in HU, NIfTI
if [ -n "${CHECKPOINT_PATH:-}" ]; then  # your own weights, of the published architecture if CONFIG_PATH is not set
    CONFIG_PATH=${CONFIG_PATH:-$HERE/configs/ve/AAPM_256_ncsnpp_Chung.yaml}
    RECON_SIZE=${RECON_SIZE:-256}
fi
CHECKPOINT_PATH=${CHECKPOINT_PATH:-$HERE/demo/prior_CT_128.pth}
CONFIG_PATH=${CONFIG_PATH:-$HERE/configs/ve/demo_CT_128.yaml}
RECON_SIZE=${RECON_SIZE:-128}         # in-plane size that the slices are resized to; that of the prior works best
TASK=${TASK:-SVCT}                    # SVCT: sparse views, LACT: limited angle
METHOD=${METHOD:-DDS}                 # DDS, DDNM, ADMM-TV, uncondition
NOISE_CONTROL=${NOISE_CONTROL:-SLERP} # SLERP (ISCS) or None (independent noise)
RENOISE_METHOD=${RENOISE_METHOD:-DDPM}
USE_INIT=${USE_INIT:-true}            # start from the SIRT reconstruction
if [ "$METHOD" = uncondition ] || [ "$USE_INIT" = false ]; then
    NFE=${NFE:-100}                   # from noise alone: more levels, from one that hides everything
    SIGMA_MAX=${SIGMA_MAX:-50}
fi
if [ "$TASK" = LACT ]; then            # a missing wedge leaves more to the prior: start higher
    DEGREE=${DEGREE:-90}
    SIGMA_MAX=${SIGMA_MAX:-5}
fi
DEGREE=${DEGREE:-20}                  # SVCT: number of views; LACT: degrees covered
NFE=${NFE:-20}                        # noise levels
SIGMA_MAX=${SIGMA_MAX:-0.5}           # the first; 0.5 fits a start from SIRT, the prior's own maximum one without
SIGMA_MIN=${SIGMA_MIN:-0.01}          # the last
NUM_CG=${NUM_CG:-5}                   # conjugate-gradient steps a level
PYTHON=${PYTHON:-$(command -v python || echo python3)}

exec "$PYTHON" "$HERE"/recon_CBCT.py --data "$DATA" --checkpoint-path "$CHECKPOINT_PATH" --config-path "$CONFIG_PATH" \
    --recon-size "$RECON_SIZE" --task "$TASK" --degree "$DEGREE" --method "$METHOD" \
    --noise-control "$NOISE_CONTROL" --renoise-method "$RENOISE_METHOD" --use-init "$USE_INIT" \
    --NFE "$NFE" --sigma-max "$SIGMA_MAX" --sigma-min "$SIGMA_MIN" --num-cg "$NUM_CG" "$@"
