"""On Hopper, attention launches the kernels that ``resources.py`` compiles and checks."""

import json

from tests.kernels.tools.compiling_process import printed_by


def test_every_launched_kernel_is_one_whose_resources_are_checked() -> None:
    found = json.loads(printed_by("tests.kernels.attention.launched_variants"))
    assert len(found) == 6
    assert {name for name, known in found.items() if not all(known)} == set()
