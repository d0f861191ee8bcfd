"""Where settings come from, and what is refused."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from cyclopts import App

import train
from errors import InputError
from files import PROJECT
from settings import Settings
from settings.load import CONTEST_ALIASES, CONTEST_NAMES, load_settings
from settings.variants import accumulation_of, check_variants, stage_variants


def test_command_line_beats_environment_beats_config_beats_preset(tmp_path):
    config = tmp_path / "run.toml"
    config.write_text("num_layers = 7\nseed = 5\nmodel_dim = 256\ntrain_seq_len = 128\n")
    arguments = ["--preset", "tiny", "--config", str(config), "--num-layers", "5"]
    environment = {"NUM_LAYERS": "6", "SEED": "6"}
    settings = load_settings(arguments, environment)
    assert settings.num_layers == 5  # command line
    assert settings.seed == 6  # environment
    assert settings.model_dim == 256  # config file
    assert settings.num_heads == 4  # preset
    assert settings.adam_eps == 1e-8  # default


def test_every_contest_name_reaches_its_setting():
    for name in CONTEST_NAMES:
        assert name in Settings.model_fields
    given = {"MAX_WALLCLOCK_SECONDS": "12.5", "DATA_PATH": "/d", "TOKENIZER_PATH": "/t"}
    given |= {"VE_LAYERS": "3,4", "TIE_EMBEDDINGS": "0", "ITERATIONS": "9", "MODEL_DIM": "768"}
    settings = load_settings([], given)
    assert settings.wallclock == 12.5
    assert (settings.data, settings.tokenizer) == (Path("/d"), Path("/t"))
    assert settings.ve_layers == [3, 4]
    assert settings.tie_embeddings is False
    assert (settings.iterations, settings.model_dim) == (9, 768)
    assert set(CONTEST_ALIASES.values()) <= set(Settings.model_fields)


def test_unprefixed_foreign_variables_mean_nothing(monkeypatch):
    monkeypatch.setenv("DEVICE", "cuda")
    monkeypatch.setenv("BACKEND", "nonsense")
    monkeypatch.setenv("DTYPE", "nonsense")
    assert load_settings([], {}).device == "auto"


def test_our_prefixed_variable_beats_the_contest_name():
    assert load_settings([], {"MURMURATION_SEED": "3", "SEED": "4"}).seed == 3


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        (["--num-heads", "7"], {}, "num_heads 7 does not divide model_dim 512"),
        (["--num-kv-heads", "3"], {}, "num_kv_heads 3 does not divide num_heads 8"),
        (["--train-batch-tokens", "1000"], {}, "no multiple of train_seq_len 2048"),
        (["--seed", "-1"], {}, "seed"),
        (["--backend", "magic"], {}, "backend"),
        (["--seed", "18446744073709551616"], {}, "seed"),
        (["--seed", "99999999999999999999"], {}, "seed"),
        (["--mlp-mult", "1e308"], {}, "too large"),
        (["--data", "d\udcff"], {}, "setting data: d\udcff is no UTF-8 text; rename it"),
        (["--run-dir", "d\udcff"], {}, "setting run_dir: "),
        (["--qk-gain-init", "1e300"], {}, "qk_gain_init"),
        (["--matrix-lr", "1e308"], {}, "matrix_lr 1e+308: give 1e+30 or less"),
        (["--ve-dim", "9" * 30], {}, "give 1099511627776 or less"),
        (["--mlp-mult", "1e20"], {}, "mlp_mult 1e+20: give 2147483648.0 or less"),
        (["--swarm-windows", "9223372036854775807"], {}, "swarm_windows"),
        (["--stages", "[{until=1, window=9223372036854775807}]"], {}, "give 1099511627776 or less"),
        (["--model-dim", "1000000"], {}, "model_dim"),
        (["--stages", "[" * 3000], {}, "stages are a TOML list"),
        (["--stages", f"[{{until=1, window={1 << 70}}}]"], {}, "an integer has more than 19"),
        (["--nonsense", "1"], {}, "--nonsense"),
        (["--preset", "nope"], {}, "seed, sprint, tiny"),
        (["--config", "/does/not/exist"], {}, "/does/not/exist"),
        (["--eval-stride", "4096"], {}, "eval_stride 4096 exceeds eval_seq_len 2048"),
        (["--averaging", "none"], {}, "export_weights averaged needs averaging"),
        (["--averaging", "lawa", "--lean", "0.6"], {}, "lean needs averaging ema"),
        (["--readout", "--export-weights", "raw"], {}, "readout needs averaging ema and export"),
        (["--readout", "--averaging", "lawa"], {}, "readout needs averaging ema and export"),
        (["--warmup-steps", str(1 << 40)], {}, "setting warmup_steps: Input should be less than"),
        (["--ttt-epochs", "1001"], {}, "setting ttt_epochs: Input should be less than"),
        (["--ttt-lora-epochs", "1001"], {}, "setting ttt_lora_epochs: Input should be less than"),
        (["--sample-tokens", str(1 << 40)], {}, "setting sample_tokens: Input should be less"),
        (["--muon-backend-steps", "101"], {}, "setting muon_backend_steps: Input should be less"),
        (["--calibration-tokens", str(1 << 40)], {}, "setting calibration_tokens: Input should"),
        (["--run-id", "a", "--run-dir", "b"], {}, "run_id its name in runs/; give one"),
        (["--run-dir", "b"], {"RUN_ID": "a"}, "run_id its name in runs/; give one"),
        (["--edges", "FILE"], {}, "give both or neither"),
        ([], {"MURMURATION_NUM_LAYER": "3"}, "did you mean num_layers?"),
        ([], {"VE_LAYERS": "9,11"}, "ve_layers [11] do not exist"),
        (["--resume", "/no/run"], {}, "/no/run: no such run folder"),
        (["--bos-id", "1024"], {}, "bos_id 1024 is outside vocab_size 1024"),
        (["--bos-id", "9", "--vocab-size", "9", "--data", "d"], {}, "outside vocab_size 9"),
        (["--backend", "kernels", "--rope-dims", "24"], {}, "rope_dims a power of two, not 24"),
        (["--backend", "kernels", "--model-dim", "384"], {}, "no head dim 48"),
        (["--backend", "kernels", "--mlp-mult", "3.01"], {}, "1541"),
    ],
)
def test_impossible_settings_are_one_clear_line(arguments, environment, words):
    with pytest.raises(InputError) as refused:
        load_settings(arguments, environment)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_bos_is_of_the_tokenizer_s_vocabulary_if_the_run_has_one():
    for given in (["--data", "d"], ["--tokenizer", "gpt2"]):
        settings = load_settings(["--bos-id", "50256", *given], {})
        assert settings.vocabulary() == (None, 50256)
        assert settings.with_vocabulary(50257, 50256).architecture().bos_id == 50256


def test_unknown_setting_in_a_file_is_refused(tmp_path):
    config = tmp_path / "run.toml"
    config.write_text("matrix_lrr = 0.1\n")
    with pytest.raises(InputError, match="unknown setting matrix_lrr; did you mean matrix_lr"):
        load_settings(["--config", str(config)], {})


def test_an_unknown_setting_of_a_file_names_the_file(tmp_path: Path):
    """Runs of another commit were refused for a setting that nobody had typed."""
    (tmp_path / "settings.toml").write_text("matrix_lrr = 0.1\n")
    for option, value in (("config", tmp_path / "settings.toml"), ("resume", tmp_path)):
        with pytest.raises(InputError, match=r"settings\.toml: unknown setting matrix_lrr; did"):
            load_settings([f"--{option}", str(value)], {})


def test_a_preset_in_a_file_is_that_preset(tmp_path):
    """U5: the run was called tiny and had the numbers of preset seed."""
    config = tmp_path / "run.toml"
    config.write_text('preset = "tiny"\nseed = 5\n')
    settings = load_settings(["--config", str(config)], {})
    assert (settings.preset, settings.num_layers, settings.seed) == ("tiny", 4, 5)
    of_environment = load_settings([], {"MURMURATION_CONFIG": str(config)})
    assert of_environment == settings.model_copy(update={"config": config})
    above = load_settings(["--config", str(config), "--preset", "sprint"], {})
    assert (above.preset, above.num_layers, above.seed) == ("sprint", 11, 5)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("window = true", "window: give a number, not true"),
        ("parallel_from = false", "parallel_from: give a number, not false"),
        ("wallclock = true", "wallclock: give a number, not true"),
        ("ve_layers = [9, true]", "ve_layers: give a number, not true"),
        ("swarm_windows = [0, false]", "swarm_windows: give a number, not false"),
        ("stages = [{until=1, loops=false}]", "setting stages.0: loops: give a number, not false"),
        (
            "stages = '[{until=1, window=true}]'",
            "setting stages.0: window: give a number, not true",
        ),
    ],
)
def test_a_boolean_is_no_number(tmp_path, line, words):
    """It was taken as 1 or 0, such as a window of one token."""
    config = tmp_path / "run.toml"
    config.write_text(line)
    with pytest.raises(InputError) as refused:
        load_settings(["--config", str(config)], {})
    assert str(refused.value) == words


def test_a_number_is_a_boolean(tmp_path):
    config = tmp_path / "run.toml"
    config.write_text("ve_enabled = 0\nstages = [{until=1, documents=1}]\n")
    settings = load_settings(["--config", str(config)], {})
    assert (settings.ve_enabled, settings.stages[0].documents) == (False, True)


@pytest.mark.parametrize("line", ['resume = "runs/x"', 'config = "other.toml"'])
def test_a_name_that_means_nothing_in_a_file_is_refused(tmp_path, line):
    config = tmp_path / "run.toml"
    config.write_text(line)
    with pytest.raises(InputError, match=f"{line.split()[0]} means nothing in a file"):
        load_settings(["--config", str(config)], {})


def a_run(folder: Path) -> str:
    """A run's folder, as far as its settings go."""
    folder.mkdir()
    (folder / "settings.toml").write_text('preset = "tiny"\nnum_layers = 12\nwallclock = 8.0\n')
    return str(folder)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--matrix-lr", "0.5"], "setting matrix_lr: "),
        (["--seed", "5"], "setting seed: "),
        (["--iterations", "20"], "setting iterations: "),
        (["--quant-min-step", "0"], "setting quant_min_step: "),
        (["--no-swarm"], "setting swarm: "),
        (["--preset", "tiny"], "--preset beside --resume"),
        (["--config", "x.toml"], "--config beside --resume"),
        (["--run-dir", "x"], "--run-dir beside --resume"),
    ],
)
def test_a_resumed_run_keeps_what_changes_its_weights(tmp_path, given, words):
    """U2: these were obeyed or ignored without a word."""
    with pytest.raises(InputError, match=words) as refused:
        load_settings(["--resume", a_run(tmp_path / "run"), *given], {})
    assert "\n" not in str(refused.value)


