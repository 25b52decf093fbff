#!/usr/bin/env bash
#SBATCH --job-name=cyclesep
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --gpus-per-task=4
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
# Run one job on a Ray cluster of the allocated nodes; the cluster exists for this job only. From the checkout:
#
#     sbatch cluster/slurm.sh train shards=/scratch/musdb18 output_dir=/scratch/runs name=vocals num_workers=8 use_gpu=true
#
# Options of sbatch come before the script (sbatch --nodes=4 cluster/slurm.sh ...). Checkout, .venv, shards and runs must
# be on a file system shared by all nodes. A run that was requeued or submitted again resumes under its name.
set -euo pipefail

if [ $# -eq 0 ]; then
  sed -n '11,16s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi

# Slurm runs a copy of this script.
checkout=${SLURM_SUBMIT_DIR:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)}
export PATH=$checkout/.venv/bin:$PATH
cd "$checkout"

job=${SLURM_JOB_ID:?this script runs under sbatch}
cpus=${SLURM_CPUS_PER_TASK:-1}
gpus=${SLURM_GPUS_ON_NODE:-0}

# Folder, ports and token of this job, so that it does not interfere with the Ray of another user or job on the same
# node. The token is in the environment, which others cannot read, and not on a command line, which they can.
export RAY_TMPDIR=/tmp/ray-$job
port=$((20000 + job % 5000 * 2))
token=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=$token RAY_USAGE_STATS_ENABLED=0
# One cache per node, shared by the jobs of this user; on a local disk if there is one.
export CYCLESEP_CACHE=${CYCLESEP_CACHE:-${SLURM_TMPDIR:-/tmp}/cyclesep-cache-$(id -u)}

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
head_address=$(srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address)
# The first IPv4 address.
head_address=$(tr ' ' '\n' <<< "$head_address" | grep -m 1 -E '^[0-9]+(\.[0-9]+){3}$')
export RAY_ADDRESS=$head_address:$port

steps=()
run=""
end() { # Stop the job first, which may save a checkpoint, then its cluster.
  trap - EXIT TERM INT
  if [ -n "$run" ]; then
    kill "$run" 2> /dev/null && wait "$run" || true
  fi
  for step in "${steps[@]}"; do
    kill "$step" 2> /dev/null || true
  done
  wait
}
trap end EXIT
trap 'end; exit 143' TERM INT

start_ray() { # NODE OPTION...
  local node=$1
  shift
  # Unset RAY_ADDRESS because it would make the head join a cluster. Delete Ray's folder after Ray has ended.
  # shellcheck disable=SC2016
  env -u RAY_ADDRESS srun --overlap --nodes=1 --ntasks=1 --cpus-per-task="$cpus" --nodelist="$node" --export=ALL \
    bash -c 'mkdir -p -m 700 "$RAY_TMPDIR"; ray start --block "$@" & ray=$!
      trap "kill $ray" TERM INT
      wait $ray; wait $ray; rm -rf "$RAY_TMPDIR"' \
    ray --num-cpus="$cpus" --num-gpus="$gpus" "$@" &
  steps+=("$!")
}

# No dashboard, because no jobs are submitted to this cluster; its agent still takes a port.
start_ray "$head" --head --node-ip-address="$head_address" --port="$port" --include-dashboard=false \
  --dashboard-port="$((port + 1))"
for node in "${nodes[@]:1}"; do
  start_ray "$node" --address="$RAY_ADDRESS"
done

python - "${#nodes[@]}" << 'PYTHON'
import sys
import time

import ray

wanted, until = int(sys.argv[1]), time.monotonic() + 300
while True:
    try:
        ray.init(logging_level="ERROR")
        found = sum(node["Alive"] for node in ray.nodes())
        ray.shutdown()
        if found >= wanted:
            break
        state = f"{found} of {wanted} nodes"
    except (ConnectionError, RuntimeError) as error:
        state = str(error)
    if time.monotonic() > until:
        sys.exit(f"slurm.sh: the Ray cluster did not start in 300 s: {state}")
    time.sleep(2)
PYTHON

# In the background, so that this script receives Slurm's signal immediately; `end` forwards it.
python "jobs/$1.py" "${@:2}" &
run=$!
wait "$run"
