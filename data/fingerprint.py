"""Which model is it? A name with a digest of whatever decides the model's answers to a prompt."""
import hashlib
import json
import re
from pathlib import Path

# Files of a checkpoint that are read whole: the weights, and what makes tokens of text.
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".jinja", ".model")
NAMES = ("config.json", "tokenizer.json", "vocab.json", "vocab.txt", "merges.txt",
         "added_tokens.json", "special_tokens_map.json", "chat_template.json",
         "adapter_config.json")
# Fields of tokenizer_config.json that decide nothing: they say where a tokenizer is from, how a
# batch is padded or cut, and how it was saved. The end token is looked at by `more_end_tokens`.
UNIMPORTANT = {"_commit_hash", "backend", "is_local", "local_files_only", "model_max_length",
               "name_or_path", "pad_token", "padding_side", "processor_class", "tokenizer_class",
               "transformers_version", "truncation_side", "eos_token"}


def fingerprint(name):
    """NAME@DIGEST of a checkpoint's folder, a single file (GGUF) or a name on the hub.

    Of a checkpoint: all weights, tokens and templates, and what ends an answer. Saved again from
    the same weights it keeps its digest, trained again in the same folder it does not. Of a name on
    the hub: the revision that its files are of.
    """
    path = Path(name)
    if path.is_dir():
        return f"{name}@{digest_of_folder(path)}"
    if path.is_file():
        return f"{name}@{digest_of_file(path).hex()[:8]}"
    return f"{name}@{hub_revision(name)}"


def digest_of_file(path):
    with open(path, "rb") as content:
        return hashlib.file_digest(content, "sha256").digest()


def digest_of_folder(folder):
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*")):
        if path.suffix in SUFFIXES or path.name in NAMES:
            digest.update(path.name.encode())
            digest.update(digest_of_file(path))
    more = {}
    for field, value in read_json(folder / "tokenizer_config.json").items():
        if field not in UNIMPORTANT and value:  # false, null or empty is as good as left out
            more[field] = value
    ends = more_end_tokens(folder)
    if ends:
        more["ends"] = ends
    if more:
        digest.update(json.dumps(more, sort_keys=True).encode())
    return digest.hexdigest()[:8]


def more_end_tokens(folder):
    """The tokens, ids or text, that end an answer beside those that config.json names."""
    known = as_list(read_json(folder / "config.json").get("eos_token_id"))
    ends = as_list(read_json(folder / "generation_config.json").get("eos_token_id"))
    token = read_json(folder / "tokenizer_config.json").get("eos_token")
    if isinstance(token, dict):
        token = token.get("content")
    if token:
        id_of = {}
        for added in read_json(folder / "tokenizer.json").get("added_tokens") or []:
            id_of[added["content"]] = added["id"]
        ends.append(id_of.get(token, token))
    return sorted({end for end in ends if end not in known}, key=str)


def as_list(value):
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]


def read_json(path):
    """The object in a file; empty if there is none, or none to be read: loading will say so."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def hub_revision(name, cache_dir=None):
    """The commit of a hub model that is or will be loaded; "not-found" if there is none."""
    first = name.split("/")[0]
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or first in ("runs", "data", ".", ".."):
        return "not-found"      # a folder that is not there
    from transformers.utils import cached_file
    try:
        path = cached_file(name, "config.json", cache_dir=cache_dir)
    except (OSError, ValueError):
        return "not-found"
    return Path(path).parent.name[:12]      # .../snapshots/COMMIT/config.json
