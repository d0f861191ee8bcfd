"""Record a terminal session, from ``git clone`` to a submission, as docs/session.md.

    python -m bench session

Each command runs as it is shown, in a clone of this checkout's last commit, with this environment's
Python. Long outputs are cut in the middle.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from files import PROJECT, write_text

PAGE = PROJECT / "docs" / "session.md"
URL = "https://github.com/OWNER/murmuration"  # shown in place of this checkout's path
KEPT, WIDTH = (7, 13), 100  # lines of an output, from its beginning and its end; columns
TOPICS = (
    "import json, pydoc_data.topics as t; texts = sorted(t.topics.values()); "
    "save = lambda name, part: "
    'open(name, "w").writelines(json.dumps({"text": x}) + "\\n" for x in part); '
    'save("corpora/train.jsonl", texts[6:]); save("corpora/val.jsonl", texts[:6])'
)
BREAK = "\\n"
SMALL = (
    "wallclock = 0",
    "iterations = 30",
    "train_batch_tokens = 2048",
    "calibration_tokens = 4096",
    "eval_stride = 0",
    "num_layers = 3",
    "near_layers = [0]",
    "parallel_from = 2",
    "ve_layers = [1]",
    "xsa_last_n = 3",
    "model_dim = 64",
    "ttt_enabled = false",
)
RUN = "--preset tiny --config corpora/small.toml --data corpora/mine"
STEPS = {
    "Clone it": [f"git clone --quiet {URL} && cd murmuration && ls"],
    "Prepare your own text": [
        f"mkdir corpora && python -c '{TOPICS}'",
        "python -m data prepare --train corpora/train.jsonl --val corpora/val.jsonl "
        "--train-tokenizer 1024 --out corpora/mine",
        "python -m data inspect corpora/mine",
    ],
    "Train two runs": [
        f"printf '{''.join(f'{line}{BREAK}' for line in SMALL)}' > corpora/small.toml",
        f"RUN_ID=first python train.py {RUN} --seed 1",
        f"RUN_ID=second python train.py {RUN} --seed 2",
    ],
    "Compare them": [
        "python -m runtime.plot runs/first runs/second --out compare.png",
        "grep val_bpb runs/first/train.log runs/second/train.log",
    ],
    "Write with one": [
        "python -m evaluation generate runs/first/artifact.bin --prompt 'The statement' "
        "--max-tokens 80",
    ],
    "Audit it": [
        "python -m evaluation audit runs/first/artifact.bin --data corpora/mine --cuts 20",
    ],
    "Submit both": [
        "python -m artifact submit runs/first runs/second --out records/mine --author me "
        "--github-id me --blurb 'a first try'",
        "ls records/mine",
    ],
}
HEAD = """# A session

`python -m bench session` recorded this session at commit {commit}, whose code the sizes are of. The
commands ran in a virtual environment with `requirements.txt`, on a CPU. Long outputs are cut in the
middle.
"""


def main(*, page: Path = PAGE) -> int:
    """Run the commands, write the page; return 1 if a command failed.

    Args:
        page: file to write
    """
    commit = subprocess.check_output(
        ["git", "rev-parse", "--short", "HEAD"], cwd=PROJECT, text=True
    )
    parts, failed = [HEAD.format(commit=commit.strip())], 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        for title, commands in STEPS.items():
            shown = []
            for command in commands:
                code, said = typed(command, folder)
                print(f"$ {command}\n{said}", flush=True)
                failed |= code
                shown += [f"$ {command}", *cut(said, folder)]
            parts.append("\n".join([f"## {title}\n", "```", *shown, "```", ""]))
    write_text(page, "\n".join(parts))
    return int(bool(failed))


def typed(command: str, folder: Path) -> tuple[int, str]:
    """Return exit code and output of a command in the clone, which the first command makes."""
    clone = folder / "murmuration"
    kept = {name: os.environ[name] for name in ("OMP_NUM_THREADS",) if name in os.environ}
    environment = kept | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(folder),
        "COLUMNS": str(WIDTH),
        "PYTHONUNBUFFERED": "1",
    }
    done = subprocess.run(
        ["bash", "-c", command.replace(URL, f"{PROJECT} murmuration")],
        cwd=clone if clone.exists() else folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    return done.returncode, done.stdout


def cut(said: str, folder: Path) -> list[str]:
    """Return the lines of an output without paths of this machine, cut in the middle."""
    lines = [line.rstrip() for line in said.replace(str(folder), "~").rstrip().splitlines()]
    first, last = KEPT
    if len(lines) <= first + last:
        return lines
    return [*lines[:first], f"[{len(lines) - first - last} lines]", *lines[-last:]]
