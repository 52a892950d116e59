#!/usr/bin/env bash
# Every number and figure of the README's results in the world of edge cases, remade on 2 cores.
#   bash reproduce.sh                  training runs, selections, sizes of the meta set, J1's Waits, tables, figures; an hour and a half
#   bash reproduce.sh weights waits    without the sizes and the reward for both orders; 50 minutes
#   SEEDS="0 1" bash reproduce.sh
# A killed run goes on where it stopped. The world itself (problems, checkpoints, stage files) is remade by
#   python data/edges/world.py && python data/edges/pretrain.py   (--device cuda: the shipped checkpoints were made so)
#   python sample.py && python execute.py
#   and cp runs/edges/{candidates,labelled}.jsonl data/edges/
set -euo pipefail
cd "$(dirname "$0")"
python -c "import matplotlib"   # of requirements-dev.txt: better missing now than in an hour
PARTS=${*:-"weights sizes waits rewards"}
SEEDS=${SEEDS:-"0 1 2 3 4"}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}   # so small a judge gains little from a second thread: two runs at once instead
RUNS=runs/results
BASE=data/edges/judge
HERE="--labelled data/edges/labelled.jsonl --device cpu"
TARGET="policy=strong domain=reviewed difficulty=hard"   # the pairs that are like the target
RL="--weights uniform --steps 60 --freeze-judge-steps 0 --max-new-tokens 56 --eval-every 0 --train-only $TARGET"
export RUNS BASE HERE TARGET RL

train() { # NAME SEED JUDGE flags...
  python train_bilevel.py $HERE --judge "$3" --seed "$2" --out "$RUNS/$1-$2" "${@:4}"
}
choose() { # NAME JUDGE: Best-of-8
  python select.py $HERE --judge "$2" --base-judge none --rounds 2 --out "$RUNS/$1/selections.jsonl"
}
one() { # NAME SEED flags...: a training run of the base judge, then Best-of-8 with what became of it
  train "$1" "$2" "$BASE" "${@:3}"
  choose "$1-$2" "$RUNS/$1-$2/judge"
}
oracle() { # SEED: the pairs that are like the target, picked by hand
  [ -e "$RUNS/oracle-$1/report.html" ] || train oracle "$1" "$BASE" --weights uniform --train-only $TARGET
}
once() { # NAME SEED: two parts want this judge, and whichever comes second waits for it
  flock "$RUNS/.$1-$2" bash -euo pipefail -c "$1 $2"
}
weights() { # SEED: DaJ, every kind of weights, the controls
  one uniform "$1" --weights uniform
  one instance "$1" --weights instance
  one domain "$1" --weights domain
  one net "$1" --weights net
  once oracle "$1"
  choose "oracle-$1" "$RUNS/oracle-$1/judge"
  one shuffled "$1" --weights uniform --shuffle-weights "$RUNS/instance-$1/weights.jsonl"
  one meta "$1" --weights uniform --train-split meta
  one both "$1" --weights uniform --train-split train meta
}
sizes() { # SEED: how large must the meta set be? Learned weights beside training on the meta set itself, alone and mixed in
  for size in 4 8 16; do
    local few="--meta-problems $size --eval-every 0"
    train "size-$size-instance" "$1" "$BASE" $few --weights instance
    train "size-$size-domain" "$1" "$BASE" $few --weights domain
    train "size-$size-meta" "$1" "$BASE" $few --weights uniform --train-split meta
    train "size-$size-both" "$1" "$BASE" $few --weights uniform --train-split train meta
  done
  # four pairs make a step of four pairs: with as many judgments as a step of sixteen has
  for size in 4 8; do
    train "equal-$size-meta" "$1" "$BASE" --meta-problems $size --group $((96 / size)) --eval-every 0 --weights uniform --train-split meta
  done
}
rewards() { # SEED: the oracle's pairs, paid only for what is right in both orders
  train consistent "$1" "$BASE" --weights uniform --reward consistent --train-only $TARGET
}
think() { # NAME SEED JUDGE flags...: what it says after Waits, in votes, by itself
  local out="$RUNS/thinking-$1-$2.jsonl"
  [ -e "$out" ] || python docs/thinking.py --judge "$3" --seed "$2" --votes 5 --device cpu --out "$out" "${@:4}"
}
waits() { # SEED: J1, the base judge, a cold start, RL with Waits in its rollouts and without, a cold start and then RL
  train cold "$1" "$BASE" --weights uniform --cold-start 20 --steps 0 --lr 1e-4 --eval-every 0 --train-only $TARGET
  train coldrl "$1" "$RUNS/cold-$1/judge" $RL --waits 2
  train rl "$1" "$BASE" $RL --waits 2
  train plain "$1" "$BASE" $RL
  think base "$1" "$BASE"
  for name in cold coldrl rl plain; do
    think $name "$1" "$RUNS/$name-$1/judge"
  done
  once oracle "$1"   # RL with room for two looks
  think oracle "$1" "$RUNS/oracle-$1/judge" --max-new-tokens 112
}
export -f train choose one oracle once weights sizes rewards think waits

for part in $PARTS; do
  [[ " weights waits sizes rewards " == *" $part "* ]] || { echo "reproduce.sh: $part is none of weights, waits, sizes, rewards" >&2; exit 2; }
done
mkdir -p "$RUNS"
for part in $PARTS; do
  for seed in $SEEDS; do echo "$part $seed"; done
done | xargs -P 2 -I {} bash -euo pipefail -c "{}"   # two at a time, the long ones first
choose untrained "$BASE"
python docs/figures.py --runs "$RUNS"
