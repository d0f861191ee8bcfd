"""Where settings come from: command line, environment, TOML file, preset, in this order.

A value from an earlier source replaces one from a later source; what no source has is the default
of its declaration. Settings that parameter-golf's scripts know are also read from the environment
under the names that those use (``NUM_LAYERS``, ``MAX_WALLCLOCK_SECONDS``, ...).
"""

import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from errors import InputError
from reading.structured import read_toml as read_table
from settings import Settings
from settings.artifact import ArtifactSettings
from settings.evaluation import EvaluationSettings
from settings.options import PRESETS, Given, parse
from settings.ttt import TttSettings
from settings.variants import reachable

ENV_PREFIX = "MURMURATION_"

# Names of parameter-golf's scripts that differ from ours, and those that we share, in upper case.
CONTEST_ALIASES = {
    "DATA_PATH": "data",
    "TOKENIZER_PATH": "tokenizer",
    "MAX_WALLCLOCK_SECONDS": "wallclock",
}
CONTEST_NAMES = """
    run_id seed iterations warmdown_iters warmup_steps train_batch_tokens train_seq_len eval_seq_len
    eval_stride val_batch_size val_loss_every train_log_every vocab_size num_layers num_kv_heads
    model_dim num_heads mlp_mult tie_embeddings rope_base rope_dims logit_softcap qk_gain_init
    embed_lr head_lr tied_embed_lr tied_embed_init_std matrix_lr scalar_lr muon_momentum
    muon_backend_steps muon_momentum_warmup_start muon_momentum_warmup_steps muon_wd adam_wd
    embed_wd min_lr beta1 beta2 adam_eps grad_clip_norm mtp_num_heads mtp_loss_weight lawa_k
    lawa_freq bigram_vocab_size bigram_dim xsa_last_n ln_scale late_qat_threshold ve_enabled ve_dim
    ve_layers gated_attention value_residual ttt_enabled ttt_lr ttt_epochs ttt_chunk_tokens
    ttt_momentum ttt_batch_seqs ttt_grad_clip ttt_freeze_blocks ttt_lora_rank ttt_lora_lr
""".split()  # noqa: SIM905

# What a resumed run may have otherwise, because its weights do not depend on it, or no more than by
# the order of sums. ``data`` may lie elsewhere; its content is compared.
FREE = {*EvaluationSettings.model_fields, *TttSettings.model_fields, *ArtifactSettings.model_fields}
FREE -= {"quant_min_step", "calibration_tokens"}
FREE |= {"resume", "data", "tokenizer", "edges", "device", "backend", "attention_backend"}
FREE |= {"micro_batch_tokens", "checkpoint_minutes", "train_log_every"}


def load_settings(
    arguments: Sequence[str], environment: Mapping[str, str] = os.environ
) -> Settings:
    """Return the settings of a command line, from all sources, checked.

    Raises:
        InputError: unknown or impossible setting, missing preset or file; one line.
    """
    return merge(parse(arguments), environment)


def merge(
    given: Given,
    environment: Mapping[str, str] = os.environ,
    beneath: Mapping[str, object] = {},
) -> Settings:
    """Return the settings of what a command line gives, from all sources, checked.

    A run that is resumed has the settings that it was started with, as `resumed` says. A TOML file
    may name the preset that it changes.

    Args:
        given: by the command line.
        environment: of the process.
        beneath: settings that replace the preset's only.

    Raises:
        InputError: unknown or impossible setting, missing preset or file; one line.
    """
    from_environment = environment_settings(environment)
    if run := given.get("resume") or from_environment.get("resume"):
        return resumed(Path(str(run)), {**joined(given), "resume": run})
    config = given.get("config") or from_environment.get("config")
    of_file = read_toml(Path(str(config))) if config else {}
    for name in {"resume", "config"} & of_file.keys():
        raise InputError(f"{config}: {name} means nothing in a file; give --{name}")
    named = (source.get("preset") for source in (given, from_environment, of_file))
    preset = read_preset(str(next(filter(None, named), "seed")))
    layers = [preset, beneath, of_file, from_environment, joined(given)]
    return validated({name: value for layer in layers for name, value in layer.items()})


def resumed(run: Path, given: Mapping[str, object]) -> Settings:
    """Return the settings of a run that goes on: its own, and what changes no result.

    Args:
        run: its folder.
        given: by the command line.

    Raises:
        InputError: a setting is given that would change the weights, or as `merge`.
    """
    for name in ("preset", "config", "run_dir"):
        if given.get(name) is not None:
            option = name.replace("_", "-")
            raise InputError(f"--{option} beside --resume: a resumed run keeps its own; leave it")
    if not run.is_dir():
        raise InputError(f"{run}: no such run folder")
    kept = read_toml(run / "settings.toml")
    before, after = validated(kept), validated({**kept, **given})
    for name in given:
        if name not in FREE and getattr(before, name) != getattr(after, name):
            raise InputError(
                f"setting {name}: {run} was started with {getattr(before, name)}, and a resumed "
                "run keeps what changes its weights; leave it out, or start a new run"
            )
    return after


def validated(values: Mapping[str, object]) -> Settings:
    """Return settings, checked. Raises InputError: unknown or impossible setting; one line."""
    check_names(values)
    check_texts(values)
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        raise InputError(describe(error)) from None
    except OverflowError:
        raise InputError("a setting of the network is too large; choose a smaller one") from None
    reachable(settings)
    return settings


def joined(given: Given) -> dict[str, object]:
    """Return what is given with each list as a text with commas, as the environment has it."""
    return {
        name: ",".join(value) if isinstance(value, list) else value for name, value in given.items()
    }


def environment_settings(environment: Mapping[str, str]) -> dict[str, object]:
    """Return the settings in environment variables, ours (prefixed) over the contest's."""
    names = CONTEST_ALIASES | {name.upper(): name for name in CONTEST_NAMES}
    found = {names[key]: value for key, value in environment.items() if key in names}
    ours = {
        key.removeprefix(ENV_PREFIX).lower(): value
        for key, value in environment.items()
        if key.startswith(ENV_PREFIX)
    }
    return {**found, **ours}


def read_preset(name: str) -> dict[str, object]:
    """Return a preset's settings."""
    path = PRESETS / f"{name}.toml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in PRESETS.glob("*.toml")))
        raise InputError(f"preset {name!r} does not exist; there are: {known}")
    return {"preset": name} | read_toml(path)


def read_toml(path: Path) -> dict[str, object]:
    """Return the settings of a flat TOML file."""
    found = read_table(path, "give a TOML file of settings")
    check_names(found, f"{path}: ")
    return found


def check_names(given: Mapping[str, object], source: str = "") -> None:
    """Refuse names that are no setting, with the nearest that is, and say whose they are."""
    for name in given:
        if name not in Settings.model_fields:
            near = difflib.get_close_matches(name, Settings.model_fields, n=1)
            hint = f"; did you mean {near[0]}?" if near else "; train.py --help lists all"
            raise InputError(f"{source}unknown setting {name}{hint}")


def check_texts(given: Mapping[str, object]) -> None:
    """Refuse names of files that are not UTF-8, which no text file or terminal can show."""
    for name, value in given.items():
        try:
            str(value).encode()
        except UnicodeEncodeError:
            raise InputError(f"setting {name}: {value} is no UTF-8 text; rename it") from None


def describe(error: ValidationError) -> str:
    """Return the first error of a validation, as one line."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    given = "" if isinstance(first["input"], dict) else f", not {first['input']!r}"
    return f"setting {where}: {message}{given}" if where else message
