"""The tiny world: list-transform problems, programs that get them wrong, and a judge's two habits.

    python data/tiny/world.py          writes problems_weak.jsonl and problems_strong.jsonl

A problem names a few steps and shows one worked example. A program is one line of Python for each step:

    Steps: sort down, add one, small.        def f(x):
    8186 -> 2                                    x = sorted(x)[::-1]
                                                 x = [(v + 1) % 10 for v in x]
                                                 x = [v for v in x if v < 5]
                                                 return x

There are two ways to get a program wrong, and they are what the world is about:

* a *length* error: a line is missing, or one too many. Counting lines finds it. The weak policy errs so.
* a *slip*: one line does the neighbouring thing (drop first for drop last). Only running the program
  in one's head finds it. The strong policy errs so.

A judge may *skim* (count the lines against the steps) or *trace* (run both programs on the example).
Lists are written as bare digits, "3085"; the empty list is "-". All arithmetic is modulo 10.

This file is the only place that knows these facts: the four stages treat the rows as any other problems.
"""
import random
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))
from data.judge import VERDICT  # noqa: E402
from data.rows import write_rows  # noqa: E402

# name: (line of Python, the step that a slip turns it into), by family
STEPS = {
    "sort": ("x = sorted(x)", "sort down"),                     # order
    "sort down": ("x = sorted(x)[::-1]", "sort"),
    "rotate left": ("x = x[1:] + x[:1]", "rotate right"),
    "rotate right": ("x = x[-1:] + x[:-1]", "rotate left"),
    "drop first": ("x = x[1:]", "drop last"),                   # slice
    "drop last": ("x = x[:-1]", "drop first"),
    "add one": ("x = [(v + 1) % 10 for v in x]", "minus one"),  # arithmetic
    "minus one": ("x = [(v - 1) % 10 for v in x]", "add one"),
    "double": ("x = [v * 2 % 10 for v in x]", "triple"),
    "triple": ("x = [v * 3 % 10 for v in x]", "double"),
    "evens": ("x = [v for v in x if v % 2 == 0]", "odds"),      # filter
    "odds": ("x = [v for v in x if v % 2 == 1]", "evens"),
    "big": ("x = [v for v in x if v > 4]", "small"),
    "small": ("x = [v for v in x if v < 5]", "big"),
}
# Steps that the strong policy has learnt wrong: it mostly writes the neighbouring step for these. So its most
# likely program is often a wrong one, and neither its own log-probs nor a majority vote find the error.
MISCONCEIVED = {"rotate left", "drop first", "minus one", "odds"}
STARTER = "def f(x):\n"
DIFFICULTY = {1: "easy", 2: "easy", 3: "medium", 4: "hard"}  # by number of steps

# The lines of STEPS are the only definition of a step.
COMPILED = {step: compile(line, step, "exec") for step, (line, _) in STEPS.items()}


def body(steps):
    """The program that takes these steps, without its first line."""
    lines = [STEPS[step][0] for step in steps] + ["return x"]
    return "".join(f"    {line}\n" for line in lines)


def run(steps, x):
    """The list after every step: [len(steps)] lists."""
    trail = []
    for step in steps:
        scope = {"x": list(x)}
        exec(COMPILED[step], {}, scope)
        x = scope["x"]
        trail.append(x)
    return trail


def digits(x):
    return "".join(map(str, x)) or "-"


def draw_task(rng, n_steps):
    """Steps and an example input [4 digits] on which every step changes the list and something is left."""
    while True:
        steps = [rng.choice(list(STEPS)) for _ in range(n_steps)]
        x = [rng.randrange(10) for _ in range(4)]
        trail = [x] + run(steps, x)
        every_step_changes_it = all(before != after for before, after in zip(trail, trail[1:]))
        if trail[-1] and every_step_changes_it:
            return steps, x


def prompt(steps, x):
    result = run(steps, x)[-1]
    return f"Steps: {', '.join(steps)}.\n{digits(x)} -> {digits(result)}\n"


def length_error(rng, steps):
    """A line missing, or one too many."""
    at = rng.randrange(len(steps))
    if rng.random() < 0.5:
        return steps[:at] + steps[at + 1:]
    return steps[:at] + [rng.choice(list(STEPS))] + steps[at:]


def neighbour(step):
    """What a slip makes of a step."""
    return STEPS[step][1]


