"""The text that is scored: its files by SHA-256, its bytes and documents before they were tokens.

The counted bytes are compared with the decoded tokens by `evaluation.audit.accounting`. A tokenizer
may be made so that both are wrong together: here they are compared with the text itself.
"""

import string
from typing import Any

import numpy as np

from data.folder import read_manifest
from data.inputs import Scored
from data.published import DOCUMENTS, TEXT_BYTES, VARIANTS
from data.tokenizer import ByteTable, Tokenizer
from data.vocabulary import AnyTokenizer, read_tokenizer
from evaluation.audit.conduct import listed
from evaluation.audit.runs import Check
from runtime.records import Provenance

# Texts whose bytes no normalisation can make more of.
PROBES = ("a b", "  a  b ", "a\tb\n\nc", string.printable[:94], "Zwölf große 鳥 🐦.")
UNKNOWN_BYTES = 4  # of a character, at most
LOST = 0.01  # of the text's bytes, above which bits per byte are of another text


def data(origins: Provenance | None, inputs: Scored) -> Check:
    """Compare the files that a run scored with those of the judge, by SHA-256.

    Args:
        origins: what the run's summary says.
        inputs: the judge's data.
    """
    if origins is None or origins.data is None:
        return Check("data", "run", None, "not known: no finished run's summary has its hashes")
    ours, theirs = inputs.hashes(), origins.data
    names = sorted(name for name in ours | theirs if ours.get(name) != theirs.get(name))
    if names:
        return Check("data", "run", False, f"scored on other files: {listed(names)}")
    return Check("data", "run", True, f"{listed(list(ours))}, by SHA-256")


def source(inputs: Scored) -> Check:
    """Compare the counted bytes and the documents with those that the manifest records.

    Fewer bytes make a score worse, unless text was left out or made easier: so the number of
    documents must be the same, and so must be letters in upper case.
    """
    tokenizer, table = read_tokenizer(inputs.tokenizer), inputs.byte_table
    manifest = read_manifest(inputs.validation.files[0].parent) or {}
    tokens = inputs.validation.read(0, len(inputs.validation))
    fault = fault_of_tokenizer(tokenizer, table) or fault_of_variant(manifest, tokenizer, tokens)
    if fault:
        return Check("source text", "data", False, fault)
    documents = int((tokens == inputs.bos_id).sum())
    counted = int(table.count(tokens[:-1], tokens[1:]).sum())
    expected = recorded(manifest)
    if expected is None:
        found = f"not known: no manifest says what the {documents:,} documents were"
        return Check("source text", "data", None, found)
    found = f"{counted:,} bytes of {documents:,} documents; the source has "
    found += f"{expected[0]:,} of {expected[1]:,}"
    if counted > expected[0] or documents != expected[1]:
        return Check("source text", "data", False, found)
    # Not counted are unknown characters, and the space at the start of a text.
    unknown = int(table.boundary[tokens].sum()) - documents
    lossless = is_lossless(tokenizer)
    lost, explained = expected[0] - counted, documents + (UNKNOWN_BYTES + 1) * unknown
    if lost <= max(explained, 0 if lossless else LOST * expected[0]):
        return Check("source text", "data", True, found)
    if lossless:
        return Check("source text", "data", False, f"{found}, of which {lost:,} are missing")
    return Check("source text", "data", None, f"{found}: normalisation changed the text")


def recorded(manifest: dict[str, Any]) -> tuple[int, int] | None:
    """Return the bytes and the number of the validation documents; None where nothing says."""
    if manifest.get("source", {}).get("kind") == "download":
        return TEXT_BYTES, DOCUMENTS
    split = (manifest.get("splits") or {}).get("val", {})
    size, documents = split.get("source_bytes"), split.get("documents")
    return None if size is None or documents is None else (size, documents)


def fault_of_variant(manifest: dict[str, Any], tokenizer: AnyTokenizer, tokens: np.ndarray) -> str:
    """Say how data of the contest is not as published; empty if it is, or is other data."""
    found = manifest.get("source", {})
    known = VARIANTS.get(str(found.get("variant"))) if found.get("kind") == "download" else None
    if known and known.tokenizer != tokenizer.sha256:
        return f"not the tokenizer of the contest's {found['variant']}"
    if known and known.tokens not in (None, len(tokens)):
        return f"{len(tokens):,} tokens, but the contest's {found['variant']} has {known.tokens:,}"
    return ""


def fault_of_tokenizer(tokenizer: AnyTokenizer, table: ByteTable) -> str:
    """Say which text a tokenizer counts too many bytes for or makes easier; empty if none.

    A token of byte pairs counts its own bytes, and only the package tiktoken could encode probes.
    """
    if not isinstance(tokenizer, Tokenizer):
        return ""
    for text in PROBES:
        tokens = tokenizer.encode_documents([text])
        counted, size = int(table.count(tokens[:-1], tokens[1:]).sum()), len(text.encode())
        if counted > size:
            return f"the tokenizer counts {counted} bytes for the {size} of {text[:20]!a}"
    folded = [
        letter
        for letter in string.ascii_uppercase
        if tokenizer.decode(tokenizer.encode(letter)).strip() == letter.lower()
    ]
    return f"the tokenizer folds case: {listed(folded)}" if folded else ""


def is_lossless(tokenizer: AnyTokenizer) -> bool:
    """Return whether the probes come back as they were, but for unknown characters."""
    known = PROBES[:3]
    return not isinstance(tokenizer, Tokenizer) or all(
        tokenizer.decode(tokenizer.encode(text)) == text for text in known
    )
