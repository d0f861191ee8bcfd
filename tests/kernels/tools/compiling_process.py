"""A process that can compile kernels: under TRITON_INTERPRET, as the tests run, none can."""

import os
import subprocess
import sys

from files import PROJECT


def printed_by(module: str, *arguments: str, **environment: str) -> str:
    """What ``python -m module`` prints, in this environment and ``environment``.

    Raises:
        subprocess.CalledProcessError: it fails.
    """
    inherited = {name: of for name, of in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=PROJECT,
        env=inherited | environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
