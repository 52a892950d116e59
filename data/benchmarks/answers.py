"""The program in a model's answer: the general rule, where a benchmark has none of its own.

What a plain model writes continues its prompt. A chat model's answer is taken apart in this order:

    without_thoughts        what stands between <think> and </think> is not the answer
    without_control_tokens  nor what follows a left-over <|im_end|>
    python_blocks           its fenced blocks of Python, else those of HTML, else the Python in
                            its prose
    chosen                  the last block that defines the entry point, or reads stdin and prints
    with_missing_names      with the imports and helpers from other blocks that it uses
    completed               with what the prompt's code gave it: imports, helpers, the signature

Not looked for: a program in single backticks, within JSON or YAML, with numbered lines or as a
session (>>>). A block that corrects only a helper of an earlier one does not replace it there.
"""
import ast
import builtins
import html
import re
import sys
import textwrap
import warnings

from data.benchmarks.markdown import (bare_programs, fenced_blocks, is_mere_value, is_program,
                                      lines_of, parse)

MOST_BLOCKS = 50  # more are a loop
# What begins a new top-level thing after a completed function
# (the stop words of the Codex paper, 2107.03374 §2.2).
STOPS = re.compile(r"\n(?=class |def |#|if |print\(|```|<|@)")
IN_HTML = re.compile(r"<pre\b[^>]*>\s*(?:<code\b[^>]*>)?(?P<code>.*?)(?:</code>\s*)?</pre>",
                     re.S | re.I)
# A text in three quotes, to its end or the code's. Comments and other texts are read, too, so that
# no quotes within them begin one.
TEXT_OR_QUOTES = re.compile(r"""
    (?P<text> (?P<quotes> "{3} | '{3} ) (?: \\. | (?!(?P=quotes)) [^\\] )* (?: (?P=quotes) | \Z ) )
    | \# [^\n]*
    | " (?: \\. | [^"\\\n] )* "?
    | ' (?: \\. | [^'\\\n] )* '?
    """, re.S | re.X)


def from_completion(text, problem):
    """From a plain model: it continues the starter code, up to the next top-level statement."""
    text = without_control_tokens(text)
    starter = problem.get("starter_code") or ""
    if not starter:
        return text
    code = starter + text
    texts = [found.span() for found in TEXT_OR_QUOTES.finditer(code) if found["text"]]
    for stop in STOPS.finditer(code, len(starter)):
        if not any(first < stop.start() < end for first, end in texts):
            return code[:stop.start()]
    return code


def from_chat(text, problem):
    """From a chat model, its thoughts taken away: see above. "" where there is no answer."""
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    tagged = without_control_tokens(inside_answer_tags(text))
    text = without_control_tokens(text)
    if not tagged.strip() and not text.strip():
        return ""
    starter = problem.get("starter_code") or ""
    entry_point = problem.get("entry_point")
    blocks = python_blocks(tagged) or python_blocks(text)
    if not blocks:  # no Python: whatever there is instead
        blocks = [block.code for block in fenced_blocks(text)] or [text]
    return completed(chosen(blocks[-MOST_BLOCKS:], starter, entry_point), starter, entry_point)


def python_blocks(text):
    """The Python of an answer, block by block."""
    if is_program(text):  # all of it
        return bare_programs(text)
    fenced = [block.code for block in fenced_blocks(text) if block.is_python and block.code.strip()]
    return fenced or html_programs(text) or bare_programs(text)


def html_programs(text):
    """What stands in its <pre>, where that is a program."""
    if text.count("<") >= 1000:  # a loop
        return []
    blocks = [html.unescape(found["code"]).strip("\n") + "\n" for found in IN_HTML.finditer(text)]
    return list(filter(is_program, blocks))


# ---------------------------------------------------------------- thoughts and tokens

NAMES = "think|thinking|thoughts?|reasoning|reflection|scratchpad|seed:think"
OPENING_TAG = rf"(?:<(?:{NAMES})>|\[THINK\]|<\|begin_of_thought\|>|◁think▷|<\|channel>thought)"
OPENING = re.compile(rf"^[ \t]*{OPENING_TAG}", re.I | re.M)
OPENS_AT_THE_END = re.compile(rf"{OPENING_TAG}\s*\Z", re.I)
CLOSING = re.compile(rf"</(?:{NAMES})>|\[/THINK\]|<\|end_of_thought\|>|◁/think▷|<channel\|>", re.I)
# Of the harmony format (gpt-oss).
ANSWER_CHANNEL = re.compile(r"<\|channel\|>final[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>")

