"""The hook: which products it is passed, and that the network computes with what it returns."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.hooks import Site
from model.parameters import exported
from tests.model.small import architecture, fresh, perturbed, random_tokens

LAYER = ("q", "k", "v", "o", "up", "down")


class Seen:
    """Keeps what it is passed, and changes nothing."""

    def __init__(self, matrices: tuple[str, ...], replaces: bool) -> None:
        self.matrices, self.replaces = matrices, replaces
        self.products: list[tuple[Site, Tensor, Tensor]] = []

    def __call__(self, site: Site, x: Tensor, y: Tensor) -> Tensor:
        self.products.append((site, x.clone(), y.clone()))
        return y

    def sites(self) -> list[Site]:
        return [site for site, _, _ in self.products]


class Doubled(Seen):
    """Replaces every product by twice its value."""

    def __call__(self, site: Site, x: Tensor, y: Tensor) -> Tensor:
        return 2 * super().__call__(site, x, y)


@pytest.mark.parametrize("replaces", [False, True], ids=["reads", "replaces"])
@pytest.mark.parametrize("part", ["everything", "1 layer", "value residual", "lanes"])
@pytest.mark.parametrize("matrices", [LAYER, ("k",), ("o",), ("up",), ("down",), ()])
def test_each_layer_has_its_own_site(matrices: tuple[str, ...], part: str, replaces: bool) -> None:
    """In the order of the products; and without a change the hidden state is the same."""
    model, (tokens, _) = perturbed(architecture(part)), random_tokens(9)
    hook = Seen(matrices, replaces)
    assert torch.equal(model.hidden(tokens, hook=hook), model.hidden(tokens))
    layers = range(model.config.num_layers)
    assert hook.sites() == [
        Site(matrix, layer, layer) for layer in layers for matrix in LAYER if matrix in matrices
    ]


@pytest.mark.parametrize("replaces", [False, True], ids=["reads", "replaces"])
def test_products_are_those_of_their_inputs(replaces: bool) -> None:
    """Of q and k, v without a value embedding, o and down but for the stream, and up."""
    model, (tokens, targets) = perturbed(architecture(ve_enabled=False)), random_tokens(9)
    hook = Seen((*LAYER, "head"), replaces)
    model.score(tokens, targets[:, -3:], hook)
    layers, seen = model.config.num_layers, {site: xy for site, *xy in hook.products}
    scale = model.attn_scale[2][:, None], model.mlp_scale[2][:, None]
    weights = {"q": model.qo_bank[2], "o": model.qo_bank[layers + 2] * scale[0]}
    weights |= {"k": model.kv_bank[2], "v": model.kv_bank[layers + 2]}
    weights |= {"up": model.up_bank[2], "down": model.down_bank[2] * scale[1]}
    for matrix in ("q", "k", "v", "up"):
        x, y = seen[Site(matrix, 2, 2)]
        torch.testing.assert_close(y, F.linear(x, weights[matrix]))
    (x, after_attention), (activated, after_mlp) = (seen[Site(m, 2, 2)] for m in ("o", "down"))
    torch.testing.assert_close(
        after_mlp, after_attention + F.linear(activated, weights["down"]), atol=1e-4, rtol=1e-4
    )
    hidden = seen[Site("up", 2, 2)][1]
    slope = model.config.leaky_slope
    torch.testing.assert_close(activated, F.leaky_relu(hidden, slope).square())
    read, returned = seen[Site("head", 0, 0)]
    assert read.shape == (2, 3, model.config.model_dim) and torch.equal(read, returned)


@pytest.mark.parametrize("matrix", [*LAYER, "head"])
def test_the_network_computes_with_what_a_replacing_hook_returns(matrix: str) -> None:
    model, (tokens, targets) = perturbed(architecture()), random_tokens(9)
    plain = model.score(tokens, targets)
    assert torch.equal(model.score(tokens, targets, Seen((matrix,), True)), plain)
    assert not torch.equal(model.score(tokens, targets, Doubled((matrix,), True)), plain)


def test_doubled_products_are_those_of_doubled_weights() -> None:
    """Powers of two change no rounding."""
    model, other = (perturbed(architecture(ve_enabled=False)) for _ in range(2))
    tokens, _ = random_tokens(9)
    layers = model.config.num_layers
    with torch.no_grad():
        other.kv_bank[layers:] *= 2
        other.up_bank.mul_(2)
    found = model.hidden(tokens, hook=Doubled(("v", "up"), True))
    torch.testing.assert_close(found, other.hidden(tokens))


def test_a_repeated_layer_has_a_visit_of_its_own() -> None:
    """The same weights visited twice: the layer is theirs, the visit is the index in the plan."""
    model = fresh(architecture("2 layers", loop_layers=[0], num_loops=1))
    hook = Seen(("q", "down"), False)
    model.hidden(random_tokens(9)[0], hook=hook)
    visits = ((0, 0), (0, 1), (1, 2))
    assert hook.sites() == [Site(m, layer, visit) for layer, visit in visits for m in hook.matrices]


def test_all_parameters_but_the_mtp_heads_are_exported() -> None:
    model = fresh(architecture("all options"))
    named = dict(model.named_parameters())
    assert named.pop("mtp_heads") is model.mtp_heads
    found = exported(model)
    assert list(found) == list(named)
    assert all(found[name] is named[name] for name in named)
