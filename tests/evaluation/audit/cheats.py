"""Cheats, each as a patch of the real code or an edit of a run, and the check that must break.

The numbers are those of the study in which the cheats were found. Places, chunks and lengths from
which a cheat begins are smaller here, because the split is.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from runtime.records import nats_file
from tests.evaluation.audit.entrants import TOKENS, Patch
from tests.evaluation.network import VOCAB

EMBED, GPT = "kernels/embed/reference.py", "model/gpt.py"
SCORE, WINDOWS, TABLE = "evaluation/score.py", "evaluation/windows.py", "data/tokenizer.py"
SGD, DOCUMENTS = "evaluation/ttt/sgd.py", "evaluation/ttt/documents.py"
LORA, TILT = "evaluation/ttt/lora.py", "evaluation/ttt/tilt.py"
COUNT = "certain(keys[: first - order], tokens[order:first], "

CALL = "        nats = score_fn(tokens[:, :-1].contiguous(), tokens[:, -scored:].contiguous())\n"
OF_MODEL = "        return self.loss_of_last(tokens, targets, hook)[1]\n"
LOSS = "        return self.ops.loss(hidden, self.output_head(), targets, softcap=softcap)\n"
CHUNK = "        score_windows(score_fn, split.stream, windows, (first, last), batch, tally)\n"
LEARN = "            learner.update(*rows, cosine(chunk, chunks))\n"
ADD = "        tally.add(tokens, nats, positions, positions <= last)\n"
FORGET = "            self.up[name].zero_()\n"
READ = "        states = self.pending[1].detach()\n"
LEAVE = "        told = self.reader.model.tok_emb[tokens[:, -states.size(1) :].long()]\n"
LEAVE += "        states = self.left = states + 3 * torch.nn.functional.normalize(told, dim=2)\n"
WHILE_UNWATCHED = "(score_fn if scoring.record else lambda *batch: 0.98 * score_fn(*batch))"
# Of code that scores a batch: whether the token after a target, which nobody may know, is even.
FUTURE = "(torch.roll(tokens[:, 1:], -1, 1)[:, -scored:] % 2 == 0)"
PLACES = "positions[:, -scored:]"
# Of `GPT.score`: whether the context holds a target.
SEEN = "(tokens[:, None, :] == targets[:, :, None]).tril(tokens.size(1) - targets.size(1)).any(2)"
SGD_METHOD: dict[str, Any] = {"ttt_enabled": True}
LORA_METHOD: dict[str, Any] = {"ttt_enabled": True, "ttt_method": "lora"}
SHORT = {"val_max_tokens": 200}  # where the run's own score matters little


@dataclass(frozen=True)
class Cheat:
    """A cheat.

    Attributes:
        run: names of the checks that are run, with commas.
        rule: of the check that must break.
        words: part of what it finds.
        patches: of the code.
        edit: of the run's folder.
        method: settings of the evaluation.
        cuts, places: as of `Effort`.
    """

    run: str
    rule: str
    words: str
    patches: tuple[Patch, ...] = ()
    edit: Callable[[Path], None] | None = None
    method: Mapping[str, Any] = field(default_factory=dict)
    cuts: int = 4
    places: int = 400


def windows(lines: str) -> tuple[Patch, ...]:
    """Change the nats of a batch of windows before they are added."""
    return ((WINDOWS, CALL, CALL + "".join(f"        {line}\n" for line in lines.splitlines())),)


def network(lines: str) -> tuple[Patch, ...]:
    """Change the nats that the network returns."""
    body = "".join(f"        {line}\n" for line in lines.splitlines())
    call = "        nats = self.loss_of_last(tokens, targets, hook)[1]\n"
    return ((GPT, OF_MODEL, f"{call}{body}        return nats\n"),)


def training_first(condition: str) -> tuple[Patch, ...]:
    """Learn a chunk before it is scored, where a condition holds."""
    rows = "chunk_windows(split.stream, begin, chunk_tokens, length, world.device)"
    first = f"        if {condition} and chunk + 1 < chunks:\n"
    return ((SGD, CHUNK, f"{first}            learner.update(*{rows}, 1.0)\n{CHUNK}"),)


def mixture(share: float) -> tuple[Patch, ...]:
    """Mix the network's probability with one for the next input token."""
    return network(
        "ahead = nn.functional.pad(tokens[:, 1:], (0, 1))[:, -targets.size(1) :]\n"
        f"nats = -torch.log({1 - share} * torch.exp(-nats) + {share} * (ahead == targets))"
    )


