"""data/benchmarks: original rows become problem rows, and nothing in a benchmark's file is ever run to read it."""
import base64
import gzip
import importlib.util
import json
import os
import pickle
import zlib
from pathlib import Path

import pytest

from data import rows
from data.benchmarks import (PRESETS, extract_code, fetch, livecodebench, load_benchmark, read_benchmark,
                             solution_prompt)
from data.benchmarks.answers import thoughts_are_open
from data.benchmarks.livecodebench import private_text

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("DAJ_BENCHMARK_DATA") or ROOT.parent / "shared" / "data")


def write(path, *originals):
    path.write_text("".join(json.dumps(row) + "\n" for row in originals))
    return path


def original_file(name):
    if not (DATA / name).exists():
        pytest.skip(f"{DATA / name} does not exist; set DAJ_BENCHMARK_DATA to the folder of the original files")
    return DATA / name


def without_blank_lines(text):
    return [line for line in text.split("\n") if line.strip()]


# ---------------------------------------------------------------- original rows, as the tests make them

STDIN_TESTS = [{"input": "1\n", "output": "2\n", "testtype": "stdin"}]


def packed(thing, protocol=4):
    """As LiveCodeBench packs its private tests."""
    return base64.b64encode(zlib.compress(pickle.dumps(thing, protocol))).decode()


def lcb_row(**changes):
    return {
        "question_title": "t",
        "question_content": "c",
        "platform": "atcoder",
        "question_id": "1",
        "contest_id": "2",
        "contest_date": "2025-02-03T00:00:00",
        "starter_code": "",
        "difficulty": "easy",
        "public_test_cases": json.dumps(STDIN_TESTS),
        "private_test_cases": packed(json.dumps(STDIN_TESTS)),
        "metadata": "{}",
        **changes,
    }


def mbpp_row(**changes):
    return {
        "task_id": 11,
        "text": "Add.",
        "code": "def add(a, b):\n  return a + b",
        "test_setup_code": "",
        "test_list": ["assert add(1, 2) == 3", "assert add(0, 0) == 0"],
        "challenge_test_list": [],
        **changes,
    }


BCB_STUB = "import json\nimport os\n\ndef task_func(x):\n"
BCB_TEST = """\
import unittest

class TestCases(unittest.TestCase):
    def test_one(self):
        self.assertEqual(task_func(1), 1)
"""


def bcb_row(task_id="BigCodeBench/13", **changes):
    return {
        "task_id": task_id,
        "complete_prompt": BCB_STUB + '    """Doc."""\n',
        "instruct_prompt": "Do it. Begin with ...",
        "code_prompt": BCB_STUB,
        "canonical_solution": "    return x\n",
        "test": BCB_TEST,
        "entry_point": "task_func",
        "libs": "['json', 'os']",
        **changes,
    }


@pytest.fixture
def lcb_problem(tmp_path):
    """lcb_problem(field=value, ...): the problem row of such an original row."""
    def load(**changes):
        problem, = load_benchmark("livecodebench", write(tmp_path / "lcb.jsonl", lcb_row(**changes)))
        return problem
    return load


@pytest.fixture
def mbpp_problem(tmp_path):
    def load(**changes):
        problem, = load_benchmark("mbpp", write(tmp_path / "mbpp.jsonl", mbpp_row(**changes)))
        return problem
    return load


@pytest.fixture
def bcb_problem(tmp_path):
    """bcb_problem(subset, ...): the same, of BigCodeBench."""
    def load(*subset):
        problem, = read_benchmark("bigcodebench", [write(tmp_path / "b.jsonl", bcb_row())], subset=subset)
        return problem
    return load


# ---------------------------------------------------------------- rows

@pytest.mark.parametrize("name, file, count, tests", [
    ("humaneval", "HumanEval.jsonl.gz", 164, 164),
    ("mbpp", "sanitized-mbpp.json", 427, 1324),
    ("bigcodebench", "BigCodeBench.hf_data.jsonl.gz", 1140, 1140),
    ("livecodebench", "lcb_reconstructed_3rows.jsonl", 3, 34),
    ("livecodebench", "lcb_genuine_row_1873_A.jsonl", 1, None),
    ("codecontests", "code_eval_code_contests.jsonl", 20, 2233),
])
def test_original_files_become_problem_rows(name, file, count, tests, tmp_path):
    problems = load_benchmark(name, original_file(file))
    assert len(problems) == count
    if tests is not None:
        assert sum(len(row["public_tests"]) + len(row["tests"]) for row in problems) == tests
    rows.write_rows(tmp_path / "problems.jsonl", problems)
    read_again = rows.read_problems(tmp_path / "problems.jsonl")
    assert read_again.keys() == {row["problem_id"] for row in problems}


@pytest.mark.parametrize("changes, subset, words", [
    (dict(test_list=[]), (), "`test_list` is empty"),
    (dict(test_imports="import math"), (), "`test_imports` is no list"),
    (dict(test="def check(f): ..."), (), "rows of MBPP\\+"),
    ({}, ("sanitized",), "this is all of MBPP"),
])
def test_mbpp_rows_that_would_be_read_wrongly_are_refused(changes, subset, words, tmp_path):
    path = write(tmp_path / "m.jsonl", mbpp_row(**changes))
    with pytest.raises(rows.UserError, match=f"m.jsonl, row 1: .*{words}"):
        list(read_benchmark("mbpp", [path], subset=subset))


@pytest.mark.parametrize("testtype, metadata", [("functional", ""), ("functional", "{}"), ("stdin", '{"func_name": "f"}')])
def test_a_contest_whose_tests_are_of_another_kind_than_it_says_is_refused(testtype, metadata, tmp_path):
    tests = json.dumps([{"input": "1", "output": "1", "testtype": testtype}])
    path = write(tmp_path / "l.jsonl", lcb_row(metadata=metadata, public_test_cases=tests, private_test_cases=tests))
    with pytest.raises(rows.UserError, match="l.jsonl, row 1: its tests are of the type"):
        load_benchmark("livecodebench", path)


def test_a_problem_without_a_text_is_refused(tmp_path):
    path = write(tmp_path / "l.jsonl", lcb_row(question_content=None))
    with pytest.raises(rows.UserError, match="row 1: field 'prompt' has the wrong type"):
        load_benchmark("livecodebench", path)


@pytest.mark.parametrize("name", ["problem_id", "prompt", "domain"])
def test_a_format_that_leaves_out_what_every_stage_needs_is_refused_at_once(
        name, tmp_path, monkeypatch):
    described = livecodebench.describe(lcb_row(), ())
    del described[name]
    monkeypatch.setattr(livecodebench, "describe", lambda row, subset: described)
    with pytest.raises(rows.UserError, match=f"row 1: field '{name}' is missing"):
        load_benchmark("livecodebench", write(tmp_path / "l.jsonl", lcb_row()))


@pytest.mark.parametrize("text", ["Add.", "Add.\n"])
def test_a_plain_model_s_prompt_has_the_code_on_a_line_of_its_own(text):
    problem = {"problem_id": "x", "prompt": text, "starter_code": "def f(x):\n", "source": "mine"}
    assert solution_prompt(problem) == "Add.\ndef f(x):\n"


@pytest.mark.parametrize("protocol", range(1, 5))
def test_private_tests_are_decoded_whatever_the_pickle_protocol(protocol):
    assert json.loads(private_text(packed(json.dumps(STDIN_TESTS), protocol))) == STDIN_TESTS


def test_text_pickles_are_refused_which_genuine_rows_never_are():
    with pytest.raises(rows.UserError, match="UNICODE"):
        private_text(packed("[]", protocol=0))


def test_a_pickle_of_two_strings_is_refused():
    two = pickle.dumps("[1]", 2)[:-1] + pickle.dumps("[2]", 2)[2:]
    assert pickle.loads(two) == "[2]"
    with pytest.raises(rows.UserError, match="2 strings"):
        private_text(base64.b64encode(zlib.compress(two)).decode())


def test_plain_private_tests_are_read_too(lcb_problem):
    problem = lcb_problem(private_test_cases=json.dumps(STDIN_TESTS))
    assert problem["tests"] == [{"type": "stdin", "input": "1\n", "output": "2\n"}]
    assert problem["date"] == "2025-02-03"


