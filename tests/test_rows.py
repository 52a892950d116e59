"""data/rows.py: bad rows are named, torn files heal, and what is there is not made again."""
import gzip
import json
import subprocess
import sys

import pytest

from conftest import error
from data import rows
from data.rows import CANDIDATE, LABELLED, PROBLEM, Appender, UserError, read_problems, read_rows, write_rows

KEY = ("problem_id", "candidate_id")
GOOD = {"problem_id": "p", "candidate_id": "c", "policy": "weak", "code": "x = 1\n"}


def problem(name, **more):
    return {"problem_id": name, "prompt": "é\n", "entry_point": None, "public_tests": [], "tests": [], "domain": "d",
            "difficulty": "easy", "split": "train", **more}


def lines(path, *rows):
    """A file of these rows; a str stands as it is."""
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8")
    return path


# ---------------------------------------------------------------- reading

@pytest.mark.parametrize("bad, says", [
    ("{'problem_id': 1}", "not JSON"),
    ('{"problem_id": "p"', "not JSON"),
    ("[" * 100000, "is nested too deeply"),
    ("[1, 2]", "expected an object, found list"),
    ("null", "expected an object, found NoneType"),
    ({k: v for k, v in GOOD.items() if k != "code"}, "field 'code' is missing"),
    ({**GOOD, "candidate_id": 7}, "field 'candidate_id' has the wrong type (int)"),
    ({**GOOD, "candidate_id": "\ud800"}, "field 'candidate_id' is '\\ud800', which is not valid Unicode"),
    ({**GOOD, "policy": None}, "field 'policy' has the wrong type (NoneType)")])
def test_bad_row_is_named_by_file_line_and_field(bad, says, tmp_path):
    path = lines(tmp_path / "c.jsonl", GOOD, "", bad, {**GOOD, "candidate_id": "d"})
    message = error(read_rows, path, CANDIDATE, key=KEY)
    assert message.startswith(f"{path}, line 3: ") and says in message


def test_bytes_that_are_no_text_are_named_by_file_and_line(tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b'\n{"code": "\xff"}\n' + json.dumps(GOOD).encode() + b"\n")
    assert error(read_rows, path).startswith(f"{path}, line 2: not JSON")


@pytest.mark.parametrize("passed, allowed", [(True, True), (False, True), (None, True), (1, False), ("yes", False)])
def test_a_label_is_true_false_or_null(passed, allowed, tmp_path):
    path = lines(tmp_path / "l.jsonl", {**GOOD, "status": "s", "passed": passed})
    if allowed:
        assert read_rows(path, LABELLED, key=KEY)[0]["passed"] is passed
    else:
        assert "line 1: field 'passed' has the wrong type" in error(read_rows, path, LABELLED, key=KEY)


def test_two_rows_with_one_key_are_an_error_that_names_both_lines(tmp_path):
    path = lines(tmp_path / "c.jsonl", GOOD, {**GOOD, "candidate_id": "d"}, {**GOOD, "code": "other"})
    message = error(read_rows, path, CANDIDATE, key=KEY)
    assert f"{path}, line 3" in message and "already on line 1" in message and "'p'" in message and "'c'" in message
    assert len(read_rows(path, CANDIDATE)) == 3  # without a key nothing has to be unique


def test_missing_file_and_folder_are_named(tmp_path):
    assert error(read_rows, tmp_path / "none.jsonl") == f"{tmp_path / 'none.jsonl'}: no such file"
    assert error(read_rows, tmp_path).startswith(f"{tmp_path}: cannot be read")


def test_rows_come_back_in_order_and_as_they_were(tmp_path):
    rows = [{**GOOD, "candidate_id": str(k), "code": "ü \u2028 \\ \" \n\t", "extra": {"deep": [1.5, None]}} for k in range(5)]
    write_rows(tmp_path / "c.jsonl", rows)
    assert read_rows(tmp_path / "c.jsonl", CANDIDATE, key=KEY) == rows
    assert len((tmp_path / "c.jsonl").read_bytes().split(b"\n")) == 6  # one line a row, each ended
    assert [p.name for p in tmp_path.iterdir()] == ["c.jsonl"]  # nothing is left beside it