ROLE = r"(?:assistant|model)?(?:<\|end_header_id\|>)?\s*"
TURN_BEGINS = re.compile(rf"\A\s*(?:(?:<s>|<bos>|<\|begin_of_text\|>|<\|im_start\|>"
                         rf"|<\|start_header_id\|>|<\|start\|>"
                         rf"|<start_of_turn>|<\|assistant\|>|\[/INST\]){ROLE})+")
TOKEN = re.compile(r"<\|[^|<>\s]{1,40}\|>|<｜[^｜\n]{1,40}｜>|\[\|\w+\|\]|<\w+\|>"
                   r"|</s>|<eos>|<pad>|\[/INST\]|<(?:start|end)_of_turn>"
                   r"|<fim_(?:prefix|middle|suffix|pad)>|<file_sep>|<gh_stars>|<jupyter_\w+>"
                   r"|(?:<(?:eod|EOT|unk)>|\[EO[ST]\]|</(?:answer|solution|code|python)>)\s*\Z")
# A string on one line (no apostrophe begins one), or code between single backticks.
STRING = re.compile(r"""(?<!\w)[rbfuRBFU]{0,2}(['"])(?:\\.|(?!\1).)*\1|(?<!`)`[^`]+`(?!`)""")


def closes_what_it_did_not_open(text):
    """Does an answer end thoughts that only its prompt can have begun?"""
    end = CLOSING.search(text)
    return bool(end) and not OPENING.search(text[:end.start()])


def thoughts_are_open(prompt):
    """Does a prompt end within thoughts, so that the answer begins there?

    Some chat templates open them.
    """
    return bool(OPENS_AT_THE_END.search(prompt))


def without_thoughts(text, opened=False):
    """An answer without its thoughts, "" if it was cut off within them.

    opened: the prompt has opened them already (thoughts_are_open).
    They end at the first closing tag that is not part of a program or quoted. A further
    one takes nothing away if a program stands before it, nor does one in a sentence
    about <think> and </think>.
    """
    text = TURN_BEGINS.sub("", text, count=1)
    channels = list(ANSWER_CHANNEL.finditer(text))
    if channels:
        return text[channels[-1].end():]
    if "<|channel|>analysis" in text:
        return ""
    tags = outside_programs(OPENING, text) + outside_programs(CLOSING, text)
    kept = []
    begin = 0  # of what is not yet kept
    closed = False  # have thoughts ended?
    answered = False  # is a program known to be in `kept`?
    for tag in sorted(tags, key=lambda tag: tag.start()):
        is_opening = bool(OPENING.fullmatch(tag[0]))
        if is_opening and not opened:
            kept.append(text[begin:tag.start()])
            opened = True
        elif not is_opening and opened:
            begin = tag.end()
            opened = False
            closed = True
        elif not is_opening:
            kept.append(text[begin:tag.start()])
            begin = tag.end()
            line = text[:tag.start()].rpartition("\n")[2]
            in_a_sentence = bool(re.search(OPENING_TAG, line, re.I))
            answered = (closed or in_a_sentence) and (answered or any(map(python_blocks, kept)))
            if not answered:  # the prompt had opened them
                kept = []
            closed = closed or not in_a_sentence
    return "" if opened else "".join(kept) + text[begin:]


def without_control_tokens(text):
    """An answer up to the first token that ends a turn: tokenizers and servers may leave some."""
    text = TURN_BEGINS.sub("", text, count=1)
    tokens = outside_programs(TOKEN, text)
    return text[:tokens[0].start()] if tokens else text


def outside_programs(pattern, text):
    """A pattern's matches that stand in no fenced block of Python, nor in a string on their line.

    print("</think>") does not end any thoughts.
    """
    matches = list(pattern.finditer(text))
    if not matches:
        return []
    blocks = [block for block in fenced_blocks(text) if parse(block.code)]
    in_blocks = {number for block in blocks for number in range(block.first, block.end)}
    lines = text.split("\n")
    found = []
    for match in matches:
        number = text.count("\n", 0, match.start())
        column = match.start() - (text.rfind("\n", 0, match.start()) + 1)
        in_string = any(string.start() < column < string.end()
                        for string in STRING.finditer(lines[number]))
        if number not in in_blocks and not in_string:
            found.append(match)
    return found


