"""Code in an answer: its fenced blocks, and the Python in a text without them.

    Sure:           fenced_blocks(text)  ->  [Block(language="python", code="print(1)", ...)]
    ```python
    print(1)
    ```

Fences are those of CommonMark (three or more backticks or tildes, indented or in a list or a
quotation), and what models make of them: a closing fence at the end of a line of code, or none. A
fence within a docstring does not end a block: of several lines that could close it, the first
counts that leaves Python.
"""
import ast
import codeop
import functools
import re
import textwrap
import warnings
from dataclasses import dataclass
from itertools import chain

# Indentation, list markers ("1. ", "- ") and quotation marks ("> "); the fence; and what follows it
# on the line.
FENCE = re.compile(r"(?P<prefix>[ \t]*(?:(?:>|(?:[-*+]|\d+[.)])[ \t])[ \t]*)*)"
                   r"(?P<marks>`{3,}|~{3,})(?P<info>.*)")
ON_ONE_LINE = re.compile(r"\s*```\s*(py\w*\s+)?(?P<code>[^`]+)```\s*")  # ```print(1)```
LANGUAGE = re.compile(r"[\s{.]*(?:lang(?:uage)?[-=])?(?P<word>[\w+#-]*)")
PYTHON = re.compile(r"i?py(thon)?[\d.]*|pypy\d?", re.I)
# So that an endless answer does not take endless time:
MOST_FENCES_IN_A_BLOCK = 20
MOST_CHUNKS_IN_A_STATEMENT = 50

# A line that is surely meant as code, not as a sentence.
CODE_LINE = re.compile(
    r"\s*(import \w|from [\w.]+ import |(async )?def \w+|class \w+.*:|@\w|print ?['\"(]|return\b"
    r"|(else|try|finally):|((if|elif|while|except|with) .*|for \w+(, ?\w+)* in .*):\s*(#.*)?$"
    r"|\w[\w.\[\]]*(, ?\w[\w.\[\]]*)* ?[-+*/%&|^]{0,2}= ?\S)")
# A line whose statement may go on in the next one.
GOES_ON = re.compile(r"^(#|[rfRF]?['\"]|" + CODE_LINE.pattern + r")|[(\[{,:\\]\s*(#.*)?$")
CLAUSE = re.compile(r"(else|elif|except|finally)\b")
# Code even where it is not Python.
BROKEN_CODE = re.compile(r"(import|from|(async )?def|class) \w|@\w")
# ```python def f(x):
CODE_IN_INFO = re.compile(r"\w+\s+(?P<code>import [\w., ]+|from [\w.]+ import .*"
                          r"|(?:async )?def \w+\(.*|class \w+.*:)")


@dataclass
class Block:
    language: str  # first word after the opening fence, in lower case; "" if there is none
    code: str
    first: int  # number of its first line of code in the text, from 0
    end: int  # number of the line after its last

    @property
    def is_python(self):
        """Says so, or does not say what it is and is no example of input or output either."""
        return bool(PYTHON.fullmatch(self.language)) or not self.language and is_program(self.code)


