"""sample.py: the sampler draws from the model's own softmax, and a killed run goes on."""
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from transformers import (CohereConfig, CohereForCausalLM, GPT2Config, GPT2LMHeadModel, GraniteConfig, GraniteForCausalLM,
                          LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM)

import sample
from data.benchmarks import solution_prompt
from data.rows import CANDIDATE, ROOT, TINY, UserError, read_rows

VOCABULARY, PAD, ENDS = 40, 0, [2, 5, 7]
SIZES = dict(vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, pad_token_id=PAD, bos_token_id=1, eos_token_id=2)
PROMPTS = [[9, 8, 11, 30, 31, 12, 13], [21, 22], [33, 4, 4, 6, 19, 3, 25, 26, 17, 18, 38, 39]]  # of different lengths


def llama():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES, initializer_range=0.3)).eval()  # wide weights: far from uniform


def gpt2():
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.3,
                                      bos_token_id=1, eos_token_id=2)).eval()


def uniforms(rows, limit, seed=0):
    return torch.rand(rows, limit, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def plain_forward(model, prompt, ids):
    """The model's own logits [len(ids), V] for a completion: one row, no cache, no padding."""
    return model(input_ids=torch.tensor([prompt + ids])).logits[0, len(prompt) - 1:-1].double()


@pytest.fixture(scope="module")
def policy():
    return sample.load_model(str(TINY / "weak"))


@pytest.fixture(scope="module")
def problems():
    return read_rows(TINY / "problems_weak.jsonl")


# ---------------------------------------------------------------- the sampler

@pytest.mark.parametrize("build", [llama, gpt2])
@pytest.mark.parametrize("temperature", [0, 0.6, 1.0])
def test_logprob_is_that_of_a_plain_forward_pass(build, temperature):
    model, n = build(), 5
    made = sample.generate(model, PROMPTS, uniforms(len(PROMPTS) * n, 24), temperature, ENDS, PAD)
    if temperature:  # rows end at different times, some are cut off: finished rows really are dropped on the way
        assert len({len(c.ids) for c in made}) > 3 and {c.finished for c in made} == {True, False}
    for k, done in enumerate(made):
        logp = plain_forward(model, PROMPTS[k // n], done.ids).log_softmax(-1)  # at temperature 1, whatever it was drawn at
        assert done.logprob == pytest.approx(float(logp[range(len(done.ids)), done.ids].sum()), abs=1e-4)


@pytest.mark.parametrize("build", [llama, gpt2])
@pytest.mark.parametrize("temperature", [0.6, 1.0])
def test_every_token_is_the_inverse_cdf_at_its_own_number(build, temperature):
    model, n, u = build(), 5, uniforms(15, 24)
    for k, done in enumerate(sample.generate(model, PROMPTS, u, temperature, ENDS, PAD)):
        cdf = (plain_forward(model, PROMPTS[k // n], done.ids) / temperature).softmax(-1).cumsum(-1)
        for t, token in enumerate(done.ids):
            below = float(cdf[t, token - 1]) if token else 0.0
            assert below - 1e-5 <= float(u[k, t]) <= float(cdf[t, token]) + 1e-5


@pytest.mark.parametrize("build", [llama, gpt2])
def test_neither_the_batch_nor_dropping_finished_rows_changes_a_sample(build):
    model, n, u = build(), 6, uniforms(18, 24)
    together = sample.generate(model, PROMPTS, u, 1.0, ENDS, PAD)
    for k, done in enumerate(together):
        alone, = sample.generate(model, [PROMPTS[k // n]], u[k:k + 1], 1.0, ENDS, PAD)
        assert (alone.ids, alone.finished) == (done.ids, done.finished)
        assert alone.logprob == pytest.approx(done.logprob, abs=1e-4)


def test_any_of_several_end_tokens_ends_a_sample_and_is_kept():
    made = sample.generate(llama(), PROMPTS, uniforms(60, 24), 1.0, ENDS, PAD)
    assert {c.ids[-1] for c in made if c.finished} == set(ENDS)
    for done in made:
        assert not set(done.ids[:-1]) & set(ENDS)
        assert done.finished == (done.ids[-1] in ENDS) and (done.finished or len(done.ids) == 24)


def test_greedy_is_the_greedy_of_hugging_face(policy, problems):
    model, tokenizer = policy
    prompts = [sample.encode(tokenizer, solution_prompt(p)) for p in problems[:6]]
    assert len({len(p) for p in prompts}) > 1
    ends = sample.end_ids(model, tokenizer)
    for prompt, done in zip(prompts, sample.generate(model, prompts, uniforms(6, 24), 0, ends, tokenizer.pad_token_id)):
        theirs = model.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), do_sample=False,
                                max_new_tokens=24, eos_token_id=ends, pad_token_id=tokenizer.pad_token_id)
        assert done.ids == theirs[0, len(prompt):].tolist() and done.finished


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.5])
def test_frequencies_follow_the_softmax_of_logits_over_temperature(temperature):
    model, n = llama(), 20000
    made = sample.generate(model, PROMPTS[:1], uniforms(n, 1), temperature, ENDS, PAD)
    seen = torch.bincount(torch.tensor([c.ids[0] for c in made]), minlength=VOCABULARY) / n
    p = (plain_forward(model, PROMPTS[0], [0]) / temperature).softmax(-1)[0]
    assert p.max() < 0.9  # the model has something to choose from
    assert ((seen - p).abs() <= 5 * (p * (1 - p) / n).sqrt() + 1 / n).all()


def test_a_number_at_the_very_end_of_the_range_still_names_a_token():
    model = llama()
    for done in sample.generate(model, PROMPTS, torch.full((3, 4), 1 - 2 ** -24), 1.0, [], PAD):
        assert all(0 <= token < VOCABULARY for token in done.ids) and len(done.ids) == 4


@pytest.mark.parametrize("build", [lambda: GraniteForCausalLM(GraniteConfig(**SIZES, initializer_range=0.3, logits_scaling=8.0)),
                                   lambda: CohereForCausalLM(CohereConfig(**SIZES, initializer_range=0.3))], ids=["granite", "cohere"])
def test_models_that_scale_their_logits_are_refused(build):
    """Granite and Cohere change their logits after the head: they would be sampled from another distribution than theirs."""
    torch.manual_seed(0)
    with pytest.raises(UserError, match="--model x: this architecture .* is not supported"):
        sample.must_have_plain_logits(build().eval(), "x")
    sample.must_have_plain_logits(llama(), "x")


def test_a_sliding_window_that_would_be_exceeded_is_refused():
    torch.manual_seed(0)
    def run(window):
        model = MistralForCausalLM(MistralConfig(**SIZES, initializer_range=0.3, sliding_window=window)).eval()
        done, = sample.generate(model, PROMPTS[:1], uniforms(1, 8), 1.0, [], PAD)
        logp = plain_forward(model, PROMPTS[0], done.ids).log_softmax(-1)
        assert done.logprob == pytest.approx(float(logp[range(8), done.ids].sum()), abs=1e-4)
    run(len(PROMPTS[0]) + 8)
    with pytest.raises(UserError, match="sliding window of 4"):
        run(4)


def test_all_end_tokens_of_a_model_are_known(policy):
    tokenizer, model = policy[1], llama()
    model.config.eos_token_id, model.generation_config.eos_token_id = [4, 2], 9
    assert sample.end_ids(model, tokenizer) == sorted({4, 2, 9, tokenizer.eos_token_id})
    model.config.eos_token_id = model.generation_config.eos_token_id = None
    assert sample.end_ids(model, tokenizer) == [tokenizer.eos_token_id]


def test_a_stream_hangs_on_its_name_alone():
    draw = lambda *name: torch.rand(4, generator=sample.stream(*name)).tolist()  # noqa: E731
    first = draw(0, "p", "weak")
    torch.rand(100)
    assert draw(0, "p", "weak") == first
    others = [draw(1, "p", "weak"), draw(0, "q", "weak"), draw(0, "p", "strong")]
    assert all(other != first for other in others) and len(set(map(tuple, others))) == 3


# ---------------------------------------------------------------- the command

def flags(out, *more, problems=TINY / "problems_weak.jsonl", model=TINY / "weak", n=2, limit=6):
    return ["--problems", str(problems), "--model", str(model), "--out", str(out), "--max-new-tokens", "24", "--n", str(n), "--limit", str(limit), *more]


def failure(arguments, capsys):
    """(exit status, message) of a command that must fail with a message."""
    with pytest.raises(SystemExit) as caught:
        sample.main(arguments)
    code = caught.value.code
    message = capsys.readouterr().err.splitlines()[-1] if isinstance(code, int) else str(code)
    return 1 if isinstance(code, str) else code, message


def test_rows_carry_their_key_and_their_sampling(tmp_path, problems):
    sample.main(flags(tmp_path / "c.jsonl", "--temperature", "0.9", "--seed", "3"))
    rows = read_rows(tmp_path / "c.jsonl", CANDIDATE, key=("problem_id", "candidate_id"))
    assert {(r["problem_id"], r["candidate_id"]) for r in rows} == {(p["problem_id"], f"weak-{k}") for p in problems[:6] for k in range(2)}
    for row in rows:
        assert row["policy"] == "weak" and row["seed"] == 3 and row["sampling"] == {"temperature": 0.9, "max_new_tokens": 24}
        assert row["code"].startswith("def f(x):\n") and 1 <= row["n_tokens"] <= 24 and row["mean_logprob"] <= 0
        assert row["finish_reason"] == "stop" or row["n_tokens"] == 24


def test_same_seed_same_rows_another_seed_others(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        sample.main(flags(tmp_path / name, "--seed", str(seed)))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    texts = [[row["text"] for row in read_rows(tmp_path / name)] for name in "ac"]
    assert texts[0] != texts[1]


def test_a_problem_s_programs_do_not_hang_on_the_other_problems(tmp_path):
    programs = {}
    for limit in (2, 6):
        sample.main(flags(tmp_path / str(limit), limit=limit))
        programs[limit] = {(r["problem_id"], r["candidate_id"]): r["text"] for r in read_rows(tmp_path / str(limit))}
    assert len(programs[2]) == 4 and programs[2].items() <= programs[6].items()


def test_every_problem_and_every_sample_has_its_own_numbers(tmp_path, problems):
    twins = [{**problems[0], "problem_id": name} for name in "abcd"]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(p) + "\n" for p in twins))
    sample.main(flags(tmp_path / "c.jsonl", problems=tmp_path / "p.jsonl", n=8))
    rows = read_rows(tmp_path / "c.jsonl")
    assert len({tuple(row["text"] for row in rows if row["problem_id"] == name) for name in "abcd"}) == 4
    assert len({tuple(row["text"] for row in rows if row["candidate_id"] == f"weak-{k}") for k in range(8)}) > 1


def test_a_larger_n_ends_with_the_rows_of_an_undisturbed_run(tmp_path):
    sample.main(flags(tmp_path / "c.jsonl"))
    before = (tmp_path / "c.jsonl").read_text()
    sample.main(flags(tmp_path / "c.jsonl", n=3))
    sample.main(flags(tmp_path / "whole.jsonl", n=3))
    assert (tmp_path / "c.jsonl").read_text().startswith(before)
    texts = [{(r["problem_id"], r["candidate_id"]): r["text"] for r in read_rows(tmp_path / name)} for name in ("c.jsonl", "whole.jsonl")]
    assert texts[0] == texts[1] and len(texts[0]) == 18


def test_a_higher_limit_only_lengthens_what_was_cut_off(tmp_path):
    made = {}
    for limit in (5, 24):
        sample.main(flags(tmp_path / f"{limit}.jsonl", "--max-new-tokens", str(limit)))
        made[limit] = read_rows(tmp_path / f"{limit}.jsonl")
    assert {row["finish_reason"] for row in made[5]} == {"stop", "length"}
    for short, long in zip(made[5], made[24]):
        assert long["text"].startswith(short["text"]) and (long["n_tokens"] > 5) == (short["finish_reason"] == "length")


def test_a_finished_run_loads_no_model_and_changes_nothing(tmp_path, monkeypatch, capsys):
    sample.main(flags(tmp_path / "c.jsonl"))
    before = (tmp_path / "c.jsonl").read_bytes()
    monkeypatch.setattr(sample, "load_model", lambda *a, **k: pytest.fail("loaded a model for nothing"))
    sample.main(flags(tmp_path / "c.jsonl"))
    assert (tmp_path / "c.jsonl").read_bytes() == before and "already" in capsys.readouterr().out


def test_killed_and_started_again_ends_with_the_rows_of_an_undisturbed_run(tmp_path):
    small = flags(tmp_path / "killed.jsonl", "--batch-size", "4", n=4, limit=60)  # 60 batches
    child = subprocess.Popen([sys.executable, str(ROOT / "sample.py"), *small], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.time() + 300
    try:
        while not (tmp_path / "killed.jsonl").exists() or (tmp_path / "killed.jsonl").stat().st_size < 4000:
            assert child.poll() is None and time.time() < until, "it ended before it could be killed"
            time.sleep(0.005)
    finally:
        os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    whole = (tmp_path / "killed.jsonl").read_bytes().rfind(b"\n") + 1
    assert 0 < (tmp_path / "killed.jsonl").read_bytes().count(b"\n") < 240
    os.truncate(tmp_path / "killed.jsonl", whole - 30)  # and as if it had been hit in the middle of a row
    sample.main(small)
    sample.main(flags(tmp_path / "whole.jsonl", *small[6:]))
    rows = [{(r["problem_id"], r["candidate_id"]): r for r in read_rows(tmp_path / name, CANDIDATE, key=("problem_id", "candidate_id"))}
            for name in ("killed.jsonl", "whole.jsonl")]
    assert rows[0].keys() == rows[1].keys() and len(rows[0]) == 240
    for key, row in rows[0].items():
        assert row == {**rows[1][key], "mean_logprob": pytest.approx(rows[1][key]["mean_logprob"], abs=1e-5)}


def test_ctrl_c_says_what_is_kept_and_how_to_go_on(tmp_path, monkeypatch, capsys):
    real, calls = sample.generate, []

    def generate(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)
    monkeypatch.setattr(sample, "generate", generate)
    status, message = failure(flags(tmp_path / "c.jsonl", "--batch-size", "4"), capsys)
    assert status and "8 candidates are kept" in message and str(tmp_path / "c.jsonl") in message
    assert len(read_rows(tmp_path / "c.jsonl", CANDIDATE)) == 8


# ---------------------------------------------------------------- mistakes

@pytest.mark.parametrize("change, says", [
    (["--n", "0"], "--n 0: must be at least 1"), (["--max-new-tokens", "0"], "--max-new-tokens 0: must be at least 1"),
    (["--batch-size", "0"], "--batch-size 0: must be at least 1"), (["--temperature", "-1"], "--temperature -1.0: must be at least 0"),
    (["--problems", "a", "b", "c", "--model", "m", "n"], "--model names 2 models for 3 --problems files"),
    (["--split", "nosuch"], "--split nosuch"), (["--model", "/no/such/folder"], "--model /no/such/folder: no such folder"),
    (["--model", "runs/no-such-run/judge"], "--model runs/no-such-run/judge: no such folder"),
    (["--model", "/no/such.gguf"], "--model /no/such.gguf: no such file"),
    (["--problems", "/no/such.jsonl"], "/no/such.jsonl: no such file")])
def test_a_wrong_flag_is_named_and_nothing_is_written(change, says, tmp_path, capsys):
    status, message = failure(flags(tmp_path / "c.jsonl", *change), capsys)
    assert status and says in message and "\n" not in message
    assert not (tmp_path / "c.jsonl").exists() or not (tmp_path / "c.jsonl").read_bytes()


@pytest.mark.parametrize("half", [["--problems", "p.jsonl"], ["--model", "m"]])
def test_problems_and_model_are_named_together(half, capsys):
    status, message = failure(half, capsys)
    assert status and "--problems and --model go together" in message


def test_a_model_that_nobody_has_is_one_line_that_names_the_flag(stage, tmp_path):
    done = stage("sample.py", *flags(tmp_path / "c.jsonl", "--model", "nobody/has-this-model"))
    assert done.returncode and done.stderr.startswith("--model nobody/has-this-model") and "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_wrong_dtype_is_named(tmp_path, capsys):
    status, message = failure(flags(tmp_path / "c.jsonl", "--dtype", "float33"), capsys)
    assert status and "--dtype" in message


def test_a_model_without_an_end_token_is_refused(tmp_path):
    shutil.copytree(TINY / "weak", tmp_path / "endless")
    path = tmp_path / "endless" / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in settings.items() if k != "eos_token"}))
    with pytest.raises(UserError, match="endless: its tokenizer has no end token"):
        sample.load_model(str(tmp_path / "endless"))


def test_a_split_that_only_one_of_the_files_has_is_enough(tmp_path):
    weak, strong = TINY / "problems_weak.jsonl", TINY / "problems_strong.jsonl"
    sample.main(["--problems", str(weak), str(strong), "--model", str(TINY / "weak"), str(TINY / "strong"), "--split", "test", "--limit", "2",
                 "--n", "1", "--max-new-tokens", "8", "--out", str(tmp_path / "c.jsonl")])
    assert len(read_rows(tmp_path / "c.jsonl")) == 2


def test_models_whose_names_hold_a_full_stop_stay_apart(tmp_path):
    for name in ("Tiny2.5-7B", "Tiny2.5-1.5B"):
        (tmp_path / name).symlink_to(TINY / "weak")
        sample.main(flags(tmp_path / "c.jsonl", model=tmp_path / name, limit=1))
    assert {row["policy"] for row in read_rows(tmp_path / "c.jsonl")} == {"Tiny2.5-7B", "Tiny2.5-1.5B"}


@pytest.mark.parametrize("change", [["--seed", "1"], ["--temperature", "0.5"]])
def test_a_file_made_with_other_settings_is_not_taken_for_done(change, tmp_path, capsys):
    sample.main(flags(tmp_path / "c.jsonl", limit=1))
    status, message = failure(flags(tmp_path / "c.jsonl", *change, limit=1), capsys)
    assert status and change[0] in message


# ---------------------------------------------------------------- shards

def by_key(*paths):
    return {(r["problem_id"], r["candidate_id"]): r for path in paths for r in read_rows(path, CANDIDATE, key=("problem_id", "candidate_id"))}


def test_shards_together_are_the_whole_to_the_last_digit(tmp_path, capsys):
    small = flags(tmp_path / "c.jsonl", "--batch-size", "4", limit=9)  # five batches for two shards
    for shard in range(2):
        sample.main([*small, "--shard", f"{shard}/2"])
    assert f"cat {tmp_path}/c.*-of-2.jsonl > {tmp_path}/c.jsonl" in capsys.readouterr().out and not (tmp_path / "c.jsonl").exists()
    parts = [tmp_path / f"c.{shard}-of-2.jsonl" for shard in range(2)]
    assert all(part.stat().st_size for part in parts)
    sample.main(small)
    (tmp_path / "joined.jsonl").write_bytes(parts[0].read_bytes() + parts[1].read_bytes())
    assert by_key(tmp_path / "joined.jsonl") == by_key(tmp_path / "c.jsonl")
    before = parts[1].read_bytes()
    sample.main([*small, "--shard", "1/2"])  # once more: nothing is missing
    assert parts[1].read_bytes() == before


def test_torchrun_s_processes_are_the_shards(tmp_path):
    """The -- keeps torchrun from taking --n for one of its own flags."""
    small = flags(tmp_path / "c.jsonl", "--batch-size", "4", limit=5)
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--", str(ROOT / "sample.py"), *small],
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as torchrun has it: the last digit of a log-prob hangs on the number of threads
    try:
        sample.main(small)
    finally:
        torch.set_num_threads(threads)
    assert by_key(tmp_path / "c.0-of-2.jsonl", tmp_path / "c.1-of-2.jsonl") == by_key(tmp_path / "c.jsonl")


@pytest.mark.parametrize("shard", ["2/2", "1", "0/0", "-1/2", "a/b"])
def test_a_shard_that_is_none_is_refused(shard, tmp_path, capsys):
    status, message = failure(flags(tmp_path / "c.jsonl", f"--shard={shard}"), capsys)
    assert status and f"--shard {shard}: must be I/N" in message


def test_a_shard_within_torchrun_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sample, "RANK", 1)
    monkeypatch.setattr(sample, "WORLD", 2)
    assert "leave it out under torchrun" in failure(flags(tmp_path / "c.jsonl", "--shard", "0/2"), capsys)[1]
    assert sample.parse_args(flags(tmp_path / "c.jsonl")).out == tmp_path / "c.1-of-2.jsonl"


# ---------------------------------------------------------------- benchmarks

def lcb(k, date, difficulty="easy", tests="1\n"):
    tests = json.dumps([{"input": tests, "output": "2\n", "testtype": "stdin"}])
    return {"question_title": "t", "question_content": f"Question {k}", "platform": "atcoder", "question_id": str(k), "contest_date": f"{date}T00:00:00",
            "starter_code": "", "difficulty": difficulty, "public_test_cases": tests, "private_test_cases": tests, "metadata": "{}"}


DAYS = ["2024-07-31", "2024-08-01", "2025-01-31", "2025-02-01", "2025-05-01", "2025-05-02"]


@pytest.fixture
def contests(tmp_path):
    (tmp_path / "lcb.jsonl").write_text("".join(json.dumps(lcb(k, day, ["easy", "hard"][k % 2])) + "\n" for k, day in enumerate(DAYS)))
    return tmp_path / "lcb.jsonl"


def chosen(contests, *more):
    """(days, splits) of problems.jsonl for these flags."""
    args = sample.parse_args(["--problems", str(contests), "--model", "m", "--out", str(contests.parent / "out/c.jsonl"), *more])
    kept, = sample.load_problems(args)
    rows = read_rows(contests.parent / "out/problems.jsonl")
    assert [row["problem_id"] for row in rows] == [row["problem_id"] for row in kept] and all(row["tests"] for row in rows)
    return [row["date"] for row in rows], {row["split"] for row in rows}


@pytest.mark.parametrize("more, days, split", [
    (["--preset", "daj-train"], DAYS[:1], "train"), (["--preset", "daj-test"], DAYS[3:5], "test"),
    (["--benchmark", "livecodebench", "--from", "2024-08-01", "--until", "2025-01-31", "--as-split", "meta"], DAYS[1:3], "meta"),
    (["--benchmark", "livecodebench", "--difficulty", "hard"], DAYS[1::2], "test"), (["--preset", "daj-test", "--difficulty", "hard"], DAYS[3:4], "test"),
    (["--benchmark", "livecodebench", "--limit", "2"], DAYS[:2], "test")])
def test_contests_are_chosen_by_day_and_difficulty_days_inclusive(more, days, split, contests):
    assert chosen(contests, *more) == (days, {split})


def test_a_preset_says_when_it_is_not_the_paper_s_number_of_problems(contests, capsys):
    chosen(contests, "--preset", "daj-test")
    assert "note: --preset daj-test is 131 problems in the paper, 2 here" in capsys.readouterr().err


def test_a_benchmark_comes_from_the_hub_where_no_file_is_named(tmp_path, contests, monkeypatch):
    (tmp_path / "old.jsonl").write_text(json.dumps(lcb("old", "2025-01-15")) + "\n")
    files = {"test5.jsonl": tmp_path / "old.jsonl", "test6.jsonl": contests}  # older ones cannot hold these days
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda repository, file, repo_type: files[file])
    args = sample.parse_args(["--preset", "daj-test", "--model", "m", "--out", str(tmp_path / "hub/c.jsonl")])
    assert [row["date"] for row in sample.load_problems(args)[0]] == DAYS[3:5]