def test_a_resumed_run_may_be_scored_and_logged_in_another_way(tmp_path):
    run = a_run(tmp_path / "run")
    given = ["--eval-stride", "8", "--train-log-every", "3", "--data", "/d", "--seed", "1337"]
    settings = load_settings(["--resume", run, *given], {"NUM_LAYERS": "7"})
    assert (settings.eval_stride, settings.train_log_every, settings.num_layers) == (8, 3, 12)


def test_the_environment_resumes_as_the_option_does(tmp_path):
    """U2: a run of 8 s went on with the preset's 180 s."""
    run = a_run(tmp_path / "run")
    of_environment = load_settings([], {"MURMURATION_RESUME": run, "NUM_LAYERS": "7"})
    assert of_environment == load_settings(["--resume", run], {})
    assert (of_environment.wallclock, of_environment.num_layers) == (8.0, 12)


@pytest.mark.parametrize(("ranks", "parts"), [(1, 8), (2, 4), (3, 4), (4, 2), (8, 1)])
def test_accumulation_keeps_micro_batches_within_their_limit(ranks, parts):
    settings = load_settings([], {})
    assert accumulation_of(stage_variants(settings)[0], settings, ranks) == parts
    tokens = settings.train_batch_tokens // ranks // parts
    assert tokens <= settings.micro_batch_tokens
    assert tokens % settings.train_seq_len == 0


