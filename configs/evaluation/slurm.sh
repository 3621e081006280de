#!/usr/bin/env bash
# A grid of runs as one Slurm job: sbatch --ntasks 8 --gpus-per-task 1 slurm.sh GRID.yaml [flags of evaluate.py]
# Run it from the program's folder, on a file system that all nodes share. Submitted again, it goes on where it was.
#SBATCH --job-name=evaluate
#SBATCH --cpus-per-task=4
#SBATCH --time=24:00:00
set -euo pipefail
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
folder=$(mktemp -d -p "$PWD" .dask-XXXXXX)
trap 'kill $(jobs -p) 2> /dev/null || true; wait; rm -rf "$folder"' EXIT
python -m distributed.cli.dask_scheduler --port 0 --dashboard-address :0 --scheduler-file "$folder/scheduler.json" \
    > "$folder/scheduler.log" 2>&1 &
srun python -m distributed.cli.dask_worker --scheduler-file "$folder/scheduler.json" --nthreads 1 --no-dashboard \
    --local-directory "${TMPDIR:-/tmp}" > "$folder/workers.log" 2>&1 &
until [ -s "$folder/scheduler.json" ]; do sleep 1; done
address=$(python -c 'import json, sys; print(json.load(open(sys.argv[1]))["address"])' "$folder/scheduler.json")
python evaluate.py "$@" --scheduler "$address"
