"""docs/RECIPE.md: its commands are run, in their order, with tiny models and files in place of the
big ones.

README: its commands parse. --help of every stage.
"""
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
from dataclasses import dataclass, fields

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

import execute
import sample
import train_bilevel
from data.flags import flag, name_of, parse
from data.preferences import __main__ as preferences
from data.rows import CANDIDATE, EDGES, LABELLED, ROOT, read_problems, read_rows

spec = importlib.util.spec_from_file_location("daj_select_in_recipe", ROOT / "select.py")
select = importlib.util.module_from_spec(spec)
spec.loader.exec_module(select)
STAGES = {"sample.py": sample, "execute.py": execute, "train_bilevel.py": train_bilevel, "select.py": select,
          "data.preferences": preferences}

# What is big in the recipe, and what stands in its place here. Each is used, and nothing big is left: both are
# checked. {name}: a path made below. Models and presets stand for themselves wherever the recipe names them.
STAND_INS = {
    "Qwen/Qwen2.5-Coder-3B-Instruct": "{cheap}",
    "Qwen/Qwen2.5-Coder-32B-Instruct": "{deployed}",
    "Qwen/Qwen2.5-Coder-7B-Instruct": "{judge}",
    "Qwen/Qwen2.5-7B-Instruct": "{judge}",
    "--preset daj-train": "--preset daj-train --problems {lcb}",  # otherwise: from the hub
    "--preset daj-test": "--preset daj-test --problems {lcb}",
    "--benchmark livecodebench": "--benchmark livecodebench --problems {lcb}",
    "--preset daj-bigcodebench-hard": "--preset daj-bigcodebench-hard --problems {bcb}",
    "--problems RISE.jsonl": "--problems {rise}",
    "--problems CodePrefBench/eval": "--problems {codepref}",
    "--benchmark rewardbench": "--benchmark rewardbench --problems {rewardbench}",
    "--benchmark rewardbench2": "--benchmark rewardbench2 --problems {rewardbench2}",
    "--problems RMB_dataset": "--problems {rmb}",
    "--problems JudgeBench/data": "--problems {judgebench}",
    "runs/daj": "{runs}",
    "runs/j1": "{j1}",
    "--nproc-per-node 8": "--nproc-per-node 2",
    "-of-8": "-of-2",
    "--limit 100": "--limit 3",
    "--max-new-tokens 2048": "--max-new-tokens 128",
    "--max-new-tokens 1024": "--max-new-tokens 32",
    "--cold-start 20": "--cold-start 2",
    "--steps 200": "--steps 2 --check-hypergradient 0",
    "--freeze-judge-steps 50": "--freeze-judge-steps 0",
    "--batch 32": "--batch 4",
    "--meta-batch 32": "--meta-batch 2",
    "--micro-tokens 5120": "--micro-tokens 1024",
}
if sys.prefix.startswith("/tmp/"):  # whose packages execute.py refuses to show: boxes have a /tmp of their own
    STAND_INS["--site-packages "] = ""


# ---------------------------------------------------------------- tiny models and benchmark files

PROGRAM = """```python
def task_func(a, b):
    return a {} b

print(task_func(*map(int, input().split())))
```"""
ADDS_OR_SUBTRACTS = [PROGRAM.format("+"), PROGRAM.format("-")]
SAYS_A_OR_B = ["Tried it.\n<best>A</best>", "Tried it.\n<best>B</best>"]
TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}\n> {% endif %}"


