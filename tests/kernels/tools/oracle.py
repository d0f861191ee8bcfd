"""Every operation a second time, from its description and in fp64, one plain step after another.

Nothing here calls what the project calls: no fused norm, attention, activation or loss, and loops
over rows, positions and heads wherever the description speaks of one row, position or head.
Letters in shapes as in ``kernels``.
"""

import math

import torch
from torch import Tensor


def rms_normed(x: Tensor, eps: float) -> Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + (-x).exp())


def int32(number: int) -> int:
    """What is left of ``number`` in 32 bits, two's complement."""
    return (number + 2**31) % 2**32 - 2**31


def bigram_row(current: int, previous: int | None, rows: int) -> int:
    """The bigram table's row of a token; ``previous`` is None at position 0."""
    if previous is None:
        return rows - 1
    return (int32(36313 * current) ^ int32(27191 * previous)) % (rows - 1)


def edge_row(current: int, previous: int | None, rows: int, pairs: list[list[int]]) -> int:
    """The row of the pair if it is one of ``pairs``, and one of the others' rows if not."""
    if previous is not None and [current, previous] in pairs:
        return pairs.index([current, previous])
    return len(pairs) + bigram_row(current, previous, rows - len(pairs))


def bigram_rows(tokens: Tensor, rows: int, edges: Tensor | None = None) -> Tensor:
    pairs = [] if edges is None else edges.T.tolist()
    return torch.tensor(
        [
            [edge_row(token, row[i - 1] if i else None, rows, pairs) for i, token in enumerate(row)]
            for row in tokens.tolist()
        ]
    )


def smeared(x: Tensor, tokens: Tensor, gate: Tensor, bos_id: int | None) -> Tensor:
    """(B, T, C); ``bos_id`` None lets the previous token leak into a document's first."""
    g = sigmoid(gate)
    rows = []
    for x_TC, row in zip(x, tokens.tolist(), strict=True):
        alone = [i == 0 or token == bos_id for i, token in enumerate(row)]
        rows.append(
            torch.stack(
                [(1 - g) * x_TC[i] + (0 if alone[i] else g * x_TC[i - 1]) for i in range(len(row))]
            )
        )
    return torch.stack(rows)


def window_smeared(
    x: Tensor, tokens: Tensor, gate: Tensor, scale: Tensor, bos_id: int | None
) -> Tensor:
    """(B, T, C): each position gets its gate's share of the one before in its document."""
    sequences = []
    for x_TC, row in zip(x, tokens.tolist(), strict=True):
        found = []
        for i, token in enumerate(row):
            share = scale * sigmoid(torch.dot(gate, x_TC[i, : len(gate)]))
            alone = i == 0 or token == bos_id
            found.append(x_TC[i] if alone else x_TC[i] + share * x_TC[i - 1])
        sequences.append(torch.stack(found))
    return torch.stack(sequences)


def embedded(
    tokens: Tensor,
    table: Tensor,
    smear_gate: Tensor,
    bigram: tuple[Tensor, Tensor, Tensor] | None,
    *,
    bos_id: int | None,
    eps: float,
    smear_scale: Tensor | None = None,
    edges: Tensor | None = None,
) -> Tensor:
    x = table[tokens.long()]
    if bigram is not None:
        bigram_table, projection, scale = bigram
        found = bigram_table[bigram_rows(tokens, len(bigram_table), edges)]
        x = x + scale * torch.einsum("bte,ce->btc", found, projection)
    if smear_scale is not None:
        return rms_normed(window_smeared(x, tokens, smear_gate, smear_scale, bos_id), eps)
    return smeared(rms_normed(x, eps), tokens, smear_gate, bos_id)


def rotated(x: Tensor, dims: int, base: float) -> Tensor:
    """Rotary on one head (B, T, D): dim i and dim i + dims/2 of position t, seen as the complex
    number ``x_i + j x_{i + dims/2}``, times ``exp(-j t base^(-2i / dims))``.

    Cosine and sine are rounded to fp32, as the table that a model keeps of them.
    """
    half, position = dims // 2, torch.arange(x.size(1), dtype=torch.float64)
    columns = list(x.unbind(-1))
    for i in range(half):
        angle = position * base ** (-2 * i / dims)
        cos, sin = angle.cos().float().double(), angle.sin().float().double()
        real, imaginary = x[..., i], x[..., i + half]
        columns[i] = real * cos + imaginary * sin
        columns[i + half] = imaginary * cos - real * sin
    return torch.stack(columns, -1)


def causal_mean(
    query: Tensor, key: Tensor, value: Tensor, first: list[list[int]] | None = None
) -> Tensor:
    """Softmax attention of one head, (B, T, D) each: position i of row b averages positions
    ``first[b][i]`` to i, or 0 to i."""
    rows = []
    for i in range(query.size(1)):
        scores = torch.einsum("bd,bjd->bj", query[:, i], key[:, : i + 1])
        weights = (scores / query.size(-1) ** 0.5).exp()
        if first is not None:
            weights = weights * torch.tensor([[j >= row[i] for j in range(i + 1)] for row in first])
        weights = weights / weights.sum(-1, keepdim=True)
        rows.append(torch.einsum("bj,bjd->bd", weights, value[:, : i + 1]))
    return torch.stack(rows, 1)


def first_seen(tokens: Tensor, bos_id: int | None, window: int) -> list[list[int]]:
    """The first position that each one sees: not before its document's BOS unless ``bos_id`` is
    None, and of the last ``window`` positions unless that is 0."""
    found = []
    for row in tokens.tolist():
        begin, firsts = 0, []
        for i, token in enumerate(row):
            begin = i if token == bos_id else begin
            firsts.append(max(begin, i - window + 1) if window else begin)
        found.append(firsts)
    return found


