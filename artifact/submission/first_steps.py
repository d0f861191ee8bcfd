"""Start a packed submission as a stranger would: from ``/``, on a CPU, in a clean environment."""

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from artifact.submission.code_size import SCRIPT
from artifact.submission.processes import Process
from data.sentencepiece_model import minimal_model
from data.shards import MAX_VOCAB_SIZE, TokenStream, shard_name, write_shard
from data.tokenizer import TOKENIZER_NAME
from errors import InputError
from files import sha256
from knowledge.edges import Edges, text_of
from runtime.records import SUMMARY
from runtime.run_folder import ARTIFACT
from settings import Settings

TOKENS = 8192  # of a split; a twentieth of them must be enough windows for a readout
RUN, AGAIN, DATA, OTHERS, EDGES = "run", "again", "data", "others", "some.edges"
Say = Callable[[str], None]
LENGTH = 64
ROUNDING = 0.51e-4
# The submission's own network, with as little work as it can have.
LITTLE = f"""
    --device cpu --backend reference --attention-backend auto --wallclock 0 --iterations 2
    --warmup-steps 0 --train-seq-len {LENGTH} --train-batch-tokens {4 * LENGTH}
    --micro-batch-tokens {4 * LENGTH} --eval-seq-len {LENGTH} --eval-stride 0
    --val-max-tokens {4 * LENGTH} --val-loss-every 1 --calibration-tokens 0 --checkpoint-minutes 0
    --no-ttt-enabled --stages []
""".split()


def first_steps(script: bytes, settings: Settings, say: Say = lambda line: None) -> None:
    """Train two steps, export an artifact and score it by ``--evaluate``; train the same again.

    The data is random tokens, with a tokenizer of the network's vocabulary. A second run at the
    same time has other validation tokens, and its artifact must be the same.

    Args:
        script: the packed file.
        settings: that it carries along.
        say: called with a line as each step begins.

    Raises:
        InputError: the vocabulary is not SentencePiece's, a command fails, the artifact's score is
            not the run's, or the artifact depends on the validation tokens.
    """
    with _workplace(script, settings) as folder, _trainings(folder, say=say) as (run, again):
        printed, artifact = run.printed([again]), _artifact(folder, RUN)
        say("scoring the first run's artifact")
        options = ["--device", "cpu", "--max-tokens", str(4 * LENGTH)]
        place, data = str(folder / RUN / ARTIFACT), str(folder / DATA)
        with Process(folder, "score", ["--evaluate", place, "--data", data, *options]) as scoring:
            scored = scoring.printed([again])
        found = re.search(r"bpb (\d+\.\d+)", scored)
        if found is None or not _has(printed, float(found[1])):
            raise InputError(f"the bundled script scores its artifact otherwise: {scored!a:.200}")
        say("waiting for the second run, whose artifact must be the same")
        again.printed()
        if _artifact(folder, AGAIN) != artifact:
            raise InputError("the bundled script's artifact depends on the validation tokens")


def reads_validation(script: bytes, network: Settings) -> bool:
    """Return whether an artifact depends on the validation tokens.

    Args:
        script: the packed file.
        network: whose architecture is trained, whatever the file carries along.

    Raises:
        InputError: the script does not train.
    """
    options = []
    for name, value in network.architecture().model_dump().items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            options.append(f"--{'' if value else 'no-'}{option}")
        elif value not in (None, "", [], ()):
            said = ",".join(map(str, value)) if isinstance(value, list | tuple) else value
            options.append(f"--{option}={said}")
    with _workplace(script, network) as folder, _trainings(folder, options) as (run, again):
        run.printed([again])
        artifact = _artifact(folder, RUN)
        again.printed()
        return _artifact(folder, AGAIN) != artifact


def _has(printed: str, score: float) -> bool:
    """Return whether a run printed a score, which it rounds to four decimals."""
    rounded = map(float, re.findall(r"\d+\.\d{4}\b", printed))
    return any(abs(each - score) < ROUNDING for each in rounded)


@contextmanager
def _workplace(script: bytes, settings: Settings) -> Iterator[Path]:
    """Yield a temporary folder with the script and data."""
    if settings.bos_id + 3 > settings.vocab_size:
        raise InputError(f"bos_id {settings.bos_id}: a submission needs a SentencePiece model")
    with tempfile.TemporaryDirectory(prefix="first_steps_") as temporary:
        folder = Path(temporary)
        (folder / SCRIPT).write_bytes(script)
        _make_data(folder / DATA, settings.vocab_size, settings.bos_id)
        if settings.num_edges:
            _make_edges(folder, settings)
        yield folder


@contextmanager
def _trainings(
    folder: Path, options: Sequence[str] = (), say: Say = lambda line: None
) -> Iterator[tuple[Process, Process]]:
    """Start two runs, the second with its validation tokens in another order."""
    shutil.copytree(folder / DATA, folder / OTHERS)
    shard = folder / OTHERS / shard_name("val", 0)
    tokens = TokenStream([shard], MAX_VOCAB_SIZE).read(0, TOKENS)
    write_shard(shard, np.random.default_rng(1).permutation(tokens))
    say("first run of the script, from / on a CPU")
    with _training(folder, RUN, DATA, options) as run:
        say("second run at the same time, with other validation tokens")
        with _training(folder, AGAIN, OTHERS, options) as again:
            yield run, again


def _training(folder: Path, name: str, data: str, options: Sequence[str]) -> Process:
    """Start a run on the data of that name."""
    arguments = ["--data", str(folder / data), "--run-dir", str(folder / name)]
    if (folder / EDGES).exists():
        arguments += ["--edges", str(folder / EDGES)]
    # Two steps on random tokens may diverge: such a run ends with 1, its summary written.
    whole = folder / name / SUMMARY
    return Process(folder, name, [*LITTLE, *options, *arguments], fine=whole.exists)


def _artifact(folder: Path, name: str) -> bytes:
    """Return the artifact of a run that has ended."""
    return (folder / name / ARTIFACT).read_bytes()


def _make_data(folder: Path, vocab_size: int, bos_id: int) -> None:
    folder.mkdir()
    (folder / TOKENIZER_NAME).write_bytes(minimal_model(vocab_size, bos_id))
    draw = np.random.default_rng(0)
    for split in ("train", "val"):
        tokens = draw.integers(bos_id + 3, vocab_size, TOKENS).astype(np.uint16)
        tokens[::512] = bos_id
        write_shard(folder / shard_name(split, 0), tokens)


def _make_edges(folder: Path, settings: Settings) -> None:
    """Write the first pairs of the made tokenizer, as many as the network has rows for."""
    tokens, before = np.divmod(np.arange(settings.num_edges), settings.vocab_size)
    pairs = {"tokens": tokens.tolist(), "predecessors": before.tolist()}
    tokenizer = sha256(folder / DATA / TOKENIZER_NAME)
    edges = Edges.model_validate({"kind": settings.bigram_rows, "tokenizer": tokenizer, **pairs})
    (folder / EDGES).write_text(text_of(edges))
