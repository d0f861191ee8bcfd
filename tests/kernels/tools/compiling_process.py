"""A process that can compile kernels: under TRITON_INTERPRET, as the tests run, none can."""

import os

from tests import warm


def printed_by(module: str, *arguments: str, **environment: str) -> str:
    """What ``python -m module`` prints, in this environment and ``environment``.

    Raises:
        subprocess.CalledProcessError: it fails.
    """
    inherited = {name: of for name, of in os.environ.items() if name != "TRITON_INTERPRET"}
    done = warm.run("-m", module, *arguments, environment=inherited | environment)
    done.check_returncode()
    return done.stdout
