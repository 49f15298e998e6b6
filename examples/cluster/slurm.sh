#!/usr/bin/env bash
# sbatch examples/cluster/slurm.sh
#SBATCH --job-name=dpo-lora
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --time=08:00:00
#SBATCH --requeue
# Two minutes before the time is over every rank gets SIGTERM: the step is finished and a checkpoint written.
#SBATCH --signal=TERM@120
set -euo pipefail

# Without MPI: ranks meet by TCP at the first node. A program with the feature `mpi` does not read these two.
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_ADDR MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))

# `--kill-on-bad-exit`: a node that fails ends the job, which is put into the queue again and resumes, also on fewer nodes.
srun --kill-on-bad-exit=1 dpo-lora train -c run.yaml --auto-resume \
    --set output_dir=runs/cluster --set train.threads="$SLURM_CPUS_PER_TASK"
