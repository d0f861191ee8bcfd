"""The public FineWeb shards of the contest, from the Hugging Face hub.

The hub's layout is that of openai/parameter-golf's data/cached_challenge_fineweb.py: a manifest
names data sets, their numbers of shards and their tokenizers.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import Field
from rich.console import Console

from data.folder import (
    MANIFEST_NAME,
    Manifest,
    read_manifest,
)
from data.making import (
    check_manifest,
    describe_shard,
    write_manifest,
    write_source,
)
from data.shards import SPLITS, Split, read_header, shard_name
from data.tokenizer import TOKENIZER_NAME, Tokenizer
from errors import InputError
from reading.structured import Form, read_json

REPOSITORY_VARIABLE = "MATCHED_FINEWEB_REPO_ID"
PREFIX_VARIABLE = "MATCHED_FINEWEB_REMOTE_ROOT_PREFIX"
REPOSITORY = "willdepueoai/parameter-golf"
VARIANTS = ("sp1024", "sp4096", "sp8192")
ANSWER_SECONDS = 5.0

Fetch = Callable[[str], Path]
"""From a file's path in the repository to a local copy; InputError where it cannot be had."""


class Listed(Form):
    """An entry of the hub's catalogue: a data set or a tokenizer."""

    name: str | None = None
    tokenizer_name: str | None = None
    model_path: str | None = None
    stats: dict[str, Any] | None = None


class Catalogue(Form):
    """The hub's manifest."""

    datasets: list[Listed] = Field(default_factory=list)
    tokenizers: list[Listed] = Field(default_factory=list)


def repository() -> str:
    """Return the name of the hub's data set repository."""
    return os.environ.get(REPOSITORY_VARIABLE, REPOSITORY)


def prefix() -> str:
    """Return the folder of the repository that holds the manifest."""
    return os.environ.get(PREFIX_VARIABLE, "datasets")


def fetch_from_hub(remote: str) -> Path:
    """Download one file to the hub's cache, unless it is there.

    Raises:
        InputError: the hub does not answer or has no such file.
    """
    from huggingface_hub import hf_hub_download

    silence = no_answer()
    try:
        return Path(
            hf_hub_download(
                repository(), remote, repo_type="dataset", local_files_only=bool(silence)
            )
        ).resolve()
    except (OSError, ValueError) as error:
        reason = silence or str(error).strip().split("\n")[0]
        raise InputError(f"cannot fetch {remote} from {repository()}: {reason}") from None


