"""A benchmark's original files: from the Hugging Face hub, and as rows whatever their format."""
import gzip
import importlib.util
import json
import zlib
from dataclasses import dataclass, field
from pathlib import Path

from data.rows import UserError


@dataclass
class Source:
    """Where a benchmark's files are."""
    repository: str  # on the hub
    files: list  # in it, in the order in which they are read
    # Link to the same rows as JSON, for those without pyarrow; "": the hub's own files are JSON.
    by_hand: str = ""
    # {file: last day of any problem in it}, where that is known.
    newest: dict = field(default_factory=dict)


def fetch(source, since, flag):
    """Yield local paths of a source's files, each downloaded or found in the cache in its turn.

    since: a day; files whose newest problem is older are left out. None: all files.
    flag:  how an error begins.
    """
    for file in source.files:
        if since and file in source.newest and source.newest[file] < since:
            continue
        on_the_hub = f"https://huggingface.co/datasets/{source.repository}/resolve/main/{file}"
        link = source.by_hand or on_the_hub
        advice = f"fetch {link} by hand and pass --problems {link.rpartition('/')[2]}"
        if file.endswith(".parquet") and not importlib.util.find_spec("pyarrow"):
            instead = f", or {advice}" if source.by_hand else ""  # else it is parquet by hand, too
            raise UserError(f"{flag}: the hub has {source.repository} as parquet, "
                            f"which wants pyarrow: pip install pyarrow{instead}")
        from huggingface_hub import hf_hub_download
        try:
            yield hf_hub_download(source.repository, file, repo_type="dataset")
        except Exception as error:
            # Out of reach, refused, no room: the classes differ between the hub's versions.
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{flag}: {file} of {source.repository} does not come from the hub "
                            f"({reason}); {advice}") from None


def original_rows(path):
    """Yield (number, row), from 1, of each JSONL line, JSON array item or parquet row.

    Read as a stream: some files are gigabytes. Raises UserError naming the file.
    """
    path = Path(path)
    parquet = path.suffix == ".parquet"
    try:
        yield from enumerate(parquet_rows(path) if parquet else json_rows(path), 1)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, EOFError, ValueError, zlib.error, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as {'parquet' if parquet else 'JSON'} "
                        f"({error})") from None


def parquet_rows(path):
    if not importlib.util.find_spec("pyarrow"):
        raise UserError(f"{path}: parquet files want pyarrow (pip install pyarrow); "
                        "or pass the same rows as JSON Lines to --problems")
    from pyarrow.parquet import ParquetFile
    for batch in ParquetFile(path).iter_batches(batch_size=64):
        yield from batch.to_pylist()


def json_rows(path):
    is_array = path.name.removesuffix(".gz").endswith(".json")
    open_text = gzip.open if path.suffix == ".gz" else open
    with open_text(path, "rt", encoding="utf-8-sig") as file:  # a byte order mark is no part of it
        if is_array:
            rows = json.load(file)
            if not isinstance(rows, list):
                raise UserError(f"{path}: expected a JSON array of rows, found "
                                f"{type(rows).__name__}; JSON Lines are called .jsonl")
            yield from rows
            return
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                yield json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{path}, line {number}: cannot be read as JSON "
                                f"({error})") from None