@functools.lru_cache(maxsize=256)
def parse(code):
    """A program's top-level statements; none if it is not Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            statements = ast.parse(code).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    bullets = [statement for statement in statements
               if isinstance(getattr(statement, "value", None), ast.Starred)]
    return [] if bullets else statements  # "* adds" parses, but is no Python


def lines_of(statement):
    """(first, last) of its lines, from 1, decorators included."""
    decorators = getattr(statement, "decorator_list", [])
    first = min([statement.lineno] + [decorator.lineno for decorator in decorators])
    return first, statement.end_lineno


def is_program(code):
    """Is it Python that does something? `5`, `[1, 2]` and `word` are examples, not programs."""
    statements = parse(code) or parse(textwrap.dedent(code))
    return any(not is_mere_value(statement) for statement in statements)


def is_mere_value(statement):
    """An expression without a call: its absence would change nothing, or it is a word of prose.

    `O(n)` is prose, too.
    """
    if not isinstance(statement, ast.Expr):
        return False
    if isinstance(statement.value, ast.Call) and getattr(statement.value.func, "id", "") == "O":
        return True
    return not any(isinstance(node, (ast.Call, ast.Await, ast.Yield))
                   for node in ast.walk(statement))


# ---------------------------------------------------------------- fences

def fence_of(line):
    """The fence with which a line begins, as a match of FENCE, or None."""
    fence = FENCE.fullmatch(line)
    if fence and fence["marks"][0] == "`" and "`" in fence["info"]:
        return None  # code within a line
    return fence


def fenced_blocks(text):
    """The fenced blocks of a text, in order. Of a block that is itself Markdown, its own blocks."""
    lines = text.split("\n")
    blocks = []
    number = 0
    while number < len(lines):
        on_one_line = ON_ONE_LINE.fullmatch(lines[number])
        if on_one_line:
            blocks.append(Block("", on_one_line["code"] + "\n", number, number + 1))
        fence = fence_of(lines[number])
        if not fence:
            number += 1
            continue
        block, number = read_block(lines, number, fence)
        inner = fenced_blocks(block.code) if not block.is_python else []
        blocks += [Block(b.language, b.code, block.first + b.first, block.first + b.end)
                   for b in inner] or [block]
    return blocks


def read_block(lines, opening, fence):
    """(the block that this line opens, number of the line at which to go on)"""
    language = language_of(fence["info"])
    first = opening + 1
    closings, reopened, all_seen = lines_that_close(lines, first, fence["marks"])
    may_be_python = not language or PYTHON.fullmatch(language)

    if may_be_python:
        for closing in closings + [len(lines)] * all_seen:
            block = block_of(lines, first, closing, language, fence)
            if is_program(block.code):
                return without_prose_below(block, closing == len(lines)), closing + 1
    # Not Python, or not yet: by the rules of Markdown, to which a far indented fence is content.
    closings = [closing for closing in closings if lines[closing].rstrip().endswith(fence["marks"])
                and depth(lines[closing]) < depth(lines[opening]) + 4]
    if reopened is not None and (not closings or reopened < closings[0]):
        # Never closed: the next one begins.
        return block_of(lines, first, reopened, language, fence), reopened
    if closings:
        return block_of(lines, first, closings[0], language, fence), closings[0] + 1
    block = block_of(lines, first, len(lines), language, fence)
    return without_prose_below(block, may_be_python), len(lines)


def without_prose_below(block, never_closed):
    """A block without the prose below it.

    If its closing fence was forgotten, rather than cut off, prose follows, below a blank line.
    """
    runs = runs_of_python(block.code.split("\n")) if never_closed else []
    if runs:
        _, _, below = block.code.partition(runs[0].rstrip())
        if re.match(r"[ \t]*\n[ \t]*\n", below):
            block.code = runs[0]
    return block


def depth(line):
    """Width of a line's indentation."""
    return len(line) - len(line.lstrip())


def lines_that_close(lines, first, marks):
    """(numbers of lines that may close a block, of the first that opens another, are these all?)

    The second is None where none opens another.
    """
    closings = []
    openings = []
    for number in range(first, len(lines)):
        if marks not in lines[number]:
            continue
        other = fence_of(lines[number])
        if not other:  # return x```
            closings.append(number)
        elif other["marks"].startswith(marks):
            which = openings if other["info"].strip() else closings
            which.append(number)
        if len(closings) + len(openings) >= MOST_FENCES_IN_A_BLOCK:
            break
    all_seen = len(closings) + len(openings) < MOST_FENCES_IN_A_BLOCK
    return closings, openings[0] if openings else None, all_seen


def block_of(lines, first, end, language, fence):
    """The block of the lines from `first` to before `end`, where its closing fence is."""
    code = [without_prefix(line, fence["prefix"]) for line in lines[first:end]]
    on_opening_line = CODE_IN_INFO.fullmatch(fence["info"].strip())
    if on_opening_line:
        code.insert(0, on_opening_line["code"])
    if end < len(lines) and not fence_of(lines[end]):  # return x```
        last_line, _, _ = lines[end].rpartition(fence["marks"])
        code.append(without_prefix(last_line, fence["prefix"]))
    # The language may stand on a line of its own.
    if not language and code and PYTHON.fullmatch(code[0].strip()):
        language = code[0].strip().lower()
        code[0] = ""
    return Block(language, "\n".join(code) + "\n" if code else "", first, end)


def language_of(info):
    """The language that an opening fence names.

    "python" for `Python 3`, `{.python}`, `python title="a.py"`, `a.py`.
    """
    if re.match(r"\s*[\w/-]+\.py\b", info):
        return "python"
    return LANGUAGE.match(info)["word"].lower()


def without_prefix(line, prefix):
    """A line of a block without the indentation of its fence, and without its quotation marks."""
    if ">" in prefix:
        after = prefix.rpartition(">")[2]  # "" where the code follows its mark at once
        marks = r"([ \t]*>){0,%d}" % prefix.count(">")
        line = re.sub(marks + ("[ \t]?" if after else ""), "", line, count=1)
        prefix = after[1:]
    width = len(prefix)
    return line[:width].lstrip(" \t") + line[width:]


