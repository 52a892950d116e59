"""data/fingerprint.py: a model that may answer differently has another fingerprint, and no other model has."""
import json

import pytest

from data.fingerprint import fingerprint, hub_revision
from data.rows import EDGES

TOKENIZER = {"added_tokens": [{"id": 1, "content": "<|end|>"}, {"id": 2, "content": "<|im_end|>"}]}
FILES = {
    "config.json": {"model_type": "llama", "eos_token_id": 1},
    "generation_config.json": {"eos_token_id": 1, "temperature": 0.6},
    "tokenizer.json": TOKENIZER,
    "tokenizer_config.json": {"eos_token": "<|end|>", "model_max_length": 512, "local_files_only": True},
}


@pytest.fixture
def checkpoint(tmp_path):
    """A folder with the files of a checkpoint."""
    for name, content in FILES.items():
        (tmp_path / name).write_text(json.dumps(content))
    (tmp_path / "model.safetensors").write_bytes(b"a" * 100)
    return tmp_path


def change(checkpoint, name, **fields):
    content = json.loads((checkpoint / name).read_text())
    (checkpoint / name).write_text(json.dumps({**content, **fields}))


def test_it_is_the_name_and_a_digest(checkpoint):
    name, digest = fingerprint(str(checkpoint)).split("@")
    assert name == str(checkpoint)
    assert len(digest) == 8
    assert fingerprint(str(checkpoint)) == f"{name}@{digest}"


def test_of_the_shipped_judge_it_stays_what_it_was():
    assert fingerprint(str(EDGES / "judge")).endswith("@4ad54f85")


def test_other_weights_are_another_model(checkpoint):
    first = fingerprint(str(checkpoint))
    (checkpoint / "model.safetensors").write_bytes(b"b" * 100)
    assert fingerprint(str(checkpoint)) != first


def test_large_weights_are_read_to_their_end(checkpoint):
    (checkpoint / "model.safetensors").write_bytes(bytes(5 << 20) + b"one")
    first = fingerprint(str(checkpoint))
    (checkpoint / "model.safetensors").write_bytes(bytes(5 << 20) + b"two")
    assert fingerprint(str(checkpoint)) != first


@pytest.mark.parametrize("name, fields", [
    ("config.json", {"rope_theta": 5}),
    ("tokenizer.json", {"model": {}}),
    ("tokenizer_config.json", {"chat_template": "{{ messages }}"}),
    ("tokenizer_config.json", {"add_bos_token": True}),
    ("tokenizer_config.json", {"clean_up_tokenization_spaces": True}),
    ("tokenizer_config.json", {"eos_token": "<|im_end|>"}),
    ("tokenizer_config.json", {"eos_token": {"content": "<|im_end|>"}}),
    ("tokenizer_config.json", {"eos_token": "<|unheard|>"}),
    ("generation_config.json", {"eos_token_id": [1, 2]}),
    ("generation_config.json", {"eos_token_id": 7}),
])
def test_what_may_change_an_answer_changes_it(name, fields, checkpoint):
    first = fingerprint(str(checkpoint))
    change(checkpoint, name, **fields)
    assert fingerprint(str(checkpoint)) != first


@pytest.mark.parametrize("name", ["chat_template.jinja", "merges.txt", "tokenizer.model", "special_tokens_map.json",
                                  "adapter_config.json", "adapter_model.safetensors"])
def test_another_file_that_may_change_an_answer_changes_it(name, checkpoint):
    first = fingerprint(str(checkpoint))
    (checkpoint / name).write_text("{}")
    assert fingerprint(str(checkpoint)) != first


@pytest.mark.parametrize("name", [
    "pytorch_model.bin", "model.pt", "model.pth", "model.gguf", "vocab.json", "vocab.txt",
    "added_tokens.json", "chat_template.json"])
def test_each_further_file_of_weights_or_tokens_changes_it_with_its_content(name, checkpoint):
    found = {fingerprint(str(checkpoint))}
    for content in ("{}", "{ }"):
        (checkpoint / name).write_text(content)
        found.add(fingerprint(str(checkpoint)))
    assert len(found) == 3


def test_what_two_files_say_is_not_the_same_the_other_way_round(checkpoint):
    found = set()
    for first, second in (("a", "b"), ("b", "a")):
        (checkpoint / "merges.txt").write_text(first)
        (checkpoint / "vocab.txt").write_text(second)
        found.add(fingerprint(str(checkpoint)))
    assert len(found) == 2


def test_the_same_content_under_another_name_is_another_model(checkpoint):
    (checkpoint / "merges.txt").write_text("a")
    first = fingerprint(str(checkpoint))
    (checkpoint / "merges.txt").rename(checkpoint / "vocab.txt")
    assert fingerprint(str(checkpoint)) != first


@pytest.mark.parametrize("template", ["{{ a }}", "{{ b }}"])
def test_each_chat_template_is_another_model(template, checkpoint):
    change(checkpoint, "tokenizer_config.json", chat_template="{{ messages }}")
    first = fingerprint(str(checkpoint))
    change(checkpoint, "tokenizer_config.json", chat_template=template)
    assert fingerprint(str(checkpoint)) != first


@pytest.mark.parametrize("name, fields", [
    ("tokenizer_config.json", {"local_files_only": False}),
    ("tokenizer_config.json", {"name_or_path": "elsewhere", "padding_side": "left"}),
    ("tokenizer_config.json", {"add_bos_token": False, "chat_template": None}),
    ("tokenizer_config.json", {"eos_token": {"content": "<|end|>", "lstrip": False}}),
    ("generation_config.json", {"temperature": 1.0, "top_k": 50, "transformers_version": "9"}),
    ("generation_config.json", {"eos_token_id": [1]}),
])
def test_what_changes_no_answer_does_not(name, fields, checkpoint):
    first = fingerprint(str(checkpoint))
    change(checkpoint, name, **fields)
    assert fingerprint(str(checkpoint)) == first


def test_a_readme_and_a_log_do_not_change_it(checkpoint):
    first = fingerprint(str(checkpoint))
    (checkpoint / "README.md").write_text("A judge.\n")
    (checkpoint / "train.log").write_text("step 1\n")
    assert fingerprint(str(checkpoint)) == first


def test_a_single_file_is_known_by_its_content(tmp_path):
    path = tmp_path / "judge-Q4.gguf"
    path.write_bytes(b"one")
    first = fingerprint(str(path))
    path.write_bytes(b"two")
    assert fingerprint(str(path)) != first


@pytest.fixture
def hub(tmp_path):
    """hub(commit): a cache in which owner/name is at this commit."""
    def at(commit):
        folder = tmp_path / "models--owner--name"
        (folder / "snapshots" / commit).mkdir(parents=True)
        (folder / "snapshots" / commit / "config.json").write_text("{}")
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs" / "main").write_text(commit)
        return tmp_path
    return at


def test_a_model_of_the_hub_is_known_by_its_revision(hub):
    assert hub_revision("owner/name", hub("a" * 40)) == "a" * 12
    assert hub_revision("owner/name", hub("b" * 40)) == "b" * 12


@pytest.mark.parametrize("name", ["owner/nobody-has-this", "runs/no-such-run", "./no/such/folder", "/no/such.gguf"])
def test_what_is_not_there_is_said_to_be_not_found(name, tmp_path):
    assert hub_revision(name, tmp_path) == "not-found"