@cache
def no_answer() -> str:
    """Return why the hub does not answer, empty if it does; asked once.

    The hub's package would try each file five times before it says so.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=ANSWER_SECONDS)
    except Exception as error:  # of whichever HTTP library the hub's package has
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        return f"{constants.ENDPOINT} does not answer ({reason})"
    return ""


def download(variant: str, train_shards: int, out: Path, fetch: Fetch, console: Console) -> None:
    """Bring a variant's tokenizer, validation shards and first ``train_shards`` to ``out``.

    Whole shards that are there already are kept, so an interrupted download goes on.

    Raises:
        InputError: the hub lacks what is asked for, a shard arrives damaged, or ``out`` holds
            something else.
    """
    known = variant in VARIANTS
    if not known and (repository() == REPOSITORY or not re.fullmatch(r"sp\d+", variant)):
        raise InputError(f"variant {variant!r}: give {', '.join(VARIANTS[:-1])} or {VARIANTS[-1]}")
    if train_shards < 1:
        raise InputError(f"--train-shards {train_shards}: give at least 1")
    source = {"kind": "download", "repository": repository(), "variant": variant}
    if _is_complete(out, source, train_shards):
        console.print(f"{out}: already there")
        return
    catalogue = _read_catalogue(fetch)
    wanted = dict(_wanted(catalogue, variant, train_shards))
    out.mkdir(parents=True, exist_ok=True)
    write_source(out, source)
    for number, (name, remote) in enumerate(wanted.items(), start=1):
        console.print(f"{number}/{len(wanted)} {name}")
        _bring(remote, out / name, fetch)
    tokenizer = Tokenizer(out / TOKENIZER_NAME)
    write_manifest(out, source, tokenizer, {split: _describe(out, split) for split in SPLITS})
    console.print(f"{out}: complete")


def _is_complete(out: Path, source: Manifest, train_shards: int) -> bool:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    manifest = read_manifest(out) if out.is_dir() else None
    if manifest is None or manifest.get("source") != source:
        raise InputError(f"{out}: holds something else; remove it or give another --out")
    if "splits" not in manifest or len(manifest["splits"]["train"]["files"]) < train_shards:
        return False
    check_manifest(out, manifest, hashes=False)
    return True


def _read_catalogue(fetch: Fetch) -> Manifest:
    path = fetch(_remote(MANIFEST_NAME))
    return read_json(path, Catalogue, "the hub's catalogue is needed").model_dump()


def _remote(path: str) -> str:
    return f"{prefix()}/{path}" if prefix() else path


def _wanted(catalogue: Manifest, variant: str, train_shards: int) -> Iterator[tuple[str, str]]:
    """Yield pairs of a file's name here and its path in the repository."""
    name = f"fineweb10B_{variant}"
    dataset = _entry(catalogue, "datasets", name)
    tokenizer = _entry(catalogue, "tokenizers", dataset.get("tokenizer_name"))
    stats = dataset.get("stats") or {}
    available = {split: stats.get(f"files_{split}") or 0 for split in SPLITS}
    if not all(isinstance(count, int) for count in available.values()):
        raise InputError(f"{repository()}: the numbers of shards of {variant} are no numbers")
    if train_shards > available["train"] or available["val"] < 1:
        raise InputError(
            f"{repository()} has {available['train']} training and {available['val']} validation "
            f"shards of {variant}; {train_shards} training shards were asked for"
        )
    if not tokenizer.get("model_path"):
        raise InputError(f"{repository()}: no SentencePiece model is listed for {variant}")
    yield TOKENIZER_NAME, _remote(tokenizer["model_path"])
    counts: dict[Split, int] = {"val": available["val"], "train": train_shards}
    for split, count in counts.items():
        for index in range(count):
            shard = shard_name(split, index)
            yield shard, _remote(f"datasets/{name}/{shard}")


def _entry(catalogue: Manifest, kind: str, name: Any) -> Manifest:
    entries = {entry.get("name"): entry for entry in catalogue.get(kind, [])}
    if name not in entries:
        has = ", ".join(sorted(str(known) for known in entries)) or "nothing"
        raise InputError(f"{repository()}: no {name} among its {kind} (it has {has})")
    return entries[name]


def _bring(remote: str, destination: Path, fetch: Fetch) -> None:
    if destination.exists() and _is_whole(destination):
        return
    fetched = fetch(remote)
    if not _is_whole(fetched):
        raise InputError(f"{fetched}: arrived damaged; remove it and run this again")
    _place(fetched, destination)


def _is_whole(path: Path) -> bool:
    try:
        if path.suffix == ".bin":
            read_header(path)
        else:
            Tokenizer(path)
    except InputError:
        return False
    return True


def _place(fetched: Path, destination: Path) -> None:
    """Link or copy a file of the hub's cache; a link spares the disk a second 200 MB a shard."""
    partial = destination.with_name(f".{destination.name}.{os.getpid()}.part")
    try:
        try:
            partial.hardlink_to(fetched)
        except OSError:
            shutil.copyfile(fetched, partial)
        partial.replace(destination)
    finally:
        partial.unlink(missing_ok=True)


def _describe(out: Path, split: Split) -> Manifest:
    files = {path.name: describe_shard(path) for path in sorted(out.glob(f"fineweb_{split}_*.bin"))}
    return {"tokens": sum(shard["tokens"] for shard in files.values()), "files": files}
