"""What several test files share: a few rows of the world of edge cases, small judges, a stage as a
command, a server."""
import contextlib
import itertools
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections import defaultdict
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers reads it: the hub counts as out of reach
os.environ["OMP_NUM_THREADS"] = "1"  # before torch reads it: sums are the same on every machine

import pytest  # noqa: E402
import torch  # noqa: E402
from transformers import AutoTokenizer, StableLmConfig, StableLmForCausalLM  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import train_bilevel  # noqa: E402
from data.pairs import read_pairs  # noqa: E402
from data.rows import (EDGES, EDGES_PROBLEMS, UserError, read_problems, read_rows,  # noqa: E402
                       write_rows)
from train_bilevel import Settings, Trainer  # noqa: E402


def error(call, *arguments, **more):
    """The message of the UserError that this call ends with: a single line."""
    with pytest.raises(UserError) as caught:
        call(*arguments, **more)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture(scope="session")
def few_rows(tmp_path_factory):
    """problems.jsonl and labelled.jsonl of a few problems that have a passed and a failed
    candidate."""
    labelled = read_rows(EDGES / "labelled.jsonl")
    verdicts = defaultdict(set)
    policy = {}
    for row in labelled:
        verdicts[row["problem_id"]].add(row["passed"])
        policy[row["problem_id"]] = row["policy"]

    # Of the training split four of each domain, difficulty and policy.
    wanted = defaultdict(lambda: 4, meta=6, dev=2, test=2)
    problems = {}
    for problem_id, problem in read_problems(EDGES_PROBLEMS).items():
        kind = problem["split"]
        if kind == "train":
            kind = (problem["domain"], problem["difficulty"], policy[problem_id])
        if {True, False} <= verdicts[problem_id] and wanted[kind]:
            wanted[kind] -= 1
            problems[problem_id] = problem

    folder = tmp_path_factory.mktemp("few")
    write_rows(folder / "problems.jsonl", list(problems.values()))
    write_rows(folder / "labelled.jsonl", [row for row in labelled if row["problem_id"] in problems])
    return folder


@pytest.fixture(scope="session")
def random_judge(tmp_path_factory):
    """A folder with two layers of random weights and the tokenizer of the world of edge cases.

    It never reaches a verdict, but it is quick to score. A StableLM, because Llama's norm rounds to
    float32 whatever the parameters are: this one is float64 throughout where a test asks for it.
    """
    folder = tmp_path_factory.mktemp("judge")
    tokenizer = AutoTokenizer.from_pretrained(EDGES / "judge")
    torch.manual_seed(0)
    config = StableLmConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512,
        initializer_range=0.2, tie_word_embeddings=True, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    StableLmForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def settings(few_rows, tmp_path):
    """settings(**changes): those of a training run of a second, with the shipped judge.

    Some of its verdicts fit into 16 tokens and some do not, some are right and some wrong.
    """
    def make(**changes):
        small = dict(
            problems=[str(few_rows / "problems.jsonl")], labelled=str(few_rows / "labelled.jsonl"),
            judge=str(EDGES / "judge"), out=str(tmp_path / "run"), steps=2, batch=4, group=4,
            meta_batch=4, max_new_tokens=16, freeze_judge_steps=0, eval_every=2, save_every=1,
            weight_steps=2000, check_hypergradient=0, device="cpu", seed=0)
        return Settings(**{**small, **changes})
    return make


@pytest.fixture
def trainer(settings):
    """trainer(**changes): a Trainer with these settings, and no folder."""
    def make(**changes):
        cfg = settings(**changes)
        (train_pairs, meta_pairs, _), _ = read_pairs(cfg)
        return Trainer(cfg, train_pairs, meta_pairs)
    return make


@pytest.fixture
def mixed_rewards(monkeypatch):
    """Judgments are right in turns, whatever they say: in no group do all earn the same."""
    turns = itertools.cycle([1.0, 0.0])
    monkeypatch.setattr(train_bilevel, "reward", lambda pair, text: next(turns))


@pytest.fixture(scope="session")
def stage():
    """stage("sample.py", *flags): the finished process."""
    def run(script, *flags):
        command = [sys.executable, str(ROOT / script), *map(str, flags)]
        return subprocess.run(command, capture_output=True, text=True, timeout=600)
    return run


def start_torchrun(script, *flags, processes):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return subprocess.Popen(
        [sys.executable, *launcher, str(ROOT / script), *flags], text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})


def torchrun(script, *flags, processes):
    """What `torchrun script flags` has printed after a good end; nothing of it is left running
    after a bad one."""
    process = start_torchrun(script, *flags, processes=processes)
    try:
        printed, errors = process.communicate(timeout=300)
    finally:
        if process.poll() is None:
            process.terminate()  # torchrun then ends its processes, which have sessions of their own
            process.wait(60)
    assert process.returncode == 0, errors  # all of it: the launcher's own report comes last
    return printed


@pytest.fixture
def transformers_serve(tmp_path):
    """transformers_serve(name): a context in which a real server process answers for that
    checkpoint.

    Its value is the address of the API.
    """
    for module in ("fastapi", "uvicorn", "openai", "accelerate", "transformers.cli.serving.completion"):
        pytest.importorskip(module, reason="transformers serve, with /v1/completions, needs fastapi, "
                                           "uvicorn, openai and accelerate")

    @contextlib.contextmanager
    def serve(name):
        port = free_port()
        command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(name),
                   "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
        log = tmp_path / f"server-{port}.log"
        with open(log, "w") as file:
            process = subprocess.Popen(command, stdout=file, stderr=file)
        try:
            wait_for_health(port, process, log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.wait(20)
    return serve


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def wait_for_health(port, process, log):
    """Return when the server answers; fail with its log if it has ended, or after two minutes."""
    for _ in range(480):
        assert process.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
            return
        except OSError:
            time.sleep(0.25)
    raise AssertionError(f"no answer from the server: {log.read_text()}")


# ---------------------------------------------------------------- machines without namespaces

def pytest_collection_modifyitems(items):
    """Where execute.py refuses to run, for want of namespaces, the tests that need its boxes say so and are skipped."""
    boxed = [item for item in items if any(mark.kwargs.get("reason") == "the sandbox needs Linux"
                                           for mark in item.iter_markers("skipif"))]
    if not boxed or sys.platform != "linux":
        return
    check = subprocess.run([sys.executable, str(ROOT / "execute.py"), "--self-check"], capture_output=True, text=True)
    if check.returncode:
        words = (check.stderr or check.stdout).strip().splitlines()
        reason = f"execute.py --self-check: {words[-1] if words else 'failed'}"
        for item in boxed:
            item.add_marker(pytest.mark.skip(reason=reason))
