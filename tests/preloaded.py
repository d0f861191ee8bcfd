"""What ``tests.warm`` imports before it forks: slow packages, and none of this project's."""

import os

os.environ.setdefault("MPLBACKEND", "agg")

import cyclopts  # noqa: F401
import matplotlib.figure  # noqa: F401
import pydantic  # noqa: F401
import pytest  # noqa: F401
import rich.table  # noqa: F401
import sentencepiece  # noqa: F401
import torch
import torch._dynamo
import torch.distributed
import torch.distributed.run  # noqa: F401