def test_a_hub_out_of_reach_is_one_line_and_leaves_nothing_behind(tmp_path, capsys):
    status, message = failure(["--benchmark", "livecodebench", "--model", "m", "--out", str(tmp_path / "c.jsonl")], capsys)
    assert status and "/resolve/main/test.jsonl by hand and pass --problems test.jsonl" in message and "\n" not in message
    assert not list(tmp_path.iterdir())


def test_a_benchmark_s_tests_are_in_memory_one_row_at_a_time(tmp_path):
    with open(tmp_path / "lcb.jsonl", "w") as file:
        for k in range(40):
            file.write(json.dumps(lcb(k, "2025-03-01", tests="7" * 1_000_000)) + "\n")  # twice: public and private
    args = sample.parse_args(["--benchmark", "livecodebench", "--problems", str(tmp_path / "lcb.jsonl"), "--model", "m", "--out", str(tmp_path / "c.jsonl")])
    tracemalloc.start()
    kept, = sample.load_problems(args)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(kept) == 40 and (tmp_path / "problems.jsonl").stat().st_size > 80e6 and peak < 30e6


@pytest.mark.parametrize("more, says", [
    (["--preset", "daj-test", "--from", "2025-01-01"], "--preset daj-test says what --from is"), (["--benchmark", "livecodebench", "--subset", "hard"], "--subset hard: --benchmark livecodebench has no subsets"),
    (["--benchmark", "bigcodebench", "--subset", "sanitized"], "--subset sanitized: --benchmark bigcodebench has hard and instruct"), (["--from", "2025-2"], "argument --from: invalid day value: '2025-2'"),
    (["--as-split", "train"], "--as-split is for a --benchmark"), (["--benchmark", "livecodebench", "--from", "2030-01-01"], "no problems are left after --from 2030-01-01"),
    (["--benchmark", "livecodebench", "--model", "a", "b"], "--benchmark takes one --model"), (["--benchmark", "humaneval"], "lcb.jsonl, row 1: field 'test' is missing")])
