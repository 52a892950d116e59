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
think() { # NAME SEED JUDGE: what a judge thinks, with Waits and without
  local out="runs/results/thinking-$1-$2.jsonl"
  [ -e "$out" ] || python docs/thinking.py --judge "$3" --seed "$2" --out "$out"
}
weights() { # SEED: DaJ, every kind of weights and the controls
  one uniform "$1" --weights uniform
  one instance "$1" --weights instance
  one domain "$1" --weights domain
  one net "$1" --weights net
  one oracle "$1" --weights uniform --train-only $TARGET
  one shuffled "$1" --weights uniform --shuffle-weights "runs/results/instance-$1/weights.jsonl"
  one meta "$1" --weights uniform --train-split meta
  one both "$1" --weights uniform --train-split train meta
}
sizes() { # SEED: how large must the meta set be?
  for size in 4 8 16; do
    train "meta-$size-meta-$1" --seed "$1" --meta-problems $size --weights uniform --train-split meta --eval-every 0
    train "meta-$size-both-$1" --seed "$1" --meta-problems $size --weights uniform --train-split train meta --eval-every 0
    train "meta-$size-instance-$1" --seed "$1" --meta-problems $size --weights instance --eval-every 0
  done
}
waits() { # SEED: J1, a cold start, RL with Waits in its rollouts, both; and RL without Waits
  local rl="--weights uniform --freeze-judge-steps 0 --steps 60 --max-new-tokens 56 --eval-every 0 --train-only $TARGET"
  train "cold-$1" --seed "$1" --weights uniform --cold-start 60 --steps 0 --max-new-tokens 112 --train-only $TARGET
  train "rl-$1" --seed "$1" --waits 2 $rl
  train "coldrl-$1" --seed "$1" --waits 2 $rl --judge "runs/results/cold-$1/judge"
  train "plain-$1" --seed "$1" $rl
  think base "$1" data/tiny/judge
  for judge in cold rl coldrl plain; do
    think $judge "$1" "runs/results/$judge-$1/judge"
  done
}
export -f train one think weights sizes waits
for part in weights waits sizes; do
  echo $SEEDS | tr ' ' '\n' | xargs -P 2 -I {} bash -euo pipefail -c "$part {}"
done
python select.py --judge data/tiny/judge --base-judge none --labelled data/tiny/labelled.jsonl --out runs/results/untrained/selections.jsonl
python docs/figures.py runs/results
