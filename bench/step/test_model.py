"""The whole model, forward and backward of one GPU's step, ours against torch.compile."""

import torch

from bench.harness.bar import Bar
from bench.harness.contest import Contest
from bench.harness.network import check, make_model, step
from bench.harness.sizes import TIME, TOKENS, WINDOWS, random_tokens

PARAMETERS = 26_411_008  # of the banks: what each token is multiplied with
BAR = Bar(ratios={"compiled": 1.30}, seconds=0.054, memory=14 * 2**30)


def test_model(contest):
    ours, peer = make_model("kernels"), make_model("reference", attention="cudnn")
    tokens = random_tokens(WINDOWS, TIME + 1)
    contest(
        Contest(
            name="model, both",
            ours=step(ours, ours, tokens),
            peers={
                "compiled": step(peer, torch.compile(peer, dynamic=False, fullgraph=True), tokens)
            },
            check=lambda: check(ours),
            bytes_moved=0,
            flops=6 * TOKENS * PARAMETERS,
            bar=BAR,
        )
    )
