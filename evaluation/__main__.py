"""Score an artifact: ``python -m evaluation ARTIFACT --data DIR [--stride 64]``.

It needs the file, the code and the data, nothing of the run that made it.
"""

import argparse
import sys
from pathlib import Path

from errors import InputError


def main(arguments: list[str]) -> int:
    """Print bits per byte of an artifact on a validation split; 2 for bad input."""
    options = parser().parse_args(arguments)
    try:
        score_artifact(options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m evaluation", description=__doc__)
    made.add_argument("artifact", type=Path)
    made.add_argument("--data", type=Path, required=True, help="folder of token shards")
    made.add_argument("--tokenizer", type=Path, help="by default the one in the data folder")
    made.add_argument("--seq-len", type=int, default=2048, help="tokens of context")
    made.add_argument("--stride", type=int, help="tokens a window scores; by default all of it")
    made.add_argument("--batch-tokens", type=int, default=262_144, help="evaluated at once")
    made.add_argument("--max-tokens", type=int, default=0, help="score the first so many; 0: all")
    return made


def score_artifact(options: argparse.Namespace) -> None:
    """Rebuild the model from its artifact alone and print its score.

    Raises:
        InputError: artifact or data are missing, corrupt or do not fit together.
    """
    import torch

    from artifact.restore import restore
    from data.inputs import open_inputs
    from evaluation.bpb import evaluate
    from training.progress import Progress
    from training.world import World

    stride = options.seq_len if options.stride is None else options.stride
    if not 0 < stride <= options.seq_len:
        raise InputError(f"--stride {stride} must be between 1 and --seq-len {options.seq_len}")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = restore(options.artifact, options.seq_len, device)
    config = model.config
    inputs = open_inputs(options.data, options.tokenizer, config.vocab_size, config.bos_id)
    with Progress(None, None) as progress:
        score = evaluate(
            model.score,
            inputs.validation,
            inputs.byte_table,
            seq_len=options.seq_len,
            stride=stride,
            batch_windows=max(1, options.batch_tokens // options.seq_len),
            world=World.single(device),
            device=device,
            max_tokens=options.max_tokens,
            progress=lambda done, windows: progress.phase(f"evaluating: {done / windows:.0%}"),
        )
    print(f"bpb {score.bpb:.6f}  nats {score.nats:.6f}  {score.tokens:,} tokens, ", end="")
    print(f"{score.bytes:,} bytes, {score.seconds:.1f} s")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
