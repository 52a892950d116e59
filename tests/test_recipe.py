"""docs/RECIPE.md: every command in it is run, in its order, with tiny models and files in the place of the big ones. README: its commands parse."""
import contextlib
import importlib.util
import json
import os
import random
import re
import shlex
import subprocess
import sys
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

import execute
import sample
import train_bilevel
from data.flags import parse
from data.rows import CANDIDATE, LABELLED, ROOT, TINY, read_problems, read_rows

# What is big in the recipe, and what stands in its place here. Each is used, and nothing big is left: both are checked.
# {name}: a path made below. Models and presets stand for themselves wherever the recipe names them.
STAND_INS = {
    "Qwen/Qwen2.5-Coder-3B-Instruct": "{cheap}",
    "Qwen/Qwen2.5-Coder-32B-Instruct": "{deployed}",
    "Qwen/Qwen2.5-Coder-7B-Instruct": "{judge}",
    "--preset daj-train": "--preset daj-train --problems {lcb}",  # otherwise: from the hub
    "--preset daj-test": "--preset daj-test --problems {lcb}",
    "--benchmark livecodebench": "--benchmark livecodebench --problems {lcb}",
    "--preset daj-bigcodebench-hard": "--preset daj-bigcodebench-hard --problems {bcb}",
    "runs/daj": "{runs}",
    "--nproc-per-node 8": "--nproc-per-node 2",
    "-of-8": "-of-2",
    "--limit 100": "--limit 3",
    "--max-new-tokens 2048": "--max-new-tokens 128",
    "--max-new-tokens 1024": "--max-new-tokens 32",
    "--cold-start 20": "--cold-start 2",
    "--steps 200": "--steps 2 --look-ahead 0 --check-hypergradient 0",
    "--batch 32": "--batch 4",
    "--meta-batch 32": "--meta-batch 2",
    "--micro-tokens 5120": "--micro-tokens 1024",
    "--site-packages": "--site-packages --unsafe",  # execute.py wants that where this Python lies in /tmp
}

PROGRAM = """```python
def task_func(a, b):
    return a {} b

print(task_func(*map(int, input().split())))
```"""
TEMPLATE = "{% for m in messages %}{{ m['content'][-12:] }}{% endfor %}{% if add_generation_prompt %}\n> {% endif %}"


def chat_model(folder, answers):
    """A chat model that remembers the last 12 characters and gives one of the answers, each as often: a two-layer Llama, trained in seconds."""
    tokenizer = AutoTokenizer.from_pretrained(TINY / "judge")
    tokenizer.chat_template = TEMPLATE
    tokenizer.add_tokens([line for answer in answers for line in answer.splitlines(True) if len(line) > 16])  # to be learned soon
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        tie_word_embeddings=True, bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id))
    text, rng, adam = (ROOT / "sample.py").read_text(), random.Random(0), torch.optim.Adam(model.parameters())
    ends = [tokenizer(answer, add_special_tokens=False).input_ids + [tokenizer.eos_token_id] for answer in answers]
    for step in range(100):
        adam.param_groups[0]["lr"] = 1e-2 * (1 - step / 100)
        rows = [(sample.encode(tokenizer, text[at:at + 12]), ends[k % len(ends)]) for k, at in enumerate(rng.choices(range(20000), k=8))]
        width = max(len(prompt) + len(end) for prompt, end in rows)
        ids, labels = torch.full((8, width), tokenizer.pad_token_id), torch.full((8, width), -100)
        for k, (prompt, end) in enumerate(rows):
            ids[k, :len(prompt) + len(end)], labels[k, len(prompt):len(prompt) + len(end)] = torch.tensor(prompt + end), torch.tensor(end)
        adam.zero_grad()
        model(input_ids=ids, labels=labels).loss.backward()
        adam.step()
    model.generation_config.do_sample, model.generation_config.top_k = True, 0  # what `--generation-config vllm` asks of vLLM
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def lcb_row(k, date):
    tests = [{"input": f"{a} {b}\n", "output": f"{a + b}\n", "testtype": "stdin"} for a, b in ((k, 2), (5, k))]
    return {"question_title": "t", "question_content": f"Clerk {k} counts two heaps. How many coins are there?", "platform": "atcoder",
            "question_id": f"q{k}", "contest_date": f"{date}T00:00:00", "starter_code": "", "difficulty": ["easy", "hard"][k % 2],
            "public_test_cases": json.dumps(tests[:1]), "private_test_cases": json.dumps(tests[1:]), "metadata": "{}"}


