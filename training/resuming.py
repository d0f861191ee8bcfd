"""A new run's folder, or that of a resumed run with its checkpoint."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from errors import InputError
from runtime import checkpoint
from runtime.records import trained_on
from runtime.run_folder import RunFolder
from settings import Settings
from swarm.steering import Steering
from training.pace import FIRST_STEP, TRAINED, Start, budget_of
from training.trainer import Trainer

COPY = "copy."  # in a checkpoint's names of tensors: the swarm's copies, by slot


def open_folder(settings: Settings, data: str) -> RunFolder:
    """Return the folder of a new run, or of the run that is resumed.

    Args:
        settings: of the run.
        data: fingerprint of what it reads; empty: unknown.

    Raises:
        InputError: it cannot be made, is no run folder, or its run has read other data.
    """
    if settings.resume:
        check_same_data(trained_on(settings.resume), data, settings.resume)
        return RunFolder.reopen(settings.resume)
    name = f"{settings.preset}-seed{settings.seed}"
    return RunFolder.create(settings.run_dir, name, kept(settings), data, settings.run_id)


def check_same_data(before: str, now: str, run: Path) -> None:
    """Raise InputError where two fingerprints differ; an empty one is unknown."""
    if before and now and before != now:
        raise InputError(
            f"{run}: was trained on other data or with another tokenizer; give the same --data, "
            "or start a new run"
        )


def kept(settings: Settings) -> dict[str, object]:
    """Return the settings that a run's folder holds."""
    found = settings.model_dump(exclude={"run_dir", "run_id", "resume", "config"})
    for name in ("data", "tokenizer", "edges", "swarm_yoke", "reference_clock"):
        found[name] = found[name] and str(found[name].resolve())
    if settings.kg_scores:
        from knowledge.scores import BUILT_IN

        if settings.kg_scores not in BUILT_IN:
            found["kg_scores"] = str(Path(settings.kg_scores).resolve())
    return found


def load_checkpoint(
    run: Path | None, trainer: Trainer, steering: Steering | None, folder: RunFolder | None
) -> Start:
    """Load the newest checkpoint of ``run``; return where its steps go on.

    Without a ``run`` they start.

    Raises:
        InputError: there is none, it is damaged, or does not fit.
    """
    if run is None:
        return FIRST_STEP
    path = checkpoint.latest(run / "checkpoints")
    if path is None:
        raise InputError(f"{run} has no checkpoint to go on from; start a new run")
    tensors, state = checkpoint.load(path, trainer.world.device)
    check_same_data(state.get("data", ""), trained_on(run), path)
    if "probe" in state and not trainer.probes:  # 0 once meant: as agents need
        raise InputError(f"{path} has probes; take probes = 0 out of {run / 'settings.toml'}")
    copies = taken_out(tensors)
    trainer.state.load(tensors, with_tokens(state, trainer.settings.train_seq_len))
    if steering and "swarm" in state:
        steering.load(state["swarm"])
    if not trainer.world.is_main:  # rank 0 has the sum over ranks
        trainer.loader.noise = 0
    if folder:
        folder.truncate_log(state["step"])
        folder.change_settings(kept(trainer.settings))
    trained = state.get(TRAINED) == budget_of(trainer.settings)
    before = state.get("pace", ()), trained, state.get("course", {})
    others = {"probe": state.get("probe", {}), "others_gib": state.get("others_gib", 0.0)}
    return Start(state["step"], state["elapsed"], *before, **others, copies=copies)


def with_copies(
    tensors: dict[str, Tensor], copies: Mapping[float, Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """Return a checkpoint's tensors with those of the swarm's copies, by slot."""
    named = {
        f"{COPY}{slot:g}.{name}": tensor
        for slot, copy in copies.items()
        for name, tensor in copy.items()
    }
    return tensors | named


def taken_out(tensors: dict[str, Tensor]) -> dict[float, dict[str, Tensor]]:
    """Take the copies, by slot, out of a checkpoint's tensors; old checkpoints have none."""
    copies: dict[float, dict[str, Tensor]] = {}
    for name in [name for name in tensors if name.startswith(COPY)]:
        slot, _, own = name.removeprefix(COPY).partition(".")
        copies.setdefault(float(slot), {})[own] = tensors.pop(name)
    return copies


def with_tokens(numbers: dict[str, int], seq_len: int) -> dict[str, int]:
    """Return a checkpoint's numbers with the position in tokens; old ones count windows."""
    if "position" not in numbers:
        return numbers
    return numbers | {"tokens": numbers["position"] * seq_len}