def chat_model(folder, answers):
    """A chat model that gives one of two answers, each as often, whatever it is asked.

    A two-layer Llama, trained in seconds. Every line of its answers is one token, and attention adds
    nothing: what it writes next hangs on the line before, and on nothing that it was asked.
    """
    tokenizer = AutoTokenizer.from_pretrained(EDGES / "judge")
    tokenizer.chat_template = TEMPLATE
    lines = [line for answer in answers for line in answer.splitlines(True) if len(line) > 1]
    tokenizer.add_tokens(lines)
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id))
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.requires_grad_(False).zero_()
    adam = torch.optim.Adam([p for p in model.parameters() if p.requires_grad])
    text = (EDGES / "problems_strong.jsonl").read_text(encoding="utf-8")
    rng = random.Random(0)
    ends = [tokenizer(answer, add_special_tokens=False).input_ids + [tokenizer.eos_token_id] for answer in answers]
    for step in range(100):
        rows = []
        for k, start in enumerate(rng.choices(range(20000), k=8)):
            rows.append((sample.encode(tokenizer, text[start:start + 12]), ends[k % 2]))
        ids, labels = padded_batch(rows, tokenizer.pad_token_id)
        adam.param_groups[0]["lr"] = 1e-2 * (1 - step / 100)
        adam.zero_grad()
        model(input_ids=ids, labels=labels).loss.backward()
        adam.step()
    model.generation_config.do_sample = True  # what `--generation-config vllm` asks of vLLM
    model.generation_config.top_k = 0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def padded_batch(rows, pad):
    """Ids and labels [rows, width] of (prompt, answer) rows; only answers are labels."""
    width = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids = torch.full((len(rows), width), pad)
    labels = torch.full((len(rows), width), -100)
    for k, (prompt, answer) in enumerate(rows):
        end = len(prompt) + len(answer)
        ids[k, :end] = torch.tensor(prompt + answer)
        labels[k, len(prompt):end] = torch.tensor(answer)
    return ids, labels


def lcb_row(k, date):
    """A row of LiveCodeBench's file."""
    tests = [{"input": f"{a} {b}\n", "output": f"{a + b}\n", "testtype": "stdin"} for a, b in ((k, 2), (5, k))]
    return {
        "question_title": "t",
        "question_content": f"Clerk {k} counts two heaps. How many coins are there?",
        "platform": "atcoder",
        "question_id": f"q{k}",
        "contest_date": f"{date}T00:00:00",
        "starter_code": "",
        "difficulty": ["easy", "hard"][k % 2],
        "public_test_cases": json.dumps(tests[:1]),
        "private_test_cases": json.dumps(tests[1:]),
        "metadata": "{}",
    }


BCB_TEST = """import unittest

class TestCases(unittest.TestCase):
    def test_sum(self):
        self.assertEqual(task_func({}, 2), {})
"""


def bcb_row(k):
    """A row of BigCodeBench's file."""
    words = f"Add two numbers, as clerk {k} does."
    code = "def task_func(a, b):\n"
    return {
        "task_id": f"BigCodeBench/{k}",
        "complete_prompt": f'{code}    """{words}"""\n',
        "instruct_prompt": words,
        "code_prompt": code,
        "libs": "[]",
        "canonical_solution": "    return a + b\n",
        "test": BCB_TEST.format(k, k + 2),
        "entry_point": "task_func",
    }


def rise_row(k):
    """A preference pair in the common form."""
    return {
        "question": f"Clerk {k} asks for the sum of {k} and 2.",
        "chosen": f"It is {k + 2}.",
        "rejected": f"It is {k - 2}.",
        "rejected_model": "m",
        "source": ["sums", "heaps"][k % 2],
    }


def codepref_files(folder):
    """CodePrefBench's four files, a pair in each."""
    folder.mkdir()
    for k, aspect in enumerate(("correctness", "efficiency", "security", "human-preference")):
        row = {"task_id": f"CSE/{k}", "instruction": f"Add two numbers, as clerk {k} does.",
               "choices": ["x = a + b", "x = a - b"], "gt_choice": k % 2}
        write_lines(folder / f"{aspect}-alignment.jsonl", [row])
    return folder


def rewardbench_row(k):
    """A row of RewardBench's file."""
    return {
        "id": k,
        "prompt": f"Clerk {k} asks for a colour.",
        "chosen": "Red.",
        "chosen_model": "m",
        "rejected": "Seven.",
        "rejected_model": "n",
        "subset": ["donotanswer", "hep-python"][k % 2],
    }


REWARDBENCH2_ROW = {"id": "1", "prompt": "Name a colour.", "chosen": ["Red."],
                    "rejected": ["One.", "Two.", "Six."], "models": ["m"], "subset": "Focus"}


