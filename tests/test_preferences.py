"""data/preferences: rows of seven published formats, written by hand, become problems and labelled
answers; nothing says that they were executed; each benchmark's own score is what its rule gives."""
import gzip
import importlib.util
import json
from collections import Counter
from math import isnan, tanh
from types import SimpleNamespace

import pytest

import execute
from conftest import error
from data.benchmarks import solution_prompt
from data.judge import ANSWER_PROTOCOL, PROTOCOL, judge_prompt, parse_verdict
from data.pairs import audit, read_pairs
from data.preferences import (PREFERENCES, codeprefbench, read_preferences, rewardbench,
                              rewardbench2, scores)
from data.preferences.__main__ import is_labelled_by_preference, main as convert, shares_of
from data.preferences.fields import conversation
from data.preferences.report import pairs_row
from data.rows import ROOT, read_problems, read_rows, write_rows

spec = importlib.util.spec_from_file_location("daj_select_preferences", ROOT / "select.py")
select = importlib.util.module_from_spec(spec)
spec.loader.exec_module(select)

TURNS = [{"role": "user", "content": "Hi!"}, {"role": "assistant", "content": "Hello."},
         {"role": "user", "content": "Name a colour."}]
SHOWN = "User:\nHi!\n\nAssistant:\nHello.\n\nUser:\nName a colour."

# {format: (file name, a row as it is published, what must become of it)}
FORMATS = {
    "rewardbench": (
        "filtered.jsonl",
        {"id": 30, "prompt": "Name a colour.", "chosen": "Red.", "chosen_model": "gpt-x",
         "rejected": "Seven.", "rejected_model": "llama-y", "subset": "llmbar-natural"},
        {"problem_id": "rewardbench/llmbar-natural/30", "prompt": "Name a colour.",
         "category": "Chat Hard", "domain": "llmbar-natural", "difficulty": "unknown",
         "preferred": {("Red.", "gpt-x")}, "others": {("Seven.", "llama-y")}}),
    "rewardbench2": (
        "test.jsonl",
        {"id": "7", "prompt": "Name a colour.", "chosen": ["Red."],
         "rejected": ["One.", "Two.", "Six."], "num_correct": 1, "num_incorrect": 3,
         "total_completions": 4, "models": ["a", "b", "c", "d"], "subset": "Factuality"},
        {"problem_id": "rewardbench2/Factuality/7", "prompt": "Name a colour.",
         "category": "Factuality", "domain": "Factuality", "difficulty": "unknown",
         "preferred": {("Red.", "a")}, "others": {("One.", "b"), ("Two.", "c"), ("Six.", "d")}}),
    "rmb": (
        "Casual.json",
        {"pair_uid": "8282", "conversation_input": TURNS,
         "chosen": {"llm_name": "m", "answer": "Red.", "score": 5.0},
         "reject": {"llm_name": "n", "answer": "Seven.", "score": 3.5},
         "category_path": "Pairwise_set/Helpfulness/Chat/Casual"},
        {"problem_id": "rmb/Pairwise_set/Helpfulness/Chat/Casual/8282", "prompt": SHOWN,
         "category": "Helpfulness, pairs", "domain": "Chat/Casual", "difficulty": "unknown",
         "preferred": {("Red.", "m")}, "others": {("Seven.", "n")}}),
    "judgebench": (
        "gpt.jsonl",
        {"pair_id": "e302", "original_id": 1420, "source": "mmlu-pro-law",
         "question": "Name a colour.", "response_model": "gpt-x", "response_A": "Seven.",
         "response_B": "Red.", "label": "B>A"},
        {"problem_id": "judgebench/e302", "prompt": "Name a colour.", "category": "knowledge",
         "domain": "mmlu-pro-law", "difficulty": "unknown",
         "preferred": {("Red.", "gpt-x")}, "others": {("Seven.", "gpt-x")}}),
    "codejudgebench": (
        "gemini_2.5_pro-00000-of-00001.jsonl",
        {"question_title": "t", "question_content": "Add two.", "platform": "leetcode",
         "question_id": "3100", "contest_id": "c", "contest_date": "2024-01-01T00:00:00",
         "starter_code": "class Solution:", "difficulty": "easy", "pos_response": "right",
         "neg_response": "wrong", "release_date": "2024-01-01"},
        {"problem_id": "codejudgebench/codegen/gemini_2.5_pro/3100",
         "prompt": "Add two.", "category": "codegen", "domain": "leetcode",
         "difficulty": "easy",
         "preferred": {("right", "gemini_2.5_pro")}, "others": {("wrong", "gemini_2.5_pro")}}),
    "codeprefbench": (
        "security-alignment.jsonl",
        {"task_id": "CSE/1566", "instruction": "Hash a file.", "gt_choice": 1,
         "choices": ["import hashlib\nhashlib.md5()", "import hashlib\nhashlib.sha256()"]},
        {"problem_id": "codeprefbench/security/CSE/1566", "prompt": "Hash a file.",
         "category": "security", "domain": "CSE", "difficulty": "unknown",
         "preferred": {("import hashlib\nhashlib.sha256()", "unknown")},
         "others": {("import hashlib\nhashlib.md5()", "unknown")}}),
    "pairs": (
        "rise.jsonl",
        {"question": "Name a colour.", "chosen": "Red.", "rejected": "Seven.",
         "source": "HelpSteer", "category": "chat", "difficulty": "hard", "chosen_model": "m",
         "rejected_model": "n"},
        {"problem_id": "pairs/rise.jsonl", "prompt": "Name a colour.", "category": "chat",
         "domain": "HelpSteer", "difficulty": "hard",
         "preferred": {("Red.", "m")}, "others": {("Seven.", "n")}}),
}
OPTIONAL = {  # fields that a row may lack
    "rewardbench2": {"num_correct", "num_incorrect", "total_completions"},
    "judgebench": {"original_id"},
    "codejudgebench": {"question_title", "contest_id", "contest_date", "starter_code",
                       "release_date"},
    "pairs": {"source", "category", "difficulty", "chosen_model", "rejected_model"},
}
NEEDED = [(name, field) for name, (_, row, _) in FORMATS.items() for field in row
          if field not in OPTIONAL.get(name, ())]