def bcb_row(k):
    words, code = f"Add two numbers, as clerk {k} does.", "def task_func(a, b):\n"
    test = f"import unittest\n\nclass TestCases(unittest.TestCase):\n    def test_sum(self):\n        self.assertEqual(task_func({k}, 2), {k + 2})\n"
    return {"task_id": f"BigCodeBench/{k}", "complete_prompt": f'{code}    """{words}"""\n', "instruct_prompt": words, "code_prompt": code,
            "libs": "[]", "canonical_solution": "    return a + b\n", "test": test, "entry_point": "task_func"}


DAYS = {"train": ["2023-09-02", "2024-01-07", "2024-03-03", "2024-05-05", "2024-06-02", "2024-07-31"],
        "meta": ["2024-08-01", "2024-10-05", "2024-11-30"], "dev": ["2024-12-01", "2025-01-31"], "test": ["2025-02-01", "2025-03-09", "2025-05-01"]}


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """{name: path} of the stand-ins."""
    folder = tmp_path_factory.mktemp("recipe")
    for name, answers in (("cheap", [PROGRAM.format(sign) for sign in "+-"]), ("judge", [f"Tried it.\n<best>{x}</best>" for x in "AB"])):
        chat_model(folder / name, answers)
    os.symlink(folder / "cheap", folder / "deployed")
    days = [day for split in DAYS.values() for day in split] + ["2025-05-02"]
    (folder / "lcb.jsonl").write_text("".join(json.dumps(lcb_row(k, day)) + "\n" for k, day in enumerate(days)))
    (folder / "bcb.jsonl").write_text("".join(json.dumps(bcb_row(k)) + "\n" for k in (13, 15, 17)))
    return {name: folder / name for name in ("cheap", "deployed", "judge", "runs")} | {"lcb": folder / "lcb.jsonl", "bcb": folder / "bcb.jsonl"}


def commands(document):
    """The commands of its shell blocks, a line each (continued lines joined). Elsewhere it has none."""
    text = (ROOT / document).read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.S | re.M)
    left = re.sub(r"^```sh\n.*?^```", "", text, flags=re.S | re.M)
    assert not re.findall(r"^(?:```\w|\s*(?:\$ )?(?:python|torchrun|vllm|cat|pip|bash|for) ).*", left, re.M), "a command outside of the ```sh blocks"
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip() and not line.startswith("#")]