def test_wrong_choices_of_problems_are_named(more, says, contests, capsys):
    status, message = failure(["--problems", str(contests), "--model", "m", "--out", str(contests.parent / "c.jsonl"), *more], capsys)
    assert status and says in message and not (contests.parent / "problems.jsonl").exists()


def test_a_folder_that_cannot_be_made_is_named(contests, capsys):
    status, message = failure(["--benchmark", "livecodebench", "--problems", str(contests), "--model", "m", "--out", str(contests / "c.jsonl")], capsys)
    assert status and "problems.jsonl: cannot be written" in message


@pytest.mark.parametrize("date", [{}, {"date": None}])
def test_days_want_problems_that_have_them(date, tmp_path, capsys, problems):
    problem = {name: value for name, value in problems[0].items() if name != "date"} | date
    (tmp_path / "p.jsonl").write_text(json.dumps(problem) + "\n")
    status, message = failure(flags(tmp_path / "c.jsonl", "--until", "2025-01-01", problems=tmp_path / "p.jsonl"), capsys)
    assert status and message == f"--from and --until: problem '{problem['problem_id']}' has no date"


# ---------------------------------------------------------------- a model behind a server

class Handler(BaseHTTPRequestHandler):
    """A server that speaks the protocol: it answers with its body's seed, and with the server's `failures` before that."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, body, self.headers.get("Authorization")))
        status = self.server.failures.pop() if self.server.failures else 200
        text = f"```python\ndef f(x):\n    return {body['seed']}\n```"
        choice = {"message": {"content": text}} if "messages" in body else {"text": text}
        said = json.dumps({"choices": [{**choice, "finish_reason": "stop"}], "usage": {"completion_tokens": 17, "prompt_tokens": 5}} if status == 200 else {"error": "busy"}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(said)))
        self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.asked, server.failures = True, [], []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(sample.api, "PAUSE", 0.01)
    yield server
    server.shutdown()
    server.server_close()


def served(out, base, *more, name="org/some-model", limit=3):
    return ["--problems", str(TINY / "problems_weak.jsonl"), "--api-base", base, "--api-model", name, "--out", str(out), "--limit", str(limit), "--n", "2", *more]


def test_a_served_model_s_answers_become_candidates(tmp_path, server, monkeypatch, problems):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    server.failures = [429, 503]
    base = f"http://127.0.0.1:{server.server_port}/v1"
    sample.main(served(tmp_path / "c.jsonl", base, "--in-flight", "4", "--temperature", "0.6"))
    assert len(server.asked) == 8  # six, and two that were busy
    for path, body, key in server.asked:
        assert path == "/v1/chat/completions" and key == "Bearer secret" and (body["model"], body["temperature"], body["max_tokens"]) == ("org/some-model", 0.6, 512)
    assert {body["messages"][0]["content"] for _, body, _ in server.asked} == {solution_prompt(problem, chat=True) for problem in problems[:3]}
    rows = read_rows(tmp_path / "c.jsonl", CANDIDATE, key=("problem_id", "candidate_id"))
    assert len(rows) == 6 and {row["candidate_id"] for row in rows} == {"some-model-0", "some-model-1"}
    for row in rows:
        assert row["policy"] == "some-model" and row["n_tokens"] == 17 and row["finish_reason"] == "stop" and row["seconds"] >= 0
        assert row["sampling"] == {"temperature": 0.6, "max_new_tokens": 512} and "mean_logprob" not in row and row["code"].startswith("def f(x):")
    assert len({row["code"] for row in rows}) == 6  # a seed for each


def test_a_served_run_goes_on_in_shards_and_asks_with_the_same_seeds(tmp_path, server, capsys):
    base = f"http://127.0.0.1:{server.server_port}/v1"
    texts = lambda *paths: {key: row["text"] for key, row in by_key(*paths).items()}  # noqa: E731
    sample.main(served(tmp_path / "whole.jsonl", base))
    server.failures = [400, *[200] * 3]  # the fourth request is refused for good
    status, message = failure(served(tmp_path / "c.jsonl", base, "--in-flight", "1", "--shard", "0/2"), capsys)
    assert status and "HTTP 400" in message and len(read_rows(tmp_path / "c.0-of-2.jsonl")) == 3
    server.asked.clear()
    for shard in range(2):
        sample.main(served(tmp_path / "c.jsonl", base, "--shard", f"{shard}/2"))
    assert len(server.asked) == 3
    assert texts(tmp_path / "c.0-of-2.jsonl", tmp_path / "c.1-of-2.jsonl") == texts(tmp_path / "whole.jsonl")


def test_a_served_model_and_one_that_runs_here_are_not_mixed_up(tmp_path, capsys):
    assert "--model is for models that run here" in failure(served(tmp_path / "c.jsonl", "http://x/v1", "--model", "m"), capsys)[1]
    assert "--api-base and --api-model go together" in failure(["--problems", "p.jsonl", "--api-base", "http://x/v1"], capsys)[1]


def test_transformers_serve_gives_the_programs_that_the_checkpoint_gives(tmp_path, transformers_serve):
    """A real server in a process of its own, on the loopback. Greedy, so that both must agree."""
    name = str(TINY / "weak")
    with transformers_serve(name) as base:
        for shard in range(2):
            sample.main(served(tmp_path / "c.jsonl", base, "--api-plain", "--temperature", "0", "--max-new-tokens", "24", "--shard", f"{shard}/2", name=name))
    sample.main(flags(tmp_path / "here.jsonl", "--temperature", "0", limit=3))
    theirs, ours = by_key(tmp_path / "c.0-of-2.jsonl", tmp_path / "c.1-of-2.jsonl"), by_key(tmp_path / "here.jsonl")
    assert theirs.keys() == ours.keys() and len(ours) == 6
    for key, row in theirs.items():
        assert (row["code"], row["finish_reason"]) == (ours[key]["code"], ours[key]["finish_reason"]) and abs(row["n_tokens"] - ours[key]["n_tokens"]) <= 1
