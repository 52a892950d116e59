#!/usr/bin/env bash
# Every number and figure of the README's tiny-world results, remade: about an hour on 2 cores.
#   bash reproduce.sh            training runs, selections, then the tables and the figure
#   SEEDS="0 1" bash reproduce.sh
# A killed run goes on where it stopped. The tiny world itself (problems, checkpoints, stage files) is remade by
#   python data/tiny/world.py && python data/tiny/pretrain.py && python sample.py && python execute.py
#   and cp runs/tiny/{candidates,labelled}.jsonl data/tiny/
set -euo pipefail
cd "$(dirname "$0")"
SEEDS=${SEEDS:-"0 1 2 3 4"}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}   # the tiny judge gains little from a second thread: run two seeds at once instead

one() { # one NAME SEED flags...: a training run, then Best-of-N with its judge
  local name=$1 seed=$2 folder=runs/results/$1-$2; shift 2
  python train_bilevel.py --steps 70 --seed "$seed" --out "$folder" --labelled data/tiny/labelled.jsonl "$@"
  python select.py --judge "$folder/judge" --base-judge none --labelled data/tiny/labelled.jsonl --out "$folder/selections.jsonl"
}
all() {
  one uniform "$1" --weights uniform
  one instance "$1" --weights instance
  one domain "$1" --weights domain
  one net "$1" --weights net
  one oracle "$1" --weights uniform --train-only policy=strong domain=reviewed
}
export -f one all
echo $SEEDS | tr ' ' '\n' | xargs -P 2 -I {} bash -euo pipefail -c 'all {}'
python select.py --judge data/tiny/judge --base-judge none --labelled data/tiny/labelled.jsonl --out runs/results/untrained/selections.jsonl
python docs/figures.py runs/results
