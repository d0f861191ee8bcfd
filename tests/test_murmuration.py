"""``murmuration``: one command for every program, from any folder, and no name but its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from files import PROJECT
from murmuration import COMMANDS
from tests.small import clean_environment

NEEDED = ("pyproject.toml", "murmuration.py", "requirements.txt", "LICENSE")
PACKAGES = ("artifact", "data", "evaluation", "kernels", "knowledge", "model", "runtime", "swarm")


def called(*arguments: str, script: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", str(script), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60)


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """Return a folder with a checkout, and a folder of packages that has it installed."""
    pytest.importorskip("setuptools", minversion="77")
    place = tmp_path_factory.mktemp("installed")
    checkout = place / "checkout"
    checkout.mkdir()
    for path in PROJECT.iterdir():
        if path.name in NEEDED:
            (checkout / path.name).write_bytes(path.read_bytes())
        elif path.name in {*PACKAGES, "bench", "settings", "reading"} or path.suffix == ".py":
            (checkout / path.name).symlink_to(path)
    options = "--quiet --no-build-isolation --no-deps --no-index --disable-pip-version-check"
    command = [sys.executable, "-m", "pip", "install", *options.split()]
    subprocess.run([*command, "--prefix", str(place), "-e", str(checkout)], check=True)
    (site,) = place.glob("lib/python*/site-packages")
    start = f"import site, sys\nsite.addsitedir({str(site)!r})\n"
    (place / "command.py").write_text(start + "from murmuration import main\nsys.exit(main())\n")
    (place / "names.py").write_text(
        start + "import importlib.util as u\nimport murmuration\n"
        f"print([name for name in {PACKAGES!r} if u.find_spec(name)])\n"
    )
    return place


def test_an_editable_install_gives_a_command_that_works_anywhere(installed, tmp_path):
    assert os.access(installed / "bin" / "murmuration", os.X_OK)
    done = called("train", script=installed / "command.py", cwd=tmp_path)
    assert done.returncode == 2
    makes = "the project's `murmuration data builtin` makes one"
    assert done.stderr == f"error: no data: give --data DIR; {makes}\n"


def test_an_install_takes_no_name_of_another_package(installed, tmp_path):
    done = called(script=installed / "names.py", cwd=tmp_path)
    assert done.stdout == "[]\n"


def test_a_copy_without_the_project_says_how_to_install(tmp_path):
    copy = tmp_path / "murmuration.py"
    copy.write_bytes((PROJECT / "murmuration.py").read_bytes())
    done = called("data", script=copy, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "error: install it from a checkout that stays: pip install -e .\n"


def test_without_a_known_command_all_are_listed(tmp_path):
    listed = called(script=PROJECT / "murmuration.py", cwd=tmp_path)
    assert listed.returncode == 0
    assert all(f"  {name} " in listed.stdout for name in COMMANDS)
    unknown = called("dat", script=PROJECT / "murmuration.py", cwd=tmp_path)
    assert unknown.returncode == 2
    assert unknown.stderr == f"error: no command 'dat'; there are: {', '.join(COMMANDS)}\n"


def test_a_command_s_help_names_it_as_it_is_typed(tmp_path):
    every = "import murmuration as m; [m.main([name, '--help']) for name in m.COMMANDS]"
    done = subprocess.run(
        [sys.executable, "-c", every],
        cwd=tmp_path,
        env=clean_environment(PYTHONPATH=str(PROJECT)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert [name for name in COMMANDS if f"Usage: murmuration {name} " not in done.stdout] == []
