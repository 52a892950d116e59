"""Which architectures work: docs/MODELS.md, remade with tiny models of random weights.

    python docs/models.py                     every causal LM of the installed transformers, a few minutes
    python docs/models.py llama gemma3_text   only these, printed

Each is saved, loaded as the stages load it (sample.load_model), sampled from and scored in packed
rows, and compared with plain forward passes, one sequence at a time, without a cache or a mask. A
row of the table says either "right" (sampler and scorer agree with the plain forward pass) or what
the refusal says. WRONG would be a defect, and stands at the head of the page; there is none.
"""
import copy
import os
import sys
import tempfile
import warnings
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch  # noqa: E402
import transformers  # noqa: E402
from transformers import CONFIG_MAPPING, AutoTokenizer  # noqa: E402
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from data.rows import EDGES, UserError  # noqa: E402
from data.shards import SHARDED  # noqa: E402
from kernels.packing import make_packs  # noqa: E402
from sample import end_ids, generate, load_model, logits_of, pad_id  # noqa: E402

VOCABULARY = 600
MOST_PARAMETERS = 4_000_000
TOLERANCE = 1e-3  # of a token's log-prob; the right ones are at 1e-5

# Small sizes, by all the names that configs have for them. A config takes those that it knows.
SMALL = {
    VOCABULARY: "vocab_size vocab_size_per_layer_input",
    32: "hidden_size d_model n_embd dim embedding_size lru_width attention_hidden_size "
        "word_embed_proj_dim",
    48: "intermediate_size ffn_dim d_ff n_inner decoder_ffn_dim encoder_ffn_dim "
        "moe_intermediate_size shared_expert_intermediate_size shared_intermediate_size "
        "intermediate_size_mlp",
    2: "num_hidden_layers num_layers n_layer n_layers decoder_layers encoder_layers "
       "num_key_value_heads num_kv_heads num_experts_per_tok moe_topk expand mamba_expand",
    4: "num_attention_heads n_head n_heads num_heads decoder_attention_heads "
       "encoder_attention_heads num_experts n_routed_experts num_local_experts rotary_dim "
       "mamba_d_conv conv_kernel",
    8: "head_dim qk_rope_head_dim qk_nope_head_dim v_head_dim hidden_size_per_layer_input "
       "state_size mamba_d_state",
    16: "q_lora_rank kv_lora_rank mamba_chunk_size chunk_size",
    1: "n_group topk_group n_shared_experts num_shared_experts first_k_dense_replace n_groups "
       "mamba_n_groups eos_token_id",
    0: "pad_token_id",
    14: "patch_size",
    28: "image_size",
    512: "max_position_embeddings n_positions n_ctx max_seq_len original_max_position_embeddings",
}
# What some types need besides, to be built at this size or to be what they are.
LATENT = {"num_key_value_heads": 4}  # latent attention has a key for each head
ALSO = {
    **dict.fromkeys(["deepseek_v2", "deepseek_v3", "deepseek_v32", "glm4_moe_lite", "glm_moe_dsa",
                     "longcat_flash", "minicpm3", "youtu", "sarvam_mla", "axk1", "axk2"], LATENT),
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "gemma3n_text": {"num_hidden_layers": 4, "num_kv_shared_layers": 0,
                     "intermediate_size": [48] * 4, "activation_sparsity_pattern": None},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "zamba": {"num_hidden_layers": 4, "layers_block_type": ["mamba", "hybrid"] * 2},
    "reformer": {"is_decoder": True},
}
# Variants that a user may meet: (row of the table, model type, what its config says besides).
LONGROPE = {"rope_type": "longrope", "rope_theta": 1e4, "factor": 16.0,
            "original_max_position_embeddings": 32,
            "short_factor": [1.0] * 4, "long_factor": [1.5, 2.0, 3.0, 4.0]}
