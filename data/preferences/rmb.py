"""RMB (Zhou et al., 2410.09893): pairs and best-of-N lists in 49 scenarios of two goals.

Rows of its JSON files: conversation_input (turns), category_path (SET/GOAL/SCENARIO, as in
"Pairwise_set/Helpfulness/Chat/Casual Conversation"), and chosen and reject with pair_uid, or
bon_best and loser_list with bon_uid; an answer is {"llm_name", "answer", ...}. In the pairs one
answer may win here and lose there, so each pair is a problem of its own.

Its rule, second hand (from papers that report on it): the share of right pairs, and the share of
lists whose best answer is preferred to each of the others, for each goal; the total is the mean of
these four. That an answer is preferred if more of its two judgments are for it than against is our
reading. Lists have a share only where each pair of answers was judged once (`--aggregate
round-robin`): one whose best answer has not met all others is easier to get right, one where they
met often harder.
"""
from math import nan

from data.preferences.fields import conversation, text_of
from data.preferences.scores import (accuracy, are_comparable, by_field, mean,
                                     more_right_than_wrong)
from data.rows import UserError

TITLE = "RMB"
SOURCE = None
HOME = "https://github.com/Zhou-Zoey/RMB-Reward-Model-Benchmark/tree/main/RMB_dataset"
UNDECIDED = 0.0
SETS = {"Pairwise_set": "pairs", "BoN_set": "best of N"}
GOALS = ["Helpfulness", "Harmlessness"]


def describe(row, path):
    category_path = text_of(row, "category_path")
    kind, _, rest = category_path.partition("/")
    goal, _, scenario = rest.partition("/")
    if kind not in SETS or goal not in GOALS or not scenario:
        raise UserError(f"field 'category_path' is {category_path!r}; must be SET/GOAL/SCENARIO, "
                        f"where SET is {' or '.join(SETS)} and GOAL {' or '.join(GOALS)}")
    if kind == "Pairwise_set":
        number = row["pair_uid"]
        preferred = answer_of(row["chosen"])
        others = [answer_of(row["reject"])]
    else:
        number = row["bon_uid"]
        preferred = answer_of(row["bon_best"])
        others = [answer_of(loser) for loser in row["loser_list"]]
    return {
        "id": f"{category_path}/{number}",
        "prompt": conversation(row["conversation_input"], "conversation_input"),
        "category": f"{goal}, {SETS[kind]}",
        "domain": scenario,
        "preferred": [preferred],
        "others": others,
    }


def answer_of(answer):
    """(text, policy)"""
    return text_of(answer, "answer"), text_of(answer, "llm_name")


def scores(results):
    """Pairs and lists of each goal, and the mean of these four; nan where one is not there."""
    found = {}
    for category, own in by_field(results, "category").items():
        if category.endswith(SETS["BoN_set"]):
            found[category] = lists_right(own)
        else:
            found[category] = accuracy(own, UNDECIDED)
    four = [f"{goal}, {kind}" for goal in GOALS for kind in SETS.values()]
    found["score"] = mean(found.get(category, nan) for category in four)
    return found


def lists_right(results):
    """Share of lists whose best answer is preferred to each other one; nan as in `best_of_n`."""
    if not are_comparable(results):
        return nan
    return mean(all(map(is_preferred, result.outcomes.values())) for result in results)


def is_preferred(draws):
    """Are more judgments of a pair for the best answer than against? draws: its outcomes."""
    return more_right_than_wrong([outcome for pair in draws for outcome in pair])
