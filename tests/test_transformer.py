"""The transformer: what it lets through, its inputs, its loss, its size."""

import math

import pytest
import torch
from builders import build, inputs, tiny, weightless
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from dalle.config import TransformerConfig
from dalle.loss import summed_cross_entropy
from dalle.patterns import PATTERNS
from dalle.transformer import Block, Transformer
from dalle_base.common import schema
from dalle_base.common.errors import UserError
from dalle_base.data.text import PADDING
from dalle_base.training.decay import decay_groups

PAPER_PARAMETERS = 12_292_836_992


@pytest.mark.parametrize("grid", [(3, 4), (1, 5), (5, 1)])
@pytest.mark.parametrize("name", PATTERNS)
def test_gradients_flow_where_one_layer_allows_and_nowhere_else(name, grid):
    rows, columns = grid
    model = build(depth=1, layers=[name], rows=rows, columns=columns)
    mask = model.mask(model.patterns[0])
    x = torch.randn(1, model.stream.length, model.config.d_model, requires_grad=True)
    h = model.hidden(x)
    for query in range(model.stream.length):
        # A plain sum over a normalised vector would have no gradient.
        (gradient,) = torch.autograd.grad(h[0, query, 0], x, retain_graph=True)
        assert torch.equal(gradient[0].abs().sum(dim=-1) > 0, mask[query]), query


@pytest.mark.parametrize("name", PATTERNS)
def test_outputs_depend_on_nothing_they_predict(name):
    model = build(depth=3, layers=[name] * 3)
    tokens, codes = inputs(model, batch=1)
    before = [t.clone() for t in model.logits(tokens, codes)]
    length = model.stream.text_length
    for t in range(length):
        changed = tokens.clone()
        changed[0, t] = (changed[0, t] + 1) % model.config.text_vocab
        text_logits, image_logits = model.logits(changed, codes)
        assert torch.equal(text_logits[:, : t + 1], before[0][:, : t + 1])
        # All of the image sees all of the text, and later text sees it.
        assert (text_logits[:, t + 1 :] != before[0][:, t + 1 :]).any(dim=-1).all()
        assert (image_logits != before[1]).any(dim=-1).all()
    for j in range(model.stream.image_length):
        changed = codes.clone()
        changed[0, j] = (changed[0, j] + 1) % model.config.image_vocab
        text_logits, image_logits = model.logits(tokens, changed)
        assert torch.equal(text_logits, before[0])
        torch.testing.assert_close(
            image_logits[:, : j + 1], before[1][:, : j + 1], rtol=0, atol=1e-6
        )
        assert (image_logits[:, j + 1 : j + 2] != before[1][:, j + 1 : j + 2]).any(dim=-1).all()


def test_a_block_is_what_the_formulas_say():
    model = build(depth=1, layers=["row"])
    block = model.get_submodule("blocks.0")
    assert isinstance(block, Block)
    mask = model.mask(model.patterns[0])
    x = torch.randn(2, model.stream.length, model.config.d_model)

    norm, attention = block.attention_norm, block.attention
    assert isinstance(norm, nn.LayerNorm)
    normed = F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias)
    q, k, v = (normed @ attention.qkv.weight.T + attention.qkv.bias).chunk(3, dim=-1)
    heads = []
    for start in range(0, 8, 4):
        head = slice(start, start + 4)
        scores = q[..., head] @ k[..., head].transpose(1, 2) / math.sqrt(4)
        heads.append(scores.masked_fill(~mask, -math.inf).softmax(dim=-1) @ v[..., head])
    after = x + attention.out(torch.cat(heads, dim=-1))
    hidden = F.gelu(block.mlp_in(block.mlp_norm(after)))
    assert hidden.shape[-1] == 4 * model.config.d_model
    torch.testing.assert_close(model.hidden(x), model.norm(after + block.mlp_out(hidden)))


