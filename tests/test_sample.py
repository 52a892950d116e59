"""sample.py: the sampler draws from the model's own softmax, and a killed run goes on."""
import ctypes
import importlib.util
import io
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import sample
from data import parallel, servers
from data.benchmarks import PRESETS, solution_prompt
from data.fingerprint import fingerprint
from data.flags import parse
from data.rows import CANDIDATE, CANDIDATE_KEY, EDGES, ROOT, UserError, read_rows, write_rows

VOCABULARY = 40
PAD = 0
ENDS = [2, 5, 7]
SIZES = dict(vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, pad_token_id=PAD, bos_token_id=1, eos_token_id=2)
WIDE = dict(initializer_range=0.3)  # wide weights: far from uniform
PROMPTS = [  # of different lengths
    [9, 8, 11, 30, 31, 12, 13],
    [21, 22],
    [33, 4, 4, 6, 19, 3, 25, 26, 17, 18, 38, 39],
]


def llama():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES, **WIDE)).eval()


def gpt2():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=1,
                        eos_token_id=2, **WIDE)
    return GPT2LMHeadModel(config).eval()


def uniforms(rows, limit, seed=0):
    return torch.rand(rows, limit, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def plain_forward(model, prompt, ids):
    """The model's own logits [len(ids), V] for a completion: one row, no cache, no padding."""
    return model(input_ids=torch.tensor([prompt + ids])).logits[0, len(prompt) - 1:-1].double()


@pytest.fixture(scope="module")
def policy():
    return sample.load_model(str(EDGES / "weak"))


@pytest.fixture(scope="module")
def problems():
    return read_rows(EDGES / "problems_weak.jsonl")


# ---------------------------------------------------------------- the sampler

@pytest.mark.parametrize("build", [llama, gpt2])
@pytest.mark.parametrize("temperature", [0, 0.6, 1.0])
def test_logprob_is_that_of_a_plain_forward_pass(build, temperature):
    model = build()
    n = 5
    completions = sample.generate(model, PROMPTS, uniforms(len(PROMPTS) * n, 24), temperature, ENDS, PAD)
    if temperature:  # rows end at different times, some are cut off: finished rows really are dropped on the way
        assert len({len(c.ids) for c in completions}) > 3
        assert {c.finished for c in completions} == {True, False}
    for k, completion in enumerate(completions):
        logits = plain_forward(model, PROMPTS[k // n], completion.ids)
        tokens = range(len(completion.ids)), completion.ids
        logp = logits.log_softmax(-1)[tokens]  # at temperature 1, whatever it was sampled at
        logp_sampled = (logits / (temperature or 1)).log_softmax(-1)[tokens]
        assert completion.logprob == pytest.approx(float(logp.sum()), abs=1e-4)
        assert completion.logprob_sampled == pytest.approx(float(logp_sampled.sum()), abs=1e-4)


@pytest.mark.parametrize("build", [llama, gpt2])
@pytest.mark.parametrize("temperature", [0.6, 1.0])
def test_every_token_is_the_inverse_cdf_at_its_own_number(build, temperature):
    model = build()
    n = 5
    u = uniforms(15, 24)
    for k, completion in enumerate(sample.generate(model, PROMPTS, u, temperature, ENDS, PAD)):
        logits = plain_forward(model, PROMPTS[k // n], completion.ids)
        cdf = (logits / temperature).softmax(-1).cumsum(-1)
        for t, token in enumerate(completion.ids):
            below = float(cdf[t, token - 1]) if token else 0.0
            assert below - 1e-5 <= float(u[k, t]) <= float(cdf[t, token]) + 1e-5


@pytest.mark.parametrize("build", [llama, gpt2])
def test_neither_the_batch_nor_dropping_finished_rows_changes_a_sample(build):
    model = build()
    n = 6
    u = uniforms(18, 24)
    together = sample.generate(model, PROMPTS, u, 1.0, ENDS, PAD)
    for k, completion in enumerate(together):
        alone, = sample.generate(model, [PROMPTS[k // n]], u[k:k + 1], 1.0, ENDS, PAD)
        assert alone.ids == completion.ids
        assert alone.finished == completion.finished
        assert alone.logprob == pytest.approx(completion.logprob, abs=1e-4)


@pytest.mark.parametrize("build", [llama, gpt2])
@pytest.mark.parametrize("at_once, passes", [(1, 3), (14, 2), (36, 1)])
def test_prompts_are_read_in_passes_of_limited_size(monkeypatch, build, at_once, passes):
    model = build()
    u = uniforms(18, 24)
    together = sample.generate(model, PROMPTS, u, 1.0, ENDS, PAD)
    sizes = []
    read = sample.read

    def counted(model, prompts, *more):
        sizes.append(len(prompts) * max(map(len, prompts)))
        return read(model, prompts, *more)

    monkeypatch.setattr(sample, "READ_AT_ONCE", at_once)
    monkeypatch.setattr(sample, "read", counted)
    apart = sample.generate(model, PROMPTS, u, 1.0, ENDS, PAD)
    assert len(sizes) == passes
    assert all(size <= max(at_once, *map(len, PROMPTS)) for size in sizes)
    for a, b in zip(together, apart):
        assert a.ids == b.ids
        assert a.finished == b.finished
        assert a.logprob == pytest.approx(b.logprob, abs=1e-4)


@torch.no_grad()
def test_rows_that_are_kept_keep_their_own_hidden_state():
    batch = sample.prefill(llama(), PROMPTS, n=1, pad=PAD)
    before = batch.hidden
    batch.keep(torch.tensor([2, 0]))
    assert batch.sample.tolist() == [2, 0]
    assert torch.equal(batch.hidden, before[[2, 0]])


def test_any_of_several_end_tokens_ends_a_sample_and_is_kept():
    completions = sample.generate(llama(), PROMPTS, uniforms(60, 24), 1.0, ENDS, PAD)
    assert {c.ids[-1] for c in completions if c.finished} == set(ENDS)
    for completion in completions:
        assert not set(completion.ids[:-1]) & set(ENDS)
        assert completion.finished == (completion.ids[-1] in ENDS)
        assert completion.finished or len(completion.ids) == 24


def test_greedy_is_the_greedy_of_hugging_face(policy, problems):
    model, tokenizer = policy
    prompts = [sample.encode(tokenizer, solution_prompt(problem)) for problem in problems[:6]]
    assert len(set(map(len, prompts))) > 1
    ends = sample.end_ids(model, tokenizer)
    ours = sample.generate(model, prompts, uniforms(6, 24), 0, ends, tokenizer.pad_token_id)
    for prompt, completion in zip(prompts, ours):
        mask = torch.ones(1, len(prompt), dtype=torch.long)
        theirs = model.generate(torch.tensor([prompt]), attention_mask=mask, do_sample=False, max_new_tokens=24,
                                eos_token_id=ends, pad_token_id=tokenizer.pad_token_id)
        assert completion.finished
        assert completion.ids == theirs[0, len(prompt):].tolist()


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.5])
def test_frequencies_follow_the_softmax_of_logits_over_temperature(temperature):
    model = llama()
    n = 20000
    completions = sample.generate(model, PROMPTS[:1], uniforms(n, 1), temperature, ENDS, PAD)
    frequency = torch.bincount(torch.tensor([c.ids[0] for c in completions]), minlength=VOCABULARY) / n
    p = (plain_forward(model, PROMPTS[0], [0]) / temperature).softmax(-1)[0]
    deviation = (p * (1 - p) / n).sqrt()
    assert p.max() < 0.9  # the model has something to choose from
    assert ((frequency - p).abs() <= 5 * deviation + 1 / n).all()


def test_a_number_at_the_very_end_of_the_range_still_names_a_token():
    for completion in sample.generate(llama(), PROMPTS, torch.full((3, 4), 1 - 2 ** -24), 1.0, [], PAD):
        assert len(completion.ids) == 4
        assert all(0 <= token < VOCABULARY for token in completion.ids)


def test_all_end_tokens_of_a_model_are_known(policy):
    tokenizer = policy[1]
    model = llama()
    pad, end = tokenizer.pad_token_id, tokenizer.eos_token_id
    assert pad not in (end, 9)
    model.config.eos_token_id = [pad, 9]
    model.generation_config.eos_token_id = 9
    assert sample.end_ids(model, tokenizer) == sorted({9, end})
    for nothing in (-1, None):
        model.generation_config.eos_token_id = nothing
        # Of config.json's a control token counts; 9 is an ordinary one, perhaps the library's default.
        assert sample.end_ids(model, tokenizer) == sorted({pad, end})
    model.config.eos_token_id = None
    assert sample.end_ids(model, tokenizer) == [end]


def test_the_end_token_that_the_library_takes_for_want_of_one_is_an_ordinary_one(policy, tmp_path):
    """Llama's is 2, whatever token that is."""
    tokenizer = policy[1]
    llama().save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").unlink()
    config = json.loads((tmp_path / "config.json").read_text())
    del config["eos_token_id"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = LlamaForCausalLM.from_pretrained(tmp_path)
    assert model.config.eos_token_id == 2
    assert sample.end_ids(model, tokenizer) == [tokenizer.eos_token_id]


class MallocInfo(ctypes.Structure):
    """glibc's struct mallinfo2."""
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")]


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="a function of glibc")
def test_after_a_model_is_loaded_large_memory_is_of_the_heap_which_is_kept(policy):
    library = ctypes.CDLL(None)
    library.mallinfo2.restype = MallocInfo
    library.malloc.restype = ctypes.c_void_p
    library.free.argtypes = [ctypes.c_void_p]
    borrowed = library.mallinfo2().hblks  # blocks that go back to the kernel when they are freed
    large = library.malloc(256 << 20)
    assert library.mallinfo2().hblks == borrowed
    library.free(large)


def test_a_stream_hangs_on_its_name_alone():
    def numbers(*name):
        return torch.rand(4, generator=sample.stream(*name)).tolist()
    first = numbers(0, "p", "weak")
    torch.rand(100)
    assert numbers(0, "p", "weak") == first
    others = [numbers(1, "p", "weak"), numbers(0, "q", "weak"), numbers(0, "p", "strong")]
    assert first not in others
    assert len(set(map(tuple, others))) == 3


def test_self_certainty_is_the_mean_kl_from_uniform_at_temperature_1():
    model = llama()
    for completion in sample.generate(model, PROMPTS[:1], uniforms(4, 12), 0.5, ENDS, PAD):
        logp = plain_forward(model, PROMPTS[0], completion.ids).log_softmax(-1)
        uniform = torch.full_like(logp, 1 / logp.shape[-1])
        kl = (uniform * (uniform.log() - logp)).sum()
        assert completion.self_certainty == pytest.approx(float(kl), rel=1e-4)


def test_a_number_on_the_border_of_two_tokens_is_the_second_s():
    """u in [CDF before, CDF with): a token of probability 0 is never drawn, u = 0 included."""
    logits = torch.tensor([[-math.inf, 0.0, -math.inf, 0.0]])
    drawn = [int(sample.draw(logits, 1.0, torch.tensor([u]))) for u in (0.0, 0.25, 0.5, 0.75)]
    assert drawn == [1, 1, 3, 3]


def test_a_row_has_means_over_all_tokens_the_end_included():
    cfg = SimpleNamespace(seed=0, temperature=0.7, max_new_tokens=9, model_digest={"weak": "d"})
    problem = {"problem_id": "p", "prompt": "q"}
    done = sample.Completion([5, 6, 7, 2], -2.0, True, self_certainty=6.0)
    row = sample.local_candidate(problem, "weak-0", "t", "c", done, cfg)
    assert (row["n_tokens"], row["mean_logprob"], row["self_certainty"]) == (4, -0.5, 1.5)
    assert row["finish_reason"] == "stop"
    cut_off = sample.Completion([5, 6], -2.0, False)
    row = sample.local_candidate(problem, "weak-0", "t", "c", cut_off, cfg)
    assert (row["n_tokens"], row["finish_reason"]) == (2, "length")


def test_a_prompt_may_fill_the_context_to_the_last_token():
    model = llama()
    context = sample.context_length(model)
    sample.must_fit(model, [5] * (context - 4), 4)
    with pytest.raises(UserError):
        sample.must_fit(model, [5] * (context - 3), 4)
    kept = sample.those_that_fit([{"problem_id": "a"}, {"problem_id": "b"}],
                                 {"a": [5] * (context - 4), "b": [5] * (context - 3)}, model,
                                 SimpleNamespace(max_new_tokens=4))
    assert kept == [{"problem_id": "a"}]


# ---------------------------------------------------------------- the command

def flags(out, *more, problems=EDGES / "problems_weak.jsonl", model=EDGES / "weak", n=2, limit=6):
    arguments = ["--problems", problems, "--model", model, "--out", out, "--max-new-tokens", 24, "--n", n,
                 "--limit", limit, *more]
    return list(map(str, arguments))


def settings(*arguments):
    return parse(sample.Settings, "", list(map(str, arguments)))


def failure(arguments, capsys):
    """The one line with which a command fails that must fail."""
    with pytest.raises((UserError, SystemExit)) as caught:
        sample.main(arguments)
    if isinstance(caught.value, SystemExit):
        assert caught.value.code  # the exit status is not 0
    if isinstance(caught.value, SystemExit) and isinstance(caught.value.code, int):
        return capsys.readouterr().err.splitlines()[-1]  # argparse's usage, then its message
    message = str(caught.value).strip()
    assert "\n" not in message
    return message


def by_key(*paths):
    rows = [row for path in paths for row in read_rows(path, CANDIDATE, key=CANDIDATE_KEY)]
    return {(row["problem_id"], row["candidate_id"]): row for row in rows}


def texts(*paths):
    return {key: row["text"] for key, row in by_key(*paths).items()}


def test_rows_carry_their_key_and_their_sampling(tmp_path, problems):
    sample.main(flags(tmp_path / "c.jsonl", "--temperature", "0.9", "--seed", "3"))
    rows = by_key(tmp_path / "c.jsonl")
    assert rows.keys() == {(problem["problem_id"], f"weak-{k}") for problem in problems[:6] for k in range(2)}
    for row in rows.values():
        assert row["policy"] == "weak"
        assert row["seed"] == 3
        assert row["sampling"].pop("model") == fingerprint(EDGES / "weak").rpartition("@")[2]
        assert len(row["sampling"].pop("problem")) == 8
        assert row["sampling"] == {"temperature": 0.9, "max_new_tokens": 24}
        assert row["code"].startswith("def f(x):\n")
        assert 1 <= row["n_tokens"] <= 24
        assert row["mean_logprob"] <= 0
        assert row["finish_reason"] == "stop" or row["n_tokens"] == 24


def test_same_seed_same_rows_another_seed_others(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        sample.main(flags(tmp_path / name, "--seed", seed))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert texts(tmp_path / "a") != texts(tmp_path / "c")


def test_a_problem_s_programs_do_not_hang_on_the_other_problems(tmp_path):
    for limit in (2, 6):
        sample.main(flags(tmp_path / str(limit), limit=limit))
    few = texts(tmp_path / "2")
    assert len(few) == 4
    assert few.items() <= texts(tmp_path / "6").items()


def test_every_problem_and_every_sample_has_its_own_numbers(tmp_path, problems):
    twins = [{**problems[0], "problem_id": name} for name in "abcd"]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(problem) + "\n" for problem in twins))
    sample.main(flags(tmp_path / "c.jsonl", problems=tmp_path / "p.jsonl", n=8))
    text = texts(tmp_path / "c.jsonl")
    of_problems = [tuple(text[name, f"weak-{k}"] for k in range(8)) for name in "abcd"]
    assert len(set(of_problems)) == 4
    of_samples = [tuple(text[name, f"weak-{k}"] for name in "abcd") for k in range(8)]
    assert len(set(of_samples)) > 1


def test_a_larger_n_ends_with_the_rows_of_an_undisturbed_run(tmp_path):
    sample.main(flags(tmp_path / "c.jsonl"))
    before = (tmp_path / "c.jsonl").read_text()
    sample.main(flags(tmp_path / "c.jsonl", n=3))
    sample.main(flags(tmp_path / "whole.jsonl", n=3))
    assert (tmp_path / "c.jsonl").read_text().startswith(before)
    assert len(texts(tmp_path / "c.jsonl")) == 18
    assert texts(tmp_path / "c.jsonl") == texts(tmp_path / "whole.jsonl")


def test_a_higher_limit_only_lengthens_what_was_cut_off(tmp_path):
    rows = {}
    for limit in (4, 24):
        sample.main(flags(tmp_path / f"{limit}.jsonl", "--max-new-tokens", limit))
        rows[limit] = read_rows(tmp_path / f"{limit}.jsonl")
    assert {row["finish_reason"] for row in rows[4]} == {"stop", "length"}
    for short, long in zip(rows[4], rows[24]):
        assert long["text"].startswith(short["text"])
        assert (long["n_tokens"] > 4) == (short["finish_reason"] == "length")


def test_a_finished_run_loads_no_model_and_changes_nothing(tmp_path, monkeypatch, capsys):
    (tmp_path / "weak").symlink_to(EDGES / "weak")
    run = flags(tmp_path / "c.jsonl", model=tmp_path / "weak")
    sample.main(run)
    before = (tmp_path / "c.jsonl").read_bytes()
    (tmp_path / "weak").unlink()  # now there is no model to load
    sample.main(run)
    assert (tmp_path / "c.jsonl").read_bytes() == before
    assert "already" in capsys.readouterr().out


def test_killed_and_started_again_ends_with_the_rows_of_an_undisturbed_run(tmp_path):
    killed = tmp_path / "killed.jsonl"
    run = flags(killed, "--batch-size", 4, n=4, limit=60)  # 60 batches
    child = subprocess.Popen([sys.executable, str(ROOT / "sample.py"), *run], stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL)
    until = time.time() + 300
    try:
        while not killed.exists() or killed.stat().st_size < 4000:
            assert child.poll() is None, "it ended before it could be killed"
            assert time.time() < until
            time.sleep(0.005)
    finally:
        child.kill()
    assert child.wait() == -signal.SIGKILL
    content = killed.read_bytes()
    assert 0 < content.count(b"\n") < 240
    os.truncate(killed, content.rfind(b"\n") + 1 - 30)  # and as if it had been hit in the middle of a row
    sample.main(run)
    sample.main(flags(tmp_path / "whole.jsonl", "--batch-size", 4, n=4, limit=60))
    rows = by_key(killed)
    whole = by_key(tmp_path / "whole.jsonl")
    assert len(rows) == 240
    assert rows.keys() == whole.keys()
    for key, row in rows.items():
        assert row == {**whole[key], "mean_logprob": pytest.approx(whole[key]["mean_logprob"], abs=1e-5),
                       "self_certainty": pytest.approx(whole[key]["self_certainty"], abs=1e-5)}


def test_ctrl_c_says_what_is_kept_and_how_to_go_on(tmp_path, monkeypatch, capsys):
    generate = sample.generate
    calls = []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return generate(*arguments)
    monkeypatch.setattr(sample, "generate", interrupted)
    message = failure(flags(tmp_path / "c.jsonl", "--batch-size", 4), capsys)
    assert f"8 candidates are kept in {tmp_path / 'c.jsonl'}" in message
    assert len(read_rows(tmp_path / "c.jsonl", CANDIDATE)) == 8


def test_one_model_writes_for_the_problems_of_all_files(tmp_path):
    files = [str(EDGES / f"problems_{name}.jsonl") for name in ("weak", "strong")]
    sample.main(["--problems", *files, "--model", str(EDGES / "weak"), "--limit", "1", "--n", "1",
                 "--max-new-tokens", "8", "--out", str(tmp_path / "c.jsonl")])
    rows = read_rows(tmp_path / "c.jsonl")
    assert [row["policy"] for row in rows] == ["weak", "weak"]
    assert len({row["problem_id"] for row in rows}) == 2


def test_a_checkpoint_in_half_precision_runs_in_float32_on_a_cpu(tmp_path):
    shutil.copytree(EDGES / "weak", tmp_path / "half")
    path = tmp_path / "half/config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "dtype": "bfloat16", "torch_dtype": "bfloat16"}))
    assert sample.load_model(str(tmp_path / "half"))[0].dtype == torch.float32
    assert sample.load_model(str(tmp_path / "half"), dtype="bfloat16")[0].dtype == torch.bfloat16


# ---------------------------------------------------------------- mistakes

@pytest.mark.parametrize("change, says", [
    (["--n", "0"], "--n 0: must be at least 1"),
    (["--max-new-tokens", "0"], "--max-new-tokens 0: must be at least 1"),
    (["--batch-size", "0"], "--batch-size 0: must be at least 1"),
    (["--limit", "0"], "--limit 0: must be at least 1"),
    (["--in-flight", "0"], "--in-flight 0: must be at least 1"),
    (["--temperature", "-1"], "--temperature -1.0: must be at least 0"),
    (["--temperature", "nan"], "--temperature nan: must be at least 0"),
    (["--problems", "a", "b", "c", "--model", "m", "n"], "--model names 2 models for 3 --problems files"),
    (["--problems", "a", "b", "--model", "x/m", "y/m"], "--model: two models with the same last name"),
    (["--split", "nosuch"], "--split nosuch"),
    (["--dtype", "float33"], "--dtype float33: expected auto, float32"),
    (["--model", "/no/such/folder"], "--model /no/such/folder: no such folder"),
    (["--model", "runs/no-such-run/judge"], "--model runs/no-such-run/judge: no such folder"),
    (["--model", "/no/such.gguf"], "--model /no/such.gguf: no such file"),
    (["--model", "nobody/has-this-model"], "--model nobody/has-this-model: cannot be loaded"),
    (["--problems", "/no/such.jsonl"], "/no/such.jsonl: no such file"),
])
def test_a_wrong_flag_is_named_and_nothing_is_written(change, says, tmp_path, capsys):
    assert says in failure(flags(tmp_path / "c.jsonl", *change), capsys)
    assert not (tmp_path / "c.jsonl").exists() or not (tmp_path / "c.jsonl").read_bytes()


@pytest.mark.parametrize("half", [["--problems", "p.jsonl"], ["--model", "m"]])
def test_problems_and_model_are_named_together(half, capsys):
    assert "--problems and --model go together" in failure(half, capsys)


def test_a_model_without_an_end_token_is_refused(tmp_path):
    shutil.copytree(EDGES / "weak", tmp_path / "endless")
    path = tmp_path / "endless" / "tokenizer_config.json"
    config = json.loads(path.read_text())
    del config["eos_token"]
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match="endless: its tokenizer has no end token"):
        sample.load_model(str(tmp_path / "endless"))


def test_a_split_that_only_one_of_the_files_has_is_enough(tmp_path):
    sample.main(["--problems", str(EDGES / "problems_weak.jsonl"), str(EDGES / "problems_strong.jsonl"),
                 "--model", str(EDGES / "weak"), str(EDGES / "strong"), "--split", "test", "--limit", "2", "--n", "1",
                 "--max-new-tokens", "8", "--out", str(tmp_path / "c.jsonl")])
    assert len(read_rows(tmp_path / "c.jsonl")) == 2


def test_the_folder_of_a_run_is_told_from_its_judge(tmp_path):
    (tmp_path / "judge").symlink_to(EDGES / "judge")
    with pytest.raises(UserError, match=f"is the folder of a training run; its judge is {tmp_path}/judge"):
        sample.load_model(str(tmp_path), flag="--judge")


def test_flags_are_not_known_by_their_first_letters(tmp_path, capsys):
    assert "unrecognized arguments: --temp" in failure(flags(tmp_path / "c.jsonl", "--temp", "0.5"), capsys)


def test_models_whose_names_hold_a_full_stop_stay_apart(tmp_path):
    for name in ("Tiny2.5-7B", "Tiny2.5-1.5B"):
        (tmp_path / name).symlink_to(EDGES / "weak")
        sample.main(flags(tmp_path / "c.jsonl", model=tmp_path / name, limit=1))
    assert {row["policy"] for row in read_rows(tmp_path / "c.jsonl")} == {"Tiny2.5-7B", "Tiny2.5-1.5B"}


@pytest.mark.parametrize("change", [["--seed", "1"], ["--temperature", "0.5"], ["--max-new-tokens", "9"]])
def test_a_file_made_with_other_settings_is_not_taken_for_done(change, tmp_path, capsys):
    sample.main(flags(tmp_path / "c.jsonl", limit=1))
    assert f"it was made with {change[0]} " in failure(flags(tmp_path / "c.jsonl", *change, limit=1), capsys)


@pytest.mark.parametrize("sampling", [None, "t=0.7", [0.7]])
def test_a_file_that_does_not_say_how_it_was_made_is_not_taken_for_done(sampling, tmp_path, capsys):
    row = {"problem_id": "p", "candidate_id": "weak-0", "policy": "weak", "code": "", "seed": 0, "sampling": sampling}
    write_rows(tmp_path / "c.jsonl", [row])
    assert "it was made with --temperature None" in failure(flags(tmp_path / "c.jsonl", limit=1), capsys)


def test_a_prompt_without_tokens_is_named(tmp_path, capsys, problems):
    empty = {**problems[0], "prompt": "", "starter_code": ""}
    write_rows(tmp_path / "p.jsonl", [empty])
    words = failure(flags(tmp_path / "c.jsonl", problems=tmp_path / "p.jsonl"), capsys)
    assert f"problem {empty['problem_id']!r}: its prompt has no tokens" in words


def test_a_file_made_by_another_model_of_the_same_name_is_not_gone_on_with(tmp_path, capsys):
    for folder, source in (("a", "weak"), ("b", "strong")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "policy").symlink_to(EDGES / source)
    sample.main(flags(tmp_path / "c.jsonl", model=tmp_path / "a/policy", limit=1, n=1))
    said = failure(flags(tmp_path / "c.jsonl", model=tmp_path / "b/policy", limit=1), capsys)
    assert "candidates of policy are of another model of that name" in said
    # the same model in another place, and files from before this was noted down
    sample.main(flags(tmp_path / "c.jsonl", model=EDGES.parent / "edges/weak", limit=1, n=1))
    rows = read_rows(tmp_path / "c.jsonl")
    assert {row["policy"] for row in rows} == {"policy", "weak"}
    for row in rows:
        del row["sampling"]["model"], row["sampling"]["problem"]
    write_rows(tmp_path / "c.jsonl", rows)
    sample.main(flags(tmp_path / "c.jsonl", model=tmp_path / "b/policy", limit=1, n=1))
    assert read_rows(tmp_path / "c.jsonl") == rows


def test_a_file_made_of_other_texts_under_the_same_ids_is_not_gone_on_with(tmp_path, capsys, problems):
    for name, more in (("p", ""), ("q", "Think.\n")):
        changed = [{**problem, "prompt": more + problem["prompt"]} for problem in problems[:2]]
        write_rows(tmp_path / f"{name}.jsonl", changed)
    sample.main(flags(tmp_path / "c.jsonl", problems=tmp_path / "p.jsonl"))
    content = (tmp_path / "c.jsonl").read_bytes()
    said = failure(flags(tmp_path / "c.jsonl", n=3, problems=tmp_path / "q.jsonl"), capsys)
    assert f"for problem {problems[0]['problem_id']!r} are of another text" in said
    assert (tmp_path / "c.jsonl").read_bytes() == content


def test_two_models_may_have_the_same_problems(tmp_path):
    files = [str(EDGES / "problems_weak.jsonl")] * 2
    sample.main(["--problems", *files, "--model", str(EDGES / "weak"), str(EDGES / "strong"), "--limit", "1", "--n", "1",
                 "--max-new-tokens", "8", "--out", str(tmp_path / "c.jsonl")])
    assert [row["policy"] for row in read_rows(tmp_path / "c.jsonl")] == ["weak", "strong"]


def test_a_problem_in_two_files_is_named(tmp_path, capsys):
    files = [str(EDGES / "problems_weak.jsonl")] * 2
    said = failure(["--problems", *files, "--model", str(EDGES / "weak"), "--out", str(tmp_path / "c.jsonl")], capsys)
    assert "is in two of the --problems files" in said


@pytest.mark.parametrize("change", [{"starter_code": "def g(x):\n"}, {"source": "mbpp"}])
def test_whatever_changes_what_a_model_is_shown_is_another_text(change, tmp_path, capsys, problems):
    write_rows(tmp_path / "p.jsonl", problems[:1])
    run = flags(tmp_path / "c.jsonl", problems=tmp_path / "p.jsonl")
    sample.main(run)
    write_rows(tmp_path / "p.jsonl", [{**problems[0], **change}])
    assert "are of another text" in failure(run, capsys)


def test_one_id_may_not_stand_for_two_texts_although_two_models_write(tmp_path, capsys, problems):
    for name, prompt in (("p", "One."), ("q", "Two.")):
        write_rows(tmp_path / f"{name}.jsonl", [{**problems[0], "prompt": prompt}])
    files = [str(tmp_path / "p.jsonl"), str(tmp_path / "q.jsonl")]
    said = failure(["--problems", *files, "--model", str(EDGES / "weak"), str(EDGES / "strong"),
                    "--out", str(tmp_path / "c.jsonl")], capsys)
    assert "is in two of the --problems files" in said


# ---------------------------------------------------------------- shards

def test_shards_together_are_the_whole_to_the_last_digit(tmp_path, capsys):
    small = flags(tmp_path / "c.jsonl", "--batch-size", 4, limit=9)  # five batches for two shards
    for shard in range(2):
        sample.main([*small, "--shard", f"{shard}/2"])
    assert f"cat {tmp_path}/c.*-of-2.jsonl > {tmp_path}/c.jsonl" in capsys.readouterr().out
    assert not (tmp_path / "c.jsonl").exists()
    parts = [tmp_path / f"c.{shard}-of-2.jsonl" for shard in range(2)]
    assert all(part.stat().st_size for part in parts)
    sample.main(small)
    (tmp_path / "joined.jsonl").write_bytes(parts[0].read_bytes() + parts[1].read_bytes())
    assert by_key(tmp_path / "joined.jsonl") == by_key(tmp_path / "c.jsonl")
    before = parts[1].read_bytes()
    sample.main([*small, "--shard", "1/2"])  # once more: nothing is missing
    assert parts[1].read_bytes() == before


def test_torchrun_s_processes_are_the_shards(tmp_path, monkeypatch):
    """A process that torchrun starts knows its place when it reads sample.py."""
    from torch.distributed.run import parse_args
    run = flags(tmp_path / "c.jsonl", "--batch-size", 4, limit=5)
    torchrun = parse_args(["--nproc-per-node", "2", "--", "sample.py", *run])  # the -- keeps it from taking --n for its own
    assert torchrun.training_script == "sample.py"
    assert torchrun.training_script_args == run
    monkeypatch.setattr(parallel, "WORLD_SIZE", 2)
    for rank in range(2):
        monkeypatch.setattr(parallel, "RANK", rank)
        spec = importlib.util.spec_from_file_location(f"sample_of_rank_{rank}", ROOT / "sample.py")
        process = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, process)
        spec.loader.exec_module(process)
        process.main(run)
    sample.main(run)
    assert by_key(tmp_path / "c.0-of-2.jsonl", tmp_path / "c.1-of-2.jsonl") == by_key(tmp_path / "c.jsonl")


@pytest.mark.parametrize("shard", ["2/2", "1", "0/0", "-1/2", "a/b"])
def test_a_shard_that_is_none_is_refused(shard, tmp_path, capsys):
    assert f"--shard {shard}: must be I/N" in failure(flags(tmp_path / "c.jsonl", f"--shard={shard}"), capsys)


def test_another_shard_within_torchrun_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sample, "RANK", 1)
    monkeypatch.setattr(sample, "WORLD_SIZE", 2)
    assert "leave it out under torchrun" in failure(flags(tmp_path / "c.jsonl", "--shard", "0/2"), capsys)
    cfg = settings(*flags(tmp_path / "c.jsonl", "--shard", "1/2"))  # what torchrun's second process has by itself
    assert cfg.my_out == tmp_path / "c.1-of-2.jsonl"


# ---------------------------------------------------------------- benchmarks

def lcb(k, date, difficulty="easy", test="1\n"):
    """A row as LiveCodeBench has it."""
    tests = json.dumps([{"input": test, "output": "2\n", "testtype": "stdin"}])
    return {
        "question_title": "t",
        "question_content": f"Question {k}",
        "platform": "atcoder",
        "question_id": str(k),
        "contest_date": f"{date}T00:00:00",
        "starter_code": "",
        "difficulty": difficulty,
        "public_test_cases": tests,
        "private_test_cases": tests,
        "metadata": "{}",
    }


DAYS = ["2024-07-31", "2024-08-01", "2025-01-31", "2025-02-01", "2025-05-01", "2025-05-02"]


@pytest.fixture
def contests(tmp_path):
    """A file of LiveCodeBench: a contest on each of DAYS, easy and hard ones by turns."""
    rows = [lcb(k, day, ["easy", "hard"][k % 2]) for k, day in enumerate(DAYS)]
    (tmp_path / "lcb.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "lcb.jsonl"


def chosen(contests, *more):
    """The rows of problems.jsonl for these flags."""
    out = contests.parent / "out"
    cfg = settings("--problems", contests, "--model", "m", "--out", out / "c.jsonl", *more)
    kept, = sample.load_problems(cfg)
    rows = read_rows(out / "problems.jsonl")
    assert [row["problem_id"] for row in rows] == [row["problem_id"] for row in kept]
    assert all(row["tests"] for row in rows)
    return rows


LCB = ["--benchmark", "livecodebench"]


@pytest.mark.parametrize("more, days, split", [
    (["--preset", "daj-train"], DAYS[:1], "train"),
    (["--preset", "daj-test"], DAYS[3:5], "test"),
    (["--preset", "daj-test", "--difficulty", "hard"], DAYS[3:4], "test"),
    ([*LCB, "--from", "2024-08-01", "--until", "2025-01-31", "--as-split", "meta"], DAYS[1:3], "meta"),
    ([*LCB, "--difficulty", "hard"], DAYS[1::2], "test"),
    ([*LCB, "--limit", "2"], DAYS[:2], "test"),
])
def test_contests_are_chosen_by_day_and_difficulty_days_inclusive(more, days, split, contests):
    rows = chosen(contests, *more)
    assert [row["date"] for row in rows] == days
    assert {row["split"] for row in rows} == {split}


def test_a_preset_says_when_it_is_not_the_paper_s_number_of_problems(contests, capsys):
    chosen(contests, "--preset", "daj-test")
    assert "note: --preset daj-test is 131 problems in the paper, 2 here" in capsys.readouterr().err


def test_the_hard_preset_asks_in_the_words_of_bigcodebench_hard():
    cfg = settings("--preset", "daj-bigcodebench-hard", "--model", "m")
    assert cfg.benchmark == "bigcodebench"
    assert cfg.subset == ["hard", "instruct"]
    assert cfg.as_split == "test"
    assert PRESETS["daj-bigcodebench-hard"]["expected"] == 148


def test_a_subset_is_asked_for_on_the_hub_and_in_a_file(tmp_path, capsys):
    subset = ["--benchmark", "mbpp", "--subset", "sanitized", "--model", "m",
              "--out", str(tmp_path / "c.jsonl")]
    assert "--problems sanitized-mbpp.json" in failure(subset, capsys)
    row = {"task_id": 11, "text": "Add.", "code": "def f(x):\n    return x",
           "test_list": ["assert f(1) == 1"]}
    (tmp_path / "mbpp.jsonl").write_text(json.dumps(row) + "\n")
    said = failure([*subset, "--problems", str(tmp_path / "mbpp.jsonl")], capsys)
    assert "this is all of MBPP" in said


@pytest.mark.parametrize("more", [["--limit", "1"], ["--difficulty", "easy"]])
def test_a_chosen_part_of_a_preset_is_not_compared_with_the_paper(more, contests, capsys):
    chosen(contests, "--preset", "daj-test", *more)
    assert "in the paper" not in capsys.readouterr().err


def test_a_benchmark_comes_from_the_hub_where_no_file_is_named(tmp_path, contests, monkeypatch):
    (tmp_path / "old.jsonl").write_text(json.dumps(lcb("old", "2025-01-15")) + "\n")
    files = {"test5.jsonl": tmp_path / "old.jsonl", "test6.jsonl": contests}  # older ones cannot hold these days
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda repository, file, repo_type: files[file])
    cfg = settings("--preset", "daj-test", "--model", "m", "--out", tmp_path / "hub/c.jsonl")
    assert [row["date"] for row in sample.load_problems(cfg)[0]] == DAYS[3:5]


def test_a_hub_out_of_reach_is_one_line_and_leaves_nothing_behind(tmp_path, capsys):
    message = failure([*LCB, "--model", "m", "--out", str(tmp_path / "c.jsonl")], capsys)
    assert "/resolve/main/test.jsonl by hand and pass --problems test.jsonl" in message
    assert not list(tmp_path.iterdir())


def test_a_benchmark_s_tests_are_in_memory_one_row_at_a_time(tmp_path):
    million = "7" * 1_000_000
    with open(tmp_path / "lcb.jsonl", "w") as file:
        for k in range(40):
            file.write(json.dumps(lcb(k, "2025-03-01", test=million)) + "\n")  # twice: public and private
    cfg = settings(*LCB, "--problems", tmp_path / "lcb.jsonl", "--model", "m", "--out", tmp_path / "c.jsonl")
    tracemalloc.start()
    kept, = sample.load_problems(cfg)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(kept) == 40
    assert (tmp_path / "problems.jsonl").stat().st_size > 80e6
    assert peak < 30e6


@pytest.mark.parametrize("more, says", [
    (["--preset", "daj-test", "--from", "2025-01-01"], "--preset daj-test says what --from is"),
    ([*LCB, "--subset", "hard"], "--subset hard: --benchmark livecodebench has no subsets"),
    (["--benchmark", "bigcodebench", "--subset", "sanitized"], "--benchmark bigcodebench has hard and instruct"),
    (["--from", "2025-2"], "argument --from: invalid day value: '2025-2'"),
    (["--as-split", "train"], "--as-split is for a --benchmark"),
    ([*LCB, "--from", "2030-01-01"], "no problems are left after --from 2030-01-01"),
    ([*LCB, "--model", "a", "b"], "--benchmark takes one --model"),
    (["--benchmark", "humaneval"], "lcb.jsonl, row 1: field 'task_id' is missing"),
])
def test_wrong_choices_of_problems_are_named(more, says, contests, capsys):
    out = contests.parent / "c.jsonl"
    assert says in failure(["--problems", str(contests), "--model", "m", "--out", str(out), *more], capsys)
    assert not (contests.parent / "problems.jsonl").exists()


@pytest.mark.parametrize("given, out", [("problems.jsonl", "c.jsonl"), ("lcb.jsonl", "problems.jsonl")])
def test_a_benchmark_s_rows_are_not_written_over_a_file_of_the_user_s(contests, given, out, capsys):
    folder = contests.parent / "mine"
    folder.mkdir()
    (folder / given).write_bytes(contests.read_bytes())
    said = failure([*LCB, "--problems", str(folder / given), "--model", "m", "--out", str(folder / out)], capsys)
    assert "problems.jsonl: the benchmark's problems are written there" in said
    assert (folder / given).read_bytes() == contests.read_bytes()
    assert len(list(folder.iterdir())) == 1


def test_a_benchmark_s_rows_do_not_take_the_place_of_others(contests, capsys):
    chosen(contests, *LCB, "--limit", "2")
    chosen(contests, *LCB)  # these and more
    path = contests.parent / "out/problems.jsonl"
    before = path.read_bytes()
    arguments = [*LCB, "--problems", str(contests), "--model", "m", "--out", str(path.with_name("c.jsonl"))]
    said = failure([*arguments, "--limit", "2"], capsys)
    assert "problems that are not chosen now" in said
    assert path.read_bytes() == before
    path.write_text("my notes\n")
    assert "no problem" in failure(arguments, capsys)
    assert path.read_text() == "my notes\n"


def test_a_benchmark_s_rows_do_not_take_the_place_of_their_ids_with_another_text(contests, capsys):
    chosen(contests, *LCB)
    path = contests.parent / "out/problems.jsonl"
    rows = read_rows(path)
    write_rows(path, [{**rows[0], "prompt": "Mine."}, *rows[1:]])
    arguments = [*LCB, "--problems", str(contests), "--model", "m",
                 "--out", str(path.with_name("c.jsonl"))]
    assert "holds 1 problems that are not chosen now" in failure(arguments, capsys)
    assert read_rows(path)[0]["prompt"] == "Mine."


def test_problems_that_are_none_of_mbpp_s_test_set_are_said(tmp_path, capsys):
    rows = [{"task_id": number, "text": "Add.", "code": "def f(x):\n    return x", "test_list": ["assert f(1) == 1"]}
            for number in (10, 11, 510, 511)]
    (tmp_path / "mbpp.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for split, says in (("test", True), ("train", False)):
        cfg = settings("--benchmark", "mbpp", "--problems", tmp_path / "mbpp.jsonl", "--model", "m", "--as-split", split,
                       "--out", tmp_path / "c.jsonl")
        sample.load_problems(cfg)
        assert ("2 of 4 problems are none of MBPP's test set (11 to 510)" in capsys.readouterr().err) == says


def test_a_folder_that_cannot_be_made_is_named(contests, capsys):
    out = contests / "c.jsonl"  # a folder by the name of a file
    message = failure([*LCB, "--problems", str(contests), "--model", "m", "--out", str(out)], capsys)
    assert "problems.jsonl: cannot be written" in message


@pytest.mark.parametrize("date", [{}, {"date": None}])
def test_days_want_problems_that_have_them(date, tmp_path, capsys, problems):
    problem = {name: value for name, value in problems[0].items() if name != "date"} | date
    (tmp_path / "p.jsonl").write_text(json.dumps(problem) + "\n")
    message = failure(flags(tmp_path / "c.jsonl", "--until", "2025-01-01", problems=tmp_path / "p.jsonl"), capsys)
    assert message == f"--from and --until: problem '{problem['problem_id']}' has no date"


@pytest.mark.parametrize("date, wanted", [("2025-01-01T10:00:00", True), ("2025-01-02T00:00:00", False)])
def test_a_day_includes_its_hours(date, wanted, tmp_path, problems):
    cfg = settings("--problems", tmp_path / "p.jsonl", "--model", "m", "--until", "2025-01-01")
    assert sample.is_wanted({**problems[0], "date": date}, cfg) == wanted


@pytest.mark.parametrize("date", ["01.05.2025", "2025-5-1", 20250501])
def test_a_date_in_another_form_is_named(date, tmp_path, problems):
    cfg = settings("--problems", tmp_path / "p.jsonl", "--model", "m", "--from", "2025-01-01")
    with pytest.raises(UserError, match="expected one as in 2025-02-01"):
        sample.is_wanted({**problems[0], "date": date}, cfg)


# ---------------------------------------------------------------- the program in a chat model's answer

ADDS = "def add(a, b):\n    return a + b\n"
DRAFT = "def add(a, b):\n    return a - b\n"
STUB = "def add(a, b):\n    # your code here\n    raise NotImplementedError\n"
METHOD = "def add(self, a, b):\n    return operator.add(a, b)\n"
READS = "a, b = map(int, input().split())\nprint(a + b)\n"
WITH_A_SAMPLE = "import io, sys\nsys.stdin = io.StringIO('5 5')\nsolve()\n"

FUNCTION = {"problem_id": "p", "prompt": "", "starter_code": "", "entry_point": "add"}
CLASS = {**FUNCTION, "starter_code": "class Solution:\n    def add(self, a: int, b: int) -> int:\n        "}
PROMPT = {**FUNCTION, "starter_code": "import math\n\ndef half(x):\n    return x / 2\n\n"
                                      "def add(a, b):\n    \"\"\" Add two numbers. \"\"\"\n"}
STDIN = {**FUNCTION, "entry_point": None}


def fenced(code, info="python"):
    return f"```{info}\n{code}```\n"


def quoted(text, mark):
    return "".join(mark + line for line in text.splitlines(keepends=True))


ANSWERS = {  # -> (problem, answer)
    "in a quotation without spaces": (FUNCTION, quoted(fenced(ADDS), ">")),
    "in a quotation within another": (FUNCTION, quoted("Here:\n" + fenced(ADDS), "> > ")),
    "that begins on the line of its fence": (FUNCTION, "```python def add(a, b):\n    return a + b\n```"),
    "followed by the stub that was given": (FUNCTION, fenced(ADDS) + "in place of\n" + fenced(STUB)),
    "followed by prose, its fence forgotten": (FUNCTION, f"```python\n{ADDS}\nThis adds two numbers.\n"),
    "followed by a list, its fence forgotten": (STDIN, f"```python\n{READS}\n* reads\n* adds\n"),
    "without fences, under headings": (FUNCTION, f"### Solution\n\n{ADDS}\n### Complexity\nO(1)\n"),
    "without fences, above a list": (STDIN, f"{READS}\n* reads\n* adds\n"),
    "without fences, indented": (STDIN, f"The program:\n\n{quoted(READS, '    ')}\nDone."),
    "of which only the body is there": (PROMPT, "The body is:\n\n    c = half(2 * a)\n    return math.floor(c) + b\n"),
    "of which only the method is there": (CLASS, fenced("import operator\n\n" + METHOD)),
    "followed by a run on a sample": (STDIN, fenced(f"def solve():\n{quoted(READS, '    ')}\nsolve()\n") + fenced(WITH_A_SAMPLE)),
    "followed by a run in another process": (STDIN, fenced(READS) + fenced("import subprocess as s\nprint(s.run('x', input='1'))\n")),
    "with a byte order mark": (FUNCTION, "\ufeff" + ADDS),
    "with a left-over token of another kind": (FUNCTION, ADDS.rstrip() + "<|/assistant|>"),
    "with a left-over tag": (FUNCTION, ADDS.rstrip() + "</answer>"),
    "below a placeholder": (FUNCTION, "Save it as <filename>:\n" + fenced(ADDS)),
    "after thoughts with an open fence": (FUNCTION, f"<think>\n```python\n{DRAFT}</think>\n" + fenced(ADDS)),
}


def sum_by(code, monkeypatch, capsys):
    """What a program makes of 1 and 2: its output, or its function's or method's answer."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("1 2\n"))
    names = {}
    exec(code, names)
    if "Solution" in names:
        return names["Solution"]().add(1, 2)
    return names["add"](1, 2) if "add" in names else int(capsys.readouterr().out)


@pytest.mark.parametrize("name", ANSWERS)
def test_the_program_is_found(name, monkeypatch, capsys):
    problem, answer = ANSWERS[name]
    code = sample.extract_code(answer, problem, chat=True)
    assert sum_by(code, monkeypatch, capsys) == 3


@pytest.mark.parametrize("answer", [
    f"```python\n{ADDS}print add(1, 2)\n",  # Python 2, its fence forgotten: no prose
    f"<think>\n{fenced(ADDS)}",
    fenced(ADDS) + "Better:\n```python\ndef add(a, b):\n    total = a +",
])
def test_a_mistake_or_a_draft_does_not_become_a_program(answer):
    code = sample.extract_code(answer, FUNCTION, chat=True)
    with pytest.raises((SyntaxError, KeyError)):
        names = {}
        exec(code, names)
        names["add"]


# ---------------------------------------------------------------- a model behind a server

class Handler(BaseHTTPRequestHandler):
    """A server that speaks the protocol: it answers with its body's seed, and with the server's `failures` before that."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, body, self.headers.get("Authorization")))
        status = self.server.failures.pop() if self.server.failures else 200
        answer = {"error": "busy"} if status != 200 else self.answer(body)
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(content)

    def answer(self, body):
        text = self.server.text or f"```python\ndef f(x):\n    return {body['seed']}\n```"
        choice = {"message": {"content": text}} if "messages" in body else {"text": text}
        return {"choices": [{**choice, "finish_reason": "stop"}], "usage": {"completion_tokens": 17, "prompt_tokens": 5}}

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.asked = []
    server.failures = []  # statuses of the first answers, the last one first
    server.text = ""  # of all answers, if they are to be alike
    server.base = f"http://127.0.0.1:{server.server_port}/v1"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setattr(servers, "PAUSE", 0.01)
    yield server
    server.shutdown()
    server.server_close()


def served(out, base, *more, name="org/some-model", limit=3):
    arguments = ["--problems", EDGES / "problems_weak.jsonl", "--api-base", base, "--api-model", name, "--out", out,
                 "--limit", limit, "--n", 2, *more]
    return list(map(str, arguments))


def test_a_served_model_s_answers_become_candidates(tmp_path, server, monkeypatch, problems):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    server.failures = [429, 503]
    sample.main(served(tmp_path / "c.jsonl", server.base, "--in-flight", 4, "--temperature", "0.6"))
    assert len(server.asked) == 8  # six, and two that were busy
    for path, body, key in server.asked:
        assert path == "/v1/chat/completions"
        assert key == "Bearer secret"
        assert body["model"] == "org/some-model"
        assert body["temperature"] == 0.6
        assert body["max_tokens"] == 512
    prompts = {body["messages"][0]["content"] for _, body, _ in server.asked}
    assert prompts == {solution_prompt(problem, chat=True) for problem in problems[:3]}
    rows = by_key(tmp_path / "c.jsonl")
    assert len(rows) == 6
    assert {cid for _, cid in rows} == {"some-model-0", "some-model-1"}
    for row in rows.values():
        assert row["policy"] == "some-model"
        assert row["n_tokens"] == 17
        assert row["finish_reason"] == "stop"
        assert row["seconds"] >= 0
        assert row["sampling"].pop("problem")
        assert row["sampling"] == {"temperature": 0.6, "max_new_tokens": 512, "model": "org/some-model"}
        assert row["code"].startswith("def f(x):")
        assert "mean_logprob" not in row
    assert len({row["code"] for row in rows.values()}) == 6  # a seed for each


@pytest.mark.parametrize("text, says", [
    ("a draft\n</think>\ndef f(x):\n    return x", True),
    ("<think>a draft</think>\ndef f(x):\n    return x", False),
    ("def f(x):\n    return x", False),
])
def test_a_server_whose_answers_begin_within_thoughts_is_said(text, says, tmp_path, server, capsys):
    server.text = text
    sample.main(served(tmp_path / "c.jsonl", server.base))
    assert ("begin within thoughts" in capsys.readouterr().err) == says


def test_a_plain_model_behind_a_server_goes_on_with_the_starter_code(tmp_path, server, problems):
    server.text = "    return x\nprint(f(1))\n"
    sample.main(served(tmp_path / "c.jsonl", server.base, "--api-plain"))
    assert {path for path, _, _ in server.asked} == {"/v1/completions"}
    prompts = {body["prompt"] for _, body, _ in server.asked}
    assert prompts == {solution_prompt(problem) for problem in problems[:3]}
    codes = {row["code"].rstrip() for row in by_key(tmp_path / "c.jsonl").values()}
    assert codes == {"def f(x):\n    return x"}


def test_a_server_that_is_asked_in_another_way_is_another_model(tmp_path, server, capsys):
    sample.main(served(tmp_path / "c.jsonl", server.base, limit=1))
    said = failure(served(tmp_path / "c.jsonl", server.base, "--api-plain", limit=1), capsys)
    assert "are of another model of that name" in said


class CutOff(Handler):
    def answer(self, body):
        answer = super().answer(body)
        answer["choices"][0]["finish_reason"] = "length"
        return answer


def test_a_served_answer_that_was_cut_off_says_so(tmp_path, server):
    server.RequestHandlerClass = CutOff
    server.text = "Here:\n```python\ndef f(x):\n    return x"
    sample.main(served(tmp_path / "c.jsonl", server.base))
    for row in by_key(tmp_path / "c.jsonl").values():
        assert row["finish_reason"] == "length"
        assert row["text"] == server.text
        assert row["code"] == "def f(x):\n    return x\n"


def test_a_served_run_goes_on_in_shards_and_asks_with_the_same_seeds(tmp_path, server, capsys):
    sample.main(served(tmp_path / "whole.jsonl", server.base))
    server.failures = [401, *[200] * 3]  # the fourth request ends the run
    message = failure(served(tmp_path / "c.jsonl", server.base, "--in-flight", 1, "--shard", "0/2"), capsys)
    assert "HTTP 401" in message
    assert len(read_rows(tmp_path / "c.0-of-2.jsonl")) == 3
    server.asked.clear()
    for shard in range(2):
        sample.main(served(tmp_path / "c.jsonl", server.base, "--shard", f"{shard}/2"))
    assert len(server.asked) == 3
    assert texts(tmp_path / "c.0-of-2.jsonl", tmp_path / "c.1-of-2.jsonl") == texts(tmp_path / "whole.jsonl")


def test_a_request_that_the_server_refuses_costs_its_own_candidate(tmp_path, server, capsys):
    server.failures = [200, 400, *[200] * 4]  # the fifth of six
    sample.main(served(tmp_path / "c.jsonl", server.base, "--in-flight", 1))
    assert len(by_key(tmp_path / "c.jsonl")) == 5
    note = capsys.readouterr().err
    assert "1 of 6 requests were refused" in note
    assert "HTTP 400: busy" in note
    sample.main(served(tmp_path / "c.jsonl", server.base, "--in-flight", 1))  # once more: only that one is asked
    assert len(server.asked) == 7
    assert len(by_key(tmp_path / "c.jsonl")) == 6


def test_a_server_that_refuses_everything_ends_the_run_with_its_words(tmp_path, server, capsys):
    server.failures = [400] * 6
    message = failure(served(tmp_path / "c.jsonl", server.base), capsys)
    assert message.startswith("all 6 requests were refused, the first for problem 'edges/")
    assert "HTTP 400: busy" in message


@pytest.mark.parametrize("flag, says", [
    (["--api-model", "m", "--model", "m"], "--model is for models that run here"),
    ([], "--api-base and --api-model go together"),
])
def test_a_served_model_and_one_that_runs_here_are_not_mixed_up(flag, says, capsys):
    assert says in failure(["--problems", "p.jsonl", "--api-base", "http://x/v1", *flag], capsys)


def test_transformers_serve_gives_the_programs_that_the_checkpoint_gives(tmp_path, transformers_serve):
    """A real server in a process of its own, on the loopback. Greedy, so that both must agree."""
    name = str(EDGES / "weak")
    greedy = ["--temperature", "0", "--max-new-tokens", "24"]
    with transformers_serve(name) as base:
        for shard in range(2):
            sample.main(served(tmp_path / "c.jsonl", base, "--api-plain", *greedy, "--shard", f"{shard}/2", name=name))
    sample.main(flags(tmp_path / "here.jsonl", *greedy, limit=3))
    theirs = by_key(tmp_path / "c.0-of-2.jsonl", tmp_path / "c.1-of-2.jsonl")
    ours = by_key(tmp_path / "here.jsonl")
    assert len(ours) == 6
    assert theirs.keys() == ours.keys()
    for key, row in theirs.items():
        assert row["code"] == ours[key]["code"]
        assert row["finish_reason"] == ours[key]["finish_reason"]
        assert abs(row["n_tokens"] - ours[key]["n_tokens"]) <= 1