# The box is GLM-V's, which may stand in the middle of a line.
ANSWER_TAGS = re.compile(
    r"(?:^[ \t]*(?:<(?P<name>answer|solution|code|python)>|\[(?P<upper>ANSWER|PYTHON)\])"
    r"|<\|begin_of_(?:solution|box)\|>)"
    r"(?P<inside>.*?)(?:</(?P=name)>|\[/(?P=upper)\]|<\|end_of_(?:solution|box)\|>|\Z)",
    re.S | re.M)


def inside_answer_tags(text):
    """What stands in the last <answer>...</answer> or its like, else the text."""
    found = outside_programs(ANSWER_TAGS, text)
    return found[-1]["inside"] if found else text


# ---------------------------------------------------------------- which block, and what it needs

SETTING = re.compile(r"\w+\.(set\w+|stack_size|seed)\(")
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
IMPORTS = (ast.Import, ast.ImportFrom)
CLASS = re.compile(r"^class \w", re.M)
READS = re.compile(r"\binput\b(?!\s*=[^=])|\bstdin\b|\bopen\(0|\bfileinput\b|\bos\.read\b")
PRINTS = re.compile(r"\bprint\b|\bstdout\b|\bos\.write\b")
# A demonstration, which brings its input: sys.stdin = io.StringIO("1 2")
OWN_INPUT = re.compile(r"\bstdin *= *(?:\w+\.)?(?:StringIO|BytesIO)\("
                       r"(?:[bfr]?['\"]|\w*(?:test|sample|example|case))", re.I)


def chosen(blocks, starter, entry_point):
    """The answer's program: the last that can be it, for models draft first and correct later."""
    if entry_point:
        answering = [block for block in blocks if defines(block, entry_point)]
        answering = [block for block in answering if not is_stub(block, entry_point)] or answering
        if not CLASS.search(starter):  # a method or a function within another does not answer
            own = [block for block in answering if defines_itself(block, entry_point)]
            answering = own or answering
        bodies = [block for block in blocks if block[:1].isspace()]  # they follow the signature
        return with_missing_names(answering[-1], blocks) if answering else (bodies or blocks)[-1]
    wholes = [block for block in blocks if is_whole(block)]
    programs = [with_missing_names(block, blocks) for block in blocks
                if acts(block) and not OWN_INPUT.search(block) and not is_excerpt(block, wholes)]
    whole = [program for program in programs if is_whole(program)]
    printing = [program for program in programs if PRINTS.search(program)]
    return (whole or printing or programs or blocks)[-1]


def is_whole(code):
    return bool(READS.search(code) and PRINTS.search(code))


def is_excerpt(code, wholes):
    """Does it only quote lines of one of these whole programs, to explain them?"""
    if is_whole(code):
        return False
    quoted = stripped_lines(code) - {""}
    return any(quoted <= stripped_lines(whole) for whole in wholes)


def stripped_lines(code):
    return set(map(str.strip, code.split("\n")))


def defines(code, name):
    """Does a program define a function or method of this name, or give the name a value?"""
    statements = parse(code) or parse(textwrap.dedent(code))
    if not statements:  # not Python; its author meant to
        return bool(re.search(rf"\bdef {re.escape(name)}\b", code))
    for statement in statements:
        if isinstance(statement, IMPORTS):  # an example of use: from solution import f
            continue
        if name in defined_by(statement):
            return True
        if any(isinstance(node, FUNCTIONS) and node.name == name for node in ast.walk(statement)):
            return True
    return False


def defines_itself(code, name):
    """Does a program define this function, at its top level and not as what it has imported?

    A test or a timing of the answer may say `f = solution.f`, or define an f of its own within.
    """
    statements = parse(code) or parse(textwrap.dedent(code))
    if not statements:  # not Python; its author meant to
        return bool(re.search(rf"^(async )?def {re.escape(name)}\b", code, re.M))
    imported = set()  # names for what may be in the answer's file
    for statement in outermost(statements):
        if isinstance(statement, IMPORTS):
            if not is_of_the_library(statement):
                imported |= bound_by(statement)
        elif is_alias(statement, imported):
            imported |= defined_by(statement)
        elif name in defined_by(statement):
            return True
    return False


def outermost(statements):
    """The statements of a program's own scope, in order.

    Instead of `if`, `try` and their like, the statements within them.
    """
    coming = list(reversed(statements))
    while coming:
        statement = coming.pop()
        within = [node for node in ast.iter_child_nodes(statement)
                  if isinstance(node, (ast.stmt, ast.excepthandler, ast.match_case))]
        if within and not isinstance(statement, (*FUNCTIONS, ast.ClassDef)):
            coming += reversed(within)
        else:
            yield statement


