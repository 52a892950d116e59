"""data/benchmarks.py: original rows become problem rows, and nothing in a benchmark's file is ever run to read it."""
import base64
import gzip
import importlib.util
import json
import os
import pickle
import sys
import zlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from data import rows  # noqa: E402
from data.benchmarks import ask, cut, fetch, load_benchmark, private_text, read_benchmark  # noqa: E402

DATA = Path(os.environ.get("DAJ_BENCHMARK_DATA") or ROOT.parent / "shared" / "data")
TESTS = [{"input": "1\n", "output": "2\n", "testtype": "stdin"}]


def packed(thing, protocol=4):
    return base64.b64encode(zlib.compress(pickle.dumps(thing, protocol))).decode()


def lcb(**changes):
    return {"question_title": "t", "question_content": "c", "platform": "atcoder", "question_id": "1", "contest_id": "2", "contest_date": "2025-02-03T00:00:00", "starter_code": "",
            "difficulty": "easy", "public_test_cases": json.dumps(TESTS), "private_test_cases": packed(json.dumps(TESTS)), "metadata": "{}", **changes}


def write(path, *originals):
    path.write_text("".join(json.dumps(row) + "\n" for row in originals))
    return path


@pytest.mark.parametrize("name, file, count, tests", [
    ("humaneval", "HumanEval.jsonl.gz", 164, 164), ("mbpp", "sanitized-mbpp.json", 427, 1324), ("bigcodebench", "BigCodeBench.hf_data.jsonl.gz", 1140, 1140),
    ("livecodebench", "lcb_reconstructed_3rows.jsonl", 3, 34), ("livecodebench", "lcb_genuine_row_1873_A.jsonl", 1, None), ("codecontests", "code_eval_code_contests.jsonl", 20, 2233)])
def test_original_files_become_problem_rows(name, file, count, tests, tmp_path):
    if not (DATA / file).exists():
        pytest.skip(f"{DATA / file} does not exist; set DAJ_BENCHMARK_DATA to the folder of the original files")
    problems = load_benchmark(name, DATA / file)
    assert len(problems) == count
    assert tests is None or sum(len(row["public_tests"]) + len(row["tests"]) for row in problems) == tests
    rows.write_rows(tmp_path / "problems.jsonl", problems)
    assert rows.read_problems(tmp_path / "problems.jsonl").keys() == {row["problem_id"] for row in problems}


@pytest.mark.parametrize("protocol", range(5))
def test_private_tests_are_decoded_whatever_the_pickle_protocol(protocol):
    if protocol == 0:  # text pickles spell strings with an opcode that genuine rows never hold
        with pytest.raises(rows.UserError, match="UNICODE"):
            private_text(packed("[]", 0), "here")
    else:
        assert json.loads(private_text(packed(json.dumps(TESTS), protocol), "here")) == TESTS


def test_plain_private_tests_are_read_too(tmp_path):
    problem, = load_benchmark("livecodebench", write(tmp_path / "lcb.jsonl", lcb(private_test_cases=json.dumps(TESTS))))
    assert problem["tests"] == [{"type": "stdin", "input": "1\n", "output": "2\n"}] and problem["date"] == "2025-02-03"


class Bomb:
    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