# ---------------------------------------------------------------- Python without fences

def bare_programs(text):
    """The runs of Python statements in prose, in order. Lines of fences separate like prose.

    "The program:\\n\\nn = int(input())\\nprint(n)\\n\\nIt reads n."
        ->  ["n = int(input())\\nprint(n)\\n"]
    """
    if is_program(text):  # what looks like fences stands in its strings
        return runs_of_python(text.split("\n"))
    programs = []
    part = []
    for line in text.split("\n") + ["```"]:
        if line.rstrip().endswith("```") or fence_of(line):
            part.append("" if fence_of(line) else line.rstrip().rstrip("`"))
            programs += runs_of_python(part)
            part = []
        else:
            part.append(line)
    return programs or indented_programs(text)


def indented_programs(text):
    """The Python in a text's indented blocks, as Markdown has them: four spaces before a line."""
    blocks = re.findall(r"(?:^(?: {4}|\t).*\n|^[ \t]*\n)+", text + "\n", re.M)
    return [code for code in map(textwrap.dedent, blocks) if is_program(code)]


def runs_of_python(lines):
    """Runs of top-level statements. Where code, not prose, breaks one off, it goes on to the end.

    For a program with a mistake must not become one without.
    """
    body, chunks = in_chunks(with_first_indentation(lines))
    runs = ["\n".join(body)] if is_program("\n".join(body)) else []  # it goes on after a signature
    run = []
    position = 0
    while position < len(chunks):
        size = statement_at(chunks, position)
        first_line = chunks[position][0]
        if size:
            run += chain(*chunks[position:position + size])
        elif BROKEN_CODE.match(first_line) or run and CODE_LINE.match(first_line):
            run += chain(*chunks[position:])
            break
        elif run:
            runs.append("\n".join(run).rstrip() + "\n")
            run = []
        position += size or 1
    if run:
        runs.append("\n".join(run).rstrip() + "\n")
    return runs


def with_first_indentation(lines):
    """A function's body whose first line has lost its indentation, as in a text that was stripped.

    ["n = 0", "    for x in xs:", "        n += x"]  ->  ["    n = 0", "    for x in xs:", ...]
    """
    body, chunks = in_chunks(lines)
    first, *below = chunks[0] if chunks else [""]
    chunk = "\n".join([first, *below])
    if "".join(body).strip() or parse(chunk) or not (CODE_LINE.match(first) or is_program(first)):
        return lines
    indent = min((line[:depth(line)] for line in below if line.strip()), key=len, default="")
    if not parse(textwrap.dedent(indent + chunk)):
        return lines
    return [indent + first, *lines[len(body) + 1:]]


def in_chunks(lines):
    """(the lines before the first unindented one, [each unindented one with the lines below it])"""
    body = []
    chunks = []
    for line in lines:
        if line.strip() and not line[0].isspace():
            chunks.append([line])
        else:
            (chunks[-1] if chunks else body).append(line)
    return body, chunks


def statement_at(chunks, position):
    """How many chunks from here are a statement that is more than a word or a number; 0 if none."""
    source = ""
    for size, chunk in enumerate(chunks[position:position + MOST_CHUNKS_IN_A_STATEMENT], 1):
        source += "\n".join(chunk) + "\n"
        statements = parse(source)
        if statements:
            if all(is_mere_value(statement) and not is_text(statement) for statement in statements):
                return 0
            return size + clauses_at(source, chunks, position + size)
        if not GOES_ON.search(chunks[position][0]) or not is_unfinished(source):
            return 0
    return 0


def clauses_at(source, chunks, position):
    """How many chunks from here are clauses (`else: ...`) of the statement before them."""
    count = 0
    for chunk in chunks[position:position + MOST_CHUNKS_IN_A_STATEMENT]:
        source += "\n".join(chunk) + "\n"
        if not CLAUSE.match(chunk[0]) or not parse(source):
            break
        count += 1
    return count


def is_text(statement):
    return isinstance(statement.value, ast.Constant) and isinstance(statement.value.value, str)


def is_unfinished(source):
    """Could it become Python if lines were added?

    As after an open bracket or string, `try:`, a decorator, a comment.
    """
    if all(line.startswith("#") or not line.strip() for line in source.split("\n")):
        return True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return codeop.compile_command(source, "answer", "exec") is None
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError):
        return False