def rmb_files(folder):
    """A pair and a list of three of RMB."""
    row = {"conversation_input": [{"role": "user", "content": "Name a colour."}]}
    best, other, third = [{"llm_name": "m", "answer": text} for text in ("Red.", "One.", "Two.")]
    pair = {**row, "pair_uid": "1", "category_path": "Pairwise_set/Helpfulness/Chat/Casual",
            "chosen": best, "reject": other}
    three = {**row, "bon_uid": "2", "category_path": "BoN_set/Harmlessness/S1",
             "bon_best": best, "loser_list": [other, third]}
    folder.mkdir()
    for kind, item in (("Pairwise_set", pair), ("BoN_set", three)):
        (folder / f"{kind}.json").write_text(json.dumps([item]), encoding="utf-8")
    return folder


def judgebench_files(folder):
    """Two files of JudgeBench, each of a response model."""
    folder.mkdir()
    for model in ("m", "n"):
        rows = [{"pair_id": f"{model}{k}", "source": "livebench-math", "response_model": model,
                 "question": f"What is {k} and 2?", "response_A": f"{k + 2}", "response_B": f"{k}",
                 "label": "A>B"} for k in range(2)]
        write_lines(folder / f"{model}.jsonl", rows)
    return folder


DAYS = {
    "train": ["2023-09-02", "2024-01-07", "2024-03-03", "2024-05-05", "2024-06-02", "2024-07-31"],
    "meta": ["2024-08-01", "2024-10-05", "2024-11-30"],
    "dev": ["2024-12-01", "2025-01-31"],
    "test": ["2025-02-01", "2025-03-09", "2025-05-01"],
}
AFTER_THE_TEST = "2025-05-02"


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """{name: path} of the stand-ins."""
    folder = tmp_path_factory.mktemp("recipe")
    chat_model(folder / "cheap", ADDS_OR_SUBTRACTS)
    chat_model(folder / "judge", SAYS_A_OR_B)
    os.symlink(folder / "cheap", folder / "deployed")
    days = [day for split in DAYS.values() for day in split] + [AFTER_THE_TEST]
    return {
        "cheap": folder / "cheap",
        "deployed": folder / "deployed",
        "judge": folder / "judge",
        "runs": folder / "runs",
        "lcb": write_lines(folder / "lcb.jsonl", [lcb_row(k, day) for k, day in enumerate(days)]),
        "bcb": write_lines(folder / "bcb.jsonl", [bcb_row(k) for k in (13, 15, 17)]),
        "j1": folder / "j1",
        "rise": write_lines(folder / "rise.jsonl", [rise_row(k) for k in range(60)]),
        "codepref": codepref_files(folder / "codepref"),
        "rewardbench": write_lines(folder / "filtered.jsonl", map(rewardbench_row, range(4))),
        "rewardbench2": write_lines(folder / "test.jsonl", [REWARDBENCH2_ROW]),
        "rmb": rmb_files(folder / "rmb"),
        "judgebench": judgebench_files(folder / "judgebench"),
    }


# ---------------------------------------------------------------- the recipe's commands

def commands(document):
    """The commands of its shell blocks, a line each (continued lines joined). Elsewhere it has
    none."""
    text = (ROOT / document).read_text(encoding="utf-8")
    block = re.compile(r"^```sh\n(.*?)^```", re.S | re.M)
    outside = re.findall(r"^(?:```\w|\s*(?:\$ )?(?:python|torchrun|vllm|cat|pip|bash|for) ).*",
                         block.sub("", text), re.M)
    assert not outside, "a command outside of the ```sh blocks"
    lines = "\n".join(block.findall(text)).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def with_stand_ins(command, places, servers, unused):
    """The command with tiny things for big ones; those that it needed are taken out of `unused`."""
    for big, tiny in STAND_INS.items():
        if big in command:
            unused.discard(big)
            command = re.sub(rf"{re.escape(big)}(?!\w|\.\d)", tiny.format(**places), command)
    for port, address in servers.items():
        command = command.replace(f"http://127.0.0.1:{port}/v1", address)
    assert not re.search(r"Qwen/|runs/(?:daj|j1)|:800\d", command), f"nothing stands in for a part of: {command}"
    return command


