"""What select.py prints of preference data beside its own tables: what each benchmark reports."""
from data.preferences import PREFERENCES, pairs
from data.preferences.scores import (accuracy, are_comparable, best_of_n, by_field, is_tied,
                                     rated_result, result_of, right_in_both, same_choice,
                                     share_of_pairs)
from data.tables import print_table


def print_preferences(problems, candidates, judged, rated):
    """Print, for each benchmark among the problems, what it reports of each method, and the pairs.

    problems: {problem_id: row}.   candidates: {problem_id: rows of labelled.jsonl}.
    judged:   {method: {problem_id: rows of judgments.jsonl}}.
    rated:    {method: {(problem_id, text): rating}}, of judges that see each answer alone.
    """
    by_source = {}
    for problem in problems.values():
        by_source.setdefault(problem.get("source"), []).append(problem)
    for source, own in by_source.items():
        benchmark = PREFERENCES.get(source, pairs)
        results = {}
        for method, judgments in judged.items():
            results[method] = [result_of(problem, candidates[problem["problem_id"]],
                                         judgments[problem["problem_id"]]) for problem in own]
        if not results:
            continue
        ratings = {}
        if getattr(benchmark, "RATED", False):
            for method, rating in rated.items():
                ratings[method] = [rated_result(problem, candidates[problem["problem_id"]], rating)
                                   for problem in own]
        print()
        print_table(scores_table(benchmark, {**ratings, **results}))
        if hasattr(benchmark, "NOTE"):
            print(benchmark.NOTE)
        if not all(map(are_comparable, results.values())):
            print("-: answers of a list are compared where each two were judged once: "
                  "judge lists with --aggregate round-robin")
        for method in results:
            if " wait" not in method:     # what thinking on changes stands in the first table
                print()
                print_table(pairs_table(benchmark, method, results[method]))
        print("right: share of all judgments, a missing verdict counted as "
              f"{benchmark.UNDECIDED:g}; in both orders: of the pairs, right both times;\n"
              "same choice: the same answer both times; "
              "tied: as many votes for one answer as for the other;\n"
              "best of N: a preferred answer has the largest share of its judgments")


def scores_table(benchmark, results):
    """A row for each method, and each of the benchmark's sets, with what it reports.

    results: {method: [Result]}.
    Votes for as many tokens as Waits have are left out: here each of their draws would count by
    itself, whatever the votes choose. select.py's first table and that of Waits have them.
    """
    table = []
    for method, own in results.items():
        if ", tokens of " in method:
            continue
        for name, part in by_field(own, "set").items():
            on = f", on {name}" if "set" in part[0].problem else ""
            row = {f"as {benchmark.TITLE} reports, %": method + on}
            for figure, share in benchmark.scores(part).items():
                row[figure] = shown(share)
            table.append(row)
    columns = dict.fromkeys(column for row in table for column in row)
    return [{column: row.get(column, "-") for column in columns} for row in table]


def pairs_table(benchmark, method, results):
    """A row for each category, its domains below it where there are several, and one for all."""
    table = []
    for category, own in by_field(results, "category").items():
        table.append(pairs_row(benchmark, method, category, own))
        domains = by_field(own, "domain")
        if len(domains) > 1:
            for domain, part in domains.items():
                table.append(pairs_row(benchmark, method, f"  {domain}", part))
    if len(by_field(results, "category")) > 1:
        table.append(pairs_row(benchmark, method, "all", results))
    return table


def pairs_row(benchmark, method, name, results):
    return {
        f"{method}, % of pairs": name,
        "problems": str(len(results)),
        "pairs": str(sum(len(result.pairs) for result in results)),
        "right": shown(accuracy(results, benchmark.UNDECIDED)),
        "in both orders": shown(share_of_pairs(results, right_in_both)),
        "same choice": shown(share_of_pairs(results, same_choice)),
        "tied": shown(share_of_pairs(results, is_tied)),
        "no verdict": shown(accuracy(results, 1.0) - accuracy(results, 0.0)),
        "best of N": shown(best_of_n(results)),
    }


def shown(share):
    """A share in %; "-" where nothing was judged."""
    return "-" if share != share else f"{100 * share:.1f}"