def is_of_the_library(statement):
    """Does an import take from Python's standard library only?"""
    modules = [alias.name for alias in statement.names]
    if isinstance(statement, ast.ImportFrom):
        modules = [statement.module or ""]
    return all(module.partition(".")[0] in sys.stdlib_module_names for module in modules)


def is_alias(statement, names):
    """Does a statement only rename one of these, or an attribute of one: f = solution.f?"""
    if (not isinstance(statement, ast.Assign)
            or not isinstance(statement.value, (ast.Name, ast.Attribute))):
        return False
    return any(isinstance(node, ast.Name) and node.id in names
               for node in ast.walk(statement.value))


def defined_by(statement):
    """Names that a top-level statement defines or assigns, not those of `for` and `with`."""
    if isinstance(statement, (*FUNCTIONS, ast.ClassDef)):
        return {statement.name}
    targets = []
    for node in ast.walk(statement):
        if isinstance(node, ast.Assign):
            targets += node.targets
        elif isinstance(node, ast.AnnAssign):
            targets.append(node.target)
    return {node.id for target in targets for node in ast.walk(target)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def is_stub(code, name):
    """Does it only repeat what was given: a function of this name that does nothing yet?"""
    functions = [node for statement in parse(code) for node in ast.walk(statement)
                 if isinstance(node, FUNCTIONS) and node.name == name]
    return bool(functions) and all(does_nothing(statement) for statement in functions[-1].body)


def does_nothing(statement):
    if isinstance(statement, ast.Raise):
        return "NotImplemented" in ast.unparse(statement)
    return isinstance(statement, (ast.Pass, *IMPORTS)) or is_mere_value(statement)


def acts(code):
    """Does a program do something when it runs, beyond defining names?"""
    statements = parse(code)
    only_defines = (*IMPORTS, *FUNCTIONS, ast.ClassDef)
    return not statements or any(not isinstance(statement, only_defines)
                                 for statement in statements)


def with_missing_names(code, blocks):
    """A block below those statements of the other blocks that give it names it uses but lacks.

    And below the blocks above it that only set something, like the limit of recursion.

    ["from functools import reduce", "def f(xs):\\n    return reduce(max, xs)"]: the second one
    gets the import.
    """
    others = [(block, statement) for block in blocks if block != code for statement in parse(block)]
    missing = free_names(parse(code))
    looked_up = set()
    above = blocks[:blocks.index(code)] if code in blocks else []
    taken = {position for position, (block, _) in enumerate(others)  # positions in `others`
             if block in above and only_sets(block)}
    while missing - looked_up:
        name = min(missing - looked_up)
        looked_up.add(name)
        for position in givers(name, others):
            taken.add(position)
            missing |= free_names([others[position][1]])
    pieces = [source_of(others[position][1], others[position][0]) for position in sorted(taken)]
    return "".join(pieces) + code


def only_sets(code):
    """Is a block only settings, with their imports: import sys; sys.setrecursionlimit(10 ** 6)?"""
    statements = parse(code)
    rest = [statement for statement in statements if not isinstance(statement, IMPORTS)]
    settings = bool(rest) and all(SETTING.match(ast.unparse(statement)) for statement in rest)
    return settings and not free_names(statements)


def givers(name, others):
    """Positions of the statements that bind a name, or might by a star import.

    Only those of the last block that has any: it corrects the earlier ones.
    """
    for wanted in (name, "*"):
        found = [position for position, (_, statement) in enumerate(others)
                 if wanted in bound_by(statement)]
        if found:
            last_block = others[found[-1]][0]
            return [position for position in found if others[position][0] == last_block]
    return []


def source_of(statement, code):
    """The lines of a top-level statement, its decorators included."""
    first, last = lines_of(statement)
    return "\n".join(code.split("\n")[first - 1:last]) + "\n"


def bound_by(statement):
    """Names that a top-level statement defines or changes; "*" for a star import."""
    if isinstance(statement, (*FUNCTIONS, ast.ClassDef)):
        return {statement.name}
    if isinstance(statement, IMPORTS):
        return {(alias.asname or alias.name).partition(".")[0] for alias in statement.names}
    bound = set()
    for node in ast.walk(statement):
        if isinstance(getattr(node, "ctx", None), ast.Store):
            bound |= {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
    return bound


def free_names(statements):
    """Names that statements use and neither define nor find among the builtins.

    Scopes are not told apart.
    """
    used = set()
    bound = set(dir(builtins))
    for statement in statements:
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                used.add(node.id)
            elif isinstance(node, ast.Name):
                bound.add(node.id)
            elif isinstance(node, ast.arg):
                bound.add(node.arg)
            elif isinstance(node, ast.ExceptHandler) and node.name:
                bound.add(node.name)
            elif isinstance(node, (*FUNCTIONS, *IMPORTS, ast.ClassDef)):
                bound |= bound_by(node)
    return used - bound


# ---------------------------------------------------------------- what the prompt gave

def completed(code, starter, entry_point):
    """A program with what the starter code gave it.

    A block that repeats the signature has usually lost the imports and helpers above it, or the
    class; one that does not define the entry point is the body below it.
    """
    dedented = textwrap.dedent(code)
    whole = not starter or has_class(code) or bool(entry_point) and defines(code, entry_point)
    if not whole:
        return with_body(starter, code)
    if not parse(code) and parse(dedented):
        code = dedented
    code = with_class(starter, code, entry_point)
    return futures_first(without_definitions(above_entry_point(starter, entry_point), code) + code)


def has_class(code):
    """Is it a program with a class, and not a function's body with one?"""
    dedented = textwrap.dedent(code)
    if not parse(dedented):  # not Python; its author meant to
        return bool(CLASS.search(code))
    return compiles(dedented) and any(isinstance(statement, ast.ClassDef)
                                      for statement in parse(dedented))


def with_class(starter, code, entry_point):
    """Methods that stand alone, in the class of the starter code.

    def f(self, x): ... -> class Solution: ...
    """
    head = re.search(r"^class \w+.*:", starter, re.M)
    statements = parse(code)
    methods = [statement for statement in statements if isinstance(statement, FUNCTIONS)
               and statement.args.args and statement.args.args[0].arg == "self"]
    if not head or entry_point not in [method.name for method in methods]:
        return code
    others = "".join(source_of(statement, code) for statement in statements
                     if statement not in methods)
    body = "".join(source_of(method, code) for method in methods)
    return f"{others}{head[0]}\n{textwrap.indent(body, '    ')}"


def above_entry_point(starter, entry_point):
    """The starter code above the top-level statement that defines the entry point.

    Where none does, the starter code above its first signature.
    """
    signature = re.search(r"^(class |def |async def |@)", starter, re.M)
    if entry_point:
        own = rf"^[ \t]*(?:async )?def {re.escape(entry_point)}\b"
        signature = re.search(own, starter, re.M) or signature
    if not signature:
        return ""
    lines = starter[:signature.start()].split("\n")[:-1]
    if signature[0][0].isspace():  # a method: its class begins above it
        while lines and not lines.pop().strip().startswith("class "):
            pass
    while lines and lines[-1].startswith("@"):
        lines.pop()
    return "".join(line + "\n" for line in lines)


def without_definitions(above, code):
    """Starter code (`above`) without those functions and classes that the program has itself."""
    lines = above.split("\n")
    for statement in reversed(parse(above)):
        if hasattr(statement, "body") and any(defines(code, name) for name in bound_by(statement)):
            first = lines_of(statement)[0]
            del lines[first - 1:statement.end_lineno]
            while lines[first - 1:] and not lines[first - 1].strip():
                del lines[first - 1]
    return "\n".join(lines)


def with_body(starter, body):
    """Starter code and a function's body, indented as the body has it or as it should be."""
    signatures = re.findall(r"^([ \t]*)(?:async )?def ", starter, re.M)
    indent = (signatures[-1] if signatures else "") + "    "
    head = starter.rstrip() + "\n"
    as_it_is = starter + body
    all_indented = head + textwrap.indent(textwrap.dedent(body), indent)
    first_line_indented = head + indent + body  # only the first line had lost its indentation
    attempts = [all_indented, first_line_indented, as_it_is]
    if body[:1].isspace():
        attempts = [as_it_is, all_indented]
    for attempt in attempts:
        if compiles(attempt):
            return attempt
    return as_it_is


def compiles(code):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(code, "answer", "exec", dont_inherit=True)
        return True
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def futures_first(code):
    """`from __future__ import ...` must be a program's first statement."""
    lines = code.split("\n")
    futures = []
    for statement in reversed(parse(code)):
        if isinstance(statement, ast.ImportFrom) and statement.module == "__future__":
            futures = lines[statement.lineno - 1:statement.end_lineno] + futures
            del lines[statement.lineno - 1:statement.end_lineno]
    return "\n".join(futures + lines)