# In this shell `python` and `torchrun` only print the words that the shell has made of their line.
RECORD_CALLS = """
python() { printf '%s\\0' python "$@"; printf '\\n\\0'; }
torchrun() { printf '%s\\0' torchrun "$@"; printf '\\n\\0'; }
"""


def calls_of(command, variables):
    """The calls of python and torchrun in a shell command, each a list of words. Its other parts
    are run."""
    script = "\n".join([RECORD_CALLS, *variables, command])
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stderr}"
    calls = []
    words = []
    for word in done.stdout.split("\0")[:-1]:
        if word == "\n":
            calls.append(words)
            words = []
        else:
            words.append(word)
    return calls


def run_process(command):
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    assert "Traceback" not in done.stderr


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]


class Recipe:
    """Runs calls of stages. To save starts of Python and torch, most of them run here, as
    main(flags): of each stage the first call under torchrun is a torchrun of its own, and
    execute.py is always a process."""

    def __init__(self):
        self.ran = Counter()  # {script: calls}
        self.under_torchrun = set()

    def run(self, words):
        launcher = words[0]
        at = next(k for k, word in enumerate(words) if word in STAGES)
        script = words[at]
        flags = words[at + 1:]
        self.ran[script] += 1
        if launcher == "torchrun" and script not in self.under_torchrun:
            self.under_torchrun.add(script)
            run_process(TORCHRUN + words[1:at] + [str(ROOT / script)] + flags)
        elif script == "execute.py":
            run_process([sys.executable, str(ROOT / script), *flags])
        else:
            assert STAGES[script].main(flags) in (None, 0)


@pytest.mark.skipif(os.uname().sysname != "Linux", reason="the sandbox needs Linux")
def test_every_command_of_the_recipe_runs_with_tiny_stand_ins(places, transformers_serve, monkeypatch):
    monkeypatch.chdir(ROOT)
    unused = set(STAND_INS)
    servers = {}    # {port in the recipe: address here}
    variables = []  # lines such as JUDGE="..."
    recipe = Recipe()
    with contextlib.ExitStack() as running:
        for line in commands("docs/RECIPE.md"):
            command = with_stand_ins(line, places, servers, unused)
            served = re.fullmatch(r"vllm serve (\S+) (?:--tensor-parallel-size 8 )?"
                                  r"--generation-config vllm --port (\d+)", command)
            if served:
                model, port = served.groups()
                servers[port] = running.enter_context(transformers_serve(model))
            elif re.match(r"[A-Z]+=", command):
                variables.append(command)
            else:
                for words in calls_of(command, variables):
                    recipe.run(words)
    assert not unused, f"not in the recipe any more: {unused}"
    assert len(servers) == 2
    assert set(recipe.ran) == set(STAGES)
    assert recipe.under_torchrun == {"sample.py", "train_bilevel.py"}
    check_candidates(places["runs"])
    check_judges(places["runs"])
    check_selections(places["runs"])
    check_preferences(places["j1"])


# ---------------------------------------------------------------- what the recipe is said to leave behind

KEY = ("problem_id", "candidate_id")


def problems_of(runs):
    """{split: {problem_id: problem}}, with BigCodeBench as one more split."""
    return {split: read_problems(runs / split / "problems.jsonl") for split in (*DAYS, "bcb")}


def labelled_of(runs):
    """{(problem_id, candidate_id): row}"""
    rows = []
    for folder in (runs, runs / "bcb"):
        rows += read_rows(folder / "labelled.jsonl", LABELLED, key=KEY)
    return {tuple(row[name] for name in KEY): row for row in rows}