VARIANTS = [
    ("llama, yarn", "llama", {"rope_parameters": {
        "rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0,
        "original_max_position_embeddings": 128}}),
    ("llama, rope of Llama 3", "llama", {"rope_parameters": {
        "rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0,
        "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64}}),
    ("llama, dynamic rope beyond its length", "llama", {
        "max_position_embeddings": 32,
        "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}}),
    ("phi3, longrope beyond its switch", "phi3", {
        "original_max_position_embeddings": 32, "rope_parameters": LONGROPE}),
    ("mistral, beyond its window", "mistral", {"sliding_window": 16}),
    ("gemma3_text, beyond its window", "gemma3_text", {"sliding_window": 16}),
    ("gpt2, beyond its positions", "gpt2", {"n_positions": 32}),
    ("doge, beyond its window", "doge", {"keep_window_size": 16}),
    ("falcon, ALiBi", "falcon", {"alibi": True}),
    ("granite, logits_scaling 1.005", "granite", {"logits_scaling": 1.005}),
    ("gemma2, soft-capped logits", "gemma2", {
        "final_logit_softcapping": 5.0, "attn_logit_softcapping": None}),
    ("gemma3n_text, shared keys and values", "gemma3n_text", {"num_kv_shared_layers": 2}),
    ("gemma4_text, shared keys and values", "gemma4_text", {
        "num_hidden_layers": 4, "num_kv_shared_layers": 2}),
]


def small_config(model_type, **more):
    """A config of this type with small sizes."""
    Config = CONFIG_MAPPING[model_type]
    sizes = {name: size for size, names in SMALL.items() for name in names.split()}
    default = Config()
    said = {**default.to_dict(), **getattr(Config, "attribute_map", {})}
    aliases = getattr(Config, "attribute_map", {})
    known = {}
    for name, size in sizes.items():
        is_computed = isinstance(getattr(Config, name, None), property)
        if name in said and not is_computed and aliases.get(name) not in sizes:
            known[name] = size
    if getattr(default, "sliding_window", None):
        known["sliding_window"] = 256
    for name in getattr(Config, "sub_configs", {}):  # of a composite model: the text's, the images'
        part = getattr(default, name, None)
        if getattr(part, "model_type", None) in CONFIG_MAPPING:
            known[name] = small_config(part.model_type)
    return Config(**{**known, **ALSO.get(model_type, {}), **more})


def random_model(config):
    """A model whose weights are wide enough for attention, positions and routing to matter."""
    Model = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in Model(copy.deepcopy(config)).parameters())
    if size > MOST_PARAMETERS:
        raise RuntimeError(f"{size:,} parameters with the small sizes known here")
    torch.manual_seed(0)
    model = Model(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() >= 2 and "conv" not in name:
                parameter.normal_(0, 0.3)
    return model


@torch.no_grad()
def largest_error(model, tokenizer):
    """The largest difference of a log-prob, sampled or scored, from that of a plain forward pass.
    """
    generator = torch.Generator().manual_seed(1)
    prompts = [torch.randint(2, VOCABULARY, (length,), generator=generator).tolist()
               for length in (5, 19, 40)]
    n = 3
    ends = end_ids(model, tokenizer)
    pad = pad_id(tokenizer, ends)
    uniforms = torch.rand(len(prompts) * n, 24, generator=generator)
    completions = generate(model, prompts, uniforms, 1.0, ends, pad)
    answers = [completion.ids for completion in completions]
    scored = torch.zeros(len(answers), dtype=torch.float64)
    for pack in make_packs(prompts, answers, pad, 4096, "cpu"):
        hidden = model.base_model(
            input_ids=pack.ids, position_ids=pack.position, attention_mask=pack.mask,
            use_cache=False).last_hidden_state[pack.row, pack.column]
        logp = logits_of(model, hidden).log_softmax(-1).gather(-1, pack.target[:, None])[:, 0]
        scored.index_add_(0, pack.sample, logp.double())
    errors = []
    for k, completion in enumerate(completions):
        prompt = prompts[k // n]
        answer = torch.tensor(completion.ids)
        text = torch.tensor([prompt + completion.ids])
        logits = model(input_ids=text, use_cache=False).logits[0, len(prompt) - 1:-1]
        logp = logits.float().log_softmax(-1).gather(-1, answer[:, None]).double().sum()
        differences = torch.stack([scored[k] - logp, completion.logprob - logp])
        errors.append(differences.abs().max() / len(answer))
    return float(torch.stack(errors).max())  # NaN if one of them is, which Python's max passes over


def verdict(model_type, **more):
    """What becomes of a model of this type: "right", "refused: ...", "WRONG ..." or "untried: ...".
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            random_model(small_config(model_type, **more)).save_pretrained(folder)
        except Exception as error:  # this type wants sizes that are not in SMALL
            return f"untried: {type(error).__name__}: {' '.join(str(error).split())[:100]}"
        AutoTokenizer.from_pretrained(EDGES / "judge").save_pretrained(folder)
        try:
            error = largest_error(*load_model(folder, flag="the model"))
        except UserError as refusal:
            return f"refused: {short(refusal, folder)}"
    return "right" if error < TOLERANCE else f"WRONG by {error:.2g} a token"


def short(refusal, folder):
    """The refusal without what is said of every model."""
    words = str(refusal).replace(f"the model {folder}: ", "")
    words = words.replace(", so it is not supported", "")
    words = words.replace("cannot be loaded as a Hugging Face causal LM", "cannot be loaded")
    words = words.replace("does not run with the key-value cache and the masks of sampling and "
                          "scoring", "does not run")
    words = words.replace("does not compute its logits as the head of its last hidden state",
                          "has other logits than its head's")
    return words.partition(". ")[0][:240]


def table(rows):
    lines = ["| architecture | verdict |", "|---|---|"]
    for name, text in rows:
        lines.append(f"| {name} | {text.replace('|', chr(92) + '|')} |")
    return "\n".join(lines)


def document(plain, variants):
    right = [name for name, text in plain if text == "right"]
    refused = [row for row in plain if row[1].startswith("refused")]
    untried = [row for row in plain if row[1].startswith("untried")]
    wrong = [row for row in plain + variants if row[1].startswith("WRONG")]
    defects = f"\n## Wrong ({len(wrong)})\n\n{table(wrong)}\n" if wrong else ""
    return f"""# Which models work

Remade by `python docs/models.py` (here with transformers {transformers.__version__}): a tiny model of random weights of every
causal LM that transformers has, loaded, sampled from and scored as the stages do it, beside plain forward passes. **Right**
means that the sampler's and the scorer's log-probs are the plain ones to {TOLERANCE:g} a token in fp32. What would not be right
is refused in one line, most of it when the model is loaded: the loader tries cache and masks on a few tokens.

`train_bilevel.py --shard-base` was compared with the whole model (`tests/test_shards.py`) for the following, and refuses all others:
{", ".join(f"`{name}`" for name in SHARDED)}.
{defects}
## Right ({len(right)})

{", ".join(f"`{name}`" for name in right)}

## Variants, and prompts longer than what a model can look back on

{table(variants)}

## Refused ({len(refused)})

{table(refused)}

## Untried ({len(untried)}): models that these small sizes do not build, or that are no decoders

{table(untried)}
"""


def main(names):
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    if names:
        for name in names:
            print(f"{name}: {verdict(name)}")
        return
    types = sorted({config.model_type for config in MODEL_FOR_CAUSAL_LM_MAPPING}
                   & set(CONFIG_MAPPING))
    plain = []
    for model_type in types:
        plain.append((model_type, verdict(model_type)))
        print(*plain[-1], sep=": ", flush=True)
    variants = []
    for name, model_type, more in VARIANTS:
        variants.append((name, verdict(model_type, **more)))
        print(*variants[-1], sep=": ", flush=True)
    (ROOT / "docs/MODELS.md").write_text(document(plain, variants))


if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv):
        print(__doc__)
    else:
        main(sys.argv[1:])
