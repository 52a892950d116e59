"""JudgeBench (Tan et al., 2410.12784): two answers by one model, one of them objectively right.

Rows as in its repository: pair_id, original_id, source, question, response_model, response_A,
response_B and label ("A>B" or "B>A").

Its rule (utils/metrics.py there): both orders are judged, and a right judgment counts +1, a wrong
one -1, one without a verdict 0; the pair is right if the sum is above 0. So two contradicting
judgments are a tie, which is not right. Categories are told by `source`. The pairs of each response
model are a set, in a file of its own, and scored by themselves.
"""
from data.preferences.fields import text_of
from data.preferences.scores import by_field, more_right_than_wrong, share_of_pairs
from data.rows import UserError

TITLE = "JudgeBench"
SOURCE = None
HOME = "https://github.com/ScalerLab/JudgeBench/tree/main/data"
UNDECIDED = 0.0
CATEGORIES = {  # by how a source begins
    "mmlu-pro": "knowledge",
    "livebench-reasoning": "reasoning",
    "livebench-math": "math",
    "livecodebench": "coding",
}


def describe(row, path):
    source = text_of(row, "source")
    policy = text_of(row, "response_model")
    a = (text_of(row, "response_A"), policy)
    b = (text_of(row, "response_B"), policy)
    label = row["label"]
    if label not in ("A>B", "B>A"):
        raise UserError(f"field 'label' must be 'A>B' or 'B>A', found {label!r}")
    return {
        "id": text_of(row, "pair_id"),
        "prompt": text_of(row, "question"),
        "set": policy,
        "category": category_of(source),
        "domain": source,
        "preferred": [a if label == "A>B" else b],
        "others": [b if label == "A>B" else a],
    }


def category_of(source):
    for beginning, category in CATEGORIES.items():
        if source.startswith(beginning):
            return category
    raise UserError(f"field 'source' is {source!r}; must begin with {', '.join(CATEGORIES)}")


def scores(results):
    """Each category, and all pairs."""
    found = {}
    for category, own in by_field(results, "category").items():
        found[category] = share_of_pairs(own, more_right_than_wrong)
    found["overall"] = share_of_pairs(results, more_right_than_wrong)
    return found
