"""The program in a model's answer: the general rule, for problems whose benchmark has none of its own."""
import ast
import re
import warnings

FENCED = re.compile(r"```[a-zA-Z0-9]*[ \t]*\n(.*?)(?:```|\Z)", re.S)
# What begins a new top-level thing after a completed function (the stop words of the Codex paper, 2107.03374 §2.2).
STOPS = re.compile(r"\n(?=class |def |#|if |print\(|```|<|@)")


def without_thoughts(text):
    return text.rpartition("</think>")[2]


def from_completion(text, problem):
    """From a plain model: the text continues the starter code, up to the next top-level statement."""
    starter = problem.get("starter_code") or ""
    return starter + STOPS.split(text)[0] if starter else text


def from_chat(text, problem):
    """From a chat model: the first fenced block that defines the entry point, else the first block, else the text."""
    starter = problem.get("starter_code") or ""
    entry = problem.get("entry_point")
    blocks = FENCED.findall(text) or [text]
    if re.findall(r"```\w*", text) == ["```"]:  # the end of a block that began without one, or the start of one that was cut off
        blocks = text.split("```")
    defines = [b for b in blocks if entry and re.search(rf"\bdef {re.escape(entry)}\b", b)]
    code = (defines or blocks)[0]
    if defines or not starter or "class " in code:
        # A block that repeats the signature has usually lost the imports above it.
        signature = re.search(r"^(class |def |async def |@)", starter, re.M)
        return (starter[:signature.start()] if signature else "") + code
    return starter + code


def parse(code):
    """A program's top-level statements; none if it is not Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(code).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