def attended(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gain: Tensor,
    *,
    rope: tuple[int, float],
    eps: float,
    xsa: bool,
    gate: Tensor | None = None,
    first: list[list[int]] | None = None,
) -> Tensor:
    """(B, T, H, D) from q of that shape and k, v (B, T, G, D); dims and base of ``rope``; ``first``
    of ``first_seen``."""
    heads = []
    for h in range(q.size(2)):
        g = h // (q.size(2) // k.size(2))
        query = gain[h] * rotated(rms_normed(q[:, :, h], eps), *rope)
        key = rotated(rms_normed(k[:, :, g], eps), *rope)
        y = causal_mean(query, key, v[:, :, g], first)
        if xsa:
            direction = v[:, :, g] / v[:, :, g].pow(2).sum(-1, keepdim=True).sqrt()
            y = y - (y * direction).sum(-1, keepdim=True) * direction
        if gate is not None:
            y = y * sigmoid(gate[:, :, h, None])
        heads.append(y)
    return torch.stack(heads, 2)


def mlp(x: Tensor, up: Tensor, down: Tensor, slope: float) -> Tensor:
    z = torch.einsum("btc,mc->btm", x, up)
    leaky = torch.where(z < 0, slope * z, z)
    return torch.einsum("btm,cm->btc", leaky * leaky, down)


def nats(hidden: Tensor, head: Tensor, targets: Tensor, softcap: float) -> Tensor:
    """Cross-entropy (B, T) of softcapped logits."""
    logits = softcap * torch.tanh(torch.einsum("btc,vc->btv", hidden, head) / softcap)
    chances = logits.exp() / logits.exp().sum(-1, keepdim=True)
    return -chances.gather(-1, targets.long()[..., None])[..., 0].log()


def loss(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    *,
    softcap: float,
    mtp_heads: Tensor | tuple[()] = (),
    mtp_weight: Tensor | float = 0.0,
    target_weight: Tensor | None = None,
    further_weights: Tensor | tuple[()] = (),
) -> tuple[Tensor, Tensor]:
    """Loss () and, without gradient, main-head nats (B, T).

    ``targets[i]`` is token i + 1, so MTP head k, which predicts token i + 1 + k, is held to
    ``targets[i + k]``; so is the main head, by the k-th of ``further_weights``.
    """
    if target_weight is None:
        target_weight = torch.ones(len(head), dtype=torch.float64)

    def mean(values: Tensor, targets: Tensor) -> Tensor:
        weights = target_weight[targets.long()]
        return (weights * values).sum() / weights.sum()

    main = nats(hidden, head, targets, softcap)
    total = mean(main, targets)
    for k, mtp_head in enumerate(mtp_heads, start=1):
        places = range(targets.size(1) - k)
        seen = torch.stack([hidden[:, i] for i in places], 1)
        further = torch.stack([targets[:, i + k] for i in places], 1)
        share = mtp_weight / len(mtp_heads)
        total = total + share * mean(nats(seen, mtp_head, further, softcap), further)
    for k, weight in enumerate(further_weights, start=1):
        further = targets[:, k:]
        total = total + weight * mean(nats(hidden[:, :-k], head, further, softcap), further)
    return total, main.detach()


def int6(weight: Tensor, min_step: float = 0.0) -> Tensor:
    """``weight`` on its rows' int6 grids, with the gradient of a plain copy."""
    grid = weight.detach().clone()
    for row in grid.view(-1, grid.size(-1)):
        step = max(float(row.abs().max()) / 31, min_step)
        for i, value in enumerate(row.tolist()):
            row[i] = step * max(-31, min(31, round(value / step))) if step else 0.0
    return weight + (grid - weight).detach()


def fp8(weight: Tensor, scales: Tensor | None = None) -> Tensor:
    """``weight`` rounded row by row to 8 bits (e4m3) of its norm over 448, or of ``scales``, fp32,
    with the gradient of a plain copy."""
    rounded = weight.detach().clone()
    of_rows = rounded.norm(dim=-1) / 448 if scales is None else scales
    for row, scale in zip(
        rounded.view(-1, rounded.size(-1)), of_rows.float().flatten().tolist(), strict=True
    ):
        for i, value in enumerate(row.tolist()):
            exponent = max(math.frexp(value / scale)[1] - 1, -6)
            unit = 2.0 ** (exponent - 3)
            row[i] = scale * unit * round(value / scale / unit)
    return weight + (rounded - weight).detach()


def product_in_fp8(x: Tensor, weight: Tensor, rounded: Tensor) -> Tensor:
    """``rounded`` (..., in), of x, by ``weight`` in fp8, with the gradient of x by ``weight``."""
    exact = x @ weight.T
    return exact + (rounded @ fp8(weight).T - exact).detach()


def mlp_in_fp8(x: Tensor, up: Tensor, down: Tensor, slope: float) -> Tensor:
    """``mlp`` of x, weights and activation in fp8, with the gradients of products of what they are
    before."""
    h = product_in_fp8(x, up, fp8(x))
    activated = torch.where(h > 0, h, slope * h) ** 2
    largest = up.detach().norm(dim=1).max() * x.detach().norm(dim=-1) * max(1.0, slope)
    return product_in_fp8(activated, down, fp8(activated, (1.13 * largest) ** 2 / 448))