def test_each_text_position_has_its_own_padding():
    model = build()
    tokens = torch.full((1, 3), PADDING)
    x = model.embed_text(tokens)[0]
    torch.testing.assert_close(x[0], model.start[0])
    torch.testing.assert_close(x[1:], model.text_padding + model.text_position)
    # In place of the token's embedding, not on top of it; tokens take none of it.
    tokens[0, 1] = 0
    x = model.embed_text(tokens)[0]
    torch.testing.assert_close(x[2], model.text_embedding.weight[0] + model.text_position[1])
    torch.testing.assert_close(x[3], model.text_padding[2] + model.text_position[2])


def test_codes_know_their_row_and_column():
    model = build()
    _, codes = inputs(model)
    x = model.embed_codes(codes)
    assert model.row_embedding
    assert model.column_embedding
    for j in range(model.stream.image_length):
        place = model.row_embedding.weight[j // 4] + model.column_embedding.weight[j % 4]
        torch.testing.assert_close(x[:, j], model.image_embedding(codes[:, j]) + place)
    torch.testing.assert_close(model.embed_codes(codes[:, 5:8], torch.arange(5, 8)), x[:, 5:8])


def test_fewer_codes_give_the_same_logits_as_far_as_they_go():
    model = build()
    tokens, codes = inputs(model)
    _, all_logits = model.logits(tokens, codes)
    assert all_logits.shape == (2, 12, 13)
    for n in (0, 1, 7, 11):
        text_logits, logits = model.logits(tokens, codes[:, :n])
        assert text_logits.shape == (2, 3, 11)
        torch.testing.assert_close(logits, all_logits[:, : n + 1])


def test_shapes_that_do_not_fit_are_named():
    model = build()
    tokens, codes = inputs(model)
    with pytest.raises(UserError, match=r"text of shape \[2, 2\]"):
        model.logits(tokens[:, :2], codes)
    with pytest.raises(UserError, match=r"codes of shape \[2, 13\]"):
        model.logits(tokens, torch.zeros(2, 13, dtype=torch.long))


def test_loss_weighs_the_parts_and_skips_padding():
    model = build()
    tokens, codes = inputs(model)
    tokens[0, 1:] = PADDING
    text_logits, image_logits = model.logits(tokens, codes)
    text_nats = [
        -text_logits[b, t].log_softmax(-1)[tokens[b, t]]
        for b in range(2)
        for t in range(3)
        if tokens[b, t] != PADDING
    ]
    assert len(text_nats) == 4
    image_nats = [
        -image_logits[b, j].log_softmax(-1)[codes[b, j]] for b in range(2) for j in range(12)
    ]
    losses = model.loss(tokens, codes)
    torch.testing.assert_close(losses.text, torch.stack(text_nats).mean())
    torch.testing.assert_close(losses.image, torch.stack(image_nats).mean())
    torch.testing.assert_close(losses.total, losses.text / 8 + losses.image * 7 / 8)


def test_loss_of_no_text_at_all_is_finite():
    model = build()
    tokens, codes = inputs(model)
    model.image_head.weight.data.zero_()
    model.image_head.bias.data.zero_()
    losses = model.loss(torch.full_like(tokens, PADDING), codes)
    assert losses.text == 0
    assert losses.image.item() == pytest.approx(math.log(13))


@pytest.mark.parametrize("rows", [1, 3, 7, 8, 100])
def test_a_loss_in_chunks_is_the_plain_one_in_value_and_gradient(rows):
    torch.manual_seed(0)
    head, h = nn.Linear(5, 11), torch.randn(8, 5, requires_grad=True)
    targets = torch.tensor([3, PADDING, 0, 10, PADDING, 5, 5, 1])
    plain = F.cross_entropy(head(h), targets, ignore_index=PADDING, reduction="sum")
    inputs = [h, head.weight, head.bias]
    expected = torch.autograd.grad(plain, inputs)
    loss = summed_cross_entropy(head, h, targets, most_logits=rows * 11)
    torch.testing.assert_close(loss, plain)
    for got, wanted in zip(torch.autograd.grad(loss, inputs), expected, strict=True):
        torch.testing.assert_close(got, wanted)


def test_no_more_logits_than_allowed_exist_at_a_time():
    """The largest tensor that a loss in chunks keeps or makes has a chunk's number of elements."""
    head, h = nn.Linear(4, 50), torch.randn(60, 4, requires_grad=True)

    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                self.size = max(self.size, out.numel())
            return out

    with Largest() as seen:
        summed_cross_entropy(head, h, torch.arange(60) % 50, most_logits=500).backward()
    assert seen.size == 500


def test_recomputed_activations_change_no_gradient():
    batch, gradients = None, []
    for recompute in (False, True):
        torch.manual_seed(0)
        model = build(depth=3, dropout=0.2, recompute=recompute)
        batch = batch or inputs(model)
        torch.manual_seed(1)
        model.loss(*batch).total.backward()
        gradients.append([p.grad for p in model.parameters()])
    for kept, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(kept, recomputed)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
@pytest.mark.filterwarnings("ignore::UserWarning:torch")
@pytest.mark.parametrize("backend", ["reference", "structured"])
def test_a_compiled_model_has_the_same_loss_and_gradients(backend):
    torch.manual_seed(0)
    model = Transformer(tiny(depth=4, layers=["row", "column", "full", "conv"], attention=backend))
    batch = inputs(model)
    results = []
    for compiled in (False, True):
        if compiled:
            model.compile()
        model.zero_grad()
        loss = model(*batch).total
        loss.backward()
        results.append([loss, *(p.grad for p in model.parameters())])
    for plain, fast in zip(*results, strict=True):
        torch.testing.assert_close(plain, fast, rtol=1e-4, atol=1e-5)


def test_bfloat16_autocast_stays_near_float32():
    torch.manual_seed(0)
    model = Transformer(tiny(depth=4, d_model=32, layers=["row", "column", "full", "conv"]))
    batch = inputs(model)
    exact = model(*batch).total
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(*batch).total
    assert rounded.dtype == torch.float32
    assert rounded.item() == pytest.approx(exact.item(), rel=0.01)


def test_every_parameter_is_trained_in_one_group():
    model = build(layers=["row", "conv"])
    tokens, codes = inputs(model)
    tokens[:, 1] = PADDING
    model.loss(tokens, codes).total.backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())

    decayed, rest = decay_groups(model, 0.045)
    assert decayed["weight_decay"] == 0.045
    assert rest["weight_decay"] == 0
    names = {id(p): name for name, p in model.named_parameters()}
    assert len(decayed["params"]) + len(rest["params"]) == len(names)
    for parameter in decayed["params"]:
        name = names.pop(id(parameter))
        assert name.endswith(
            ("qkv.weight", "out.weight", "mlp_in.weight", "mlp_out.weight", "head.weight")
        )
    assert {id(p) for p in rest["params"]} == set(names)
    assert not any(name.endswith(("in.weight", "out.weight")) for name in names.values())


