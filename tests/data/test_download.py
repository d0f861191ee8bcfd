"""A folder that looks like the hub's is brought over, resumed, extended and checked."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from data.download import download, fetch_from_hub, no_answer
from data.folder import read_manifest
from data.inspection import examine
from data.shards import TokenStream, read_header, shard_name, write_shard
from errors import InputError
from files import PROJECT


class Hub:
    """A local copy of the hub's layout, which counts what is fetched from it."""

    def __init__(self, root: Path, model_path: Path) -> None:
        self.root = root
        self.fetched: list[str] = []
        catalogue = {
            "datasets": [
                {
                    "name": f"fineweb10B_{variant}",
                    "tokenizer_name": f"{variant}_bpe",
                    "stats": {"files_train": 3, "files_val": 1},
                }
                for variant in ("sp1024", "sp4096")
            ],
            "tokenizers": [
                {"name": f"{variant}_bpe", "model_path": f"tokenizers/{variant}.model"}
                for variant in ("sp1024", "sp4096")
            ],
        }
        for variant in ("sp1024", "sp4096"):
            folder = root / "datasets" / "datasets" / f"fineweb10B_{variant}"
            folder.mkdir(parents=True)
            for index in range(3):
                write_shard(folder / shard_name("train", index), np.full(9, index, np.uint16))
            write_shard(folder / shard_name("val", 0), np.arange(6, dtype=np.uint16))
        (root / "datasets" / "tokenizers").mkdir()
        for variant in ("sp1024", "sp4096"):
            shutil.copy(model_path, root / "datasets" / "tokenizers" / f"{variant}.model")
        (root / "datasets" / "manifest.json").write_text(json.dumps(catalogue))

    def fetch(self, remote: str) -> Path:
        path = self.root / remote
        if not path.is_file():
            raise InputError(f"the hub has no {remote}")
        self.fetched.append(path.name)
        return path


@pytest.fixture
def hub(tmp_path: Path, model_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.delenv("MATCHED_FINEWEB_REPO_ID", raising=False)
    monkeypatch.delenv("MATCHED_FINEWEB_REMOTE_ROOT_PREFIX", raising=False)
    return Hub(tmp_path / "hub", model_path)


def bring(hub: Hub, out: Path, *, shards: int = 2, variant: str = "sp1024") -> list[str]:
    """Download and return the names fetched, the hub's manifest left out."""
    hub.fetched.clear()
    download(variant, shards, out, hub.fetch, Console(quiet=True))
    return [name for name in hub.fetched if name != "manifest.json"]


def test_the_folder_is_complete_and_checked(hub: Hub, tmp_path: Path):
    out = tmp_path / "out"
    bring(hub, out)
    names = {path.name for path in out.iterdir()}
    shards = {shard_name("train", 0), shard_name("train", 1), shard_name("val", 0)}
    assert names == shards | {"tokenizer.model", "manifest.json"}
    assert TokenStream.open(out, "train", 400).read(0, 18).tolist() == [0] * 9 + [1] * 9
    assert [split.tokens for split in examine(out, None).splits] == [18, 6]


def test_a_finished_folder_is_not_fetched_again_but_can_grow(hub: Hub, tmp_path: Path):
    bring(hub, tmp_path / "out")
    assert bring(hub, tmp_path / "out") == []
    assert bring(hub, tmp_path / "out", shards=1) == []
    assert bring(hub, tmp_path / "out", shards=3) == [shard_name("train", 2)]
    manifest = read_manifest(tmp_path / "out")
    assert manifest is not None
    assert len(manifest["splits"]["train"]["files"]) == 3


def test_an_interrupted_download_goes_on(hub: Hub, tmp_path: Path):
    out = tmp_path / "out"
    absent = hub.root / "datasets/datasets/fineweb10B_sp1024" / shard_name("train", 1)
    absent.rename(tmp_path / "aside")
    with pytest.raises(InputError, match="the hub has no"):
        bring(hub, out)
    (tmp_path / "aside").rename(absent)
    (out / shard_name("val", 0)).unlink()
    (out / shard_name("val", 0)).write_bytes(b"half")
    assert bring(hub, out) == [shard_name("val", 0), shard_name("train", 1)]
    assert read_header(out / shard_name("val", 0)) == 6


def test_variants_are_never_mixed(hub: Hub, tmp_path: Path):
    out = tmp_path / "out"
    (hub.root / "datasets/datasets/fineweb10B_sp1024" / shard_name("train", 0)).unlink()
    with pytest.raises(InputError, match="the hub has no"):
        bring(hub, out)
    with pytest.raises(InputError, match="holds something else"):
        bring(hub, out, variant="sp4096")


def test_a_shard_that_arrives_damaged_is_not_placed(hub: Hub, tmp_path: Path):
    shard = hub.root / "datasets/datasets/fineweb10B_sp1024" / shard_name("train", 0)
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(InputError, match="arrived damaged"):
        bring(hub, tmp_path / "out")
    assert not (tmp_path / "out" / shard.name).exists()


@pytest.mark.parametrize(
    ("variant", "shards", "message"),
    [
        ("byte260", 1, "give sp1024"),
        ("sp1024", 0, "--train-shards 0"),
        ("sp1024", 4, "has 3 training"),
        ("sp512", 1, "variant 'sp512': give sp1024, sp4096 or sp8192"),
    ],
)
def test_what_the_hub_lacks_is_one_line(
    hub: Hub, tmp_path: Path, variant: str, shards: int, message: str
):
    with pytest.raises(InputError, match=message):
        bring(hub, tmp_path / "out", variant=variant, shards=shards)
    assert not (tmp_path / "out").exists()


def test_another_repository_may_have_other_variants(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MATCHED_FINEWEB_REPO_ID", "someone/corpus")
    said = r"no fineweb10B_sp512 among its datasets \(it has fineweb10B_sp1024"
    with pytest.raises(InputError, match=said):
        bring(hub, tmp_path / "out", variant="sp512")


@pytest.mark.parametrize("prefix", ["elsewhere/deep", ""])
def test_the_contests_environment_moves_the_root(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefix: str
):
    monkeypatch.setenv("MATCHED_FINEWEB_REPO_ID", "someone/corpus")
    monkeypatch.setenv("MATCHED_FINEWEB_REMOTE_ROOT_PREFIX", prefix)
    moved = tmp_path / "moved" / prefix
    shutil.copytree(hub.root / "datasets", moved)
    hub.root = tmp_path / "moved"
    assert len(bring(hub, tmp_path / "out")) == 4
    manifest = read_manifest(tmp_path / "out")
    assert manifest is not None
    assert manifest["source"]["repository"] == "someone/corpus"


def test_a_hub_out_of_reach_is_one_line(tmp_path: Path):
    command = [sys.executable, "-m", "data", "download", "--variant", "sp1024", "--out"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")}
    done = subprocess.run(
        [*command, str(tmp_path / "out")],
        capture_output=True,
        text=True,
        env=environment,
        cwd=PROJECT,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: cannot fetch datasets/manifest.json from willdepueoai/")
    assert done.stderr.count("\n") == 1


def test_a_machine_without_network_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """It took 24 s and twelve lines of retries."""
    pytest.importorskip("huggingface_hub")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    no_answer.cache_clear()
    begun = time.monotonic()
    with pytest.raises(InputError, match=r"cannot fetch x from .*127.0.0.1:9 does not answer"):
        fetch_from_hub("x")
    no_answer.cache_clear()
    assert time.monotonic() - begun < 10
    assert caplog.text == ""
