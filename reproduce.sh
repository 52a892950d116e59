#!/usr/bin/env bash
# Every number and figure of the README's tiny-world results, remade: an hour and a half or two on 2 cores.
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

train() { # NAME SEED flags...
  python train_bilevel.py --seed "$2" --out "runs/results/$1-$2" --labelled data/tiny/labelled.jsonl "${@:3}"
}
choose() { # NAME JUDGE flags...: Best-of-N with a judge
  python select.py --judge "$2" --base-judge none --labelled data/tiny/labelled.jsonl --out "runs/results/$1/selections.jsonl" "${@:3}"
}
one() { # NAME SEED flags...: a training run, then Best-of-N with its judge
  train "$@"
  choose "$1-$2" "runs/results/$1-$2/judge"
}
all() { # the planted noise (a fifth of the pairs has tests that lie) under every kind of weights, and the control
  one uniform "$1" --weights uniform
  one instance "$1" --weights instance
  one domain "$1" --weights domain
  one net "$1" --weights net
  one oracle "$1" --weights uniform --train-only policy=strong domain=reviewed
  one shuffled "$1" --weights uniform --shuffle-weights "runs/results/instance-$1/weights.jsonl"
}
waits() { # J1: base, cold-started and RL-trained judge, the latter with and without Waits in its training, with 0 to 4 waits and as many tokens in votes
  train cold "$1" --weights uniform --cold-start 60 --steps 0 --max-new-tokens 160
  choose "waits-base-$1" data/tiny/judge --seed "$1" --rounds 4 --waits 0 1 2 4
  choose "waits-cold-$1" "runs/results/cold-$1/judge" --seed "$1" --rounds 4 --waits 0 1 2 4 --max-new-tokens 160
  train waiting "$1" --weights instance --waits 2
  choose "waits-waiting-$1" "runs/results/waiting-$1/judge" --seed "$1" --rounds 4 --waits 0 1 2 4
  choose "waits-rl-$1" "runs/results/instance-$1/judge" --seed "$1" --rounds 4 --waits 0 1 2 4 --n 1 2 4 8 --aggregate rounds round-robin
}
sizes() { # how large must the meta set be? Learned weights beside training on the meta set itself, alone and mixed in
  for size in 4 16; do
    local few="--meta-problems $size --eval-every 0"
    train "size-$size-instance" "$1" $few --weights instance
    train "size-$size-meta" "$1" $few --weights uniform --train-split meta
    train "size-$size-both" "$1" $few --weights uniform --train-split train meta
  done
  train size-51-meta "$1" --eval-every 0 --weights uniform --train-split meta
  train size-51-both "$1" --eval-every 0 --weights uniform --train-split train meta
}
export -f train choose one all waits sizes
echo $SEEDS | tr ' ' '\n' | xargs -P 2 -I {} bash -euo pipefail -c 'all {}'
echo $SEEDS | tr ' ' '\n' | head -3 | xargs -P 2 -I {} bash -euo pipefail -c 'waits {}; sizes {}'
choose untrained data/tiny/judge
python docs/figures.py runs/results
