"""What ``tests.warm`` imports before it forks: slow packages, and none of this project's."""

import contextlib
import gc
import os

os.environ.setdefault("MPLBACKEND", "agg")
# Triton reads it as it is imported, and few commands interpret kernels.
os.environ.pop("TRITON_INTERPRET", None)

import brotli  # noqa: F401
import cyclopts  # noqa: F401
import matplotlib.backends.backend_agg
import matplotlib.figure  # noqa: F401
import PIL.Image
import pydantic
import pydantic.functional_serializers
import pydantic.root_model
import pytest  # noqa: F401
import rich.ansi
import rich.console
import rich.live
import rich.progress
import rich.table  # noqa: F401
import safetensors.torch  # noqa: F401
import sentencepiece  # noqa: F401
import tomli_w  # noqa: F401
import torch
import torch._dynamo
import torch.distributed
import torch.distributed.run  # noqa: F401
import zstandard  # noqa: F401

PIL.Image.preinit()
with contextlib.suppress(ImportError):  # a CPU build of PyTorch brings none
    import triton.language
    import triton.testing
    import triton.tools.tensor_descriptor  # noqa: F401

# pydantic imports what its names need as they are first asked for.
pydantic.create_model("Model", number=(int, pydantic.Field(0, gt=0)))
gc.collect()
gc.freeze()  # a fork's collections do not look through all of this