def check_candidates(runs):
    """Problems of the right days, eight candidates of each from the right policies, some right and
    some wrong."""
    splits = problems_of(runs)
    for split, days in DAYS.items():
        assert [row["date"] for row in splits[split].values()] == days
        assert {row["split"] for row in splits[split].values()} == {split}

    split_of = {problem_id: split for split, problems in splits.items() for problem_id in problems}
    policies = Counter()
    verdicts = {split: set() for split in splits}
    for row in labelled_of(runs).values():
        split = split_of[row["problem_id"]]
        policies[split, row["policy"]] += 1
        verdicts[split].add(row["passed"])
    assert policies == {
        ("train", "cheap"): 6 * 8, ("train", "deployed"): 3 * 8, ("meta", "deployed"): 3 * 8,
        ("dev", "deployed"): 2 * 8, ("test", "deployed"): 3 * 8, ("bcb", "deployed"): 3 * 8}
    for split, found in verdicts.items():
        assert found == {True, False}, split
    assert len(read_rows(runs / "train" / "candidates.jsonl", CANDIDATE, key=KEY)) == 6 * 8 + 3 * 8


def check_judges(runs):
    """Three judges, trained in two stages; plain checkpoints whose linear layers have moved;
    learned weights."""
    before, _ = sample.load_model(str(runs.parent / "judge"))
    before = dict(before.named_parameters())
    weights = {}
    for name in ("domain", "instance", "uniform"):
        metrics = read_rows(runs / name / "metrics.jsonl")
        stages = [(row["step"], row.get("cold")) for row in metrics]
        assert stages == [(0, None), (1, True), (2, True), (3, False), (4, False)]
        assert all(row["grad_norm"] > 0 for row in metrics[1:])
        evaluated = [row["step"] for row in metrics if "eval_accuracy" in row]
        assert evaluated == [0, 2, 4]  # before, and after each stage

        after, tokenizer = sample.load_model(str(runs / name / "judge"))
        after = dict(after.named_parameters())
        assert tokenizer.chat_template == TEMPLATE
        assert after.keys() == before.keys()
        assert not torch.equal(after["model.layers.0.mlp.up_proj.weight"], before["model.layers.0.mlp.up_proj.weight"])
        assert torch.equal(after["model.embed_tokens.weight"], before["model.embed_tokens.weight"])
        weights[name] = {row["instance_id"]: row["weight"] for row in read_rows(runs / name / "weights.jsonl")}
    assert set(weights["uniform"].values()) == {1.0}
    for name in ("domain", "instance"):
        assert weights[name].keys() == weights["uniform"].keys()
        assert len(set(weights[name].values())) > 1, f"no weight of {name} has moved"


def check_selections(runs):
    """Each judge has chosen a labelled candidate of each problem, by votes where there was a
    choice."""
    splits = problems_of(runs)
    labelled = labelled_of(runs)
    served = {"judge, served"}
    in_process = {"judge, trained, 2 waits", "judge, trained", "judge, untrained, 1 wait"}
    for name, methods, problems in (("test", served, splits["test"]), ("bcb", served, splits["bcb"]),
                                    ("waits", in_process, splits["test"])):
        rows = read_rows(runs / name / "selections.jsonl", key=("problem_id", "method", "n"))
        assert {row["problem_id"] for row in rows} <= problems.keys()
        judged = [row for row in rows if row["method"] in methods]
        assert {row["method"] for row in judged} == methods
        assert len({row["problem_id"] for row in judged}) == len({row["problem_id"] for row in rows})
        for row in judged:
            assert (row["problem_id"], row["candidate_id"]) in labelled
            assert (row["judge_calls"] > 0) == (len(row["votes"]) > 1)
        verdicts = {judgment["verdict"] for judgment in read_rows(runs / name / "judgments.jsonl")}
        assert verdicts >= {"A", "B"}


