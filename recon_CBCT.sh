#!/usr/bin/env bash
# Cone-beam CT. With nothing set this runs the bundled demo: 20 views of a synthetic chest.
# Any setting can come from the environment, any flag be added:  DATA=scan.nii.gz bash recon_CBCT.sh --NFE 50
# Measured projections:  PROJECTIONS=scan.npy GEOMETRY=scan.yaml bash recon_CBCT.sh
set -eu
HERE=$(dirname "$0")

if [ -n "${CHECKPOINT_PATH:-}" ]; then  # your own weights, of the published architecture if CONFIG_PATH is not set
    CONFIG_PATH=${CONFIG_PATH:-$HERE/configs/ve/AAPM_256_ncsnpp_Chung.yaml}
    SIZE=256
fi
CHECKPOINT_PATH=${CHECKPOINT_PATH:-$HERE/demo/prior_CT_128.pth}
CONFIG_PATH=${CONFIG_PATH:-$HERE/configs/ve/demo_CT_128.yaml}
TASK=${TASK:-SVCT}                    # SVCT: sparse views, LACT: limited angle
if [ -z "${PROJECTIONS:-}" ]; then    # simulate; otherwise DATA is only a reference, and these have other defaults
    DATA=${DATA:-$HERE/demo/thorax.nii.gz}      # CT in HU, NIfTI
    RECON_SIZE=${RECON_SIZE:-${SIZE:-128}}      # in-plane size of the slices; that of the prior works best
    DEGREE=${DEGREE:-$([ "$TASK" = LACT ] && echo 90 || echo 20)}   # LACT: degrees covered; SVCT: number of views
fi
METHOD=${METHOD:-DDS}                 # DDS, DDNM, ADMM-TV, uncondition
NOISE_CONTROL=${NOISE_CONTROL:-SLERP} # SLERP (ISCS), None (independent noise), shared, GP, zero
RENOISE_METHOD=${RENOISE_METHOD:-DDPM}
USE_INIT=${USE_INIT:-true}            # start from the SIRT reconstruction
if [ "$METHOD" = uncondition ] || [ "$USE_INIT" = false ]; then
    NFE=${NFE:-100}                   # from noise alone: more levels, from one that hides everything
    SIGMA_MAX=${SIGMA_MAX:-50}
fi
if [ "$TASK" = LACT ]; then           # a missing wedge leaves more to the prior: start higher
    SIGMA_MAX=${SIGMA_MAX:-5}
fi
NFE=${NFE:-20}                        # noise levels
SIGMA_MAX=${SIGMA_MAX:-0.5}           # the first; 0.5 fits a start from SIRT, the prior's own maximum one without
SIGMA_MIN=${SIGMA_MIN:-0.01}          # the last
NUM_CG=${NUM_CG:-5}                   # conjugate-gradient steps a level
PYTHON=${PYTHON:-$(command -v python || echo python3)}

exec "$PYTHON" "$HERE"/recon_CBCT.py --checkpoint-path "$CHECKPOINT_PATH" --config-path "$CONFIG_PATH" \
    ${DATA:+--data "$DATA"} ${PROJECTIONS:+--projections "$PROJECTIONS"} ${GEOMETRY:+--geometry "$GEOMETRY"} \
    ${FLAT:+--flat "$FLAT"} ${DARK:+--dark "$DARK"} ${I0:+--i0 "$I0"} \
    ${RECON_SIZE:+--recon-size "$RECON_SIZE"} ${DEGREE:+--degree "$DEGREE"} --task "$TASK" --method "$METHOD" \
    --noise-control "$NOISE_CONTROL" --renoise-method "$RENOISE_METHOD" --use-init "$USE_INIT" \
    --NFE "$NFE" --sigma-max "$SIGMA_MAX" --sigma-min "$SIGMA_MIN" --num-cg "$NUM_CG" "$@"