class Bomb:
    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


def test_a_pickle_that_runs_code_is_refused_and_not_run(tmp_path):
    bomb = Bomb()
    bomb.target = str(tmp_path / "ran")
    hostile = lcb_row(question_id="2", private_test_cases=packed(bomb))
    path = write(tmp_path / "lcb.jsonl", lcb_row(), hostile)
    with pytest.raises(rows.UserError, match="lcb.jsonl, row 2: private_test_cases holds the pickle opcode"):
        load_benchmark("livecodebench", path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("text, message", [
    ("%%%", "neither"),
    (base64.b64encode(b"junk").decode(), "neither"),
    (packed(["a", "b"]), "opcode"),
    (base64.b64encode(zlib.compress(pickle.dumps("x" * 5000))[:-9]).decode(), "cut off"),
    (packed(""), "not as livecodebench"),
])
def test_broken_private_tests_are_an_error_that_names_the_row(text, message, tmp_path):
    path = write(tmp_path / "lcb.jsonl", lcb_row(private_test_cases=text))
    with pytest.raises(rows.UserError, match=f"lcb.jsonl, row 1: .*{message}"):
        load_benchmark("livecodebench", path)


def test_a_small_file_that_unpacks_without_end_is_refused():
    with pytest.raises(rows.UserError, match="more than 65536 bytes"):
        private_text(packed("x" * (1 << 20)), limit=1 << 16)


def test_functional_arguments_are_json_lines(lcb_problem):
    tests = json.dumps([{"input": '[1, 2]\n"a"', "output": '{"k": [1]}', "testtype": "functional"}])
    problem = lcb_problem(metadata='{"func_name": "solve"}', public_test_cases=tests, private_test_cases=tests)
    assert problem["entry_point"] == "solve"
    assert problem["tests"] == [{"type": "call", "args": [[1, 2], "a"], "expected": {"k": [1]}}]


def test_full_mbpp_rows_are_read_with_unix_line_ends(mbpp_problem):
    problem = mbpp_problem(code="def add(a, b):\r\n  return a + b", test_setup_code="one = 1\r\n",
                           test_list=["assert add(one, 2) == 3\r\n"],
                           challenge_test_list=["assert add(1, 1) == 2"])
    assert "\\r" not in json.dumps(problem)
    assert problem["entry_point"] == "add"
    assert len(problem["tests"]) == 1


CHAIN = """\
class Link:
    def __init__(self, number, after=None):
        self.number = number
        self.after = after

def total(link):
    return link.number + total(link.after) if link else 0
"""


def test_mbpp_s_setup_code_runs_after_the_program_whose_classes_it_uses(mbpp_problem):
    problem = mbpp_problem(code=CHAIN, test_setup_code="chain = Link(1, Link(2))",
                           test_list=["assert total(chain) == 3"])
    scope = {}
    exec(problem.get("setup", ""), scope)
    exec(problem["canonical_solution"], scope)
    exec(problem["public_tests"][0]["source"], scope)
    assert scope["chain"].number == 1


@pytest.mark.parametrize("setup, line", [
    ("", "assert add(1, 2) == 3"),
    ("one = [1]", "assert add(one, [2]) == [1, 2]"),
    ("", "assert sorted(add([2], list('a')), key=len) == [1]"),
    ("import math", "assert math.isclose(add(0.1, 0.2), 0.3)"),
    ("", "assert isinstance(add(1, 2), int)"),
])
def test_asserts_that_call_functions_with_plain_values_run_apart(setup, line, mbpp_problem):
    test, = mbpp_problem(test_setup_code=setup, test_list=[line])["public_tests"]
    assert "inside" not in test


@pytest.mark.parametrize("setup, line", [
    ("", "assert add(P(), 2)"),  # a class of the candidate's
    ("p = P()", "assert add(p, 2)"),
    ("", "assert add([1, 'a'], int) == [1]"),
    ("", "assert add(lambda x: x, 2)"),
    ("", "assert add(map(str, [1]), 2)"),
    ("", "assert add((x for x in [1]), 2)"),
    ("", "assert add(add, b=2)"),
    ("", "assert add(1, b=len)"),
])
def test_asserts_that_hand_over_more_than_plain_values_run_inside(setup, line, mbpp_problem):
    code = "class P:\n  pass\ndef add(a, b):\n  return a + b"
    test, = mbpp_problem(code=code, test_setup_code=setup, test_list=[line])["public_tests"]
    assert test["inside"] is True


@pytest.mark.parametrize("source", [
    "def test_one():\n    assert task_func(1) == 1\n",  # pytest's style
    "class TestCases:\n    def test_one(self):\n        assert task_func(1) == 1\n",
    "import unittest\nclass TestCases(unittest.TestCase):\n    pass\n",
])
def test_a_bigcodebench_row_without_a_test_that_unittest_finds_is_refused(source, tmp_path):
    path = write(tmp_path / "b.jsonl", bcb_row(test=source))
    with pytest.raises(rows.UserError, match="b.jsonl, row 1: `test` holds no test methods"):
        load_benchmark("bigcodebench", path)


def test_a_bigcodebench_row_with_another_name_for_testcase_is_kept(tmp_path):
    source = BCB_TEST.replace("import unittest", "from unittest import TestCase as Case")
    source = source.replace("unittest.TestCase", "Case")
    assert len(load_benchmark("bigcodebench", write(tmp_path / "b.jsonl", bcb_row(test=source)))) == 1


def test_rows_say_whose_rule_makes_an_output_right(lcb_problem, mbpp_problem, tmp_path):
    contest = {"id": 1, "content": "c", "labels": {}, "test": [{"input": {"stdin": ""}, "output": {"stdout": ""}}]}
    problem, = load_benchmark("codecontests", write(tmp_path / "c.jsonl", contest))
    assert problem["compare"] == "codecontests"
    assert lcb_problem()["compare"] == "livecodebench"
    assert "compare" not in mbpp_problem()


@pytest.mark.parametrize("content, message", [
    (b"{}\n", "row 1: field .* is missing; is this really a file of humaneval"),
    (b"", "no rows"),
    (b"{\n", "line 1: cannot be read as JSON"),
    (b"\n\n{\n", "line 3: cannot be read as JSON"),
    (b"[" * 200_000, "line 1: cannot be read as JSON"),
    (gzip.compress(b"{}")[:-3], "cannot be read"),
    (gzip.compress(b"{}")[:10] + b"\xff" * 20, "cannot be read"),
    (b'{"task_id": 1, "test": 1}', "row 1"),
])
def test_a_bad_file_is_named(content, message, tmp_path):
    zipped = content.startswith(b"\x1f")
    path = tmp_path / ("file.jsonl.gz" if zipped else "file.jsonl")
    path.write_bytes(content)
    with pytest.raises(rows.UserError, match=message):
        load_benchmark("humaneval", path)


@pytest.mark.parametrize("content", ["5", "null", '{"data": []}', "[" * 200_000])
def test_a_json_file_that_holds_no_array_is_named(content, tmp_path):
    path = tmp_path / "file.json"
    path.write_text(content)
    with pytest.raises(rows.UserError, match="file.json: (expected a JSON array|cannot be read as JSON)"):
        load_benchmark("humaneval", path)


def test_unknown_benchmarks_and_missing_files_are_named(tmp_path):
    with pytest.raises(rows.UserError, match="--benchmark nonsense: expected one of humaneval"):
        load_benchmark("nonsense", tmp_path)
    with pytest.raises(rows.UserError, match="no such file"):
        load_benchmark("mbpp", tmp_path / "none.json")


def test_a_row_without_tests_is_refused(tmp_path):
    path = write(tmp_path / "lcb.jsonl", lcb_row(public_test_cases="[]", private_test_cases="[]"))
    with pytest.raises(rows.UserError, match="row 1: problem 'atcoder/1' has no tests"):
        load_benchmark("livecodebench", path)


def test_a_problem_that_comes_twice_is_refused(tmp_path):
    path = write(tmp_path / "lcb.jsonl", lcb_row(), lcb_row())
    with pytest.raises(rows.UserError, match="row 2: problem 'atcoder/1' is already in the file"):
        load_benchmark("livecodebench", path)


def test_what_is_not_wanted_is_not_unpacked(tmp_path):
    """An unwanted row may even be broken: its tests are never looked at."""
    broken = lcb_row(private_test_cases="%%%", contest_date="2024-01-01T00:00:00")
    path = write(tmp_path / "lcb.jsonl", broken, lcb_row(question_id="2"))

    def wanted(problem):
        return problem["date"] > "2024-12-31"
    kept = list(read_benchmark("livecodebench", [path], wanted=wanted))
    assert [problem["problem_id"] for problem in kept] == ["atcoder/2"]


def test_all_of_bigcodebench_is_not_taken_for_its_hard_subset(tmp_path):
    whole = write(tmp_path / "b.jsonl", bcb_row("BigCodeBench/0"))
    message = "b.jsonl, row 1: this is all of BigCodeBench; --subset hard wants .*BigCodeBench-Hard.jsonl.gz"
    with pytest.raises(rows.UserError, match=message):
        list(read_benchmark("bigcodebench", [whole], subset=["hard"]))
    hard = write(tmp_path / "h.jsonl", bcb_row())
    assert len(list(read_benchmark("bigcodebench", [hard], subset=["hard"]))) == 1


HUMANEVAL = {
    "task_id": "HumanEval/0",
    "prompt": 'def add(a, b):\n    """ Add two numbers. """\n',
    "entry_point": "add",
    "canonical_solution": "    return a + b\n",
    "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n",
}


def test_rows_of_humaneval_plus_whose_further_tests_would_not_be_run_are_refused(tmp_path):
    more = {"contract": "", "base_input": [[1, 2]], "atol": 0, "plus_input": [[-1, 1]]}
    path = write(tmp_path / "HumanEvalPlus.jsonl", {**HUMANEVAL, **more})
    with pytest.raises(rows.UserError, match="HumanEvalPlus.jsonl, row 1: .*plus_input"):
        load_benchmark("humaneval", path)


def test_rows_of_humaneval_plus_from_the_hub_say_that_their_tests_need_numpy(tmp_path):
    theirs = {**HUMANEVAL, "test": "import numpy as np\n\n" + HUMANEVAL["test"]}
    plain, plus = load_benchmark("humaneval", write(tmp_path / "h.jsonl", HUMANEVAL,
                                                    {**theirs, "task_id": "HumanEval/1"}))
    assert "libs" not in plain
    assert plus["libs"] == ["numpy"]


def test_humaneval_s_program_goes_on_after_the_prompt_and_its_check_is_called(tmp_path):
    problem, = load_benchmark("humaneval", write(tmp_path / "h.jsonl", HUMANEVAL))
    assert problem["problem_id"] == "HumanEval/0"
    assert problem["entry_point"] == "add"
    assert solution_prompt(problem) == HUMANEVAL["prompt"]
    assert problem["public_tests"] == []
    test, = problem["tests"]
    right = extract_code("    return a + b\n", problem)
    assert right == problem["canonical_solution"] == HUMANEVAL["prompt"] + "    return a + b\n"
    scope = {}
    exec(right + test["source"], scope)
    with pytest.raises(AssertionError):
        exec(extract_code("    return a - b\n", problem) + test["source"], scope)


@pytest.mark.parametrize("form", [json.dumps, lambda value: value])
def test_codecontests_shows_its_first_test_and_says_where_a_contest_is_from(form, tmp_path):
    row = {
        "id": 7,
        "content": "Double n.",
        "labels": form({"source": "CODEFORCES", "difficulty": "HARD"}),
        "test": form([{"input": {"stdin": f"{n}\n"}, "output": {"stdout": f"{2 * n}\n"}}
                      for n in (1, 2, 3)]),
    }
    problem, = load_benchmark("codecontests", write(tmp_path / "c.jsonl", row))
    assert problem["public_tests"] == [{"type": "stdin", "input": "1\n", "output": "2\n"}]
    assert [test["output"] for test in problem["tests"]] == ["4\n", "6\n"]
    assert problem["domain"] == "codeforces"
    assert problem["difficulty"] == "hard"


def test_a_contest_s_public_tests_are_shown_and_its_private_ones_hidden(lcb_problem):
    private = json.dumps([{"input": "3\n", "output": "6\n", "testtype": "stdin"}])
    problem = lcb_problem(private_test_cases=packed(private))
    assert problem["public_tests"] == [{"type": "stdin", "input": "1\n", "output": "2\n"}]
    assert problem["tests"] == [{"type": "stdin", "input": "3\n", "output": "6\n"}]


def test_contests_run_as_their_benchmark_runs_them(lcb_problem, bcb_problem, tmp_path):
    problem = lcb_problem(starter_code="class Solution:\n")
    assert problem["time_limit"] == 6
    assert problem["starter_code"] == "class Solution:\n"
    assert problem["setup"].startswith("from string import *\n")
    assert "sys.setrecursionlimit(50000)\n" in problem["setup"]
    problem = bcb_problem()
    assert problem["time_limit"] == 240
    scope = {}
    exec(problem["setup"], scope)
    assert scope["task_func"](1) is None  # the stub: a program without the function fails its tests


def test_public_tests_of_another_kind_or_private_ones_are_told_from_the_contest_s(tmp_path):
    of_functions = json.dumps([{"input": "1", "output": "1", "testtype": "functional"}])
    for name in ("public_test_cases", "private_test_cases"):
        path = write(tmp_path / f"{name}.jsonl", lcb_row(**{name: of_functions}))
        with pytest.raises(rows.UserError, match="its tests are of the type functional"):
            load_benchmark("livecodebench", path)


def test_a_problem_that_comes_again_in_another_file_is_refused(tmp_path):
    paths = [write(tmp_path / name, lcb_row()) for name in ("a.jsonl", "b.jsonl")]
    message = "b.jsonl, row 1: problem 'atcoder/1' is already in the file"
    with pytest.raises(rows.UserError, match=message):
        list(read_benchmark("livecodebench", paths))


def test_the_same_number_on_two_platforms_is_two_contests(tmp_path):
    path = write(tmp_path / "l.jsonl", lcb_row(), lcb_row(platform="codeforces"))
    problems = load_benchmark("livecodebench", path)
    assert [row["problem_id"] for row in problems] == ["atcoder/1", "codeforces/1"]


TWO = "def about():\n  return 1\ndef add(a, b):\n  return a + b"


def test_mbpp_s_entry_point_is_the_first_function_that_its_asserts_call(mbpp_problem):
    asserts = ["assert add(1, 2) == 3", "assert about() == 1"]
    assert mbpp_problem(code=TWO, test_list=asserts)["entry_point"] == "add"


def test_mbpp_s_imports_stand_before_each_of_its_asserts(mbpp_problem):
    asserts = ["assert m.isclose(add(1, 2), 3)", "assert m.isclose(add(1, 1), 2)"]
    problem = mbpp_problem(test_imports=["import math as m"], test_list=asserts)
    tests = problem["public_tests"] + problem["tests"]
    assert [test["source"] for test in tests] == [f"import math as m\n\n{line}" for line in asserts]
    assert not any("inside" in test for test in tests)


LIBRARIES = BCB_TEST + "\nfrom numpy.testing import assert_allclose\n"


def test_bigcodebench_s_libraries_are_all_that_its_row_imports_from_elsewhere(tmp_path):
    prompt = "import pandas.io\n" + BCB_STUB + '    """Doc."""\n'
    row = bcb_row(test=LIBRARIES, complete_prompt=prompt, libs="['json', 'sklearn.base']")
    problem, = load_benchmark("bigcodebench", write(tmp_path / "b.jsonl", row))
    assert problem["libs"] == ["numpy", "pandas", "sklearn"]


# ---------------------------------------------------------------- from the hub

@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with one contest of March 2025 in LiveCodeBench's last file and one of 2023 in each other: what it is asked."""
    requests = []

    def download(repository, file, repo_type):
        requests.append((repository, file, repo_type))
        day = "2025-03-01" if file == "test6.jsonl" else "2023-05-07"
        return write(tmp_path / file, lcb_row(question_id=file, contest_date=f"{day}T00:00:00"))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    return requests


def test_only_those_files_come_from_the_hub_that_can_hold_the_dates(hub):
    since = PRESETS["daj-test"]["since"]
    problems = read_benchmark("livecodebench", fetch("livecodebench", since=since),
                              wanted=lambda problem: problem["date"] >= since)
    assert hub == []  # nothing before it is its turn
    assert [problem["problem_id"] for problem in problems] == ["atcoder/test6.jsonl"]
    repository = "livecodebench/code_generation_lite"
    assert hub == [(repository, "test5.jsonl", "dataset"), (repository, "test6.jsonl", "dataset")]


def test_without_dates_every_file_comes_from_the_hub(hub):
    assert len(list(read_benchmark("livecodebench", fetch("livecodebench")))) == 6
    assert len(hub) == 6


@pytest.mark.parametrize("name, subset, repository, by_hand", [
    ("humaneval", [], "openai/openai_humaneval", "HumanEval.jsonl.gz"),
    ("mbpp", [], "google-research-datasets/mbpp", "mbpp.jsonl"),
    ("mbpp", ["sanitized"], "google-research-datasets/mbpp", "sanitized-mbpp.json"),
    ("bigcodebench", ["instruct"], "bigcode/bigcodebench", "BigCodeBench.jsonl.gz"),
    ("bigcodebench", ["hard", "instruct"], "bigcode/bigcodebench-hard", "BigCodeBench-Hard.jsonl.gz"),
    ("livecodebench", [], "livecodebench/code_generation_lite", "test.jsonl"),
])
@pytest.mark.parametrize("pyarrow", [False, True])
def test_without_the_hub_or_pyarrow_the_file_to_fetch_by_hand_is_named(
        name, subset, repository, by_hand, pyarrow, monkeypatch):
    """The hub really is out of reach here: HF_HUB_OFFLINE is set by conftest.py."""
    installed(monkeypatch, pyarrow=pyarrow)
    with pytest.raises(rows.UserError) as caught:
        list(fetch(name, subset))
    message = str(caught.value)
    assert repository in message
    assert f"by hand and pass --problems {by_hand}" in message
    assert "https://" in message
    assert "\n" not in message
    assert ("pip install pyarrow" in message) == (not pyarrow and name != "livecodebench")


def installed(monkeypatch, pyarrow):
    """Make it look as if pyarrow were installed, or were not."""
    real = importlib.util.find_spec

    def find_spec(name, *rest):
        if name == "pyarrow":
            return "a spec" if pyarrow else None
        return real(name, *rest)
    monkeypatch.setattr("importlib.util.find_spec", find_spec)


def test_a_benchmark_that_the_hub_has_not_is_said():
    with pytest.raises(rows.UserError, match="codecontests: it is not on the hub"):
        list(fetch("codecontests"))


def test_parquet_files_are_read_row_by_row(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="parquet files want pyarrow, which this project does not install")
    from pyarrow import parquet
    originals = [mbpp_row(task_id=number) for number in range(150)]
    parquet.write_table(pyarrow.Table.from_pylist(originals), tmp_path / "mbpp.parquet")
    as_json = load_benchmark("mbpp", write(tmp_path / "mbpp.jsonl", *originals))
    assert load_benchmark("mbpp", tmp_path / "mbpp.parquet") == as_json


def test_a_broken_parquet_file_is_named(tmp_path):
    pytest.importorskip("pyarrow", reason="parquet files want pyarrow, which this project does not install")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    with pytest.raises(rows.UserError, match="bad.parquet: cannot be read as parquet"):
        load_benchmark("mbpp", tmp_path / "bad.parquet")


def test_a_parquet_file_without_pyarrow_is_named(tmp_path, monkeypatch):
    installed(monkeypatch, pyarrow=False)
    with pytest.raises(rows.UserError, match="x.parquet: parquet files want pyarrow"):
        load_benchmark("mbpp", tmp_path / "x.parquet")


# ---------------------------------------------------------------- prompts

STARTER = 'from typing import List\n\n\ndef f(xs: List[int]) -> int:\n    """ Add. """\n'
FUNCTION = {"prompt": STARTER, "starter_code": STARTER, "entry_point": "f"}
CLASS_STARTER = "class Solution:\n    def longest(self, s: str) -> int:\n        "
CLASS = {"prompt": "Longest word?", "entry_point": "longest", "starter_code": CLASS_STARTER}
WHOLE = {"prompt": "Read n.", "starter_code": "", "entry_point": None}


def test_a_prompt_that_ends_with_the_starter_code_holds_it_once():
    assert solution_prompt(FUNCTION) == STARTER
    assert solution_prompt(FUNCTION, chat=True).count(STARTER) == 1


def test_starter_code_that_the_prompt_lacks_is_added_to_it():
    apart = {"prompt": "Add.\n", "starter_code": "def f(x):\n", "entry_point": "f"}
    assert solution_prompt(apart) == "Add.\ndef f(x):\n"
    shown = solution_prompt(apart, chat=True)
    assert shown.count("Add.") == 1
    assert shown.count("def f(x):\n") == 1
    assert "```python\ndef f(x):\n" in shown


def test_livecodebench_s_own_prompt_asks_for_a_program_or_for_the_starter_code(lcb_problem):
    stdin = solution_prompt(lcb_problem(question_content="Read n."), chat=True)
    assert stdin.startswith("You are an expert Python programmer.")
    assert "### Question:\nRead n.\n\n### Format: Read the inputs from stdin" in stdin
    assert "```python\n# YOUR CODE HERE\n```" in stdin
    assert stdin.endswith("### Answer: (use the provided format with backticks)\n\n")
    functional = solution_prompt(lcb_problem(starter_code="class Solution:\n    def f(self):\n        "), chat=True)
    assert "the following starter code" in functional
    assert "```python\nclass Solution:" in functional


def test_a_plain_model_gets_livecodebench_s_question_itself(lcb_problem):
    assert solution_prompt(lcb_problem(question_content="Read n.")) == "Read n."


BCB_INTRO = ("Please provide a self-contained Python script that solves the following problem in a markdown code "
             "block:\n")


def test_bigcodebench_shows_a_chat_model_the_code_to_complete(bcb_problem):
    problem = bcb_problem()
    assert solution_prompt(problem, chat=True) == f"{BCB_INTRO}```\n{problem['prompt'].strip()}\n```\n"
    assert solution_prompt(problem) == problem["prompt"]


def test_bigcodebench_s_instruct_subset_shows_words_and_wants_a_chat_model(bcb_problem):
    problem = bcb_problem("instruct")
    assert problem["prompt"] == "Do it. Begin with ..."
    assert solution_prompt(problem, chat=True) == f"{BCB_INTRO}Do it. Begin with ...\n"
    with pytest.raises(rows.UserError, match="--subset instruct wants a chat model"):
        solution_prompt(problem)


def test_mbpp_asks_as_its_paper_does_but_with_the_public_test_alone(mbpp_problem):
    problem = mbpp_problem()
    words = ("You are an expert Python programmer, and here is your task: Add. "
             "Your code should pass these tests:\n\nassert add(1, 2) == 3\n")
    assert solution_prompt(problem, chat=True) == words
    assert solution_prompt(problem) == words + "[BEGIN]\n"


def test_a_prompt_with_the_starter_code_in_its_middle_ends_in_it_for_a_plain_model_alone():
    problem = {"prompt": "Complete\ndef f(x):\n\nso that it adds.\n", "starter_code": "def f(x):\n",
               "entry_point": "f"}
    assert solution_prompt(problem) == problem["prompt"] + "def f(x):\n"
    shown = solution_prompt(problem, chat=True)
    assert shown.startswith("Write a Python solution to the problem below.")
    assert shown.endswith("\n\n" + problem["prompt"])


# ---------------------------------------------------------------- programs in a plain model's text

def result(code, name="f", argument=(1, 2)):
    """What the program's function (or its class Solution's method) returns."""
    scope = {}
    exec(compile(code, "program", "exec"), scope)
    function = scope[name] if name in scope else getattr(scope["Solution"](), name)
    return function(argument)


BODY = "    return sum(xs)\n"


@pytest.mark.parametrize("rest", [
    "", "\nprint(f([1]))\n", "\ndef g():\n    return 1 +\n", "\nclass A:", "\n# and so on", "\nif __name__",
    "\n```\nDone.", "\n@cache", "\n<|file|>"])
def test_a_plain_model_continues_the_starter_up_to_the_next_top_level_thing(rest):
    code = extract_code(BODY + rest, FUNCTION)
    assert code.rstrip() == (STARTER + BODY).rstrip()
    assert result(code) == 3


def test_what_is_inside_the_function_does_not_end_it():
    text = "    if xs:\n        # a comment\n        print()\n    def g():\n        return sum(xs)\n    return g()\n"
    assert extract_code(text, FUNCTION) == STARTER + text


@pytest.mark.parametrize("quotes", ['"' * 3, "'" * 3])
def test_nor_does_what_stands_in_a_text_of_several_lines(quotes):
    body = (f"    # it's no text: {quotes[:2]}\n    lines = {quotes}\ndef g():\n# a\n\\{quotes}\n"
            f"if x\n{quotes}\n    return sum(xs) + lines.count('def') - 1\n")
    code = extract_code(body + "\ndef h():\n    '''more'''\n", FUNCTION)
    assert code.rstrip() == (STARTER + body).rstrip()
    assert result(code) == 3


def test_a_plain_model_without_starter_code_wrote_the_whole_program():
    assert extract_code("print(1)\nprint(2)\n", WHOLE) == "print(1)\nprint(2)\n"


def test_a_class_solution_from_a_plain_model_is_a_program():
    code = extract_code("return max(map(len, s.split()))\n\nprint(1)", CLASS)
    assert result(code, "longest", "to be free") == 4


def test_a_plain_model_ends_mbpp_s_program_with_done(mbpp_problem):
    code = extract_code("def add(a, b):\n  return a + b\n[DONE]\nYou are", mbpp_problem())
    assert code == "def add(a, b):\n  return a + b\n"


def test_a_plain_model_has_no_thoughts_that_could_be_taken_away():
    body = '    """\n    <think>\n    """\n    return sum(xs)\n'
    assert extract_code(body, FUNCTION) == STARTER + body


def test_a_plain_model_s_program_for_mbpp_ends_at_its_first_done():
    problem = {**FUNCTION, "source": "mbpp"}
    assert extract_code("x = 1\n[DONE]\nassert x\n[DONE]\n", problem) == "x = 1\n"


def test_bigcodebench_takes_the_program_with_the_most_lines_that_say_something(bcb_problem):
    long_line = f"def task_func(x):\n    return '{'x' * 200}'\n"
    blank = "def task_func(x):\n" + "\n" * 20 + "    return 2\n"
    answer = f"```python\n{PROGRAM}```\n```python\n{long_line}```\n```python\n{blank}```"
    assert "return helper(x)" in extract_code(answer, bcb_problem(), chat=True)


# ---------------------------------------------------------------- programs in a chat model's answer

AGAIN = "def f(xs: List[int]) -> int:\n" + BODY


@pytest.mark.parametrize("text", [
    f"```python\n{AGAIN}```",
    f"Sure!\n\n```python\n{AGAIN}```\nThis adds.",
    f"```\n{AGAIN}```",
    f"```py\n{AGAIN}",  # cut off
    f"```python\nf([1])\n```\nIn full:\n```python\n{AGAIN}```",
    f"```python\n{AGAIN}```\nTry it:\n```python\nprint(f)\n```",
    f"```bash\npip install x\n```\n```python\n{AGAIN}```",
    AGAIN,  # no fence
    f"{AGAIN}```\nThis adds.",  # one bare fence, which end is it?
    f"Sure!\n```\n{AGAIN}",
    f"```python\n{BODY}```",  # the body alone
    f"```python\n{BODY.strip()}\n```",  # without its indentation
    "```python\ntotal = sum(xs)\n    return total\n```",  # without its first indentation
    f"```python\n{BODY}```\nTry it:\n```python\nprint(f([1]))\n```",
])
def test_a_chat_model_s_block_is_found_and_its_lost_imports_come_back(text):
    code = extract_code(text, FUNCTION, chat=True)
    assert "from typing import List" in code
    assert "```" not in code
    assert result(code) == 3


def test_a_function_whose_name_only_begins_alike_is_not_the_entry_point():
    text = f"```python\n{AGAIN}```\n```python\ndef fast(xs):\n    return 0\n```"
    assert result(extract_code(text, FUNCTION, chat=True)) == 3


def test_a_block_for_a_whole_program_is_taken_as_it_is():
    text = "Here:\n```python\nprint(int(input()))\n```\n"
    assert extract_code(text, WHOLE, chat=True) == "print(int(input()))\n"


@pytest.mark.parametrize("starter", [CLASS_STARTER, ""], ids=["starter", "no starter"])
def test_a_class_solution_from_a_chat_model_is_a_program(starter):
    solution = "class Solution:\n    def longest(self, s):\n        return max(map(len, s.split()))\n"
    code = extract_code(f"```python\n{solution}```", {**CLASS, "starter_code": starter}, chat=True)
    assert result(code, "longest", "to be free") == 4


@pytest.mark.parametrize("arguments", ["self, s", "s"])
def test_a_method_that_stands_alone_gets_its_class_and_a_function_none(arguments):
    function = f"BY = None\n\ndef longest({arguments}):\n    return max(map(len, s.split(BY)))\n"
    code = extract_code(f"```python\n{function}```", CLASS, chat=True)
    assert ("class Solution" in code) == ("self" in arguments)
    assert result(code, "longest", "to be free") == 4


def test_a_body_is_indented_as_the_last_signature_wants_it():
    starter = f"def split(s):\n    return s.split()\n\n{CLASS_STARTER.rstrip()}\n"
    answer = "```python\nreturn max(map(len, split(s)))\n```"
    code = extract_code(answer, {**CLASS, "starter_code": starter}, chat=True)
    assert result(code, "longest", "to be free") == 4


def test_a_decorator_of_the_starter_code_does_not_come_back_alone():
    problem = {**FUNCTION, "starter_code": "from typing import List\n\n@lost\ndef f(xs):\n"}
    assert result(extract_code(f"```python\nimport math\n{F}```", problem, chat=True)) == 3


def test_the_word_def_in_a_docstring_is_no_signature():
    starter = 'import math\n\ndef f(xs):\n    """ Like "def g(x)" for lists. """\n'
    text = "```python\ndef f(xs):\n    return math.floor(sum(xs))\n```"
    assert result(extract_code(text, {**FUNCTION, "starter_code": starter}, chat=True)) == 3


def test_helpers_that_the_prompt_gave_come_back():
    starter = 'import math\n\ndef twice(x):\n    return 2 * x\n\ndef f(xs):\n    """ Half of the doubles. """\n'
    text = "```python\ndef f(xs):\n    return math.floor(sum(map(twice, xs)) / 2)\n```"
    assert result(extract_code(text, {**FUNCTION, "starter_code": starter}, chat=True)) == 3


def test_a_helper_that_the_answer_repeats_stands_there_once():
    starter = 'def twice(x):\n    return 2 * x\n\ndef f(xs):\n    """ Double. """\n'
    text = "```python\ndef twice(x):\n    return x + x\n\ndef f(xs):\n    return twice(sum(xs))\n```"
    code = extract_code(text, {**FUNCTION, "starter_code": starter}, chat=True)
    assert code.count("def twice") == 1
    assert result(code) == 6


def test_a_future_import_comes_before_the_prompt_s_imports():
    text = "```python\nfrom __future__ import annotations\n\ndef f(xs: Unknown):\n    return sum(xs)\n```"
    assert result(extract_code(text, FUNCTION, chat=True)) == 3


# The program that the answers below hold: it reads stdin and prints.
READS = """\
a, b = map(int, input().split())
if a > b:
    a, b = b, a
print(a + b)
"""
NOT_IT = "print('not it')\n"


def indented(text, prefix):
    return "".join(prefix + line for line in text.splitlines(keepends=True))


def program(answer, problem=WHOLE):
    """What is extracted, but for blank lines."""
    return "".join(line + "\n" for line in without_blank_lines(extract_code(answer, problem, chat=True)))


@pytest.mark.parametrize("info", [
    "", "python", "Python", "PYTHON", "py", "python3", "Python 3", " python", 'python title="a.py"', "{python}",
    "{.python .numberLines}", "python:main.py", "main.py"])
@pytest.mark.parametrize("marks", ["```", "````", "~~~"])
def test_fences_of_all_kinds_are_fences(marks, info):
    assert program(f"Here:\n{marks}{info}\n{READS}{marks}\nDone.") == READS


@pytest.mark.parametrize("answer", [
    f"```python\n{READS}```\n".replace("\n", "\r\n"),
    "1. Code:\n\n   ```python\n" + indented(READS, "   ") + "   ```\n",
    "1. ```python\n" + indented(READS, "   ") + "   ```\n",
    "> ```python\n" + indented(READS, "> ") + "> ```\n",
    "- Code:\n\t```python\n" + indented(READS, "\t") + "\t```\n",
    "```python\n" + indented(READS, "    ") + "```\n",
    f"```\npython\n{READS}```\n",
    f"```python\n{READS.rstrip()}```\nDone.",
    f"````markdown\nThe program:\n```python\n{READS}```\n````\n",
    f"```markdown\nThe program:\n```python\n{READS}```\n```\n",
    f"```python\n# a draft that is not finished\nThe program:\n```python\n{READS}```\n",
    f"Here is the program:\n\n{READS}\nIt reads two numbers, and that's it.",
    f"Solution\n\n{READS}\nExplanation\n",
    f"<answer>\n{READS}</answer>",
    f"[PYTHON]\n{READS}[/PYTHON]",
    f"<p>Here:</p>\n<pre><code class=\"language-python\">{READS}</code></pre>\n<p>It reads.</p>",
    f"<pre>\n1 2\n</pre>\n<PRE lang='python'>\n{READS}</PRE>",
])
def test_a_program_is_found_however_it_is_set(answer):
    assert program(answer) == READS


def test_a_program_in_html_has_its_signs_back():
    answer = "<pre><code>a = input()\nif a &lt; &quot;5&quot; &amp;&amp; 1:</code></pre>\n" \
             "<pre><code>a = input()\nprint(a &lt; &quot;5&quot;)</code></pre>"
    assert program(answer) == 'a = input()\nprint(a < "5")\n'


def test_a_program_that_prints_html_is_no_html():
    code = "print(input())\nprint('<pre><code>x = 1</code></pre>')\n"
    assert program(code) == program(f"```python\n{code}```") == code


@pytest.mark.parametrize("lines", [
    "FENCE = '```'\n",
    "TEXT = '''\n```\n2 3\n```\n'''\n",
    '"""\n```\n2 3\n```\n"""\n',
])
@pytest.mark.parametrize("marks", ["```", "~~~"])
def test_fences_within_strings_do_not_end_a_block(lines, marks):
    answer = f"{marks}python\n{lines}{READS}{marks}\nThe output:\n{marks}\n5\n{marks}"
    assert program(answer) == lines + READS


@pytest.mark.parametrize("answer", [
    f"For\n```\n2 3\n```\nit is 5.\n```python\n{READS}```",
    f"```bash\npython3 a.py\n```\n```python\n{READS}```",
    f"```\n{READS}```\n```\n5\n```",
    f"A draft:\n```python\n{NOT_IT}```\nThat is wrong. Better:\n```python\n{READS}```",
    f"```python\n{READS}```\nTry:\n```python\n{NOT_IT}```",
    f"```python\nprint(input().split()[0])\n```\nBetter:\n```python\n{READS}```",
    f"```python\n{READS}```\nOr:\n```python\ndef main():\n    print(input())\n```",  # calls nothing
    f"```python\n{READS}```\nTry:\n```python\nsys.stdin = io.StringIO('1 2')\nprint(input())\n```",
    f"```python\n{READS}```\nIt takes\n```text\ntime O(1)\n```",
])
def test_of_several_blocks_the_last_that_reads_and_prints_is_the_program(answer):
    assert program(answer) == READS


def test_a_block_that_prints_is_the_program_where_none_reads():
    assert program("```python\nprint(5)\n```\nTry:\n```python\nx = 5\n```") == "print(5)\n"


def test_a_program_in_several_blocks_is_put_together():
    pieces = [
        "from sys import stdin\n",
        "def read():\n    return int(stdin.readline())\n",
        "print(read())\n",
    ]
    assert program("\n".join(f"```python\n{piece}```" for piece in pieces)) == "".join(pieces)


BARE = {**FUNCTION, "starter_code": "", "prompt": "Add."}
F = "def f(xs):\n    return sum(xs)\n"
ADD = "def add(a, b):\n    return a + b\n\nprint(add(1, 2))\n"
USES_ADD = "def f(xs):\n    return add(xs[0], xs[1])\n"
REDUCES = "def f(xs):\n    return reduce(int.__add__, xs)\n"
CATCHES = "try:\n    f(0)\nexcept TypeError as e:\n    print(e)\n"


@pytest.mark.parametrize("answer", [
    f"```python\ndef f(xs):\n    return max(xs)\n```\nNo:\n```python\n{F}```",
    "```\nf([1, 2]) -> 3\n```\n```python\nf = lambda xs: sum(xs)\n```",
    f"```python\n{ADD}```\n```python\n{USES_ADD}```",
    f"```python\n{USES_ADD}```\nwith\n```python\n{ADD}```",
    f"```python\nfrom functools import reduce\n```\n```python\n{REDUCES}```",
    f"```python\nfrom functools import *\n```\n```python\n{REDUCES}```",
    f"```python\n{F}```\n```python\nfrom solution import f\nassert f([1]) == 1\n```",
    f"```python\n{F}```\n```python\nwith open('x') as f:\n    print(f.read())\n```",
    f"```python\n{F}```\n```python\nfor f in [1, 2]:\n    print(f)\n```",
    f"```python\n{F}```\n```python\nf.cache = {{}}\nprint([f for f in 'ab'])\n```",
    f"```python\n{F}```\n```python\nwith open('x') as file:\n    f = max\n```\n```python\n{F}```",
    f"```python\n{ADD.replace('a + b', '0')}```\n```python\n{ADD}```\n```python\n{USES_ADD}```",
    f"```python\nimport functools as t\n```\n```python\n{REDUCES.replace('reduce', 't.reduce')}```",
    f"```python\nxs = open('x')\nsum = open('x')\n```\n```python\n{F}```",  # names that f has
    f"```python\ne = open('x')\n```\n```python\n{F}{CATCHES}```",
    "```python def f(xs):\n    return sum(xs)\n```",
    f"```python\n{F}```\nto this:\n```python\ndef f(xs):\n    pass\n```",
])
def test_the_last_definition_counts_with_what_it_needs_from_other_blocks(answer):
    assert result(extract_code(answer, BARE, chat=True)) == 3


def test_a_function_that_only_raises_an_error_is_an_answer():
    answer = f"{DRAFT}\n```python\ndef f(xs):\n    raise ValueError\n```"
    with pytest.raises(ValueError):
        result(extract_code(answer, BARE, chat=True))


def test_a_method_answers_where_no_function_does():
    solution = "class A:\n    def f(self, xs):\n        return sum(xs)\n"
    answer = f"```python\n{solution}```\nTry:\n```python\nprint(1)\n```"
    assert extract_code(answer, BARE, chat=True) == solution


SETTINGS = "import sys\nsys.setrecursionlimit(10 ** 5)\n"


@pytest.mark.parametrize("settings, kept", [
    (SETTINGS, True),
    ("import threading\nthreading.stack_size(1 << 26)\n", True),
    ("import os\nos.system('ls')\n", False),
    (SETTINGS + "print(1)\n", False),
    ("sys.setrecursionlimit(10 ** 5)\n", False),  # of the program's own sys, perhaps
    ("import numpy\n", False),
])
def test_settings_above_a_program_are_part_of_it(settings, kept):
    kept = settings if kept else ""
    answer = f"```python\n{settings}```\nThen\n```python\n%s```"
    assert program(answer % READS) == kept + READS
    assert program(answer % F, BARE) == kept + F
    assert program(f"```python\n{F}```\nFirst\n```python\n{settings}```", BARE) == F


def test_a_mistake_in_the_last_block_is_not_mended_by_a_draft():
    answer = f"```python\n{F}```\nBetter:\n```python\ndef f(xs)\n    return sum(xs)\n```"
    with pytest.raises(SyntaxError):
        result(extract_code(answer, BARE, chat=True))


def test_a_mistake_in_a_program_without_fences_is_not_cut_off():
    code = extract_code(f"Here:\n\n{READS}for x in range(3):\n    print((\n", WHOLE, chat=True)
    with pytest.raises(SyntaxError):
        compile(code, "program", "exec")


def test_nor_one_in_a_block_that_was_never_closed():
    code = extract_code(f"```python\n{READS}this is no Python", WHOLE, chat=True)
    with pytest.raises(SyntaxError):
        compile(code, "program", "exec")


def test_a_statement_without_fences_may_have_many_lines_that_are_not_indented():
    code = "xs = [\n1,\n2,\n3,\n4,\n]\nprint(sum(xs))\n"
    assert program(f"Here:\n\n{code}\nIt adds.") == code


# ---------------------------------------------------------------- thoughts and left-over tokens

THOUGHTS = [
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("[THINK]", "[/THINK]"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
]
DRAFT = "```python\ndef f(xs):\n    return 'draft'\n```"


@pytest.mark.parametrize("begin, end", THOUGHTS)
@pytest.mark.parametrize("answer", [
    "{begin}\nMaybe\n{draft}\n{end}\n{final}",
    "Maybe\n{draft}\n{end}\n{final}",  # the prompt had opened them
    "{begin}it's short{end}Here's the code:\n{final}",
    "{begin}\n```python\nnot finished\n{end}\n{final}",
    "{begin}One.{end}\n{begin}Two.\n{draft}\n{end}\n{final}",
    "{begin}\nI may not print '{end}'.\n{draft}\n{end}\n{final}",
    "<|im_start|>assistant\n{begin}\n{draft}\n{end}\n{final}<|im_end|>",
])
def test_thoughts_are_not_taken_for_the_answer(begin, end, answer):
    text = answer.format(begin=begin, end=end, draft=DRAFT, final=f"```python\n{AGAIN}```")
    assert result(extract_code(text, FUNCTION, chat=True)) == 3


@pytest.mark.parametrize("begin, end", THOUGHTS)
@pytest.mark.parametrize("answer", [
    "{begin}\n{draft}\nHmm",
    "{begin}\n{draft}\n{end}\n",
    "{draft}\n{begin}\nNo, wait",
])
def test_an_answer_cut_off_within_its_thoughts_is_no_program(begin, end, answer):
    text = answer.format(begin=begin, end=end, draft=DRAFT)
    assert extract_code(text, FUNCTION, chat=True) == ""


def test_it_is_seen_whether_a_prompt_opens_thoughts():
    assert thoughts_are_open("<|assistant|>\n<think>\n")
    assert not thoughts_are_open("<think>\n\n</think>\n\n")


def test_thoughts_that_the_prompt_opened_may_be_cut_off_too():
    assert extract_code(DRAFT, FUNCTION, chat=True, thoughts_open=True) == ""
    text = f"{DRAFT}</think>\n```python\n{AGAIN}```"
    assert result(extract_code(text, FUNCTION, chat=True, thoughts_open=True)) == 3


def test_only_the_final_channel_of_the_harmony_format_is_the_answer():
    text = f"<|channel|>analysis<|message|>{DRAFT}<|end|><|start|>assistant"
    assert extract_code(text, FUNCTION, chat=True) == ""
    text += f"<|channel|>final<|message|>```python\n{AGAIN}```<|return|>"
    assert result(extract_code(text, FUNCTION, chat=True)) == 3


@pytest.mark.parametrize("printed", ["</think>", "<think>x</think>", "<|im_end|>", "</s>"])
@pytest.mark.parametrize("before, after", [("```python\n", "```"), ("", "")], ids=["fenced", "bare"])
def test_a_program_may_print_what_looks_like_a_tag_or_a_token(printed, before, after):
    code = f"{READS}print('{printed}')\n"
    assert program(before + code + after) == code


@pytest.mark.parametrize("printed", ["</think>", "<|im_end|>"])
def test_a_text_of_several_lines_may_hold_them_too(printed):
    code = f'"""\n{printed}\n"""\n{READS}'
    assert program(f"```python\n{code}```") == code


TOKENS = ["<|im_end|>", "<|endoftext|>", "<|eot_id|>", "</s>", "<end_of_turn>", "<\uff5cend\u2581of\u2581sentence\uff5c>",
          f"<|im_end|>\n<|im_start|>user\nAnother problem:\n{DRAFT}"]


@pytest.mark.parametrize("token", TOKENS)
@pytest.mark.parametrize("answer", [
    "{code}{token}",
    "{code}\n{token}",
    "```python\n{code}\n```{token}",
    "```python\n{code}{token}",
])
def test_left_over_tokens_and_what_follows_them_are_no_code(token, answer):
    text = answer.format(code=F.rstrip(), token=token)
    assert result(extract_code(text, BARE, chat=True)) == 3


@pytest.mark.parametrize("token", TOKENS)
def test_left_over_tokens_end_a_plain_model_s_text_too(token):
    assert result(extract_code(F.rstrip() + token, BARE)) == 3
    assert result(extract_code(BODY.rstrip() + token, FUNCTION)) == 3


@pytest.mark.parametrize("repeated", [
    "```python\n", "```\n2 3\n```\n", "x = 1\nfoo bar\n", "It is (really.\n", "<think>a</think>\n",
    "<pre><code>\n", "<pre>x = 1</pre>\n",
    "def f(x)\n    return 1\n", "```python\nx = 1\n```</think>\n", "x = 1\n</think>\n"])
def test_an_answer_that_repeats_itself_without_end_comes_to_an_end(repeated):
    """Work that grows with the square of the length would take minutes here."""
    assert isinstance(extract_code(repeated * 1000, WHOLE, chat=True), str)


# ---------------------------------------------------------------- the benchmarks' own cuts

def test_livecodebench_takes_what_stands_between_the_last_two_fences(lcb_problem):
    text = "A draft:\n```python\nprint(0)\n```\nBetter:\n```python\nprint(1)\n```\nDone."
    assert extract_code(text, lcb_problem(), chat=True) == "print(1)"


@pytest.mark.parametrize("text", [
    "print(1)",
    "```python\nprint(1)",
    "<|channel|>analysis<|message|>A draft:\n```python\nprint(1)\n```\n",  # and no answer yet
])
def test_livecodebench_finds_no_program_without_two_fences(text, lcb_problem):
    assert extract_code(text, lcb_problem(), chat=True) == ""


def test_a_plain_model_s_text_is_livecodebench_s_program(lcb_problem):
    assert extract_code("print(1)", lcb_problem()) == "print(1)"


PROGRAM = """\
import os
import json

LIMIT = 3


def helper(x):
    return x[:LIMIT]


@cache
def task_func(x):
    return helper(x)
"""
DEMONSTRATION = """
found = task_func([1])
print(found)
if __name__ == '__main__':
    task_func([2])


def unused():
    pass
"""
DOCSTRING_WITH_FENCES = '''\
def task_func(x):
    """
    ```
    x
    ```
    """
    return x
'''


@pytest.mark.parametrize("subset", [[], ["instruct"]])
@pytest.mark.parametrize("answer, code", [
    (f"```python\n{PROGRAM}```", PROGRAM),
    (PROGRAM, PROGRAM),
    (f"Install:\n```bash\npip install x\n```\n```python\n{PROGRAM}```\nRun:\n```python\ntask_func(1)\n```", PROGRAM),
    (f"```python\n{PROGRAM}{DEMONSTRATION}```", PROGRAM),
    (f"```python\n{DOCSTRING_WITH_FENCES}```", DOCSTRING_WITH_FENCES),
    ("```python\n    return x\n```", "import json\nimport os\ndef task_func(x):\n    return x\n"),
    ("```python\nprint('no function')\n```", "\n"),
])
def test_bigcodebench_keeps_of_an_answer_what_its_function_needs(subset, answer, code, bcb_problem):
    kept = extract_code(answer, bcb_problem(*subset), chat=True)
    assert without_blank_lines(kept) == without_blank_lines(code)


def test_the_canonical_solutions_survive_bigcodebench_s_cut():
    for problem in load_benchmark("bigcodebench", original_file("BigCodeBench.hf_data.jsonl.gz")):
        code = extract_code(f"```python\n{problem['canonical_solution']}\n```", problem, chat=True)
        function = code[code.index("def task_func("):]
        assert function.strip() in problem["canonical_solution"]


# ---------------------------------------------------------------- thoughts and tokens of more kinds of models

@pytest.mark.parametrize("prompt", [
    "<｜User｜>q<｜Assistant｜><think>\n",
    "<｜User｜>q<｜Assistant｜><think>",
    "[|assistant|]<thought>\n",
    "[INST]q[/INST][THINK]",
    "<|im_middle|>◁think▷",
    "<|im_start|>assistant\n<think>\n\n",
])
def test_a_prompt_may_open_thoughts_anywhere_on_its_last_line(prompt):
    assert thoughts_are_open(prompt)
    assert not thoughts_are_open(prompt + "hm")
    answer = f"Okay, draft:\n```python\n{F}```\nbut wait,"
    assert extract_code(answer, BARE, chat=True, thoughts_open=True) == ""


GEMMA = "<|channel>thought\n{}<channel|>{}<turn|>"
BOX = "<|begin_of_box|>{}<|end_of_box|>"
HARMONY = "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final <|constrain|>python<|message|>{}"
IN_FENCES = f"```python\n{F}```"
WRONG = "```python\ndef f(xs):\n    return 0\n```"


@pytest.mark.parametrize("answer", [
    GEMMA.format("", f"Here:\n{IN_FENCES}"),
    GEMMA.format(f"a draft:\n{WRONG}\n", f"Here:\n{IN_FENCES}"),
    BOX.format(IN_FENCES),
    f"Here it is.\n{BOX.format(IN_FENCES)}",
    f"The program is {BOX.format(IN_FENCES)}",
    HARMONY.format(IN_FENCES),
    HARMONY.format(f"{WRONG}<|end|><|start|>assistant<|channel|>final<|message|>{IN_FENCES}"),
    f"Here:\n\n{F}\nIt adds.\n<answer>See above.</answer>",
    f"```python\n\n```\n{F}",  # an empty block
    f"{WRONG}\n" * 60 + IN_FENCES,
    f"<answer>\n{WRONG}\n</answer>\nNo:\n<answer>\n{IN_FENCES}\n</answer>",
    f'{IN_FENCES}\nThat is "all".<|im_end|>\n{WRONG}',
    f"<think>a</think>\n{IN_FENCES}\n</think>",
    f"<think>a</think>\n{F}\n</think>",
    f"<think>a</think>\nHere it is:\n\n{F}\nIt adds.\n</think>",
    f"<think>a</think>\n{IN_FENCES}\n</think>\nI am done.\n</think>",
    f"{IN_FENCES}\n<think>b</think>\nI am sure.\n</think>",
    f"<think>{WRONG}</think>\n</think>\n{IN_FENCES}",
    f"{IN_FENCES}\nI reasoned inside <think> and </think> tags.",
    f"{WRONG}\n</think>\n{IN_FENCES}",
    f"<\uff5cAssistant\uff5c><think>a</think>{IN_FENCES}",
    f"[|assistant|]<thought>a</thought>{IN_FENCES}",
])
def test_what_stands_around_an_answer_is_taken_away(answer):
    code = extract_code(answer, BARE, chat=True)
    assert code.strip() == F.strip()


def test_an_answer_without_a_program_is_taken_as_it_is():
    assert extract_code("I do not know.", BARE, chat=True) == "I do not know."


def test_thoughts_of_gemma_that_were_cut_off_are_no_answer():
    assert extract_code(f"<|channel>thought\na draft:\n{WRONG}\n", BARE, chat=True) == ""


def test_a_plain_model_s_control_tokens_end_its_program_for_mbpp():
    problem = {**BARE, "source": "mbpp"}
    assert extract_code(f"{F}<|endoftext|>def g(", problem) == F
    assert extract_code(f"{F}[DONE]<|endoftext|>", problem) == F


@pytest.mark.parametrize("body", [
    "    # every class of number\n    return sum(xs)\n",
    "    kind = 'class of'\n    return sum(xs)\n",
    "    class Total:\n        value = sum(xs)\n    return Total.value\n",
])
def test_a_body_that_speaks_of_classes_or_has_one_keeps_its_signature(body):
    problem = {**BARE, "starter_code": "def f(xs):\n", "prompt": "def f(xs):\n"}
    assert result(extract_code(f"```python\n{body}```", problem, chat=True)) == 3


@pytest.mark.parametrize("after", [
    "class A:\n    def f(self, xs):\n        return 0\n",
    "def bench():\n    def f(xs):\n        return 0\n    return f\n",
    "from a import solve\nf = solve\nassert f([1]) == 1\n",
    "import a\nsolve = a.A().f\nf = solve\nassert f([1]) == 1\n",
    "try:\n    import a\n    f = a.f\nexcept ImportError:\n    pass\n",
])
def test_an_f_within_something_else_does_not_answer_for_f(after):
    answer = f"{IN_FENCES}\nAnd this is a test:\n```python\n{after}```"
    assert result(extract_code(answer, BARE, chat=True)) == 3


@pytest.mark.parametrize("better", [
    "```python\ndef add(xs):\n    return sum(xs)\n\nf = add\n```",
    "```python\ndef add(xs):\n    return sum(xs)\n```\nand\n```python\nf = add\n```",
    "```python\nclass Adds:\n    def all(self, xs):\n        return sum(xs)\n\nf = Adds().all\n```",
    "```python\nf = sum\n```",
    "```python\ndef f(xs):\n    pass\n\ndef f(xs):\n    return sum(xs)\n```",
    "```python\nimport math\nf = math.fsum\n```",
    "```python\nimport sys\nif sys.version_info > (3, 0):\n    def f(xs):\n        return sum(xs)\n```",
    "```python\ntry:\n    from a import b\nexcept ImportError:\n    def f(xs):\n        return sum(xs)\n```",
])
def test_a_draft_does_not_answer_for_a_later_f_of_another_form(better):
    assert result(extract_code(f"{WRONG}\nBetter:\n{better}", BARE, chat=True)) == 3


@pytest.mark.parametrize("printed", ["<|begin_of_box|>", "<|begin_of_solution|>"])
def test_a_program_may_print_what_looks_like_a_box(printed):
    code = f"{READS}print('{printed}')\n"
    assert program(f"```python\n{code}```") == code
    assert program(code) == code


@pytest.mark.parametrize("body", [
    "xs = [2 * x for x in xs]\n    return sum(xs) // 2\n",
    "if not xs:\n        return 0\n    return sum(xs)\n\nThis adds them.\n",
    "total = 0\n\n    for x in xs:\n        total += x\n    return total\n\n\nprint(f([1]))\n",
    "\n\nxs = [x for x in xs if x]\n    return sum(xs)",
])
def test_the_first_line_of_a_body_without_fences_may_have_lost_its_indentation(body):
    assert result(extract_code(body, FUNCTION, chat=True)) == 3


def test_lines_that_are_quoted_to_explain_them_are_not_the_program():
    program = "n = int(input())\nxs = list(map(int, input().split()))\nprint(sum(xs))\n"
    answer = (f"```python\n{program}```\nFirst we read:\n```python\nn = int(input())\n```\n"
              "Then we print:\n\n```python\n\nprint(sum(xs))\n```\n")
    assert extract_code(answer, WHOLE, chat=True) == program
    # one that reads and prints, too, corrects it
    corrected = "xs = list(map(int, input().split()))\nprint(sum(xs))\n"
    assert extract_code(f"{answer}\n```python\n{corrected}```", WHOLE, chat=True) == corrected
