"""A contest's file that lacks what an option needs says so at once."""

from pathlib import Path

import pytest

from artifact.submission.packed import pack
from files import PROJECT
from settings import Settings
from settings.load import load_settings
from settings.parts import check_parts, parts_of
from tests.artifact.submission.runs import python

OPTIONS = {
    "skip-noise": "--skip-noise",
    "sample-every": "--sample-every 1",
    "lqer-rank": "--lqer-rank 1",
    "attention-backend": "--attention-backend flash --device cuda",
    "stages": '--stages [{until=1,precision="fp8"}]',
    "bigram-rows": "--bigram-rows mixed",
    "kg-scores": "--kg-scores wordnet",
    "swarm and --swarm-agents": "--swarm",
    "swarm-agents": "--swarm --swarm-agents frontier",
    "swarm-trials": "--swarm --swarm-agents frontier --swarm-trials 4",
    "late-qat-threshold": "--swarm --late-qat-threshold 0.1",
    "probes": "--probes 3",
    "readout": "--readout",
}


def beside_no_swarm(options: str) -> Settings:
    return load_settings(options.split(), {"MURMURATION_SWARM": "false"})


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("packed") / "train_gpt.py"
    file.write_bytes(pack(PROJECT, Settings(swarm=False)))
    return file


@pytest.mark.parametrize("options", OPTIONS.values())
def test_an_option_whose_code_is_left_out_is_one_line(script: Path, options: str) -> None:
    done = python(script, *options.split(), "--data", "/absent", cwd=Path("/"))
    wanted = parts_of(beside_no_swarm(options))
    option = next(option for option, needed in wanted.values() if needed)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("error: this file has no ") and f"leave --{option} out" in line


def test_a_file_of_the_other_set_names_both_options_that_ask_for_agents(tmp_path: Path) -> None:
    """It said to leave --swarm out, which nobody had given."""
    file = tmp_path / "train_gpt.py"
    file.write_bytes(pack(PROJECT, Settings(swarm_agents="frontier")))
    done = python(file, "--swarm-agents", "seed", "--data", "/absent", cwd=Path("/"))
    said = "error: this file has no swarm.agents.seed; leave --swarm and --swarm-agents out\n"
    assert (done.returncode, done.stderr) == (2, said)


def test_a_tokenizer_whose_code_is_left_out_is_one_line(script: Path, builtin: Path) -> None:
    done = python(script, "--tokenizer", "gpt2", "--data", str(builtin), cwd=Path("/"))
    said = "error: gpt2: this file reads SentencePiece models only; give data of one\n"
    assert (done.returncode, done.stderr) == (2, said)


@pytest.mark.parametrize(
    ("options", "fault"),
    [("", "no data: give --data DIR"), ("--data /absent", "/absent: no such data folder")],
)
def test_a_file_without_data_names_the_project_s_command(
    script: Path, options: str, fault: str
) -> None:
    """It advised `python -m data`, which it does not hold."""
    done = python(script, *options.split(), cwd=Path("/"))
    said = f"error: {fault}; the project's `python -m data builtin` makes one\n"
    assert (done.returncode, done.stderr) == (2, said)


def test_each_part_is_there_in_the_project_and_some_option_needs_it() -> None:
    parts = parts_of(Settings(swarm=False)).values()
    assert not any(wanted for _, wanted in parts) and {option for option, _ in parts} == {*OPTIONS}
    for options in OPTIONS.values():
        check_parts(beside_no_swarm(options))
