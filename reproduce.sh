#!/usr/bin/env bash
# Every number and figure of the README's results in the two small worlds, remade on 2 cores.
#   bash reproduce.sh            the tiny world: training runs, selections, J1's waits, tables, figures; an hour and a half or two
#   bash reproduce.sh edges      the world of edge cases: the same; an hour and a quarter
#   SEEDS="0 1" bash reproduce.sh [edges]
# A killed run goes on where it stopped. The tiny world itself (problems, checkpoints, stage files) is remade by
#   python data/tiny/world.py && python data/tiny/pretrain.py && python sample.py && python execute.py
#   and cp runs/tiny/{candidates,labelled}.jsonl data/tiny/
# The world of edge cases by
#   python data/edges/world.py && python data/edges/pretrain.py   (--device cuda: the shipped checkpoints were made so)
#   python sample.py --problems data/edges/problems_{weak,strong}.jsonl --model data/edges/{weak,strong} \
#     --temperature 0.7 --max-new-tokens 40 --out runs/edges/candidates.jsonl
#   python execute.py --problems data/edges/problems_{weak,strong}.jsonl --candidates runs/edges/candidates.jsonl \
#     --out runs/edges/labelled.jsonl
#   and cp runs/edges/{candidates,labelled}.jsonl data/edges/
set -euo pipefail
cd "$(dirname "$0")"
python -c "import matplotlib"   # of requirements-dev.txt: better missing now than in an hour
SEEDS=${SEEDS:-"0 1 2 3 4"}
WORLD=${1:-tiny}
case $WORLD in tiny | edges) ;; *) echo "reproduce.sh: there is no world $WORLD, only tiny and edges" >&2; exit 1 ;; esac
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
  for size in 4 8 16; do
    local few="--meta-problems $size --eval-every 0"
    train "size-$size-instance" "$1" $few --weights instance
    train "size-$size-meta" "$1" $few --weights uniform --train-split meta
    train "size-$size-both" "$1" $few --weights uniform --train-split train meta
  done
  train size-51-meta "$1" --eval-every 0 --weights uniform --train-split meta
  train size-51-both "$1" --eval-every 0 --weights uniform --train-split train meta
}
export -f train choose one all waits sizes

# ---- the world of edge cases

EDGES="--problems data/edges/problems_weak.jsonl data/edges/problems_strong.jsonl --labelled data/edges/labelled.jsonl --device cpu"
TARGET="policy=strong domain=reviewed difficulty=hard"   # the pairs that are like the target
DAJ="--steps 60 --freeze-judge-steps 30 --lr 2e-4 --max-new-tokens 112 --eval-every 20"
RL="--weights uniform --steps 40 --freeze-judge-steps 0 --lr 2e-4 --max-new-tokens 56 --eval-every 0 --train-only $TARGET"
export EDGES TARGET DAJ RL

edges_train() { # NAME SEED JUDGE flags...
  python train_bilevel.py $EDGES --judge "$3" --seed "$2" --out "runs/edges/$1-$2" "${@:4}"
}
edges_choose() { # NAME JUDGE: Best-of-8
  python select.py $EDGES --judge "$2" --base-judge none --rounds 2 --max-new-tokens 112 --out "runs/edges/$1/selections.jsonl"
}
edges_one() { # NAME SEED flags...: a training run of the base judge, then Best-of-8 with what became of it
  edges_train "$1" "$2" data/edges/judge $DAJ "${@:3}"
  edges_choose "$1-$2" "runs/edges/$1-$2/judge"
}
edges_weights() { # SEED: DaJ, every kind of weights, the controls
  edges_one uniform "$1" --weights uniform
  edges_one instance "$1" --weights instance
  edges_one domain "$1" --weights domain
  edges_one net "$1" --weights net
  edges_one oracle "$1" --weights uniform --train-only $TARGET
  edges_one shuffled "$1" --weights uniform --shuffle-weights "runs/edges/instance-$1/weights.jsonl"
  edges_one meta "$1" --weights uniform --train-split meta
  edges_one both "$1" --weights uniform --train-split train meta
}
think() { # NAME SEED JUDGE flags...: what it says after Waits, in votes, by itself
  local out="runs/edges/thinking-$1-$2.jsonl"
  [ -e "$out" ] || python docs/thinking.py --judge "$3" --seed "$2" --votes 5 --device cpu --out "$out" "${@:4}"
}
edges_waits() { # SEED: J1, the base judge, a cold start, RL with Waits in its rollouts and without, a cold start and then RL
  edges_train cold "$1" data/edges/judge --weights uniform --cold-start 40 --steps 0 --max-new-tokens 112 --eval-every 0 --train-only $TARGET
  edges_train coldrl "$1" "runs/edges/cold-$1/judge" $RL --waits 2
  edges_train rl "$1" data/edges/judge $RL --waits 2
  edges_train plain "$1" data/edges/judge $RL
  think base "$1" data/edges/judge
  for name in cold coldrl rl plain; do
    think $name "$1" "runs/edges/$name-$1/judge"
  done
  think oracle "$1" "runs/edges/oracle-$1/judge" --max-new-tokens 112   # RL with room for two looks
}
export -f edges_train edges_choose edges_one edges_weights think edges_waits

case $WORLD in
  tiny)
    echo $SEEDS | tr ' ' '\n' | xargs -P 2 -I {} bash -euo pipefail -c 'all {}'
    echo $SEEDS | tr ' ' '\n' | head -3 | xargs -P 2 -I {} bash -euo pipefail -c 'waits {}; sizes {}'
    choose untrained data/tiny/judge
    python docs/figures.py runs/results
    ;;
  edges)
    echo $SEEDS | tr ' ' '\n' | xargs -P 2 -I {} bash -euo pipefail -c 'edges_weights {}; edges_waits {}'
    edges_choose untrained data/edges/judge
    python docs/figures.py --edges runs/edges
    ;;
esac