def write(path, rows):
    """Original rows, as one JSON array or as lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(tmp_path, name, *rows, **more):
    """[(problem, candidates)] of these original rows."""
    path = write(tmp_path / FORMATS[name][0], list(rows))
    return list(read_preferences(name, [path], **more))


def original(name, **changes):
    return {**FORMATS[name][1], **changes}


# ---------------------------------------------------------------- from each format

@pytest.mark.parametrize("name", FORMATS)
def test_a_row_of_each_format_becomes_a_problem_and_its_labelled_answers(name, tmp_path):
    _, row, expected = FORMATS[name]
    (problem, candidates), = read(tmp_path, name, row)
    for field in ("problem_id", "prompt", "category", "domain", "difficulty"):
        assert problem[field] == expected[field]
    assert problem["source"] == name
    assert problem["task"] == "answer"
    assert problem["tests"] == problem["public_tests"] == []
    for kind, status in (("preferred", "preferred"), ("others", "not_preferred")):
        passed = kind == "preferred"
        own = [candidate for candidate in candidates if candidate["passed"] is passed]
        assert {(candidate["code"], candidate["policy"]) for candidate in own} == expected[kind]
        assert {candidate["status"] for candidate in own} == {status}
    assert {candidate["problem_id"] for candidate in candidates} == {problem["problem_id"]}


@pytest.mark.parametrize("name", FORMATS)
def test_a_byte_order_mark_is_no_part_of_a_file(name, tmp_path):
    path = write(tmp_path / FORMATS[name][0], [original(name)])
    without = list(read_preferences(name, [path]))
    path.write_text("\ufeff" + path.read_text(encoding="utf-8"), encoding="utf-8")
    assert list(read_preferences(name, [path])) == without


def test_every_format_is_tried_here():
    assert FORMATS.keys() == PREFERENCES.keys()


@pytest.mark.parametrize("name, field", NEEDED)
def test_a_row_without_a_field_is_named_by_file_row_and_field(name, field, tmp_path):
    row = original(name)
    del row[field]
    message = error(read, tmp_path, name, original(name), row)
    assert repr(field) in message
    assert "missing" in message
    assert message.startswith(f"{tmp_path / FORMATS[name][0]}, row 2: ")


@pytest.mark.parametrize("name, changes, says", [
    ("rewardbench", {"chosen": None}, "field 'chosen' must be text, found NoneType"),
    ("rewardbench", {"subset": "poems"}, "field 'subset' is 'poems'"),
    ("rewardbench2", {"chosen": "Red."}, "field 'chosen' must be a list of texts"),
    ("rewardbench2", {"models": ["a", "b"]}, "names 2 models for 4 answers"),
    ("rewardbench2", {"subset": "Ties"}, "must be ref:N or tied:N"),
    ("rewardbench2", {"subset": "Maths"}, "field 'subset' is 'Maths'; must be one of Factuality"),
    ("rewardbench2", {"num_correct": 2}, "'num_correct' is 2, but 'chosen' has 1 answers"),
    ("rmb", {"category_path": "Pairwise_set/Helpfulness"}, "must be SET/GOAL/SCENARIO"),
    ("rmb", {"category_path": "Pairwise_set/Honesty/Chat"}, "GOAL Helpfulness or Harmlessness"),
    ("rmb", {"conversation_input": []}, "field 'conversation_input' must be a list of turns"),
    ("rmb", {"chosen": {"llm_name": "m"}}, "field 'answer' is missing"),
    ("judgebench", {"label": "tie"}, "field 'label' must be 'A>B' or 'B>A'"),
    ("judgebench", {"source": "poems"}, "field 'source' is 'poems'"),
    ("codejudgebench", {"wrong_code": "x", "wrong_meta": "WA"}, "'wrong_meta' must be an object"),
    ("codejudgebench", {"wrong_code": "x", "wrong_meta": {}}, "field 'error_code' is missing"),
    ("codejudgebench", {"wrong_code": "x", "wrong_meta": {"error_code": -9}}, "must be one of -1,"),
    ("codejudgebench", {"difficulty": "Easy"}, "'Easy'; must be one of easy, medium, hard"),
    ("codeprefbench", {"gt_choice": 2}, "'gt_choice' 0 or 1"),
    ("codeprefbench", {"gt_choice": True}, "'gt_choice' 0 or 1"),
    ("codeprefbench", {"choices": ["x"]}, "must be two programs"),
    ("pairs", {"question": [{"role": "user"}]}, "field 'content' is missing"),
    ("pairs", {"chosen": []}, "field 'chosen' must be text or a list of turns"),
])
def test_a_field_that_is_not_as_published_is_named(name, changes, says, tmp_path):
    message = error(read, tmp_path, name, original(name, **changes))
    assert message.startswith(f"{tmp_path / FORMATS[name][0]}, row 1: ")
    assert says in message


@pytest.mark.parametrize("name", FORMATS)
def test_a_line_that_is_no_object_is_named(name, tmp_path):
    message = error(read, tmp_path, name, original(name), [1, 2])
    assert message.endswith("row 2: expected an object, found list")


def test_best_of_n_lists_of_rmb_have_one_preferred_answer(tmp_path):
    (problem, candidates), = read(tmp_path, "rmb", bon_row("One.", "Two."))
    assert problem["category"] == "Harmlessness, best of N"
    assert problem["prompt"] == "Hi!"
    assert Counter(row["passed"] for row in candidates) == {True: 1, False: 2}


def test_ties_have_several_preferred_answers_and_say_which_kind_they_are(tmp_path):
    row = original("rewardbench2", id="tied:3", subset="Ties", chosen=["Red.", "Blue."],
                   rejected=["One."], num_correct=2, models=["a"])
    (problem, candidates), = read(tmp_path, "rewardbench2", row)
    assert problem["category"] == "Ties"
    assert problem["domain"] == "Ties, tied"
    assert {row["policy"] for row in candidates} == {"a"}
    assert sum(row["passed"] for row in candidates) == 2


@pytest.mark.parametrize("code, inputs, shown", [
    (-1, None, "does not compile.\nerror: E"),
    (-2, "3 4", "gives a wrong answer.\ninputs: 3 4\noutput: 1\nexpected: 7"),
    (-3, "3 4", "exceeds the time limit.\nerror: E\ninputs: 3 4\nexpected: 7"),
    (-4, "3 4", "ends with a runtime error.\ninputs: 3 4\nexpected: 7\nerror: E"),
    (-4, None, "ends with a runtime error.\nerror_message: M"),
])
def test_a_program_to_repair_is_shown_with_what_went_wrong(code, inputs, shown, tmp_path):
    meta = {"error_code": code, "error_message": "M", "error": "E", "inputs": inputs, "output": "1",
            "expected": "7"}
    row = original("codejudgebench", wrong_code="print(1)\n", wrong_meta=meta)
    (problem, _), = read(tmp_path, "codejudgebench", row)
    assert problem["category"] == "coderepair"
    assert problem["prompt"] == f"Add two.\n\nRepair this program:\nprint(1)\n\nIt {shown}"


def test_test_generation_of_codejudgebench_is_refused(tmp_path):
    row = original("codejudgebench")
    path = write(tmp_path / "testgen" / "gemini_2.5_pro.jsonl", [row])
    rows = read_preferences("codejudgebench", [path])
    assert "rows of testgen cannot be read" in error(list, rows)
    del row["platform"]
    assert "is it a row of testgen?" in error(read, tmp_path, "codejudgebench", row)


@pytest.mark.parametrize("program, left", [
    ("def f():\n    '''Doc.'''\n    return 1  # one", "def f():\n    return 1"),
    ("class A:\n    '''Doc.'''", "class A:\n    pass"),
    ("'''Doc.'''\nx = 'kept'", "x = 'kept'"),
])
def test_codeprefbench_takes_comments_and_docstrings_out(program, left):
    assert codeprefbench.without_comments([program, program]) == [left, left]


@pytest.mark.parametrize("program", [
    "print 'of Python 2'",
    "x = " + "+".join(["1"] * 1500),      # ast.parse reads it, ast.unparse recurses too deep
], ids=["syntax", "depth"])
def test_comments_are_taken_from_both_programs_or_from_neither(program):
    both = ["x = 1  # one", program]
    assert codeprefbench.without_comments(both) == both


def test_codeprefbench_leaves_them_where_people_were_asked(tmp_path):
    row = {"task_id": "lbpp/0", "instruction": "Add.", "choices": ["x = 1  # one", "x = 2"],
           "gt_choice": 0, "annotations": ["codeA", "codeA", "Tie"]}
    path = write(tmp_path / "human-preference-alignment.jsonl", [row])
    (_, candidates), = read_preferences("codeprefbench", [path])
    passed = {row["code"]: row["passed"] for row in candidates}
    assert passed == {"x = 1  # one": True, "x = 2": False}


def test_the_aspect_of_codeprefbench_is_the_name_of_its_file(tmp_path):
    path = write(tmp_path / "some.jsonl", [original("codeprefbench")])
    assert "the aspect is the file's name" in error(list, read_preferences("codeprefbench", [path]))


@pytest.mark.parametrize("chosen, rejected, prompt", [
    ([TURNS[0], {"role": "assistant", "content": "Red."}],
     [TURNS[0], {"role": "assistant", "content": "Seven."}], "Hi!"),
    ([*TURNS, {"role": "assistant", "content": "Red."}],
     [*TURNS, {"role": "assistant", "content": "Seven."}], SHOWN),
])
def test_pairs_may_be_whole_conversations(chosen, rejected, prompt, tmp_path):
    (problem, candidates), = read(tmp_path, "pairs", {"chosen": chosen, "rejected": rejected})
    assert problem["prompt"] == prompt
    assert {row["code"]: row["passed"] for row in candidates} == {"Red.": True, "Seven.": False}


def test_conversations_that_differ_before_their_last_turn_are_no_pair(tmp_path):
    row = {"chosen": [TURNS[0], TURNS[1]], "rejected": [TURNS[2], TURNS[1]]}
    assert "differ in their last turn alone" in error(read, tmp_path, "pairs", row)


PARIS = {"role": "assistant", "content": "Paris."}
ROME = {"role": "assistant", "content": "Rome."}


@pytest.mark.parametrize("prompt", ["Hi!", TURNS[:1], None])
def test_a_prompt_beside_a_conversation_may_be_its_text(prompt, tmp_path):
    row = {"prompt": prompt, "chosen": [TURNS[0], PARIS], "rejected": [TURNS[0], ROME]}
    (problem, _), = read(tmp_path, "pairs", row)
    assert problem["prompt"] == "Hi!"


def test_an_answer_may_be_a_single_turn_behind_a_prompt(tmp_path):
    (problem, candidates), = read(tmp_path, "pairs",
                                  {"prompt": TURNS, "chosen": [PARIS], "rejected": "Rome."})
    assert problem["prompt"] == SHOWN
    assert {row["code"] for row in candidates} == {"Paris.", "Rome."}


@pytest.mark.parametrize("row, says", [
    ({"chosen": "x", "rejected": "y"}, "field 'prompt' (or 'question') is missing"),
    ({"chosen": [PARIS], "rejected": [ROME]}, "field 'prompt' (or 'question') is missing"),
    ({"question": "Q", "prompt": "P", "chosen": "x", "rejected": "y"},
     "has both 'question' and 'prompt'"),
    ({"chosen": TURNS, "rejected": TURNS}, "its last turn must be the assistant's, found 'user'"),
    ({"prompt": "Hi!", "chosen": [*TURNS, PARIS], "rejected": [*TURNS, ROME]},
     "the prompt is not the text of the conversation"),
    ({"prompt": "Hi!", "chosen": [*TURNS, PARIS], "rejected": [TURNS[0], ROME]},
     "must differ in their last turn alone"),
    ({"prompt": "Hi!", "chosen": [*TURNS, PARIS], "rejected": "Rome."},
     "must differ in their last turn alone"),
])
def test_a_pair_whose_prompt_is_not_certain_is_refused(row, says, tmp_path):
    message = error(read, tmp_path, "pairs", row)
    assert message.startswith(f"{tmp_path / FORMATS['pairs'][0]}, row 1: ")
    assert says in message


def test_one_user_turn_is_its_text():
    assert conversation(TURNS[:1], "x") == "Hi!"


@pytest.mark.parametrize("subset, section", [
    ("alpacaeval-easy", "Chat"), ("alpacaeval-length", "Chat"), ("alpacaeval-hard", "Chat"),
    ("mt-bench-easy", "Chat"), ("mt-bench-med", "Chat"), ("mt-bench-hard", "Chat Hard"),
    ("llmbar-natural", "Chat Hard"), ("llmbar-adver-neighbor", "Chat Hard"),
    ("llmbar-adver-GPTInst", "Chat Hard"), ("llmbar-adver-GPTOut", "Chat Hard"),
    ("llmbar-adver-manual", "Chat Hard"), ("refusals-dangerous", "Safety"),
    ("refusals-offensive", "Safety"), ("xstest-should-refuse", "Safety"),
    ("xstest-should-respond", "Safety"), ("donotanswer", "Safety"), ("math-prm", "Reasoning"),
    ("hep-cpp", "Reasoning"), ("hep-go", "Reasoning"), ("hep-java", "Reasoning"),
    ("hep-js", "Reasoning"), ("hep-python", "Reasoning"), ("hep-rust", "Reasoning"),
])
def test_each_of_rewardbench_s_23_subsets_is_in_its_section(subset, section):
    assert rewardbench.section_of(subset) == section


@pytest.mark.parametrize("source, category", [
    ("mmlu-pro-computer science", "knowledge"), ("livebench-reasoning", "reasoning"),
    ("livebench-math", "math"), ("livecodebench", "coding"),
])
def test_judgebench_s_categories_are_told_by_the_source(source, category, tmp_path):
    (problem, _), = read(tmp_path, "judgebench", original("judgebench", source=source))
    assert problem["category"] == category
    assert problem["domain"] == source
    assert problem["set"] == "gpt-x"


def test_a_source_that_only_holds_a_known_one_is_refused(tmp_path):
    row = original("judgebench", source="not-livebench-math")
    assert "must begin with mmlu-pro" in error(read, tmp_path, "judgebench", row)


@pytest.mark.parametrize("aspect", codeprefbench.CRITERIA)
def test_codeprefbench_tells_the_judge_what_counts_in_each_aspect(aspect, tmp_path):
    path = write(tmp_path / f"{aspect}-alignment.jsonl", [original("codeprefbench")])
    (problem, _), = read_preferences("codeprefbench", [path])
    assert problem["criterion"] == codeprefbench.CRITERIA[aspect]
    assert problem["category"] == aspect


def test_codejudgebench_tells_the_judge_that_tests_count(tmp_path):
    (problem, _), = read(tmp_path, "codejudgebench", original("codejudgebench"))
    assert "passes every test" in problem["criterion"]


def test_a_runtime_error_on_empty_input_is_shown_with_it(tmp_path):
    meta = {"error_code": -4, "error_message": "M", "error": "E", "inputs": "", "expected": "7"}
    row = original("codejudgebench", wrong_code="print(1)", wrong_meta=meta)
    (problem, _), = read(tmp_path, "codejudgebench", row)
    assert problem["prompt"].endswith("runtime error.\ninputs: \nexpected: 7\nerror: E")


def test_one_turn_that_is_not_the_user_s_is_shown_with_its_role(tmp_path):
    system = {"role": "system", "content": "Be brief."}
    (problem, _), = read(tmp_path, "rmb", original("rmb", conversation_input=[system]))
    assert problem["prompt"] == "System:\nBe brief."


def test_a_row_of_rewardbench2_that_says_fewer_right_answers_than_it_has_is_refused(tmp_path):
    row = original("rewardbench2", num_correct=0)
    assert "'num_correct' is 0" in error(read, tmp_path, "rewardbench2", row)


def test_a_pair_with_an_id_keeps_it(tmp_path):
    (problem, _), = read(tmp_path, "pairs", original("pairs", id=17))
    assert problem["problem_id"] == "pairs/17"
    (problem, _), = read(tmp_path, "pairs", original("pairs", id=None))
    assert problem["problem_id"].endswith(".jsonl")


def test_no_two_pairs_have_one_id_whatever_the_file_calls_them(tmp_path):
    rows = [original("pairs", id=name) for name in (1, 1, "1/2", "1", "1/2/2")]
    ids = [problem["problem_id"] for problem, _ in read(tmp_path, "pairs", *rows)]
    assert ids[:2] == ["pairs/1", "pairs/1/2"]
    assert len(set(ids)) == len(rows)


def test_an_id_that_is_not_valid_unicode_is_named(tmp_path):
    assert "row 1: the problem's id is " in error(read, tmp_path, "pairs", original("pairs", id="\ud800"))


def test_a_prompt_that_is_only_the_beginning_of_the_conversation_is_refused(tmp_path):
    answer = {"role": "assistant", "content": "Red."}
    other = {"role": "assistant", "content": "Seven."}
    row = {"prompt": "User:\nHi!", "chosen": [*TURNS, answer], "rejected": [*TURNS, other]}
    assert "is not the text of the conversation" in error(read, tmp_path, "pairs", row)


def test_every_answer_that_is_left_out_is_counted(tmp_path):
    row = original("rewardbench2", rejected=["Red.", "Red.", "Six."])
    path = write(tmp_path / "test.jsonl", [row])
    left_out = Counter()
    list(read_preferences("rewardbench2", [path], left_out=left_out))
    assert list(left_out.values()) == [2]


def test_rows_to_train_on_that_ask_for_something_else_are_no_repetition(tmp_path):
    for aspect in ("security", "efficiency"):
        write(tmp_path / "all" / f"{aspect}-alignment.jsonl", [original("codeprefbench")])
    found = list(read_preferences("codeprefbench", [tmp_path / "all"], (("train", 1.0),)))
    assert len({problem["criterion"] for problem, _ in found}) == 2


@pytest.mark.parametrize("status", ["passed", "wrong_answer"])
def test_labels_of_programs_are_not_written_over_whatever_they_are(status, tmp_path):
    assert not is_labelled_by_preference({"status": status})


# ---------------------------------------------------------------- files, order, splits

def test_a_folder_stands_for_its_files_in_the_order_of_their_names(tmp_path):
    write(tmp_path / "b" / "S2.json", [original("rmb", pair_uid="2")])
    write(tmp_path / "a" / "S1.json", [original("rmb", pair_uid="1", conversation_input=TURNS[:1])])
    (tmp_path / "README.md").write_text("no rows")
    problems = [problem for problem, _ in read_preferences("rmb", [tmp_path])]
    assert [problem["problem_id"][-2:] for problem in problems] == ["/1", "/2"]


def test_a_folder_without_such_files_is_an_error(tmp_path):
    assert "in this folder" in error(list, read_preferences("rmb", [tmp_path]))


def test_a_file_that_is_named_twice_is_not_counted_twice(tmp_path):
    path = write(tmp_path / "S1.json", [original("rmb", pair_uid="1")])
    assert "S1.json: is given twice" in error(list, read_preferences("rmb", [path, tmp_path]))


def test_a_file_beside_itself_zipped_is_not_counted_twice(tmp_path):
    path = write(tmp_path / "security-alignment.jsonl", [original("codeprefbench")])
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    message = error(list, read_preferences("codeprefbench", [tmp_path]))
    assert message.startswith(f"{path}: lies beside security-alignment.jsonl.gz")


def test_gzipped_lines_are_read(tmp_path):
    path = tmp_path / "security-alignment.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.write(json.dumps(original("codeprefbench")) + "\n")
    assert len(list(read_preferences("codeprefbench", [path]))) == 1


def test_neither_the_place_nor_the_id_of_an_answer_tells_its_label(tmp_path):
    rows = [original("judgebench", pair_id=str(k), question=f"Question {k}?") for k in range(200)]
    found = read(tmp_path, "judgebench", *rows)
    first = Counter(candidates[0]["passed"] for _, candidates in found)
    assert 70 < first[True] < 130
    ids = {row["candidate_id"] for _, candidates in found for row in candidates}
    assert ids == {"gpt-x-0", "gpt-x-1"}
    assert read(tmp_path, "judgebench", *rows) == found


@pytest.mark.parametrize("split, kept", [("train", 2), ("meta", 2), ("dev", 4), ("test", 4)])
def test_rows_that_repeat_another_are_left_out_where_something_is_trained(split, kept, tmp_path):
    row = original("judgebench")
    swapped = original("judgebench", response_A="Red.", response_B="Seven.", label="A>B")
    other_way = original("judgebench", label="A>B")
    left_out = Counter()
    found = read(tmp_path, "judgebench", row, row, swapped, other_way, left_out=left_out,
                 shares=((split, 1.0),))
    ids = [problem["problem_id"] for problem, _ in found]
    assert ids == ["judgebench/e302", "judgebench/e302/2", "judgebench/e302/3",
                   "judgebench/e302/4"][:kept]
    repeated = {"rows to train on that repeat an earlier one": 2} if kept == 2 else {}
    assert left_out == repeated


def test_the_same_refusal_by_several_models_is_as_many_pairs(tmp_path):
    rows = []
    for k in range(3):
        refusal = {"llm_name": f"m{k}", "answer": "Sorry."}
        rows.append(original("rmb", pair_uid=str(k), chosen=refusal))
    assert len(read(tmp_path, "rmb", *rows)) == 3


def bon_row(*losers):
    """A list of RMB whose best answer is "Red."."""
    return {"conversation_input": TURNS[:1], "bon_uid": "9",
            "category_path": "BoN_set/Harmlessness/S1",
            "bon_best": {"llm_name": "m", "answer": "Red."},
            "loser_list": [{"llm_name": "n", "answer": text} for text in losers]}


def test_a_loser_with_the_text_of_the_best_answer_alone_is_left_out_and_counted(tmp_path):
    left_out = Counter()
    (_, candidates), = read(tmp_path, "rmb", bon_row("One.", "Red.", "Two."), left_out=left_out)
    assert sorted(row["code"] for row in candidates) == ["One.", "Red.", "Two."]
    assert [row["policy"] for row in candidates if row["code"] == "Red."] == ["m"]
    assert left_out == {"answers that lost, with the text of a preferred one of their row": 1}


def test_two_equal_answers_cannot_be_asked_about_and_are_counted(tmp_path, capsys):
    rows = [original("judgebench"), original("judgebench", response_A="Red.")]
    command(tmp_path, "judgebench", rows)
    printed = capsys.readouterr().out
    assert printed.startswith("1 problems (1 test)")
    assert "note: left out: 1 rows that prefer an answer to itself\n" in printed


@pytest.mark.parametrize("split, kept", [("meta", 1), ("dev", 2)])
def test_repeated_rows_are_left_out_of_meta_too_and_counted_in_dev(split, kept, tmp_path):
    rows = [original("pairs"), original("pairs", source="elsewhere")]
    assert len(read(tmp_path, "pairs", *rows, shares=((split, 1.0),))) == kept


@pytest.mark.parametrize("change", [
    {"question": "Name a number."}, {"chosen": "Seven.", "rejected": "Red."}])
def test_rows_to_train_on_that_say_something_else_are_kept(change, tmp_path):
    rows = [original("pairs"), original("pairs", **change)]
    assert len(read(tmp_path, "pairs", *rows, shares=(("train", 1.0),))) == 2


def test_prompts_that_the_audit_takes_for_the_same_fall_into_the_same_split(tmp_path):
    shares = (("train", 0.5), ("test", 0.5))
    for k in range(20):
        rows = [original("pairs", question=text) for text in (f"Sort {k}.", f" sort\n{k} !")]
        splits = {problem["split"] for problem, _ in read(tmp_path, "pairs", *rows, shares=shares)}
        assert len(splits) == 1


@pytest.mark.parametrize("words", [["train=0.5", "test=0.4"], ["train=0.5", "meta=0.3"]])
def test_shares_that_leave_some_prompts_without_a_split_are_refused(words):
    assert "shares that add up to 1" in error(shares_of, words)


def test_splits_are_shares_and_the_same_prompt_always_falls_into_the_same(tmp_path):
    rows = [original("judgebench", pair_id=str(k), question=f"Question {k}?") for k in range(400)]
    again = [original("judgebench", pair_id=f"again {k}", question=f"question {k}!", response_A="x")
             for k in range(400)]
    shares = (("train", 0.5), ("meta", 0.25), ("test", 0.25))
    found = read(tmp_path, "judgebench", *rows, *again, shares=shares)
    problems = [problem for problem, _ in found]
    assert [p["split"] for p in problems[:400]] == [p["split"] for p in problems[400:]]
    count = Counter(problem["split"] for problem in problems[:400])
    assert 160 < count["train"] < 240
    assert 70 < count["meta"] < 130
    note = audit({p["problem_id"]: p for p in problems}, [])[0]
    assert note.startswith("splits share 0 problems")


# ---------------------------------------------------------------- the command

def command(tmp_path, name="judgebench", rows=None, *flags):
    """The folder that holds what the command has written."""
    path = write(tmp_path / FORMATS[name][0], rows or [original(name)])
    out = tmp_path / "run" / "labelled.jsonl"
    convert(["--benchmark", name, "--problems", str(path), "--out", str(out), *flags])
    return out.parent


@pytest.mark.parametrize("name", FORMATS)
def test_the_command_writes_rows_that_every_reader_takes(name, tmp_path, capsys):
    folder = command(tmp_path, name)
    problems = read_problems(folder / "problems.jsonl")
    labelled = read_rows(folder / "labelled.jsonl", key=("problem_id", "candidate_id"))
    assert {row["problem_id"] for row in labelled} == problems.keys()
    assert {problem["split"] for problem in problems.values()} == {"test"}
    printed = capsys.readouterr().out
    assert "labelled by preference; nothing was executed" in printed
    assert "next: python select.py --split test" in printed


@pytest.mark.parametrize("splits, held_out", [
    (["train=0.4", "meta=0.3", "dev=0.3"], "dev"),
    (["train=0.4", "dev=0.2", "test=0.2", "meta=0.2"], "test"),
])
def test_the_command_names_the_next_stage(splits, held_out, tmp_path, capsys):
    rows = [original("pairs", question=f"Question {k}?") for k in range(40)]
    command(tmp_path, "pairs", rows, "--as-split", *splits)
    stage = f"next: python train_bilevel.py --lora-rank 16 --eval-split {held_out} --problems"
    assert stage in capsys.readouterr().out


def test_the_command_does_not_name_a_stage_that_would_be_refused(tmp_path, capsys):
    rows = [original("pairs", question=f"Question {k}?") for k in range(40)]
    command(tmp_path, "pairs", rows, "--as-split", "train=0.5", "meta=0.5")
    printed = capsys.readouterr().out
    assert "next: python select.py --split train" in printed
    assert "note: to train a judge" in printed


def test_the_command_run_again_writes_the_same(tmp_path):
    folder = command(tmp_path)
    before = (folder / "labelled.jsonl").read_bytes()
    command(tmp_path)
    assert (folder / "labelled.jsonl").read_bytes() == before


@pytest.mark.parametrize("file, row", [
    ("labelled.jsonl", {"problem_id": "p", "candidate_id": "c", "status": "passed"}),
    ("problems.jsonl", {"problem_id": "p", "prompt": "Add."}),
])
def test_the_command_does_not_write_over_rows_of_programs(file, row, tmp_path):
    write_rows(tmp_path / "run" / file, [row])
    message = error(command, tmp_path)
    assert message.startswith(f"{tmp_path / 'run' / file}: holds rows that are no preferences")
    assert read_rows(tmp_path / "run" / file) == [row]


@pytest.mark.parametrize("words, says", [
    (["exam"], "'exam' must be one of"),
    (["train=0.9", "meta=0.2"], "add up to 1"),
    (["train=0.5", "train=0.5"], "different ones"),
    (["train", "meta"], "add up to 1"),
    (["train=much"], "'much' is no number"),
    (["train=nan"], "add up to 1"),
    (["train=nan", "meta=1"], "add up to 1"),
    (["train=1.5", "meta=-0.5"], "add up to 1"),
])
def test_splits_that_make_no_sense_are_refused(words, says, tmp_path):
    assert says in error(command, tmp_path, "judgebench", None, "--as-split", *words)


def test_a_benchmark_must_be_named(tmp_path):
    message = error(convert, ["--out", str(tmp_path / "l.jsonl")])
    assert message.startswith("--benchmark: name one of rewardbench")


def test_without_pyarrow_a_file_that_is_parquet_by_hand_as_well_is_no_advice(tmp_path, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec",
                        lambda name, *rest: None if name == "pyarrow" else real(name, *rest))
    message = error(convert, ["--benchmark", "rewardbench", "--out", str(tmp_path / "l.jsonl")])
    assert message.endswith("which wants pyarrow: pip install pyarrow")
    flags = ["--problems", str(tmp_path / "x.parquet"), "--out", str(tmp_path / "l.jsonl")]
    message = error(convert, ["--benchmark", "rewardbench", *flags])
    assert "pip install pyarrow" in message
    assert "the same rows as JSON Lines" in message


def test_a_broken_line_is_named(tmp_path):
    path = write(tmp_path / "rise.jsonl", [original("pairs"), original("pairs", question="R")])
    with open(path, "a") as file:
        file.write('{"prompt": oops}\n')
    message = error(list, read_preferences("pairs", [path]))
    assert message.startswith(f"{path}, line 3: cannot be read as JSON")


def test_without_files_and_hub_it_is_said_where_to_fetch_them(tmp_path):
    message = error(convert, ["--benchmark", "judgebench", "--out", str(tmp_path / "l.jsonl")])
    assert "fetch its files by hand (https://github.com/ScalerLab/JudgeBench" in message


# ---------------------------------------------------------------- no stage takes them for programs

def test_the_sandbox_refuses_them(tmp_path):
    folder = command(tmp_path)
    flags = ["--problems", str(folder / "problems.jsonl"),
             "--candidates", str(folder / "labelled.jsonl"),
             "--out", str(folder / "executed.jsonl")]
    message = error(execute.main, flags)
    assert "labelled by preference: there is nothing to execute" in message
    assert not (folder / "executed.jsonl").exists()


@pytest.mark.parametrize("chat", [True, False])
def test_no_policy_is_asked_to_write_a_program_for_them(chat, tmp_path):
    problem = read_rows(command(tmp_path) / "problems.jsonl")[0]
    assert "there is no program to write" in error(solution_prompt, problem, chat)


def test_another_kind_of_task_is_refused(tmp_path):
    problem = read_rows(command(tmp_path) / "problems.jsonl")[0]
    write_rows(tmp_path / "p.jsonl", [{**problem, "task": "answers"}])
    assert "'task' is 'answers'; must be 'answer'" in error(read_problems, tmp_path / "p.jsonl")


@pytest.mark.parametrize("field", ["criterion", "set", "category"])
def test_a_field_of_ones_own_rows_that_is_no_text_is_named_before_a_judge_works(field, tmp_path):
    problem = read_rows(command(tmp_path) / "problems.jsonl")[0]
    for value in (None, 3, ["Chat"]):
        write_rows(tmp_path / "p.jsonl", [{**problem, field: value}])
        message = error(read_problems, tmp_path / "p.jsonl")
        assert f"{problem['problem_id']!r}: field {field!r} has the wrong type" in message


def test_the_judge_is_asked_about_answers_and_ends_with_the_same_verdict():
    problem = {"prompt": "Name a colour.", "task": "answer"}
    prompt = judge_prompt(problem, "Red.", "Seven.", chat=True)
    assert prompt == f"{ANSWER_PROTOCOL}Name a colour.\nA:\n```\nRed.\n```\nB:\n```\nSeven.\n```\n"
    assert "program" not in prompt
    for verdict in "AB":
        tag = f"<best>{verdict}</best>"
        assert tag in ANSWER_PROTOCOL
        assert tag in PROTOCOL
        assert parse_verdict(f"It is a colour. {tag}") == verdict


def test_a_criterion_is_shown_with_and_without_a_chat_template():
    problem = {"prompt": "Hash.", "task": "answer", "criterion": "speed."}
    for chat in (True, False):
        shown = judge_prompt(problem, "x", "y", chat)
        assert "What counts here: speed.\n\nHash.\nA:\n" in shown


@pytest.mark.parametrize("chat, shown", [
    (True, PROTOCOL + "Add.\nA:\n```python\nx = 1\n```\nB:\n```python\nx = 2\n```\n"),
    (False, "Add.\nA:\nx = 1\nB:\nx = 2\n"),
])
def test_programs_are_judged_in_words_of_their_own(chat, shown):
    for problem in ({"prompt": "Add."}, {"prompt": "Add.", "criterion": "speed."}):
        assert judge_prompt(problem, "x = 1", "x = 2", chat) == shown


def test_an_answer_cannot_end_its_block():
    prompt = judge_prompt({"prompt": "Q", "task": "answer"}, "```\nB:\nbad", "fine", chat=True)
    assert "A:\n````\n```\nB:\nbad\n````\nB:\n````\nfine\n````\n" in prompt


def test_training_pairs_are_made_of_a_preferred_answer_and_another(tmp_path):
    rows = [original("rewardbench", id=k, prompt=f"Question {k}?") for k in range(60)]
    shares = ["train=0.5", "meta=0.25", "test=0.25"]
    folder = command(tmp_path, "rewardbench", rows, "--as-split", *shares)
    cfg = SimpleNamespace(problems=[str(folder / "problems.jsonl")],
                          labelled=str(folder / "labelled.jsonl"), eval_split="test", seed=0,
                          train_split=["train"], meta_problems=0,
                          pairs_per_problem=2, train_only=[], allow_overlap=False,
                          domain_key=["category", "domain", "source", "policy", "difficulty"])
    (train, meta, test), _ = read_pairs(cfg)
    assert len(train) + len(meta) + len(test) == 60
    for pair in train:
        right = pair.a if pair.right == "A" else pair.b
        assert right["status"] == "preferred"
    domain, = {pair.domain for pair in train}
    assert domain == "Chat Hard × llmbar-natural × rewardbench × llama-y × unknown"


# ---------------------------------------------------------------- what the benchmarks report

def result(*pairs, score=None, passed=None, comparable=True, rated=False, **problem):
    outcomes = {("best", k): [pair] for k, pair in enumerate(pairs)}
    return scores.Result(problem, outcomes, score or {}, passed or {}, comparable, rated)


RIGHT = (True, True)
WRONG = (False, False)
SPLIT = (True, False)
HALF = (True, None)


def answers(texts=None, **passed):
    """Rows of labelled.jsonl: answers by their ids, which are their texts if nothing else is."""
    return [{"problem_id": "p", "candidate_id": name, "code": (texts or {}).get(name, name),
             "passed": preferred} for name, preferred in passed.items()]


def judgments_of(said, draw=0):
    """Rows of judgments.jsonl, of (A, B, verdict)."""
    return [{"draw": draw, "a": a, "b": b, "verdict": verdict} for a, b, verdict in said]


def every_pair(names, draw=0):
    """Both orders of each pair; the earlier name wins."""
    said = []
    for k, a in enumerate(names):
        for b in names[k + 1:]:
            said += [(a, b, "A"), (b, a, "B")]
    return judgments_of(said, draw)


def test_a_pair_is_judged_in_both_orders():
    candidates = answers(x=True, y=False, z=False)
    said = [("x", "y", "A"), ("y", "x", "A"), ("z", "x", None), ("x", "z", "B"), ("y", "z", "B"),
            ("z", "y", "A")]
    found = scores.result_of({"problem_id": "p"}, candidates, judgments_of(said))
    assert found.outcomes == {("x", "y"): [(True, False)], ("x", "z"): [(False, None)]}
    assert found.pairs == [(True, False), (False, None)]
    assert found.score == {"x": 1 / 4, "y": 1 / 4, "z": 3 / 4}


@pytest.mark.parametrize("judgments, comparable", [
    (every_pair("xyz"), True),
    (every_pair("xy") + every_pair("xz"), False),                       # y and z never met
    (every_pair("xyz") + every_pair("xy", draw=1), False),              # x and y met twice
    (every_pair("xyz") + every_pair("xyz", draw=1), False),
    ([], False),
])
def test_answers_of_a_list_are_compared_where_each_two_were_judged_once(judgments, comparable):
    candidates = answers(x=True, y=False, z=False)
    found = scores.result_of({"problem_id": "p"}, candidates, judgments)
    assert found.comparable == comparable
    assert isnan(scores.best_of_n([found])) == (not comparable)


def test_two_answers_may_be_judged_any_number_of_times():
    candidates = answers(x=True, y=False)
    judgments = every_pair("xy") + every_pair("yx", draw=1) + every_pair("xy", draw=2)
    found = scores.result_of({"problem_id": "p"}, candidates, judgments)
    assert found.outcomes == {("x", "y"): [RIGHT, WRONG, RIGHT]}
    assert scores.best_of_n([found]) == 1


def test_an_answer_with_the_text_of_another_has_its_share():
    candidates = answers(dict(y2="y"), x=True, y=False, y2=False, z=False)
    found = scores.result_of({"problem_id": "p"}, candidates, every_pair("yxz"))
    assert found.score == {"x": 1 / 2, "y": 1.0, "y2": 1.0, "z": 0.0}
    assert found.comparable


def test_shares_of_pairs():
    results = [result(RIGHT, WRONG), result(SPLIT, HALF, (None, None))]
    assert scores.accuracy(results, 0.0) == 4 / 10
    assert scores.accuracy(results, 0.5) == 5.5 / 10
    assert scores.share_of_pairs(results, scores.right_in_both) == 1 / 5
    assert scores.share_of_pairs(results, scores.same_choice) == 2 / 5
    assert scores.share_of_pairs(results, scores.is_tied) == 2 / 5
    assert scores.share_of_pairs(results, scores.more_right_than_wrong) == 2 / 5


def test_nothing_judged_has_no_share():
    assert isnan(scores.accuracy([], 0.5))


def test_best_of_n_shares_the_first_place():
    four = dict(w=True, x=False, y=False, z=False)
    alone = result(score=dict(w=1.0, x=0.5, y=0.5, z=0.0), passed=four)
    shared = result(score=dict(w=0.5, x=0.5, y=0.0, z=0.0), passed=four)
    lost = result(score=dict(w=0.0, x=1.0, y=0.5, z=0.5), passed=four)
    assert scores.best_of_n([alone, shared, lost]) == 0.5


def rewardbench_result(subset, *pairs):
    return result(*pairs, domain=subset)


def test_rewardbench_weights_subsets_by_their_pairs_and_maths_like_all_code():
    results = [rewardbench_result("alpacaeval-easy", RIGHT)] * 3
    results += [rewardbench_result("mt-bench-med", WRONG)]
    results += [rewardbench_result("math-prm", WRONG)]
    results += [rewardbench_result("hep-python", RIGHT)] * 2
    results += [rewardbench_result("hep-cpp", RIGHT)] * 2
    found = PREFERENCES["rewardbench"].scores(results)
    assert found == {"Chat": 0.75, "Reasoning": 0.5, "score": 0.625}


def test_rewardbench_counts_no_verdict_half():
    found = PREFERENCES["rewardbench"].scores([rewardbench_result("donotanswer", HALF)])
    assert found["Safety"] == 0.75


def five_subsets(**more):
    """A row of each subset but Ties; in Math alone the right answer has the highest score."""
    rows = []
    for subset in rewardbench2.FIVE:
        won = float(subset == "Math")
        rows.append(result(score=dict(w=won, x=0.5), passed=dict(w=True, x=False), category=subset,
                           **more))
    return rows


def test_rewardbench2_of_a_judge_of_pairs_is_the_mean_of_five_subsets():
    results = five_subsets() + [ties("ref:1", [1.0], [0.5], rated=False)]
    found = rewardbench2.scores(results)
    assert found["Math"] == 1
    assert found["mean without Ties"] == 1 / 5
    assert isnan(found["Ties"])
    assert isnan(found["score"])


def test_rewardbench2_of_ratings_is_the_mean_of_six_subsets():
    perfect = [ties("ref:1", [0.9], [0.1]), ties("tied:1", [0.75, 0.75], [0.25])]
    found = rewardbench2.scores(five_subsets(rated=True) + perfect)
    assert found["Ties"] == pytest.approx(1)
    assert found["score"] == pytest.approx(2 / 6)


def test_rewardbench2_has_no_mean_of_some_of_its_subsets():
    found = rewardbench2.scores(five_subsets(rated=True)[:4])
    assert isnan(found["score"])
    assert isnan(found["mean without Ties"])


def ties(number, right, wrong, rated=True):
    """A row of the subset Ties with these ratings."""
    score = {f"r{k}": value for k, value in enumerate(right)}
    score |= {f"w{k}": value for k, value in enumerate(wrong)}
    return result(score=score, passed={name: name[0] == "r" for name in score}, rated=rated,
                  problem_id=f"rewardbench2/Ties/{number}", category="Ties")


def test_the_ties_of_rewardbench2_ask_for_a_gap_wider_than_the_spread_of_the_right_answers():
    results = [
        ties("ref:1", [1.0], [0.5]),            # gap 0.5
        ties("tied:1", [0.75, 0.5], [0.125]),   # spread 0.25, gap 0.375
        ties("ref:2", [0.5], [0.75]),           # gap -0.25: not accurate
        ties("tied:2", [0.75, 0.5], [0.25]),    # spread 0.25, gap 0.25: not wider
    ]
    # accurate: both tied rows, one of the two ref rows; wider than its spread: of each kind one
    margin = (tanh(0.375 / 0.25 - 1) + tanh(-0.25 / 0.25 - 1)) / 2
    expected = 0.3 * 1 + 0.3 / 2 + 0.2 / 2 + 0.2 / 2 + 0.01 * margin
    assert rewardbench2.scores(results)["Ties"] == pytest.approx(expected)


def test_right_answers_without_any_spread_have_no_margin():
    results = [ties("ref:1", [1.0], [0.5]), ties("tied:1", [0.75, 0.75], [0.25]),   # spread 0
               ties("ref:2", [1.0], [0.5]), ties("tied:2", [0.75, 0.5], [0.125])]
    margin = tanh(0.375 / 0.25 - 1)      # of the second alone
    assert rewardbench2.scores(results)["Ties"] == pytest.approx(1 + 0.01 * margin)


def test_judgebench_counts_pairs_with_more_right_than_wrong_judgments():
    results = [result(pair, category="math") for pair in (RIGHT, HALF, SPLIT, WRONG)]
    results += [result((None, False), category="coding")]
    found = PREFERENCES["judgebench"].scores(results)
    assert found == {"math": 0.5, "coding": 0.0, "overall": 2 / 5}


def test_codejudgebench_counts_judgments_of_both_orders_by_difficulty():
    results = [result(RIGHT, category="codegen", difficulty="easy"),
               result(HALF, category="codegen", difficulty="hard")]
    found = PREFERENCES["codejudgebench"].scores(results)
    assert found == {"codegen, easy": 1.0, "codegen, hard": 0.5, "codegen": 0.75}


def test_codeprefbench_is_the_mean_of_its_aspects_with_and_without_people():
    results = [result(RIGHT, category="correctness")] * 3
    results += [result(HALF, category="security"), result(WRONG, category="human-preference")]
    found = PREFERENCES["codeprefbench"].scores(results)
    assert found["security"] == 0.75
    assert found["score"] == pytest.approx(1.75 / 3)
    assert found["without human preference"] == 0.875


def test_rmb_asks_the_best_to_be_preferred_to_each_other_answer():
    results = [result(RIGHT, category="Helpfulness, pairs"),
               result(SPLIT, category="Helpfulness, pairs"),
               result(RIGHT, HALF, category="Helpfulness, best of N"),
               result(RIGHT, SPLIT, category="Helpfulness, best of N")]
    found = PREFERENCES["rmb"].scores(results)
    assert isnan(found.pop("score"))  # of the four parts that RMB takes the mean of, two are not there
    assert found == {"Helpfulness, pairs": 0.75, "Helpfulness, best of N": 0.5}
    results += [result(RIGHT, category="Harmlessness, pairs"), result(WRONG, category="Harmlessness, best of N")]
    assert PREFERENCES["rmb"].scores(results)["score"] == pytest.approx((0.75 + 0.5 + 1 + 0) / 4)


def test_lists_of_rmb_that_were_not_judged_pair_by_pair_have_no_share():
    results = [result(RIGHT, category="Helpfulness, pairs"),
               result(RIGHT, category="Helpfulness, best of N", comparable=False)]
    found = PREFERENCES["rmb"].scores(results)
    assert found["Helpfulness, pairs"] == 1
    assert isnan(found["Helpfulness, best of N"])
    assert isnan(found["score"])


def test_votes_of_all_draws_decide_whether_the_only_other_answer_of_a_list_is_beaten():
    for draws, beaten in (([RIGHT, SPLIT], 1), ([RIGHT, WRONG], 0)):
        judged = result(category="Helpfulness, best of N")
        judged.outcomes["best", "other"] = draws
        assert PREFERENCES["rmb"].scores([judged])["Helpfulness, best of N"] == beaten


def test_pairs_of_your_own_are_counted_by_judgment():
    assert PREFERENCES["pairs"].scores([result(RIGHT), result((None, False))]) == {"right": 0.5}


@pytest.mark.parametrize("name, counts", [
    ("rewardbench", 0.5), ("rewardbench2", 0.5), ("rmb", 0.0), ("judgebench", 0.0),
    ("codejudgebench", 0.0), ("codeprefbench", 0.5), ("pairs", 0.0)])
def test_what_a_judgment_without_a_verdict_counts_is_the_benchmark_s_rule(name, counts):
    assert PREFERENCES[name].UNDECIDED == counts


def test_rmb_counts_no_verdict_on_a_pair_as_wrong():
    results = [result(HALF, category="Helpfulness, pairs")]
    assert PREFERENCES["rmb"].scores(results)["Helpfulness, pairs"] == 0.5


def test_codeprefbench_without_people_leaves_out_people_alone():
    results = [result(RIGHT, category="security"), result(WRONG, category="efficiency"),
               result(SPLIT, category="human-preference")]
    found = PREFERENCES["codeprefbench"].scores(results)
    assert found["without human preference"] == 0.5


def test_maths_weighs_as_much_as_the_programs_of_all_six_languages():
    results = [result(WRONG, domain="math-prm")]
    results += [result(RIGHT, domain=subset) for subset in rewardbench.CODE]
    assert len(rewardbench.CODE) == 6
    assert PREFERENCES["rewardbench"].scores(results)["Reasoning"] == 0.5


# ---------------------------------------------------------------- in select.py

class Judge:
    """Says what `says` says of two answers, and of one alone P(Yes) = 1/2."""
    settings = "0"

    def __init__(self, says):
        self.says = says
        self.name = "scripted"

    def compare(self, calls):
        for call in calls:
            text = f"<best>{self.says(call.a['code'], call.b['code'])}</best>"
            yield {"text": text, "tokens": 3, "finished": True, "seconds": 0.0}

    def rate(self, calls):
        for call in calls:
            yield {"text": "", "tokens": 0, "finished": True, "seconds": 0.0, "yes": 0.5}


def shorter(a, b):
    return "A" if len(a) < len(b) else "B"


def chosen(folder, *flags, says=shorter, label="judge, trained"):
    files = ["--problems", str(folder / "problems.jsonl"),
             "--labelled", str(folder / "labelled.jsonl"), "--out", str(folder / "s.jsonl")]
    select.main([*files, *flags], {label: Judge(says)})


def line_of(printed, beginning):
    return next(line for line in printed.splitlines() if line.startswith(beginning)).split()


@pytest.fixture
def judged_pairs(tmp_path):
    """Pairs of RewardBench, three where the shorter answer is preferred and one where it is not."""
    rows = [original("rewardbench", id=k, prompt=f"Question {k}?") for k in range(3)]
    rows += [original("rewardbench", id=9, subset="donotanswer", prompt="Question 9?",
                      chosen="I will not.", rejected="Yes.")]
    return command(tmp_path, "rewardbench", rows)


def test_select_reports_what_the_benchmark_does_and_the_pairs_by_category(judged_pairs, capsys):
    chosen(judged_pairs, "--aggregate", "round-robin")
    printed = capsys.readouterr().out
    name = "judge, trained, round-robin"
    reported = printed[printed.index("as RewardBench reports, %"):]
    header, row, *_ = reported.splitlines()
    assert header.split()[-4:] == ["Chat", "Hard", "Safety", "score"]
    assert row.split()[-3:] == ["100.0", "0.0", "50.0"]
    pairs = reported[reported.index(f"{name}, % of pairs"):]
    #                                        problems, pairs, right, in both, same, tied, none, best
    all_right = ["3", "3", "100.0", "100.0", "100.0", "0.0", "0.0", "100.0"]
    assert line_of(pairs, "Chat Hard")[2:] == all_right
    assert line_of(pairs, "Safety")[1:] == ["1", "1", "0.0", "0.0", "100.0", "0.0", "0.0", "0.0"]
    assert line_of(pairs, "all")[1:] == ["4", "4", "75.0", "75.0", "100.0", "0.0", "0.0", "75.0"]


def test_select_says_nowhere_that_an_answer_passed_or_is_a_program(judged_pairs, capsys):
    chosen(judged_pairs, "--rounds", "1", "--waits", "0", "1", label="judge, untrained")
    chosen(judged_pairs, "--explain", "rewardbench/llmbar-natural/0")
    printed = capsys.readouterr().out
    for word in ("pass@1", "passed", "passing", "failed", "failing", "program", "execut"):
        assert word not in printed
    assert "; preferred" in printed
    assert "; not preferred" in printed


def test_votes_for_the_tokens_of_waits_are_not_averaged_as_the_benchmark_reports(judged_pairs,
                                                                                 capsys):
    chosen(judged_pairs, "--rounds", "1", "--waits", "0", "1")
    before, _, reported = capsys.readouterr().out.partition("as RewardBench reports, %")
    assert "judge, trained, tokens of 1 wait" in before
    assert "judge, trained, 1 wait" in reported
    assert "tokens of" not in reported


def test_ways_that_need_tests_or_log_probs_are_dashes(judged_pairs, capsys):
    chosen(judged_pairs, "--rounds", "1")
    printed = capsys.readouterr().out
    for name in ("mean log-prob", "self-certainty", "public tests", "majority", "MBR"):
        assert set(line_of(printed, name)[len(name.split()):]) == {"-"}
    assert "which 8 of 8 candidates" not in printed


def test_a_position_bias_is_a_tie_in_every_pair(judged_pairs, capsys):
    chosen(judged_pairs, "--rounds", "1", says=lambda a, b: "A")
    row = line_of(capsys.readouterr().out.partition("% of pairs")[2], "all")
    assert row[3:8] == ["50.0", "0.0", "0.0", "100.0", "0.0"]


def test_a_row_of_pairs_counts_every_draw_and_each_missing_verdict():
    judged = result(RIGHT, score=dict(x=1.0, y=0.0), passed=dict(x=True, y=False))
    judged.outcomes["best", "other"] = [HALF, (None, None)]
    row = pairs_row(PREFERENCES["rewardbench"], "judge", "c", [judged])
    assert row["problems"] == "1"
    assert row["pairs"] == "3"
    assert row["right"] == "75.0"            # 3 of 6, and half of 3 without a verdict
    assert row["no verdict"] == "50.0"
    row = pairs_row(PREFERENCES["judgebench"], "judge", "c", [judged])
    assert row["right"] == "50.0"


def test_programs_and_answers_are_not_chosen_in_one_run(judged_pairs, tmp_path):
    problem = {"problem_id": "p", "prompt": "Add.", "entry_point": None, "public_tests": [],
               "tests": [], "domain": "d", "difficulty": "easy", "split": "test"}
    row = {"problem_id": "p", "candidate_id": "c", "policy": "m", "code": "", "passed": True,
           "status": "passed"}
    for file, more in (("problems.jsonl", problem), ("labelled.jsonl", row)):
        write_rows(judged_pairs / file, [more, *read_rows(judged_pairs / file)])
    assert "choose among each in a run of its own" in error(chosen, judged_pairs)


def test_judgebench_is_scored_for_each_response_model_by_itself(tmp_path, capsys):
    rows = [original("judgebench", pair_id=f"{k}", question=f"Question {k}?") for k in range(3)]
    rows.append(original("judgebench", pair_id="9", response_model="claude-y", response_B="A rose.",
                         source="livebench-math"))
    folder = command(tmp_path, "judgebench", rows)
    chosen(folder, "--rounds", "1")
    printed = capsys.readouterr().out
    header, *rows = printed[printed.index("as JudgeBench reports, %"):].splitlines()[:3]
    assert header.split()[-3:] == ["knowledge", "overall", "math"]
    assert rows[0].split() == ["judge,", "trained,", "on", "gpt-x", "100.0", "100.0", "-"]
    assert rows[1].split() == ["judge,", "trained,", "on", "claude-y", "-", "0.0", "0.0"]


def longest(a, b):
    return "A" if len(a) > len(b) else "B"


@pytest.mark.parametrize("name, row", [
    ("rmb", bon_row("Blue, of course.", "Two.")),
    ("rewardbench2", original("rewardbench2", rejected=["A long answer.", "Two.", "Six."])),
])
@pytest.mark.parametrize("flags, method, share", [
    (["--rounds", "1"], "judge, trained", "-"),
    (["--rounds", "3"], "judge, trained", "-"),
    (["--aggregate", "round-robin"], "judge, trained, round-robin", "0.0"),
])
def test_lists_have_a_number_only_where_each_pair_was_judged_once(name, row, flags, method, share,
                                                                  tmp_path, capsys):
    """The judge prefers a wrong answer of each list; in rounds, not all others meet it."""
    folder = command(tmp_path, name, [{**row, "id": f"{k}", "bon_uid": f"{k}"} for k in range(8)])
    chosen(folder, *flags, says=longest)
    printed = capsys.readouterr().out
    reported = printed[printed.index(f"as {PREFERENCES[name].TITLE} reports, %"):]
    assert reported.splitlines()[1].split()[len(method.split())] == share
    pairs = reported[reported.index("% of pairs"):]
    assert pairs.splitlines()[1].split()[-1] == share     # best of N
    assert ("judge lists with --aggregate round-robin" in reported) == (share == "-")


def test_ratings_of_single_answers_have_the_ties_that_a_judge_of_pairs_has_not(tmp_path, capsys):
    rows = [original("rewardbench2", id=f"{k}", subset=subset, models=["a"])
            for k, subset in enumerate(rewardbench2.FIVE)]
    rows.append(original("rewardbench2", id="ref:1", subset="Ties", models=["a"]))
    rows.append(original("rewardbench2", id="tied:1", subset="Ties", models=["a"], num_correct=2,
                         chosen=["Red.", "Blue."], rejected=["Seven.", "Seven."]))
    folder = command(tmp_path, "rewardbench2", rows)
    chosen(folder, "--aggregate", "round-robin", says=longest, label="judge, untrained")
    printed = capsys.readouterr().out
    reported = printed[printed.index("as RewardBench 2 reports, %"):]
    # all are rated 1/2: a quarter of the best of four, and no right answer above a wrong one
    rated = line_of(reported, "judge, untrained, pointwise")[3:]
    assert rated == ["25.0"] * 5 + ["0.0", f"{5 * 25 / 6:.1f}", "25.0"]
    voted = line_of(reported, "judge, untrained, round-robin")[3:]
    assert voted[5:] == ["-", "-", voted[0]]
    assert "a judge of pairs\nhas no Ties and no score" in reported


def test_rows_of_a_source_of_your_own_are_reported_as_pairs(judged_pairs, capsys):
    rows = read_rows(judged_pairs / "problems.jsonl")
    write_rows(judged_pairs / "problems.jsonl", [{**row, "source": "mine"} for row in rows])
    chosen(judged_pairs, "--rounds", "1")
    assert "as pairs reports, %" in capsys.readouterr().out


def test_a_single_answer_is_rated_as_an_answer():
    call = select.Call({"prompt": "Name a colour.", "task": "answer"}, {"code": "Red."}, None)
    prompt = select.pointwise_prompt(call)
    assert prompt == "Name a colour.\nRed.\nIs this a good answer? Answer Yes or No.\n"
