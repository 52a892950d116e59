#!/usr/bin/env bash
# What only a GPU can tell: 45 minutes of one H100, in pieces of at most ten, without a network.
#   bash reproduce_gpu.sh             all pieces; docs/gpu.py says what each of them measures
#   bash reproduce_gpu.sh 4           one piece; one that was cut off goes on where it stopped
#   SIZE=toy bash reproduce_gpu.sh    all of them at toy size on a CPU, in a minute
# It writes kernels/RESULTS.md and docs/RESULTS-gpu.md, below RESULTS=folder where that is given; what
# a later call needs of an earlier one lies in WORK=folder (runs/gpu-SIZE).
# To bring: this repository, a `python` with torch for CUDA, and, where they are to be had,
#   JUDGE=folder     a checkpoint of 0.5 to 1.5 billion parameters, as Qwen2.5-Coder-1.5B-Instruct;
#                    without it one of random weights is made, in the shape of SIZE=1.5B or 0.5B
#   WHEELS=folder    wheels of what that Python lacks, and of the kernel's peers, of which a missing
#                    one keeps its row: pip download --no-deps -d wheels \
#                    "transformers>=5.20.2,<5.25" tqdm pytest liger-kernel cut-cross-entropy quack-kernels
set -uo pipefail
cd "$(dirname "$0")"
export HF_HUB_OFFLINE=1
if [ -n "${WHEELS:-}" ]; then
  python -m pip install --no-index --no-deps "$WHEELS"/*.whl || exit 1
fi
pieces=${*:-1 2 3 4 5 6 7}
unfinished=""
for piece in $pieces; do
  timeout 590 python docs/gpu.py --piece "$piece" --size "${SIZE:-1.5B}" --judge "${JUDGE:-}" \
    --results "${RESULTS:-}" --work "${WORK:-}" || unfinished+=" $piece"
done
if [ -n "$unfinished" ]; then
  echo "failed, or cut off after ten minutes:$unfinished"
  exit 1
fi