def test_ranks_that_cannot_share_the_batch_are_refused_with_one_that_works():
    with pytest.raises(InputError, match="5 ranks cannot share; try 788480") as refused:
        check_variants(load_settings([], {}), 5)
    assert "786432" in str(refused.value)
    check_variants(Settings(train_batch_tokens=788_480), 5)


def test_presets_are_valid_and_tiny_fits_two_cores():
    for preset in ("seed", "sprint", "frontier", "frontier-sprint", "tiny"):
        load_settings(["--preset", preset], {})
    assert load_settings(["--preset", "tiny"], {}).wallclock <= 300


def test_help_is_complete_and_quick_from_any_folder(tmp_path):
    began = time.monotonic()
    shown = subprocess.run(
        [sys.executable, PROJECT / "train.py", "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert time.monotonic() - began < 5
    for name in Settings.model_fields:
        assert f"--{name.replace('_', '-')}" in shown


@pytest.mark.parametrize("arguments", [["--help"], ["--itertions", "3"], ["--model-dim", "x"]])
def test_help_and_refusals_import_neither_torch_nor_numpy(tmp_path, arguments):
    script = str(PROJECT / "train.py")
    code = (
        "import os, runpy, sys\n"
        "os._exit = sys.exit\n"  # a failing rank ends without the interpreter's own end
        f"sys.path.insert(0, {str(PROJECT)!r}); sys.argv = ['train.py', *{arguments!r}]\n"
        "try:\n"
        f"    runpy.run_path({script!r}, run_name='__main__')\n"
        "except SystemExit:\n"
        "    assert not {'torch', 'numpy'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)


def test_help_resolves_the_options_once(monkeypatch, capsys):
    resolved = []
    assemble = App.assemble_argument_collection

    def counted(app: App, **options: Any) -> Any:
        resolved.append(options)
        return assemble(app, **options)

    monkeypatch.setattr(App, "assemble_argument_collection", counted)
    assert train.main(["--preset", "tiny", "--help"]) == 0
    assert "--num-layers" in capsys.readouterr().out
    assert len(resolved) == 1


@pytest.mark.parametrize("given", ["abc", "0", "-1", "", "9" * 30])
def test_a_number_of_ranks_that_torchrun_does_not_set_is_one_line(given, monkeypatch, capsys):
    """F9: these ended in tracebacks."""
    monkeypatch.setenv("WORLD_SIZE", given)
    assert train.main(["--preset", "tiny"]) == 2
    assert capsys.readouterr().err == (
        f"error: WORLD_SIZE={given}: unset it, or start train.py by torchrun\n"
    )


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK"])
@pytest.mark.parametrize("given", ["", "x", "-1"])
def test_a_rank_that_torchrun_does_not_set_is_one_line(name, given, monkeypatch, capsys):
    """U10: an empty LOCAL_RANK ended in a traceback."""
    monkeypatch.setenv(name, given)
    assert train.main(["--preset", "tiny"]) == 2
    said = f"error: {name}={given}: unset it, or start train.py by torchrun\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("tokens", [1125899906842624, (1 << 40) - 2048])
def test_a_huge_batch_is_refused_or_split_at_once(tokens):
    """F10: the divisor was looked for one by one, for hours."""
    began = time.monotonic()
    try:
        check_variants(load_settings(["--train-batch-tokens", str(tokens)], {}), 1)
    except InputError as error:
        assert "give 1099511627776 or less" in str(error)
    assert time.monotonic() - began < 5