def test_a_pickle_that_runs_code_is_refused_and_not_run(tmp_path):
    bomb = Bomb()
    bomb.target = Bomb.target = str(tmp_path / "ran")
    path = write(tmp_path / "lcb.jsonl", lcb(), lcb(question_id="2", private_test_cases=packed(bomb)))
    with pytest.raises(rows.UserError, match=r"lcb.jsonl, row 2: private_test_cases holds the pickle opcode"):
        load_benchmark("livecodebench", path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("text, message", [("%%%", "neither"), (base64.b64encode(b"junk").decode(), "neither"), (packed(["a", "b"]), "opcode"),
                                           (base64.b64encode(zlib.compress(pickle.dumps("x" * 5000))[:-9]).decode(), "cut off"), (packed(""), "not as livecodebench")])
def test_broken_private_tests_are_an_error_that_names_the_row(text, message, tmp_path):
    with pytest.raises(rows.UserError, match=f"lcb.jsonl, row 1: .*{message}"):
        load_benchmark("livecodebench", write(tmp_path / "lcb.jsonl", lcb(private_test_cases=text)))


def test_a_small_file_that_unpacks_without_end_is_refused(monkeypatch):
    monkeypatch.setattr("data.benchmarks.MAX_UNPACKED", 1 << 16)
    with pytest.raises(rows.UserError, match="more than 65536 bytes"):
        private_text(packed("x" * (1 << 20)), "here")


def test_functional_arguments_are_json_lines(tmp_path):
    test = [{"input": "[1, 2]\n\"a\"", "output": "{\"k\": [1]}", "testtype": "functional"}]
    problem, = load_benchmark("livecodebench", write(tmp_path / "lcb.jsonl", lcb(metadata='{"func_name": "solve"}', public_test_cases=json.dumps(test), private_test_cases=json.dumps(test))))
    assert problem["entry_point"] == "solve" and problem["tests"] == [{"type": "call", "args": [[1, 2], "a"], "expected": {"k": [1]}}]


def test_full_mbpp_rows_are_read_with_their_setup_and_line_ends(tmp_path):
    row = {"text": "Add.", "code": "class P:\r\n  pass\r\ndef add(a, b):\r\n  return a + b", "task_id": 1, "test_setup_code": "root = 1\r\n", "test_list": ["assert add(1, 2) == 3", "assert add(P(), 2)"],
           "challenge_test_list": ["assert add(1, 1) == 2"]}
    problem, = load_benchmark("mbpp", write(tmp_path / "mbpp.jsonl", row))
    assert "\r" not in json.dumps(problem) and problem["entry_point"] == "add" and problem["setup"] == "root = 1\n"
    assert [test.get("inside") for test in problem["public_tests"] + problem["tests"]] == [None, True, None]


@pytest.mark.parametrize("content, message", [(b"{}\n", "row 1: field .* is missing; is this really a file of humaneval"), (b"", "no rows"), (b"{\n", "cannot be read as JSON"),
                                              (gzip.compress(b"{}")[:-3], "cannot be read"), (b'{"task_id": 1, "test": 1}', "row 1")])
def test_a_bad_file_is_named(content, message, tmp_path):
    path = tmp_path / ("file.jsonl.gz" if content[:1] == b"\x1f" else "file.jsonl")
    path.write_bytes(content)
    with pytest.raises(rows.UserError, match=message):
        load_benchmark("humaneval", path)


def test_unknown_benchmarks_and_missing_files_are_named(tmp_path):
    with pytest.raises(rows.UserError, match="--benchmark nonsense: expected one of humaneval"):
        load_benchmark("nonsense", tmp_path)
    with pytest.raises(rows.UserError, match="no such file"):
        load_benchmark("mbpp", tmp_path / "none.json")


# ---------------------------------------------------------------- from the hub

def test_livecodebench_comes_from_the_hub_file_by_file_and_only_what_can_hold_the_dates(tmp_path, monkeypatch):
    asked = []

    def download(repository, file, repo_type):
        asked.append((repository, file, repo_type))
        return write(tmp_path / file, lcb(question_id=file, contest_date="2025-03-01T00:00:00" if file == "test6.jsonl" else "2023-05-07T00:00:00"))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    wanted = lambda row: row["date"] >= "2025-02-01"  # noqa: E731
    rows_ = read_benchmark("livecodebench", fetch("livecodebench", since="2025-02-01"), wanted=wanted)
    assert asked == []  # nothing before it is its turn
    assert [row["problem_id"] for row in rows_] == ["atcoder/test6.jsonl"]
    assert asked == [("livecodebench/code_generation_lite", file, "dataset") for file in ("test5.jsonl", "test6.jsonl")]
    asked.clear()
    assert len(list(read_benchmark("livecodebench", fetch("livecodebench")))) == len(asked) == 6


@pytest.mark.parametrize("name, subset, repository, by_hand", [
    ("humaneval", [], "openai/openai_humaneval", "HumanEval.jsonl.gz"), ("mbpp", [], "google-research-datasets/mbpp", "mbpp.jsonl"),
    ("mbpp", ["sanitized"], "google-research-datasets/mbpp", "sanitized-mbpp.json"), ("bigcodebench", ["instruct"], "bigcode/bigcodebench", "BigCodeBench.jsonl.gz"),
    ("bigcodebench", ["hard", "instruct"], "bigcode/bigcodebench-hard", "BigCodeBench-Hard.jsonl.gz"), ("livecodebench", [], "livecodebench/code_generation_lite", "test.jsonl")])
@pytest.mark.parametrize("pyarrow", [False, True])
def test_without_the_hub_or_pyarrow_the_file_to_fetch_by_hand_is_named(name, subset, repository, by_hand, pyarrow, monkeypatch):
    """The hub really is out of reach here: HF_HUB_OFFLINE is set by conftest.py."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name, real=importlib.util.find_spec: pyarrow or None if name == "pyarrow" else real(name))
    with pytest.raises(rows.UserError) as caught:
        list(fetch(name, subset))
    message = str(caught.value)
    assert repository in message and f"by hand and pass --problems {by_hand}" in message and "https://" in message and "\n" not in message
    assert ("pip install pyarrow" in message) == (not pyarrow and name != "livecodebench")


def test_a_benchmark_that_the_hub_has_not_is_said(capsys):
    with pytest.raises(rows.UserError, match="codecontests: it is not on the hub"):
        list(fetch("codecontests"))


def test_parquet_files_are_read_row_by_row(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="parquet files want pyarrow, which this project does not install")
    from pyarrow import parquet
    original = {"task_id": 11, "text": "Add.", "code": "def add(a, b):\n  return a + b", "test_list": ["assert add(1, 2) == 3", "assert add(0, 0) == 0"],
                "test_setup_code": "", "challenge_test_list": []}
    parquet.write_table(pyarrow.Table.from_pylist([{**original, "task_id": k} for k in range(150)]), tmp_path / "mbpp.parquet")
    assert load_benchmark("mbpp", tmp_path / "mbpp.parquet") == load_benchmark("mbpp", write(tmp_path / "m.jsonl", *({**original, "task_id": k} for k in range(150))))
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    with pytest.raises(rows.UserError, match="bad.parquet: cannot be read as parquet"):
        load_benchmark("mbpp", tmp_path / "bad.parquet")


def test_a_parquet_file_without_pyarrow_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(rows.UserError, match="x.parquet: parquet files want pyarrow"):
        load_benchmark("mbpp", tmp_path / "x.parquet")


def test_what_is_not_wanted_is_not_unpacked(tmp_path):
    """An unwanted row may even be broken: its tests are never looked at."""
    path = write(tmp_path / "lcb.jsonl", lcb(private_test_cases="%%%", contest_date="2024-01-01T00:00:00"), lcb(question_id="2"))
    assert [row["problem_id"] for row in read_benchmark("livecodebench", [path], wanted=lambda row: row["date"] > "2024-12-31")] == ["atcoder/2"]


# ---------------------------------------------------------------- BigCodeBench's subsets

def bcb(task_id="BigCodeBench/13", **changes):
    code = "import json\nimport os\n\ndef task_func(x):\n"
    return {"task_id": task_id, "complete_prompt": code + '    """Doc."""\n', "instruct_prompt": "Do it. Begin with ...", "code_prompt": code,
            "canonical_solution": "    return x\n", "test": "import unittest\nclass TestCases(unittest.TestCase):\n    pass\n", "entry_point": "task_func",
            "libs": "['json', 'os']", **changes}


def test_all_of_bigcodebench_is_not_taken_for_its_hard_subset(tmp_path):
    path = write(tmp_path / "b.jsonl", bcb("BigCodeBench/0"))
    with pytest.raises(rows.UserError, match="b.jsonl, row 1: this is all of BigCodeBench; --subset hard wants .*BigCodeBench-Hard.jsonl.gz"):
        list(read_benchmark("bigcodebench", [path], subset=["hard"]))
    assert len(list(read_benchmark("bigcodebench", [write(tmp_path / "h.jsonl", bcb())], subset=["hard"]))) == 1


def bigcodebench_problem(tmp_path, *subset):
    problem, = read_benchmark("bigcodebench", [write(tmp_path / "b.jsonl", bcb())], subset=subset)
    return problem


def test_an_instruct_problem_shows_the_instruct_prompt_and_wants_a_chat_model(tmp_path):
    complete, instruct = bigcodebench_problem(tmp_path), bigcodebench_problem(tmp_path, "instruct")
    intro = "Please provide a self-contained Python script that solves the following problem in a markdown code block:\n"
    assert ask(complete, True) == intro + "```\n" + complete["prompt"].strip() + "\n```\n" and ask(complete, False) is None
    assert ask(instruct, True) == intro + "Do it. Begin with ...\n" and instruct["prompt"] == "Do it. Begin with ..."
    with pytest.raises(rows.UserError, match="--subset instruct wants a chat model"):
        ask(instruct, False)


PROGRAM = "import os\nimport json\n\nLIMIT = 3\n\n\ndef helper(x):\n    return x[:LIMIT]\n\n\n@cache\ndef task_func(x):\n    return helper(x)\n"


@pytest.mark.parametrize("subset", [[], ["instruct"]])
@pytest.mark.parametrize("answer, code", [
    (f"```python\n{PROGRAM}```", PROGRAM), (PROGRAM, PROGRAM), (f"Install:\n```bash\npip install x\n```\n```python\n{PROGRAM}```\nRun:\n```python\ntask_func(1)\n```", PROGRAM),
    (f"```python\n{PROGRAM}\nfound = task_func([1])\nprint(found)\nif __name__ == '__main__':\n    task_func([2])\n\n\ndef unused():\n    pass\n```", PROGRAM),
    ('```python\ndef task_func(x):\n    """\n    ```\n    x\n    ```\n    """\n    return x\n```', 'def task_func(x):\n    """\n    ```\n    x\n    ```\n    """\n    return x\n'),
    ("```python\n    return x\n```", "import json\nimport os\ndef task_func(x):\n    return x\n"), ("```python\nprint('no function')\n```", "\n")])
def test_bigcodebench_keeps_of_an_answer_what_its_function_needs(subset, answer, code, tmp_path):
    squeeze = lambda text: [line for line in text.split("\n") if line.strip()]  # noqa: E731
    assert squeeze(cut(answer, bigcodebench_problem(tmp_path, *subset), True)) == squeeze(code)


def test_the_canonical_solutions_survive_bigcodebench_s_cut(tmp_path):
    if not (DATA / "BigCodeBench.hf_data.jsonl.gz").exists():
        pytest.skip("set DAJ_BENCHMARK_DATA to the folder of the original files")
    for problem in load_benchmark("bigcodebench", DATA / "BigCodeBench.hf_data.jsonl.gz"):
        code = cut(f"```python\n{problem['canonical_solution']}\n```", problem, True)
        assert f"def {problem['entry_point']}(" in code
        assert code[code.index("def task_func("):].strip() in problem["canonical_solution"]


# ---------------------------------------------------------------- LiveCodeBench's and MBPP's words

def test_livecodebench_asks_and_cuts_as_it_does(tmp_path):
    stdin, = load_benchmark("livecodebench", write(tmp_path / "a.jsonl", lcb(question_content="Read n.")))
    functional, = load_benchmark("livecodebench", write(tmp_path / "b.jsonl", lcb(starter_code="class Solution:\n    def f(self):\n        ")))
    asked = ask(stdin, True)
    assert asked.startswith("You are an expert Python programmer.") and "### Question:\nRead n.\n\n### Format: Read the inputs from stdin" in asked
    assert "```python\n# YOUR CODE HERE\n```" in asked and asked.endswith("### Answer: (use the provided format with backticks)\n\n")
    assert "the following starter code" in ask(functional, True) and "```python\nclass Solution:" in ask(functional, True)
    assert ask(stdin, False) is None  # a plain model gets the problem itself
    answer = "A draft:\n```python\nprint(0)\n```\nBetter:\n```python\nprint(1)\n```\nDone."
    assert cut(answer, stdin, True) == "print(1)"  # the last block
    assert cut("print(1)", stdin, True) == cut("```python\nprint(1)", stdin, True) == ""  # none, or cut off: no program
    assert cut("print(1)", stdin, False) is None


def test_mbpp_asks_as_its_paper_does_but_with_the_public_test_alone(tmp_path):
    row = {"text": "Add.", "code": "def add(a, b):\n  return a + b", "task_id": 1, "test_setup_code": "", "test_list": ["assert add(1, 2) == 3", "assert add(0, 0) == 0"],
           "challenge_test_list": []}
    problem, = load_benchmark("mbpp", write(tmp_path / "mbpp.jsonl", row))
    words = "You are an expert Python programmer, and here is your task: Add. Your code should pass these tests:\n\nassert add(1, 2) == 3\n"
    assert ask(problem, True) == words and ask(problem, False) == words + "[BEGIN]\n"
    assert cut("def add(a, b):\n  return a + b\n[DONE]\nYou are", problem, False) == "def add(a, b):\n  return a + b\n"