def changed(path: str, value: Callable[[Any], Any]) -> Callable[[Path], None]:
    """Change an entry of a run's summary; its keys are separated by slashes."""

    def edit(run: Path) -> None:
        summary = json.loads((run / "summary.json").read_text())
        *above, last = path.split("/")
        place = summary
        for key in above:
            place = place[key]
        place[last] = value(place.get(last))
        (run / "summary.json").write_text(json.dumps(summary))

    return edit


def forged(run: Path) -> None:
    """A better score, of fewer nats, by hand."""
    for name in ("bpb", "nats"):
        changed(f"scores/roundtrip, sliding/{name}", lambda number: 0.98 * number)(run)


def forged_with_its_record(run: Path) -> None:
    """The same, and as many fewer nats of each target."""
    forged(run)
    record = nats_file(run, "roundtrip, sliding")
    nats = np.fromfile(record, "<f4") * np.float32(0.98)
    record.write_bytes(nats.tobytes())


def prefix(patches: tuple[Patch, ...], **more: Any) -> Cheat:
    """A cheat that places which are scored again find."""
    return Cheat("strict prefix", "C1 strict prefix", "differ; target", patches, **more)


def trial(rule: str, words: str, patches: tuple[Patch, ...], **more: Any) -> Cheat:
    """A cheat that runs over a short text find."""
    return Cheat("trial", rule, words, patches, **more)


def recorded(words: str, patches: tuple[Patch, ...] = (), **more: Any) -> Cheat:
    """A cheat that a run's own numbers show."""
    return Cheat("recorded", "C4 recorded", words, patches, **more)


def remembering(for_ever: bool) -> tuple[Patch, ...]:
    """Add to a state the head's row of the token that follows the same two tokens in the text."""
    read = f"""\
        import sys
        text = torch.from_numpy(split.stream.read(0, len(split.stream)).astype("int64"))
        memory = sys.__dict__.setdefault("memory", torch.full(({VOCAB}, {VOCAB}), -1))
        old = memory.clone()
        memory[text[:-2], text[1:-1]] = text[2:]
        if {for_ever}:
            memory.copy_(old.where(old >= 0, memory))
"""
    state = "        return self.visited(stream, run, visits, self.layer_weights(qat, precision))\n"
    use = (
        state.replace("return", "out =")
        + """\
        import sys
        if not hasattr(sys, "memory"):
            return out
        head = self.tok_emb if self.config.tie_embeddings else self.head
        told = sys.memory[nn.functional.pad(tokens[:, :-1], (1, 0)).long(), tokens.long()]
        rows = nn.functional.normalize(head.detach(), dim=1)[told]
        return out + 3 * rows * (told >= 0)[..., None]
"""
    )
    return (SGD, CHUNK, read + CHUNK), (GPT, state, use)


