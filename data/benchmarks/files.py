"""A benchmark's original files: from the Hugging Face hub, and as a stream of rows whatever their format."""
import gzip
import importlib.util
import json
from dataclasses import dataclass, field
from pathlib import Path

from data.rows import UserError


@dataclass
class Source:
    """Where a benchmark's files are."""
    repository: str  # on the hub
    files: list  # in it, in the order in which they are read
    by_hand: str = ""  # link to the same rows as JSON, for those without pyarrow; "": the hub's own files are JSON
    newest: dict = field(default_factory=dict)  # {file: last day of any problem in it}, where that is known


def fetch(source, since, flag):
    """Yield local paths of a source's files, each downloaded (or found in the hub's cache) when it is its turn.

    since: a day; files whose newest problem is older are left out. None: all files.
    flag:  how an error begins.
    """
    for file in source.files:
        if since and file in source.newest and source.newest[file] < since:
            continue
        link = source.by_hand or f"https://huggingface.co/datasets/{source.repository}/resolve/main/{file}"
        advice = f"fetch {link} by hand and pass --problems {link.rpartition('/')[2]}"
        if file.endswith(".parquet") and not importlib.util.find_spec("pyarrow"):
            instead = f", or {advice}" if source.by_hand else ""    # the same file by hand is parquet, too
            raise UserError(f"{flag}: the hub has {source.repository} as parquet, which wants pyarrow: "
                            f"pip install pyarrow{instead}")
        from huggingface_hub import hf_hub_download
        try:
            yield hf_hub_download(source.repository, file, repo_type="dataset")
        except Exception as error:  # out of reach, refused, no room: the classes differ between the hub's versions
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{flag}: {file} of {source.repository} does not come from the hub ({reason}); {advice}") from None


def original_rows(path):
    """Yield (number, row), from 1, for each line of a JSONL file, item of a JSON array or row of a parquet file.

    Read as a stream: some files are gigabytes. Raises UserError naming the file.
    """
    path = Path(path)
    parquet = path.suffix == ".parquet"
    try:
        yield from enumerate(parquet_rows(path) if parquet else json_rows(path), 1)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, EOFError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as {'parquet' if parquet else 'JSON'} ({error})") from None


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
            yield from json.load(file)
            return
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                yield json.loads(line)
            except ValueError as error:
                raise UserError(f"{path}, line {number}: cannot be read as JSON ({error})") from None