def test_layers_of_one_pattern_share_a_mask_that_is_not_saved():
    model = build(depth=4, layers=["row", "conv", "row", "row"])
    assert set(model.attentions) == {"row", "conv"}
    assert list(model.named_buffers())
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}
    assert [pattern.name for pattern in model.patterns] == ["row", "conv", "row", "row"]


def test_initial_scale():
    torch.manual_seed(0)
    model = Transformer(tiny(depth=8, d_model=64, head_width=32))
    for block in model.blocks:
        assert isinstance(block, Block)
        assert block.mlp_in.weight.std().item() == pytest.approx(0.02, rel=0.05)
        for projection in (block.attention.out, block.mlp_out):
            assert projection.weight.std().item() == pytest.approx(0.02 / 4, rel=0.05)
    tokens, codes = inputs(model)
    losses = model.loss(tokens, codes)
    assert losses.text.item() == pytest.approx(math.log(11), abs=0.2)
    assert losses.image.item() == pytest.approx(math.log(13), abs=0.2)


def test_dropout_acts_in_training_only():
    model = build(dropout=0.5)
    batch = inputs(model)
    assert model.loss(*batch).total != model.loss(*batch).total
    model.eval()
    assert model.loss(*batch).total == model.loss(*batch).total


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"layers": ["row", "rwo"]},
            "no pattern 'rwo'; there are full, same_row, row, column, conv",
        ),
        ({"layers": ["row"]}, "layers names 1 patterns but depth is 2"),
        ({"depth": 0}, "depth is 0"),
        ({"heads": -1}, "heads is -1"),
        ({"text_length": 0}, "text_length is 0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"text_loss_weight": 1.5}, "text_loss_weight is 1.5"),
        ({"pattern_options": {"conv": {"kernel": 4}}}, "pattern_options.conv: kernel is 4"),
        ({"pattern_options": {"conv": {"kernal": 3}}}, "no option 'kernal'; it has kernel"),
        ({"pattern_options": {"cnov": {}}}, "no pattern 'cnov'; there are full, same_row, row"),
    ],
)
def test_impossible_configs_say_what_to_write(changes, message):
    with pytest.raises(UserError, match=message) as caught:
        Transformer(tiny(**changes))
    assert "\n" not in str(caught.value)