@pytest.mark.skipif(os.uname().sysname != "Linux", reason="the sandbox needs Linux")
def test_every_command_of_the_recipe_runs_with_tiny_stand_ins(places, transformers_serve):
    unused, servers, variables, ran = set(STAND_INS), {}, [], Counter()
    bin_folder = places["runs"].parent / "bin"  # `python` and `torchrun` of this Python
    bin_folder.mkdir()
    for name, module in (("python", ""), ("torchrun", "-m torch.distributed.run")):
        (bin_folder / name).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {module} "$@"\n')
        (bin_folder / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    with contextlib.ExitStack() as running:
        for command in commands("docs/RECIPE.md"):
            for big, tiny in STAND_INS.items():
                if big in command:
                    unused.discard(big)
                    command = re.sub(rf"{re.escape(big)}(?!\w|\.\d)", tiny.format(**places), command)
            for port, address in servers.items():
                command = command.replace(f"http://127.0.0.1:{port}/v1", address)
            assert not re.search(r"Qwen/|runs/daj|:800\d", command), f"nothing stands in for a part of: {command}"
            if served := re.fullmatch(r"vllm serve (\S+) (?:--tensor-parallel-size 8 )?--generation-config vllm --port (\d+)", command):
                servers[served[2]] = running.enter_context(transformers_serve(served[1]))
                ran["vllm"] += 1
            elif re.match(r"[A-Z]+=", command):
                variables.append(command)
            else:
                done = subprocess.run(["bash", "-euo", "pipefail", "-c", "\n".join([*variables, command])], cwd=ROOT, env=environment,
                                      capture_output=True, text=True, timeout=300)
                assert done.returncode == 0 and "Traceback" not in done.stderr, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
                ran[re.search(r"\w+\.py|cat", command)[0]] += 1
    assert not unused, f"not in the recipe any more: {unused}"
    assert set(ran) == {"vllm", "sample.py", "cat", "execute.py", "train_bilevel.py", "select.py"}
    check_outputs(places["runs"])


def check_outputs(runs):
    """What the recipe is said to leave behind."""
    splits = {split: read_problems(runs / split / "problems.jsonl") for split in (*DAYS, "bcb")}
    for split, days in DAYS.items():
        assert [row["date"] for row in splits[split].values()] == days and {row["split"] for row in splits[split].values()} == {split}
    key = ("problem_id", "candidate_id")
    labelled = {row: value for folder in (runs, runs / "bcb") for row, value in
                ((tuple(r[name] for name in key), r) for r in read_rows(folder / "labelled.jsonl", LABELLED, key=key))}
    policies = Counter((split, row["policy"]) for (pid, _), row in labelled.items() for split in splits if pid in splits[split])
    assert policies == {("train", "cheap"): 6 * 8, ("train", "deployed"): 3 * 8, ("meta", "deployed"): 3 * 8, ("dev", "deployed"): 2 * 8,
                        ("test", "deployed"): 3 * 8, ("bcb", "deployed"): 3 * 8}
    for split in splits:
        assert {row["passed"] for (pid, _), row in labelled.items() if pid in splits[split]} == {True, False}, split
    assert len(read_rows(runs / "train" / "candidates.jsonl", CANDIDATE, key=key)) == 6 * 8 + 3 * 8

    weights = {}
    for name in ("domain", "instance", "uniform"):
        metrics = read_rows(runs / name / "metrics.jsonl")
        assert [(m["step"], m.get("cold")) for m in metrics] == [(0, None), (1, True), (2, True), (3, False), (4, False)]
        assert all(m["grad_norm"] > 0 for m in metrics[1:]) and len([m for m in metrics if "eval_accuracy" in m]) == 3  # before, after each stage
        weights[name] = {row["instance_id"]: row["weight"] for row in read_rows(runs / name / "weights.jsonl")}
        before, _ = sample.load_model(str(runs.parent / "judge"))
        after, tokenizer = sample.load_model(str(runs / name / "judge"))
        assert tokenizer.chat_template == TEMPLATE and not any("lora" in part or ".a" == part[-2:] for part, _ in after.named_parameters())
        moved = {part: float((value - dict(before.named_parameters())[part]).detach().abs().max()) for part, value in after.named_parameters()}
        assert moved["model.layers.0.mlp.up_proj.weight"] > 0 and moved["model.embed_tokens.weight"] == 0
    assert set(weights["uniform"].values()) == {1.0} and len({*map(len, weights.values())}) == 1
    for name in ("domain", "instance"):
        assert len(set(weights[name].values())) > 1, f"no weight of {name} has moved"

    for folder, judges, problems in ((runs / "test", {"judge, served"}, splits["test"]), (runs / "bcb", {"judge, served"}, splits["bcb"]),
                                     (runs / "waits", {"judge, trained, 2 waits", "judge, trained", "judge, untrained, 1 wait"}, splits["test"])):
        rows = {(row["problem_id"], row["method"]): row for row in read_rows(folder / "selections.jsonl", key=("problem_id", "method", "n"))}
        assert {pid for pid, _ in rows} <= problems.keys()
        for pid in {pid for pid, _ in rows}:
            for method in judges:
                assert (pid, rows[pid, method]["candidate_id"]) in labelled, method
                assert (rows[pid, method]["judge_calls"] > 0) == (len(rows[pid, method]["votes"]) > 1)
        assert {judgment["verdict"] for judgment in read_rows(folder / "judgments.jsonl")} >= {"A", "B"}


# ---------------------------------------------------------------- the README's commands

spec = importlib.util.spec_from_file_location("daj_select_in_recipe", ROOT / "select.py")
select = importlib.util.module_from_spec(spec)
spec.loader.exec_module(select)
PARSERS = {"sample.py": sample.parse_args, "execute.py": lambda argv: parse(execute.Settings, "", argv), "train_bilevel.py": train_bilevel.main,
           "select.py": select.parse_args}


def test_every_command_in_the_readme_parses(monkeypatch):
    """`...` stands for file names there. Commands without flags are left to the other tests."""
    monkeypatch.setattr(train_bilevel, "Run", lambda settings: SimpleNamespace(go=lambda: None))  # its flags are looked at, no run is begun
    blocks = re.findall(r"^```\w*\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S | re.M)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    seen = Counter()
    for line in lines:
        if called := re.search(r"(?:python|torchrun --nproc-per-node \d+(?: --)?) (\w+\.py)\s+(--.*)", line):
            PARSERS[called[1]](shlex.split(called[2].replace("...", "x.jsonl"), comments=True))
            seen[called[1]] += 1
    assert set(seen) == set(PARSERS) and seen.total() >= 9
