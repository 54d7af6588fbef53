#!/usr/bin/env bash
#SBATCH --job-name=xlsr_jax
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=xlsr_jax-%j.log
# Trains on the GPUs of a SLURM cluster, and goes on by itself after the time limit. From the root
# of the repository, with flags of the trainer behind, and of sbatch before, the script's name:
#
#   XLSR_CONFIG=configs/xlsr10_base.py XLSR_WORKDIR=/scratch/xlsr10 \
#       sbatch --nodes=2 launch/slurm.sh --config.data.path=/scratch/corpora/xlsr10
#
# XLSR_VENV names the virtual environment (.venv if not given).
#
# One process a node, with all its GPUs: one data pipeline and one set of workers share the node's
# cores, and the script is the same whether or not the cluster binds GPUs to tasks. JAX would give
# each task of a job the one GPU of its number, hence JAX_LOCAL_DEVICE_IDS.
#
# 300 s before the time limit SLURM sends USR1 here; the trainer gets SIGTERM, saves and ends, and
# the job goes back into the queue. SIGTERM from outside (scancel, preemption) is passed on too,
# but what becomes of the job is then for SLURM to say.
set -euo pipefail

fail() {
    echo "slurm.sh: $1" >&2
    exit 2
}

[[ -n ${SLURM_JOB_ID:-} ]] || fail "this is for sbatch: sbatch launch/slurm.sh"
[[ -n ${XLSR_CONFIG:-} ]] \
    || fail "XLSR_CONFIG is not set; for example: export XLSR_CONFIG=configs/xlsr10_base.py"
[[ -n ${XLSR_WORKDIR:-} ]] \
    || fail "XLSR_WORKDIR is not set (a folder that all nodes see); for example: \
export XLSR_WORKDIR=/scratch/$USER/xlsr10"
# SLURM runs a copy of this file elsewhere: the repository is where sbatch was called.
cd "${SLURM_SUBMIT_DIR:-.}"
[[ -f ${XLSR_CONFIG%%:*} ]] || fail "XLSR_CONFIG=$XLSR_CONFIG: no such file in $PWD; \
call sbatch from the root of the repository"
python=${XLSR_VENV:-.venv}/bin/python
[[ -x $python ]] || fail "no $python; export XLSR_VENV=DIR, where pip install -e . was run"

gpus=${SLURM_GPUS_ON_NODE:-0}
if ((gpus > 0)); then
    JAX_LOCAL_DEVICE_IDS=$(seq -s, 0 $((gpus - 1)))
    export JAX_LOCAL_DEVICE_IDS
fi
# srun no longer takes the job's number of cores for its own.
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}

out_of_time=0
step=""
# shellcheck disable=SC2329  # called by the traps
stop() { [[ -z $step ]] || kill -TERM "$step" 2> /dev/null || true; }
trap 'out_of_time=1; stop' USR1
trap stop TERM

# --kill-on-bad-exit: one task that fails ends the others, which would wait for it.
srun --ntasks-per-node=1 --kill-on-bad-exit=1 \
    "$python" -m xlsr_jax.train --config="$XLSR_CONFIG" --workdir="$XLSR_WORKDIR" "$@" &
step=$!
status=0
# `wait` also returns when a signal came: on until the step is really gone.
while true; do
    status=0
    wait "$step" || status=$?
    kill -0 "$step" 2> /dev/null || break
done
# A signal may have ended the wait and the step at once: then its own status is still to be had.
if ((status > 128)); then
    own=0
    wait "$step" 2> /dev/null || own=$?
    ((own == 127)) || status=$own
fi

if ((out_of_time)); then
    echo "slurm.sh: out of time, the job goes on from its newest checkpoint when it is its turn"
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
fi
exit "$status"