def test_half_a_surrogate_pair_which_a_model_can_write_is_kept(tmp_path):
    row = {**GOOD, "code": "\ud83d and \U0001f600"}
    write_rows(tmp_path / "whole.jsonl", [row])
    with Appender(tmp_path / "appended.jsonl", KEY) as out:
        out.append(row)
    assert read_rows(tmp_path / "whole.jsonl") == read_rows(tmp_path / "appended.jsonl") == [row]


def test_torn_last_line_is_dropped_with_a_warning(tmp_path, capsys):
    path, second = tmp_path / "c.jsonl", json.dumps({**GOOD, "candidate_id": "é"}, ensure_ascii=False).encode()
    for cut in range(1, len(second)):  # in the middle of a two-byte letter, too
        path.write_bytes(json.dumps(GOOD).encode() + b"\n" + second[:cut])
        assert read_rows(path, CANDIDATE, key=KEY) == [GOOD]
        warning = capsys.readouterr().err
        assert "warning" in warning and f"{path}, line 2" in warning
    path.write_bytes(json.dumps(GOOD).encode() + b"\n" + second)  # all of it, only without the newline
    assert [row["candidate_id"] for row in read_rows(path, CANDIDATE, key=KEY)] == ["c", "é"]
    assert capsys.readouterr().err == ""


def test_torn_line_elsewhere_is_an_error_not_a_warning(tmp_path):
    path = lines(tmp_path / "c.jsonl", GOOD, json.dumps(GOOD)[:20])  # it ends with a newline: no killed writer did that
    assert "line 2: not JSON" in error(read_rows, path)


def test_problems_of_several_files_are_one_and_an_id_in_two_is_an_error(tmp_path):
    one, two = lines(tmp_path / "1.jsonl", problem("a"), problem("b")), lines(tmp_path / "2.jsonl", problem("c"))
    assert list(read_problems([one, two])) == ["a", "b", "c"]
    assert list(read_problems(one)) == list(read_problems(str(one))) == ["a", "b"]
    lines(two, problem("c"), problem("b"))
    message = error(read_problems, [one, two])
    assert str(two) in message and "'b'" in message


@pytest.mark.parametrize("field, value", [("starter_code", 5), ("source", ["x"])])
def test_what_a_prompt_is_made_of_is_text_or_nothing(field, value, tmp_path):
    assert read_problems(lines(tmp_path / "p.jsonl", problem("p", **{field: None})))
    path = lines(tmp_path / "p.jsonl", problem("p", **{field: value}))
    assert f"problem 'p': field {field!r} has the wrong type" in error(read_problems, path)


def test_no_problems_at_all_is_an_error(tmp_path):
    path = lines(tmp_path / "p.jsonl")
    assert str(path) in error(read_problems, path) and "no problems" in error(read_problems, [str(path)])


@pytest.mark.parametrize("name", PROBLEM)
def test_each_promised_field_of_a_problem_is_checked(name, tmp_path):
    path = lines(tmp_path / "p.jsonl", problem("a"), {k: v for k, v in problem("b").items() if k != name})
    assert f"{path}, line 2: field {name!r} is missing" in error(read_problems, path)
    lines(path, problem("a"), problem("b", **{name: 1.5}))
    assert f"{path}, line 2: field {name!r} has the wrong type (float)" in error(read_problems, path)


# ---------------------------------------------------------------- appending

def test_a_rerun_knows_what_is_there_and_appends_the_rest(tmp_path):
    path = tmp_path / "new" / "folder" / "c.jsonl"
    rows = [{**GOOD, "candidate_id": str(k)} for k in range(4)]
    with Appender(path, KEY) as out:
        assert out.done == set()
        out.append(*rows[:2])
        assert out.done == {("p", "0"), ("p", "1")}
        assert read_rows(path, CANDIDATE, key=KEY) == rows[:2]  # flushed at once: a kill now loses nothing
    with Appender(path, KEY) as out:
        assert out.done == {("p", "0"), ("p", "1")}
        out.append(*(row for row in rows if out.key_of(row) not in out.done))
    assert read_rows(path, CANDIDATE, key=KEY) == rows