def test_config_is_plain_data():
    values = {"depth": 1, "layers": ["row"], "pattern_options": {"conv": {"kernel": 5}}}
    config = schema.build(TransformerConfig(), values, "a test")
    assert config == TransformerConfig(**values)
    assert schema.build(TransformerConfig(), schema.to_mapping(config), "a test") == config


def test_the_papers_model_has_12_billion_parameters():
    with weightless():
        model = Transformer(TransformerConfig())
    assert sum(p.numel() for p in model.parameters()) == PAPER_PARAMETERS
    assert f"{PAPER_PARAMETERS:,}" in (Transformer.__doc__ or "")
    assert model.stream.length == 1280
    # A load into this model must find masks that are real.
    assert not any(buffer.is_meta for buffer in model.buffers())


def test_memorises_four_sequences():
    torch.manual_seed(0)
    config = tiny(d_model=32, head_width=16, depth=3)
    model = Transformer(config)
    tokens, codes = inputs(model, batch=4)
    tokens[:, 0] = torch.arange(4)  # so that captions tell the images apart
    tokens[0, 2] = PADDING
    optimiser = torch.optim.AdamW(decay_groups(model, 0.0), lr=5e-3)
    for _ in range(150):
        loss = model.loss(tokens, codes)
        optimiser.zero_grad()
        loss.total.backward()
        optimiser.step()
    _, image_logits = model.logits(tokens, codes)
    assert model.loss(tokens, codes).image < 0.05
    assert torch.equal(image_logits.argmax(dim=-1), codes)


def test_text_is_left_out_for_its_share_of_examples_in_training_only(monkeypatch):
    model = build(text_drop=0.4)
    tokens, codes = inputs(model, batch=1000)
    seen = []
    embed = model.embed_text
    monkeypatch.setattr(model, "embed_text", lambda own: seen.append(own) or embed(own))
    model.train().loss(tokens, codes)
    model.eval().loss(tokens, codes)
    trained, evaluated = seen
    left_out = (trained == PADDING).all(dim=1)
    assert 0.35 < left_out.float().mean() < 0.45
    assert torch.equal(trained[~left_out], tokens[~left_out])
    assert torch.equal(evaluated, tokens)


def test_noisy_codes_are_read_and_never_learned() -> None:
    """Up to the share in each row, another image's at the same place; targets stay as they are."""
    model = build(code_noise=0.8, rows=10, columns=10).train()
    codes = torch.arange(40)[:, None].expand(-1, 100) % model.config.image_vocab
    tokens, _ = inputs(model, batch=40)
    seen, counted = [], []
    outputs = model._outputs

    def watch(tokens: torch.Tensor, read: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(read)
        counted.append(outputs(tokens, read))
        return counted[-1]

    model._outputs = watch  # type: ignore[method-assign]
    torch.manual_seed(0)
    losses = model.loss(tokens, codes)
    (read,) = seen
    changed = read != codes
    assert (read[changed] == codes.roll(1, dims=0)[changed]).all()
    shares = changed.float().mean(dim=1)
    assert 0.3 < shares.mean() < 0.5  # half of 0.8
    assert shares.max() < 0.95
    assert shares.std() > 0.15  # each row draws its own
    logits = model.image_head(counted[0][1])
    expected = F.cross_entropy(logits.flatten(0, 1), codes.flatten())
    torch.testing.assert_close(losses.image, expected)
    seen.clear()
    model.eval().loss(tokens, codes)
    assert torch.equal(seen[0], codes)
