"""A dataclass of settings as a command line: what a flag is, does and may be stands on one line, where it is declared."""
import argparse
import re
from dataclasses import field, fields

from data.rows import ROOT, RowError


def flag(default, help, choices=None, least=None, above=None, below=None):
    """A field of such a dataclass. default: a value, or a function that makes one; least, above and below: the bounds of a number."""
    make = default if callable(default) else lambda: default
    return field(default_factory=make, metadata={"help": help, "choices": choices, "least": least, "above": above, "below": below})


def name_of(field_name):
    return f"--{field_name.replace('_', '-')}"


def shard_of(text):
    """--shard "I/N" as (I, N), or None if it is no such thing with 0 <= I < N."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    part = found and (int(found[1]), int(found[2]))
    return part if part and part[0] < part[1] else None


def must_be_within_bounds(settings):
    for f in fields(settings):
        value, least, above, below = (getattr(settings, f.name), *(f.metadata[bound] for bound in ("least", "above", "below")))
        if least is not None and value < least:
            raise RowError(f"{name_of(f.name)} {value}: must be at least {least}")
        if above is not None and not value > above:
            raise RowError(f"{name_of(f.name)} {value}: must be above {above}")
        if below is not None and not value < below:
            raise RowError(f"{name_of(f.name)} {value}: must be below {below}")


def parse(Settings, doc, argv=None):
    """Settings from the command line. A flag of a bool needs no value, that of a list takes several."""
    p = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for f in fields(Settings):
        default, text = f.default_factory(), f.metadata["help"]
        if default not in ("", []):
            text += f" (default {' '.join(default) if isinstance(default, list) else default})".replace(f"{ROOT}/", "")
        kind = {"type": type(default), "choices": f.metadata["choices"]}
        if isinstance(default, bool):
            kind = {"action": "store_true"}
        elif isinstance(default, list):
            kind = {"nargs": "+"}
        p.add_argument(name_of(f.name), default=default, help=text, **kind)
    return Settings(**vars(p.parse_args(argv)))