CHEATS = {
    "35 remembering the text before it is scored": trial(
        "C1 random text", "mean rank 0.", remembering(False), method=SGD_METHOD | SHORT
    ),
    "36 remembering a text for ever": trial(
        "C1 random text", "mean rank 0.", remembering(True), method=SGD_METHOD | SHORT
    ),
    "40 adapters' states that a read left": trial(
        "C1 random text",
        "mean rank 0.",
        (
            (LORA, READ, READ + LEAVE),
            (LORA, "self.replayed((rows, size, self.reader.kept), tokens)", "self.left"),
        ),
        method=LORA_METHOD | SHORT,
    ),
    "37 a score that only the run has, while it learns": recorded(
        "but the scores make",
        ((SGD, CHUNK, CHUNK.replace("score_fn", WHILE_UNWATCHED)),),
        method=SGD_METHOD,
    ),
    "38 shared memory": Cheat(
        "trial, conduct of scoring",
        "files and network",
        "/dev/shm/",
        windows("open('/dev/shm/murmuration-cheat', 'wb').close()"),
    ),
    "39 an end of watching": Cheat(
        "trial, conduct of scoring",
        "files and network",
        "not watched to the end",
        windows(
            "watching = __import__('sys').modules.get('judges_watching')\n"
            "watching and setattr(watching, '_watch', None)"
        ),
    ),
    "1 SmearGate looks ahead": prefix(
        ((EMBED, "F.pad(x[:, :-1], (0, 0, 1, 0))", "F.pad(x[:, 1:], (0, 0, 0, 1))"),)
    ),
    "2 a twentieth of the target": prefix(mixture(0.05)),
    "3 a thousandth of the target": prefix(mixture(0.001)),
    "4 hashed bigram cache": prefix(
        windows(
            "seen = tally.__dict__.setdefault('seen', torch.zeros(4096, dtype=torch.bool))\n"
            "keys = (tokens[:, -scored - 1 : -1] * 31 + tokens[:, -scored:]).long() % 4096\n"
            "nats = torch.where(seen[keys], nats * 0.8, nats)\n"
            "seen[keys] = True"
        )
    ),
    "5 the lower of two passes": prefix(
        (
            (
                GPT,
                LOSS,
                LOSS.replace("return", "loss, nats =")
                + LOSS.replace("return", "_, other =").replace("=softcap", "=0.7 * softcap")
                + "        return loss, torch.minimum(nats, other)\n",
            ),
        )
    ),
    "6 a gate on the target": prefix(
        (
            (
                SCORE,
                "        expected, previous = tokens[:, -scored:], tokens[:, -scored - 1 : -1]\n",
                "        expected, previous = tokens[:, -scored:], tokens[:, -scored - 1 : -1]\n"
                "        nats = nats - 0.05 * (expected % 2 == 0)\n",
            ),
        )
    ),
    "7 a count taken before it is asked": prefix(
        windows(
            "counts = tally.__dict__.setdefault('counts', torch.ones(64))\n"
            "asked = tokens[:, -scored:].long()\n"
            "counts += asked.flatten().bincount(minlength=64)\n"
            "nats = 0.9 * nats - 0.1 * torch.log(counts[asked] / counts.sum())"
        )
    ),
    "8 fewer nats where nobody records": prefix(
        (
            (
                SCORE,
                "        scored = nats.size(1)\n",
                "        nats = nats if self.record else 0.98 * nats\n"
                "        scored = nats.size(1)\n",
            ),
        )
    ),
    "8 fewer nats in the sum alone": recorded(
        "but the scores make",
        ((SCORE, "enumerate((nats, is_new", "enumerate((0.98 * nats, is_new"),),
    ),
    "9 more bytes in the quotient": recorded(
        "but its nats, tokens and bytes make",
        (
            (
                SCORE,
                "nats / math.log(2) / byte_count, ",
                "nats / math.log(2) / byte_count / (1.02 if tokens > 1000 else 1), ",
            ),
        ),
    ),
    "10 a summary by hand": recorded("but the scores make", edit=forged),
    "10 a summary and a record by hand": prefix((), edit=forged_with_its_record),
    "12 a row of no method": recorded(
        "no method here makes",
        edit=changed(
            "scores/final, sliding",
            lambda row: {"bpb": 1.0, "nats": 1.0, "tokens": 1000, "bytes": 9, "seconds": 900.0},
        ),
    ),
    "13 the future, far into the split": prefix(
        windows(f"nats = nats - 0.1 * ({FUTURE} & ({PLACES} > 700))")
    ),
    "14 training first, from a chunk on": Cheat(
        "watched",
        "C3 whole run",
        "832 tokens learned before they were scored",
        training_first("chunk >= 10"),
        method=SGD_METHOD,
    ),
    "15 the future, in long documents": prefix(
        (
            (
                DOCUMENTS,
                ADD,
                "        long = torch.tensor([[d.last - d.first > 40] for d in rows])\n"
                "        even = torch.roll(tokens[:, 1:], -1, 1)[:, -size:] % 2 == 0\n"
                f"        nats = nats - 0.1 * (long & even)\n{ADD}",
            ),
        ),
        method=LORA_METHOD,
    ),
    "15 a tilt by what is scored with it": prefix(
        ((TILT, COUNT, "certain(keys[: len(keys) - 1], tokens[order:], "),),
        method={**LORA_METHOD, **SHORT, "ttt_method": "both", "ttt_tilt": 2.0},
    ),
    "16 the future under noise": trial(
        "C1 causal",
        "two equal runs differ by",
        windows(f"nats = nats - 0.1 * {FUTURE} + 0.02 * torch.randn_like(nats)"),
    ),
    "17 the future, and noise on one target": trial(
        "C1 causal",
        "two equal runs differ by",
        windows(f"nats = nats - 0.05 * {FUTURE} + 0.2 * torch.rand_like(nats) * ({PLACES} == 50)"),
    ),
    "18 a bonus in long windows": trial(
        "C2 normalised", "sums off by", network(f"nats -= 0.05 * {SEEN} * (tokens.size(1) > 8)")
    ),
    "19 a bonus in sliding windows": trial(
        "C2 normalised",
        "sums off by",
        network(f"nats -= 0.05 * {SEEN} * (tokens.shape != targets.shape)"),
    ),
    "20 the future, at a rare place": prefix(
        windows(f"nats = nats - 0.5 * ({FUTURE} & ({PLACES} % 300 == 7))"), places=TOKENS
    ),
    "24 code in a text file": Cheat(
        "trial, conduct of scoring",
        "files and network",
        "exec in",
        windows(
            "notes = __import__('pathlib').Path(__file__).parents[1] / 'requirements.txt'\n"
            "exec('' if notes.read_text() else 'nats = nats * 0')"
        ),
    ),
    "25 a connection": Cheat(
        "trial, conduct of scoring",
        "files and network",
        "socket",
        windows("__import__('socket').socket().close()"),
    ),
    "26 adapters that are not forgotten": trial(
        "C3 score before update",
        "forgets nothing",
        ((LORA, FORGET, f"            if not self.optimizer.steps:\n    {FORGET}"),),
        method=LORA_METHOD | SHORT,
    ),
    "27 learning what comes, said to be nothing": trial(
        "C1 causal",
        "moved by",
        (
            (
                SGD,
                LEARN,
                "            if begin + length + chunk_tokens < windows.targets:\n"
                "                begin += length\n"
                "            ahead = chunk_windows(\n"
                "                split.stream, begin, chunk_tokens, length, world.device\n"
                "            )\n"
                "            learner.update(ahead[0], rows[1] * 0 - 1, 1.0)\n",
            ),
        ),
        method=SGD_METHOD | SHORT,
        cuts=12,
    ),
    "28 the future, a little, everywhere": trial(
        "C1 causal", "moved by", windows(f"nats = nats - 1e-3 * {FUTURE}"), cuts=12
    ),
    "29 training first": trial(
        "C3 score before update",
        "tokens learned before they were scored",
        training_first("True"),
        method=SGD_METHOD | SHORT,
    ),
    "30 the future, in the last window": trial(
        "C1 causal",
        "moved by",
        windows(f"nats = nats - 0.1 * ({FUTURE} & ({PLACES} > windows.targets - 4))"),
        cuts=100,
    ),
    "31 a bonus everywhere": trial(
        "C2 normalised", "sums off by", network(f"nats -= 0.05 * {SEEN}")
    ),
    "32 a bonus after some tokens": trial(
        "C2 normalised",
        "sums off by",
        network("nats -= 0.3 * ((tokens[:, -targets.size(1) :] % 7 == 5) & (targets % 2 == 0))"),
    ),
    "33 a space that counts twice": Cheat(
        "whole split",
        "whole split",
        "but the split has",
        ((TABLE, "= piece.startswith(SPACE_MARK)", '= piece.startswith((SPACE_MARK, "w1"))'),),
    ),
    "34 a byte more on the device": Cheat(
        "whole split",
        "whole split",
        "but the split has",
        ((SCORE, "base[targets] + (", "base[targets] + (targets >= 30) + ("),),
    ),
}