def slip(rng, steps):
    """One line does the neighbouring thing."""
    at = rng.randrange(len(steps))
    return steps[:at] + [neighbour(steps[at])] + steps[at + 1:]


def slips(rng, steps):
    """How the strong policy errs: any step may slip, a misconceived one more often than not."""
    program = []
    for step in steps:
        probability = 0.6 if step in MISCONCEIVED else 0.12
        program.append(neighbour(step) if rng.random() < probability else step)
    return program


def skim(rng, steps, a, b):
    """The habit of counting lines; a coin decides where the counts do not."""
    fitting = [name for name, program in (("A", a), ("B", b)) if len(program) == len(steps)]
    best = rng.choice(fitting or ["A", "B"])
    return f"skim: steps {len(steps)}, A {len(a)}, B {len(b)}.\n{VERDICT.format(best)}"


def trace(rng, steps, a, b, x):
    """The habit of running both programs on the example, writing each step and its result."""
    wanted = digits(run(steps, x)[-1])
    text = f"trace: {digits(x)}\n"
    fitting = []
    for name, program in (("A", a), ("B", b)):
        results = [digits(y) for y in run(program, x)]
        text += f"{name}:" + "".join(f" {step} {result}" for step, result in zip(program, results)) + ".\n"
        last = results[-1] if results else digits(x)
        if last == wanted:
            fitting.append(name)
    best = rng.choice(fitting or ["A", "B"])
    return text + f"want {wanted}.\n{VERDICT.format(best)}"


def problem(rng, index, split, n_steps, domain, taken):
    """One problem row. `taken` holds the step lists already used: no two problems are the same.

    domain: "reviewed", or "scraped": then its tests come from an author with the strong policy's misconceptions.
            Programs that share them pass, right ones fail: their labels lie. The statement's own example is right;
            there are no separate public tests.
    """
    scraped = domain == "scraped"
    while True:
        steps, x = draw_task(rng, n_steps)
        tested = [neighbour(step) if scraped and step in MISCONCEIVED else step for step in steps]
        tests_lie = run(tested, x)[-1] != run(steps, x)[-1]
        if tuple(steps) not in taken and tests_lie == scraped:
            taken.add(tuple(steps))
            break

    inputs = [x]
    while len(inputs) < 8:
        y = [rng.randrange(10) for _ in range(rng.randint(4, 8))]
        if y not in inputs:
            inputs.append(y)
    calls = [{"type": "call", "args": [y], "kwargs": {}, "expected": run(tested, y)[-1]} for y in inputs]
    n_public = 0 if scraped else 1
    return {
        "problem_id": f"tiny/{split}/{index}",
        "prompt": prompt(steps, x),
        "starter_code": STARTER,
        "entry_point": "f",
        "public_tests": calls[:n_public],
        "tests": calls[n_public:],
        "domain": domain,
        "difficulty": DIFFICULTY[n_steps],
        "split": split,
        "date": "2025-01-01",
        "source": "tiny",
        "steps": steps,
    }


def make_problems(seed=0):
    """(problems for the weak policy, problems for the strong policy).

    Nine tenths of the training problems are not like the target: the weak policy's, and the scraped ones.
    """
    rng = random.Random(seed)
    taken = set()
    weak = []
    strong = []
    # For whom, split, how many, their numbers of steps in turn, domain, first index.
    for rows, split, count, sizes, domain, start in (
            (weak, "train", 60, (3, 4, 3, 4, 2), "reviewed", 0),
            (strong, "train", 15, (2, 3), "reviewed", 60),
            (strong, "train", 20, (2, 3), "scraped", 75),
            (strong, "meta", 56, (2, 3, 3), "reviewed", 0),
            (strong, "dev", 24, (2, 3, 3), "reviewed", 0),
            (strong, "test", 112, (2, 3, 3), "reviewed", 0)):
        for number in range(count):
            n_steps = sizes[number % len(sizes)]
            rows.append(problem(rng, start + number, split, n_steps, domain, taken))
    return weak, strong


if __name__ == "__main__":
    weak, strong = make_problems()
    write_rows(HERE / "problems_weak.jsonl", weak)
    write_rows(HERE / "problems_strong.jsonl", strong)
    print(f"{len(weak)} problems for the weak policy, {len(strong)} for the strong policy, in {HERE}")