def check_preferences(runs):
    """J1's stages on pairs that were never executed; each pair of the benchmarks in both orders.

    Of each benchmark: pairs of answers, and answers of the problem that has the most.
    """
    splits = Counter(row["split"] for row in read_problems(runs / "problems.jsonl").values())
    assert splits.keys() == {"train", "meta", "dev"}
    assert splits.total() == 60
    labelled = read_rows(runs / "labelled.jsonl", LABELLED)
    assert {row["status"] for row in labelled} == {"preferred", "not_preferred"}

    weights = read_rows(runs / "domain" / "weights.jsonl")
    assert {row["weight_domain"] for row in weights} == {"sums × m", "heaps × m"}
    for name in ("uniform", "domain"):
        metrics = read_rows(runs / name / "metrics.jsonl")
        stages = [(row["step"], row.get("cold")) for row in metrics]
        assert stages == [(0, None), (1, True), (2, True), (3, False), (4, False)]

    for benchmark, name, pairs, most in (("codepref", "codeprefbench", 4, 2),
                                         ("rewardbench", "rewardbench", 4, 2),
                                         ("rewardbench2", "rewardbench2", 6, 4),
                                         ("rmb", "rmb", 1 + 3, 3),
                                         ("judgebench", "judgebench", 4, 2)):
        judgments = read_rows(runs / benchmark / "judgments.jsonl")
        first = {(row["judge"], row["a"], row["b"], row["problem_id"]) for row in judgments
                 if row["b"] and not row["wait"]}
        assert len(first) == 2 * pairs * 2      # two judges, two orders
        chosen = read_rows(runs / benchmark / "selections.jsonl", key=("problem_id", "method", "n"))
        assert {row["problem_id"].partition("/")[0] for row in chosen} == {name}
        assert {row["n"] for row in chosen} == {most}


# ---------------------------------------------------------------- the README's commands

@pytest.mark.parametrize("document, least", [("README.md", 5), ("docs/RESULTS.md", 3)])
def test_every_command_in_the_documents_parses(document, least):
    """`...` stands for file names there. Commands without flags are left to the other tests."""
    text = (ROOT / document).read_text(encoding="utf-8")
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.S | re.M)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    seen = Counter()
    for line in lines:
        called = re.search(r"(?:python|torchrun --nproc-per-node \d+(?: --)?) (\w+\.py)\s+(--.*)", line)
        if called and called[1] in STAGES:
            stage = STAGES[called[1]]
            flags = shlex.split(called[2].replace("...", "x.jsonl"), comments=True)
            parse(stage.Settings, stage.__doc__, flags)
            seen[called[1]] += 1
    assert seen.total() >= least


# ---------------------------------------------------------------- flags of all stages

@pytest.mark.parametrize("name", STAGES)
def test_help_shows_every_flag(name, capsys):
    stage = STAGES[name]
    with pytest.raises(SystemExit) as end:
        parse(stage.Settings, stage.__doc__, ["--help"])
    assert end.value.code == 0
    shown = re.findall(r"^  (--[\w-]+)", capsys.readouterr().out, re.M)
    assert set(shown) == {name_of(field) for field in fields(stage.Settings)}


@dataclass
class Example:
    folder: str = flag("runs/100%", "where to")
    sizes: list = flag(list, "how large", type=int)


def test_help_shows_the_default_where_there_is_one(capsys):
    with pytest.raises(SystemExit):
        parse(Example, "", ["--help"])
    shown = capsys.readouterr().out
    assert "where to (default runs/100%)" in shown
    assert "how large\n" in shown


def test_a_stage_whose_output_nobody_reads_any_more_ends_without_a_traceback():
    program = "from data.flags import run; run(lambda: print('a table\\n' * 100_000))"
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.readline()
    process.stdout.close()
    words = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 130
    assert words == "stopped, as nobody reads its output any more\n"


def test_a_list_s_flag_wants_a_value():
    assert parse(Example, "", ["--sizes", "4", "8"]).sizes == [4, 8]
    with pytest.raises(SystemExit) as end:
        parse(Example, "", ["--sizes"])
    assert end.value.code == 2


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_what_a_terminal_cannot_show_does_not_end_a_run(encoding):
    program = "from data.flags import run; run(lambda: print('reviewed × hard − \\ud800'))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True,
                          encoding=encoding, env={**os.environ, "PYTHONIOENCODING": encoding})
    assert done.returncode == 0
    assert done.stdout.startswith("reviewed ")
    assert done.stderr == ""
