"""``train.log`` says in text what the log has, and what was printed."""

import errno
from pathlib import Path

from runtime.run_folder import RunFolder
from settings.load import load_settings


def test_the_text_has_steps_scores_and_what_was_printed(tmp_path):
    run = RunFolder.create(tmp_path / "r", "x", {})
    run.text.say("network   5 parameters \udcff")
    run.log("captured", seconds=1.0)
    run.log("step", step=3, elapsed=0.5, loss=4.5, gradient_norm=1.0)
    run.log("decision", step=3, lever="lr_factor", value=0.5)
    scores = {"nats": 3.5, "bpb": 1.25, "seconds": 0.25, "weights": "raw", "method": "plain"}
    run.log("validation", step=3, elapsed=2.0, **scores)
    run.log("checkpoint", step=3, elapsed=2.0)
    run.close()
    again = RunFolder.reopen(tmp_path / "r")
    again.truncate_log(3)
    again.log("step", step=4, elapsed=3.0, loss=float("nan"))
    again.close()
    assert (tmp_path / "r" / "train.log").read_text().splitlines() == [
        "network   5 parameters \\udcff",
        "step:3 train_loss:4.5000 train_time:500ms step_avg:250.00ms",
        "step:3 lr_factor:0.5",
        "step:3 val_loss:3.5000 val_bpb:1.2500 train_time:2000ms eval_time:250ms "
        "weights:raw method:plain",
        "step:3 checkpoint train_time:2000ms",
        "resumed after step 3",
        "step:4 train_loss:nan train_time:3000ms step_avg:1000.00ms",
    ]


def test_a_full_disk_costs_the_line(tmp_path, monkeypatch):
    run = RunFolder.create(tmp_path / "r", "x", {})

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    run.text.say("lost")
    run.log("step", step=1, elapsed=0.1, loss=1.0)
    assert run.lost_lines == 0


def test_the_contest_s_run_id_names_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = load_settings(["--preset", "tiny"], {"RUN_ID": "../my run:1"}).run_id
    paths = [RunFolder.create(None, "tiny-seed1", {}, run_id=given).path for _ in range(2)]
    assert paths == [Path("runs/my-run-1"), Path("runs/my-run-1-2")]
    assert RunFolder.create(None, "tiny-seed1", {}, run_id="..").path.name.endswith("-tiny-seed1")