def test_torn_last_line_is_cut_before_anything_is_appended(tmp_path, capsys):
    path, torn = tmp_path / "c.jsonl", json.dumps({**GOOD, "candidate_id": "torn", "code": "é"}, ensure_ascii=False).encode()
    for cut in (1, 10, torn.index("é".encode()) + 1, len(torn) - 1):
        path.write_bytes(json.dumps(GOOD).encode() + b"\n" + torn[:cut])
        with Appender(path, KEY) as out:
            assert out.done == {("p", "c")}
            out.append({**GOOD, "candidate_id": "next"})
        assert [row["candidate_id"] for row in read_rows(path, CANDIDATE, key=KEY)] == ["c", "next"]
    assert "torn last line" in capsys.readouterr().err


def test_a_file_that_is_one_torn_line_starts_anew(tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_bytes(b'{"problem_id": "p"')
    with Appender(path, KEY) as out:
        assert out.done == set()
        out.append(GOOD)
    assert path.read_text() == json.dumps(GOOD) + "\n"


def test_whole_last_row_without_its_newline_is_kept(tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_text(json.dumps(GOOD))
    with Appender(path, KEY) as out:
        assert out.done == {("p", "c")}
        out.append({**GOOD, "candidate_id": "next"})
    assert [row["candidate_id"] for row in read_rows(path, CANDIDATE, key=KEY)] == ["c", "next"]


def test_output_with_a_bad_row_is_refused_and_left_as_it_was(tmp_path):
    path = lines(tmp_path / "c.jsonl", GOOD, {"problem_id": "p"}, {**GOOD, "candidate_id": "d"})
    before = path.read_bytes()
    assert f"{path}, line 2: field 'candidate_id' is missing" in error(Appender, path, KEY)
    assert path.read_bytes() == before


def test_output_in_an_impossible_place_is_an_error_that_names_it(tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert str(tmp_path / "file") in error(Appender, tmp_path / "file" / "c.jsonl", KEY)


def test_a_full_disk_is_one_line_and_the_next_run_goes_on(tmp_path):
    program = f"""if True:
        import resource
        from data.flags import run
        from data.rows import Appender
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        def main():
            with Appender({str(tmp_path / "c.jsonl")!r}, ("k",)) as file:
                for k in range(1000):
                    file.append({{"k": k}})
        run(main)"""
    done = subprocess.run([sys.executable, "-c", program], cwd=rows.ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "c.jsonl: cannot be written (File too large)" in done.stderr
    assert done.stderr.count("\n") == 1
    with Appender(tmp_path / "c.jsonl", ("k",)) as file:
        count = len(file.done)
        file.append({"k": count})
    assert [row["k"] for row in read_rows(tmp_path / "c.jsonl")] == list(range(count + 1))


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = lines(tmp_path / "c.jsonl", GOOD)
    with pytest.raises(TypeError):
        write_rows(path, [GOOD, {"no JSON": object()}])
    assert read_rows(path) == [GOOD]


def test_a_packed_file_is_told_to_be_unpacked(tmp_path):
    path = tmp_path / "p.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"a": 1}\n{"a": 2}\n'))
    assert "p.jsonl.gz: is packed: gunzip it first" in error(read_rows, path)


# ---------------------------------------------------------------- what running tests goes by

def runnable(**changes):
    test = {"type": "call", "args": [1], "expected": 2}
    return {"problem_id": "p", "prompt": "", "entry_point": "f", "public_tests": [], "tests": [test],
            "domain": "d", "difficulty": "easy", "split": "test", **changes}


@pytest.mark.parametrize("field, value, says", [
    ("setup", 5, "expected text"),
    ("checker", 3, "expected text"),
    ("canonical_solution", 3, "expected text"),
    ("libs", "numpy", "expected a list"),
    ("libs", [1], "expected a list of modules' names"),
    ("time_limit", "2", "expected a number"),
    ("time_limit", True, "expected a number"),
    ("time_limit", -1, "expected seconds"),
    ("time_limit", 1e12, "at most 3600"),
    ("time_limit", float("nan"), "expected seconds"),
])
def test_a_field_that_running_goes_by_is_of_its_kind(field, value, says):
    with pytest.raises(UserError, match=f"p.jsonl: problem 'p': field '{field}' is .*{says}"):
        rows.check_tests(runnable(**{field: value}), "p.jsonl")
    rows.check_tests(runnable(**{field: None}), "p.jsonl")


@pytest.mark.parametrize("kind", [None, "doctest", ["call"], {"call": 1}, 5])
def test_the_type_of_a_test_is_one_of_four(kind):
    with pytest.raises(UserError, match="tests number 1: expected an object with 'type' one of call"):
        rows.check_tests(runnable(tests=[{"type": kind, "args": [1], "expected": 2}]), "p")


def test_keyword_arguments_are_an_object():
    with pytest.raises(UserError, match="tests number 1: 'kwargs' is .5.; expected an object"):
        rows.check_tests(runnable(tests=[{"type": "call", "args": [], "kwargs": [5], "expected": 1}]), "p")


def test_labels_of_other_tests_are_refused():
    problem = runnable()
    row = {"problem_id": "p", "candidate_id": "c", "tests_digest": f"{rows.digest_of_tests(problem)}-abcd"}
    of_other_making = {"problem_id": "p", "candidate_id": "d", "tests_digest": "2026-11-28"}
    assert rows.digest_of_tests(runnable(setup="", libs=[], time_limit=0)) == rows.digest_of_tests(problem)
    rows.refuse_old_labels([row, of_other_making, {**row, "problem_id": "elsewhere"}], {"p": problem}, "l.jsonl")
    changed = runnable(time_limit=2)
    with pytest.raises(UserError, match="l.jsonl: 1 of 2 candidates were labelled by other tests"):
        rows.refuse_old_labels([row, of_other_making], {"p": changed}, "l.jsonl")


def test_a_folder_is_not_written_over(tmp_path):
    with pytest.raises(UserError, match="cannot be written"):
        rows.write_rows(tmp_path, [{}])


CHANGES = {
    "entry_point": "g", "public_tests": [{"type": "call", "args": [2], "expected": 3}],
    "tests": [{"type": "call", "args": [2], "expected": 3}], "setup": "x = 1", "libs": ["json"],
    "time_limit": 2, "compare": "codecontests", "checker": "check = print"}
OF_SOURCES = {"canonical_solution": "x = 1", "prompt": "other", "starter_code": "def f():"}


@pytest.mark.parametrize("field", CHANGES)
def test_a_digest_of_tests_sees_what_a_verdict_goes_by(field):
    changed = runnable(**{field: CHANGES[field]})
    assert rows.digest_of_tests(changed) != rows.digest_of_tests(runnable())


@pytest.mark.parametrize("field", OF_SOURCES)
def test_and_what_only_asserts_and_unittests_go_by_for_those(field):
    change = {field: OF_SOURCES[field]}
    assert rows.digest_of_tests(runnable(**change)) == rows.digest_of_tests(runnable())
    for kind in ("assert", "unittest"):
        tests = [{"type": kind, "source": ""}]
        for place in ("tests", "public_tests"):
            now = rows.digest_of_tests(runnable(**{place: tests}, **change))
            assert now != rows.digest_of_tests(runnable(**{place: tests}))


def test_public_tests_are_checked_and_counted_as_well():
    bad = runnable(public_tests=[{"type": "calls"}])
    message = error(rows.check_tests, bad, "p")
    assert "problem 'p', public_tests number 1: expected an object" in message
    many = runnable(public_tests=runnable()["tests"] * 10_000)
    assert "problem 'p' has 10001 tests" in error(rows.check_tests, many, "p")


def test_a_stage_reads_what_you_made_rather_than_what_is_shipped(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "EDGES_RUN", tmp_path)
    assert rows.stage_input("candidates.jsonl") == rows.EDGES / "candidates.jsonl"
    (tmp_path / "candidates.jsonl").touch()
    assert rows.stage_input("candidates.jsonl") == tmp_path / "candidates.jsonl"


def test_no_time_limit_is_longer_than_an_hour():
    rows.check_tests(runnable(time_limit=3600), "p")
    message = error(rows.check_tests, runnable(time_limit=3601), "p")
    assert "expected seconds, at most 3600" in message
