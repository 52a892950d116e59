"""data/benchmarks.py: original rows become problem rows, and nothing in a benchmark's file is ever run to read it."""
import base64
import gzip
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
from data.benchmarks import load_benchmark, private_text  # noqa: E402

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
        with pytest.raises(rows.RowError, match="UNICODE"):
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
    with pytest.raises(rows.RowError, match=r"lcb.jsonl, row 2: private_test_cases holds the pickle opcode"):
        load_benchmark("livecodebench", path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("text, message", [("%%%", "neither"), (base64.b64encode(b"junk").decode(), "neither"), (packed(["a", "b"]), "opcode"),
                                           (base64.b64encode(zlib.compress(pickle.dumps("x" * 5000))[:-9]).decode(), "cut off"), (packed(""), "not as livecodebench")])
def test_broken_private_tests_are_an_error_that_names_the_row(text, message, tmp_path):
    with pytest.raises(rows.RowError, match=f"lcb.jsonl, row 1: .*{message}"):
        load_benchmark("livecodebench", write(tmp_path / "lcb.jsonl", lcb(private_test_cases=text)))


def test_a_small_file_that_unpacks_without_end_is_refused(monkeypatch):
    monkeypatch.setattr("data.benchmarks.MAX_UNPACKED", 1 << 16)
    with pytest.raises(rows.RowError, match="more than 65536 bytes"):
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
    with pytest.raises(rows.RowError, match=message):
        load_benchmark("humaneval", path)


def test_unknown_benchmarks_and_missing_files_are_named(tmp_path):
    with pytest.raises(rows.RowError, match="--benchmark nonsense: expected one of humaneval"):
        load_benchmark("nonsense", tmp_path)
    with pytest.raises(rows.RowError, match="no such file"):
        load_benchmark("mbpp", tmp_path / "none.json")
