"""What a process does outside of its own folders: files, network, other programs, text it runs.

An audit hook (PEP 578) sees what Python code opens, connects to, starts and executes. It does not
see what compiled libraries do by themselves. It imports the standard library only, because an
audit loads it before any module of the code that it judges.
"""

import os
import re
import site
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

KINDS = {
    "open": "files",
    "ctypes.dlopen": "files",
    **{f"socket.{name}": "network" for name in ("__new__", "bind", "connect", "sendto", "sendmsg")},
    **{f"socket.{name}": "network" for name in ("getaddrinfo", "gethostbyname", "getnameinfo")},
    **dict.fromkeys(("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn"), "programs"),
    **dict.fromkeys(("exec", "compile"), "text"),
    **dict.fromkeys(("tempfile.mkdtemp", "tempfile.mkstemp"), "made"),
}
MOST, LONGEST = 1000, 200  # things of a kind, characters of one
OWN_MODULE = {"socket": "/socket.py", "subprocess": "/subprocess.py"}
SYSTEM = ("/proc", "/sys", "/dev", "/etc", "/usr", "/lib", "/lib64", "/opt", "/run")
SHARED = re.compile(r"/dev/shm/|/proc/[^/]+/(mem|root/|fd/|cwd/)")  # what others left or hold
CACHES = ("~/.cache", "~/.config", "~/.triton", "~/.nv", "~/.local")
CACHE_VARIABLES = ("TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "MPLCONFIGDIR", "XDG_CACHE_HOME")
OF_CODE = re.compile(r".*\.(py|pyc|pyc\.\d+|toml|scores)")
OWN_PROGRAMS = {"git"}


class Watch:
    """What was seen since `install`: things of each kind, in order.

    Attributes:
        code: folders and files of the code.
        folders: that it may open files in, besides Python's own.
        training: whether it may open training shards.
    """

    def __init__(self, code: Iterable[Path], folders: Iterable[Path], training: bool) -> None:
        self.code = _real(code)
        self.folders = _real(folders)
        self.training = training
        self.things: dict[str, dict[str, None]] = {kind: {} for kind in KINDS.values()}
        python = [sys.prefix, sys.exec_prefix, sys.base_prefix, os.__file__.rpartition(os.sep)[0]]
        python += [*site.getsitepackages(), site.getusersitepackages()]
        caches = [os.environ[name] for name in CACHE_VARIABLES if os.environ.get(name)]
        caches += [f"{tempfile.gettempdir()}/torchinductor_{os.environ.get('USER', 'root')}"]
        self.libraries = _real(map(Path, [*python, *caches, *CACHES]))
        # Python's own folder may be a link.
        self.prefixes = tuple(folder + os.sep for folder in {*self.libraries, *python})

    def note(self, kind: str, event: str, arguments: tuple[Any, ...]) -> None:
        """Keep what an event of the interpreter is about, if it is the code's doing."""
        thing = self._file(event, arguments[0]) if kind in ("files", "made") else None
        if kind == "network":
            thing = self._connection(event, arguments)
        elif kind in ("programs", "text"):
            thing = self._started(kind, event, arguments[0])
        things = self.things[kind]
        if thing and len(things) <= MOST:
            things[thing if len(things) < MOST else f"and more than {MOST} others"] = None

    def _file(self, event: str, path: object) -> str | None:
        if not isinstance(path, str | bytes | os.PathLike):
            return None
        name = os.fsdecode(path)
        # A library without a folder is looked for in those of the system.
        if event == "ctypes.dlopen" and os.sep not in name:
            return None
        # Most files are Python's own, so these cost little.
        return None if self._is_library(name) else str(Path(name).absolute())

    def _connection(self, event: str, arguments: tuple[Any, ...]) -> str | None:
        caller = _caller(event)
        # The rendezvous of torchrun's ranks is torch's.
        if "/torch/distributed/" in caller:
            return None
        said = ", ".join(str(each) for each in arguments if isinstance(each, str | int | tuple))
        return f"{event}({said}) in {caller}"

    def _started(self, kind: str, event: str, program: Any) -> str | None:
        caller = _caller(event)
        name = event if kind == "text" else Path(os.fsdecode(program)).name
        own = caller.startswith(tuple(self.code)) and not caller.startswith(self.prefixes)
        return f"{name} in {caller}" if own and name not in OWN_PROGRAMS else None

    def findings(self) -> dict[str, list[str]]:
        """Return what lies outside of what is allowed, by kind."""
        found = {kind: list(things) for kind, things in self.things.items() if kind != "made"}
        found["files"] = [path for path in found["files"] if not self._allowed(path)]
        modules = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
        for path in filter(None, modules):
            # Some modules of PyTorch have a file in name only.
            if not self._is_code(path) and Path(path).is_file():
                found["files"].append(f"module {path}")
        return {kind: [each[:LONGEST] for each in things] for kind, things in found.items()}

    def _allowed(self, path: str) -> bool:
        name = Path(path).name
        if not self.training and "train" in name and name.endswith(".bin"):
            return False
        if SHARED.match(path):
            return False
        allowed = [*SYSTEM, *self.folders, *self.things["made"]]
        return self._is_code(path) or self._is_temporary(path) or _is_in(path, allowed)

    def _is_temporary(self, path: str) -> bool:
        # A nameless file opens its folder; Triton's assembler writes beside its source.
        beside = any(path.startswith(f"{made}.") for made in self.things["made"])
        return beside or path == tempfile.gettempdir()

    def _is_library(self, path: str) -> bool:
        # An installed package may be a link to elsewhere.
        return path.startswith(self.prefixes) and ".." not in path

    def _is_code(self, path: str) -> bool:
        if self._is_library(path) or _is_in(path, self.libraries):
            return True
        return bool(OF_CODE.fullmatch(path) or path in self.code) and _is_in(path, self.code)


_watch: Watch | None = None
_hooked = False


def install(code: Iterable[Path], folders: Iterable[Path] = (), *, training: bool = False) -> None:
    """Begin to watch this process; what was seen before is forgotten.

    Args:
        code: folders and files of the code.
        folders: that it may open files in, besides Python's own and caches.
        training: whether it may open training shards.
    """
    global _watch, _hooked
    _watch = Watch(code, folders, training)
    if not _hooked:
        sys.addaudithook(_hook)
        _hooked = True


def allow(folder: Path) -> None:
    """Let the process open files in a further folder."""
    if _watch:
        _watch.folders += _real([folder])


def seen() -> dict[str, list[str]]:
    """Return what the process did outside of its folders, by kind; nothing before `install`."""
    return _watch.findings() if _watch else {}


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    kind = KINDS.get(event)
    if kind and _watch:
        _watch.note(kind, event, arguments)


def _caller(event: str) -> str:
    """Return where an event comes from: the first frame outside of the module that raises it."""
    frame = sys._getframe(4)  # below are this function, two methods of Watch, and the hook
    inside = OWN_MODULE.get(event.split(".")[0])
    while inside and frame.f_back and frame.f_code.co_filename.endswith(inside):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _real(paths: Iterable[Path]) -> list[str]:
    return [str(path.expanduser().resolve()) for path in paths]


def _is_in(path: str, folders: Iterable[str]) -> bool:
    real = str(Path(path).resolve())
    return any(real == folder or real.startswith(folder + os.sep) for folder in folders)
