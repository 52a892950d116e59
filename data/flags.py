"""The command line of every stage: a dataclass of settings is its flags.

    @dataclass
    class Settings:
        heading("sampling")
        n: int = flag(8, "candidates for each problem", least=1)
        chat: bool = flag(False, "ask in chat turns")

    cfg = parse(Settings, __doc__)        # python stage.py --n 4 --chat

What a flag is called, does, defaults to and may be stands on the line that declares it;
`heading` names the group in which --help shows what follows. A class of settings may
inherit flags that stages share.
"""
import argparse
import math
import os
import sys
from dataclasses import MISSING, field, fields

from data.rows import ROOT, UserError

_heading = ""  # of the flags that are being declared


def heading(title):
    """The flags declared after this belong to the group `title` of --help."""
    global _heading
    _heading = title


def flag(default, help, *, type=None, choices=None, least=None, above=None, below=None,
         name=None, metavar=None):
    """A field of a dataclass of settings, and so a flag.

    default: its value, or a function that makes it (which must be one for a list).
    help:    one sentence for --help; the default is added to it.
    type:    of the value; by default that of `default`. A bool takes no value, a list several.
    least, above, below: bounds of a number, checked by `check_bounds`.
    name:    the flag, where it is not the field's name.
    """
    metadata = {"help": help, "type": type, "choices": choices,
                "least": least, "above": above, "below": below,
                "name": name, "metavar": metavar, "heading": _heading}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


def name_of(settings_field):
    """The flag of a field: --max-new-tokens for max_new_tokens."""
    return settings_field.metadata["name"] or f"--{settings_field.name.replace('_', '-')}"


def flag_of(Settings, field_name):
    """The flag of the field of this name, for an error message."""
    return next(name_of(f) for f in fields(Settings) if f.name == field_name)


def check_bounds(cfg):
    """Raise UserError for the first number out of its bounds; to be called in __post_init__."""
    for f in fields(cfg):
        values = getattr(cfg, f.name)
        for value in values if isinstance(values, list) else [values]:
            if value is None:
                continue
            wrong = out_of_bounds(value, **{bound: f.metadata[bound]
                                            for bound in ("least", "above", "below")})
            if wrong:
                raise UserError(f"{name_of(f)} {value}: must be {wrong}")


def out_of_bounds(value, least, above, below):
    """Which bound a value breaks, in words; None if it breaks none. NaN breaks every bound."""
    if value in (math.inf, -math.inf):
        return "finite"
    if least is not None and not value >= least:
        return f"at least {least}"
    if above is not None and not value > above:
        return f"above {above}"
    if below is not None and not value < below:
        return f"below {below}"
    return None


def parse(Settings, doc, argv=None):
    """Settings from the command line (argv, or the process's own)."""
    # Not by its first letters: --n, which another stage has, would be --net-lr.
    parser = argparse.ArgumentParser(description=doc, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    groups = {}
    for f in own_fields_first(Settings):
        title = f.metadata["heading"]
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        add_argument(groups[title], f)
    return Settings(**vars(parser.parse_args(argv)))


def own_fields_first(Settings):
    """A stage's own flags come before those that it shares with another."""
    by_name = {f.name: f for f in fields(Settings)}
    declared = [name for cls in Settings.__mro__
                for name in cls.__dict__.get("__annotations__", {})]
    return [by_name[name] for name in dict.fromkeys(declared)]


def add_argument(group, f):
    default = f.default if f.default is not MISSING else f.default_factory()
    options = {"dest": f.name, "default": default, "help": f.metadata["help"] + shown(default)}
    kind = f.metadata["type"] or type(default)
    if kind is bool:
        options["action"] = "store_true"
    else:
        options["metavar"] = f.metadata["metavar"]
        options["choices"] = f.metadata["choices"]
        if isinstance(default, list):
            options["nargs"] = "+"
            options["type"] = f.metadata["type"] or str
        else:
            options["type"] = kind
    group.add_argument(name_of(f), **options)


def shown(default):
    """The default as the end of a flag's help."""
    if default is None or default is False or default in ("", []):
        return ""
    text = " ".join(map(str, default)) if isinstance(default, list) else str(default)
    return f" (default {text})".replace(f"{ROOT}/", "").replace("%", "%%")


def shard_of(text):
    """(I, N) of --shard "I/N": every N-th item from the I-th on. Raises UserError."""
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise UserError(f"--shard {text}: must be I/N with 0 <= I < N, for example 0/4")
    return int(index), int(count)


def stopped(kept):
    """Ctrl-C: say what is kept and how to go on; leave with an interrupted command's status."""
    print(f"\nstopped; {kept}", file=sys.stderr)
    sys.exit(130)


def run(main):
    """Run a stage's main and leave: a user's mistake ends it in one line, without a traceback."""
    # A letter that the terminal does not have, or half of one in a row, must not end a run.
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(str(error))
    except BrokenPipeError:  # who read what it prints has left, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is left
        print("stopped, as nobody reads its output any more", file=sys.stderr)
        sys.exit(130)
