#!/usr/bin/env bash
# Every number and figure of the README's tiny-world results, remade: under an hour on 2 cores.
#   bash reproduce.sh            training runs, selections, J1's waits, then the tables and the figures
#   SEEDS="0 1" bash reproduce.sh
# A killed run goes on where it stopped. The tiny world itself (problems, checkpoints, stage files) is remade by
#   python data/tiny/world.py && python data/tiny/pretrain.py && python sample.py && python execute.py
#   and cp runs/tiny/{candidates,labelled}.jsonl data/tiny/
set -euo pipefail
cd "$(dirname "$0")"
python -c "import matplotlib"   # of requirements-dev.txt: better missing now than in an hour
SEEDS=${SEEDS:-"0 1 2 3 4"}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}   # the tiny judge gains little from a second thread: run two seeds at once instead
TARGET="policy=strong domain=reviewed difficulty=hard"
export TARGET

train() { # NAME flags...
  python train_bilevel.py --out "runs/results/$1" --labelled data/tiny/labelled.jsonl "${@:2}"
}
one() { # NAME SEED flags...: a training run, then Best-of-N with its judge
  train "$1-$2" --seed "$2" "${@:3}"
  python select.py --judge "runs/results/$1-$2/judge" --base-judge none --labelled data/tiny/labelled.jsonl \
    --out "runs/results/$1-$2/selections.jsonl"
}
think() { # NAME SEED JUDGE: what it thinks, with Waits and without
  [ -e "runs/results/thinking-$1-$2.jsonl" ] || python docs/thinking.py --judge "$3" --seed "$2" --out "runs/results/thinking-$1-$2.jsonl"
}
