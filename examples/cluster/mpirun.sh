#!/usr/bin/env bash
# Two machines over ssh, four ranks on each. `hosts` has one line for each machine: `node-a slots=4`.
# The program is built with `--features mpi`; base, data and run directory have the same paths on both machines.
set -euo pipefail
# Open MPI binds each rank to one core if it is not told otherwise.
mpirun --hostfile hosts -n 8 --bind-to none \
    dpo-lora train -c run.yaml --auto-resume --set output_dir=runs/cluster
