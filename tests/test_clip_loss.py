"""The contrastive loss: against the plain formula, in chunks, and over several processes."""

import math
from pathlib import Path

import pytest
import torch
from builders import all_end
from torch import Tensor, distributed, multiprocessing, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from dalle_base.common.errors import UserError
from dalle_base.common.schema import validate_all
from dalle_base.training.launch import hang_up
from dual_encoder.config import SAME_CAPTION, DualEncoderConfig, LossConfig, TowerConfig
from dual_encoder.loss import contrastive_loss
from dual_encoder.model import DualEncoder


def by_hand(
    images: Tensor, text: Tensor, scale: Tensor, concepts: Tensor, same_caption: str
) -> Tensor:
    """The loss written out pair by pair."""
    total = torch.zeros((), dtype=images.dtype)
    for queries, keys in ((images, text), (text, images)):
        for i, query in enumerate(queries):
            same = [j for j in range(len(keys)) if concepts[j] == concepts[i]]
            left_out = [j for j in same if j != i] if same_caption == "ignored" else []
            targets = same if same_caption == "shared" else [i]
            kept = [j for j in range(len(keys)) if j not in left_out]
            scores = torch.stack([scale * (query * key).sum() for key in keys])
            total = total + scores[kept].logsumexp(0) - scores[targets].mean()
    return total / (2 * len(images))


def features(n: int) -> list[Tensor]:
    torch.manual_seed(0)
    pair = [F.normalize(torch.randn(n, 5, dtype=torch.float64), dim=-1) for _ in range(2)]
    return [x.requires_grad_() for x in [*pair, torch.tensor(9.0, dtype=torch.float64)]]


@pytest.mark.parametrize("same_caption", SAME_CAPTION)
@pytest.mark.parametrize(("n", "chunk"), [(7, 0), (7, 3), (7, 1), (7, 7), (6, 100), (1, 0)])
def test_value_and_gradients_are_those_of_the_formula(n, chunk, same_caption) -> None:
    concepts = torch.tensor([0, 1, 0, 2, 0, 1, 3][:n])
    inputs, expected_inputs = features(n), features(n)
    loss = contrastive_loss(*inputs, concepts=concepts, config=LossConfig(chunk, same_caption))
    expected = by_hand(*expected_inputs, concepts=concepts, same_caption=same_caption)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected)
    for ours, reference in zip(inputs, expected_inputs, strict=True):
        torch.testing.assert_close(ours.grad, reference.grad)


@pytest.mark.parametrize("same_caption", SAME_CAPTION)
@pytest.mark.parametrize("chunk", [0, 2])
def test_a_wrong_caption_is_one_more_negative_of_its_image_alone(same_caption, chunk) -> None:
    concepts = torch.tensor([0, 1, 0, 2, 3])
    inputs, expected_inputs = features(5), features(5)
    torch.manual_seed(1)
    nearly = F.normalize(torch.randn(5, 5, dtype=torch.float64), dim=-1).requires_grad_()
    there = torch.tensor([True, False, True, True, False])
    config = LossConfig(chunk, same_caption)
    loss = contrastive_loss(*inputs, concepts=concepts, config=config, wrong=(nearly, there))
    loss.backward()
    images, text, scale = expected_inputs
    expected = by_hand(*expected_inputs, concepts=concepts, same_caption=same_caption)
    for i in range(5):  # log-sum-exp over one more, in the direction from image to caption
        kept = [
            j for j in range(5) if same_caption != "ignored" or j == i or concepts[j] != concepts[i]
        ]
        scores = scale * images[i] @ text[kept].T
        more = torch.cat([scores, (scale * images[i] @ nearly[i])[None]]) if there[i] else scores
        expected = expected + (more.logsumexp(0) - scores.logsumexp(0)) / 10
    torch.testing.assert_close(loss, expected)
    expected.backward()
    for ours, reference in zip(inputs, expected_inputs, strict=True):
        torch.testing.assert_close(ours.grad, reference.grad)
    assert nearly.grad is not None
    assert (nearly.grad.abs().sum(dim=1) > 0).equal(there)


def test_the_default_is_clips_cross_entropy() -> None:
    images, text, scale = features(6)
    logits, places = scale * images @ text.T, torch.arange(6)
    expected = (F.cross_entropy(logits, places) + F.cross_entropy(logits.T, places)) / 2
    concepts = torch.zeros(6, dtype=torch.long)
    torch.testing.assert_close(
        contrastive_loss(images, text, scale, concepts, LossConfig()), expected
    )


def test_equal_features_cost_the_logarithm_of_the_batch() -> None:
    same = torch.ones(8, 4) / 2
    loss = contrastive_loss(same, same, torch.tensor(100.0), torch.arange(8), LossConfig(chunk=3))
    assert loss.item() == pytest.approx(math.log(8))


def test_similarities_are_held_a_chunk_at_a_time() -> None:
    images, text, scale = features(64)
    sizes = {}
    for chunk in (0, 4):
        saved: list[int] = []

        def keep(tensor: Tensor, saved: list[int] = saved) -> Tensor:
            saved.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            contrastive_loss(images, text, scale, torch.arange(64), LossConfig(chunk))
        sizes[chunk] = max(saved, default=0)
    assert sizes[0] >= 64 * 64
    assert sizes[4] < 64 * 64


def test_impossible_options_are_refused() -> None:
    with pytest.raises(UserError, match="use one of negative, ignored, shared"):
        validate_all(LossConfig(same_caption="positive"))
    with pytest.raises(UserError, match=r"loss\.confusable"):
        validate_all(LossConfig(confusable=[["red"]]))
    with pytest.raises(UserError, match=r"loss\.chunk is -1: write a whole number from 0"):
        validate_all(LossConfig(chunk=-1), "loss")


def encoder(**options: float) -> DualEncoder:
    torch.manual_seed(0)
    config = DualEncoderConfig(
        embed_dim=6,
        image_size=8,
        patch_size=2,
        vision=TowerConfig(8, 2, 2),
        vocab_size=40,
        text_length=5,
        text=TowerConfig(8, 1, 2),
        **options,  # type: ignore[arg-type]
    )
    return DualEncoder(config).double()


def batch(n: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(n, 3, 8, 8, generator=generator, dtype=torch.float64)
    text = torch.randint(0, 38, (n, 5), generator=generator)
    text[:, -1] = 39
    return images, text, torch.randint(0, 4, (n,), generator=generator)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("n", "chunk"), [(7, 3), (6, 2), (5, 1)])
@pytest.mark.parametrize("share", [0.0, 0.4])
def test_encoding_in_chunks_changes_neither_loss_nor_gradients(n, chunk, share) -> None:
    """With dropout, the reference keeps all activations and samples the same random numbers."""
    images, text, concepts = batch(n)
    config = LossConfig()
    model, reference = (encoder(dropout=share, patch_dropout=share).train() for _ in range(2))
    torch.manual_seed(5)
    loss = contrastive_loss(*model(images, text, chunk), concepts=concepts, config=config)
    loss.backward()
    torch.manual_seed(5)
    size = chunk if share else n
    kept = (
        torch.cat([reference.encode_image(part) for part in images.split(size)]),
        torch.cat([reference.encode_text(part) for part in text.split(size)]),
    )
    expected = contrastive_loss(*kept, reference.scale(), concepts=concepts, config=config)
    expected.backward()
    torch.testing.assert_close(loss, expected)
    ours, theirs = gradients(model), gradients(reference)
    assert len(ours) == len(theirs) == len(list(model.parameters()))
    torch.testing.assert_close(ours, theirs)


def test_one_chunks_activations_exist_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    model = encoder()
    images, text, concepts = batch(6)
    seen: list[int] = []
    forward = model.visual.forward
    monkeypatch.setattr(model.visual, "forward", lambda x: (seen.append(len(x)), forward(x))[1])
    loss = contrastive_loss(*model(images, text, 2), concepts=concepts, config=LossConfig())
    assert seen == [2, 2, 2]
    loss.backward()
    assert seen == [2] * 6


def test_the_scale_can_fall_from_its_limit() -> None:
    model = encoder()
    model.logit_scale.data.fill_(5.0)
    model.limit_scale()
    assert model.scale().item() == pytest.approx(100)
    model.scale().backward()
    assert model.logit_scale.grad is not None
    assert model.logit_scale.grad.item() == pytest.approx(100)


def in_process(rank: int, folder: Path, chunk: int, same_caption: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'meet'}", rank=rank, world_size=2
    )
    images, text, concepts = (tensor.chunk(2)[rank] for tensor in batch(6))
    model = DistributedDataParallel(encoder())
    config = LossConfig(chunk, same_caption)
    loss = contrastive_loss(*model(images, text, chunk), concepts=concepts, config=config)
    loss.backward()
    torch.save((loss.detach(), gradients(model.module)), folder / f"{rank}.pt")
    hang_up()


def comes_and_goes(rank: int, folder: Path, times: int) -> None:
    torch.set_num_threads(1)
    for number in range(times):
        place = f"file://{folder / str(number)}"
        distributed.init_process_group("gloo", init_method=place, rank=rank, world_size=2)
        model = DistributedDataParallel(nn.Linear(4, 4))
        model(torch.ones(1, 4)).sum().backward()
        distributed.barrier()
        hang_up()
        del model  # which frees the group


@pytest.mark.slow
def test_no_process_hangs_as_it_leaves_the_others(tmp_path: Path) -> None:
    """Freed at once after a message, the group waited for ever, once in some fifty times."""
    running = multiprocessing.spawn(  # type: ignore[attr-defined]
        comes_and_goes, (tmp_path, 150), nprocs=2, join=False
    )
    assert all_end(running, waits=2), "they wait for each other"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("chunk", "same_caption"), [(0, "negative"), (2, "shared"), (1, "ignored")]
)
def test_two_processes_equal_one_with_the_whole_batch(tmp_path, chunk, same_caption) -> None:
    arguments = (tmp_path, chunk, same_caption)
    multiprocessing.spawn(in_process, arguments, nprocs=2)  # type: ignore[attr-defined]
    images, text, concepts = batch(6)
    model = encoder()
    loss = contrastive_loss(
        *model(images, text), concepts=concepts, config=LossConfig(0, same_caption)
    )
    loss.backward()
    halves = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    torch.testing.assert_close((halves[0][0] + halves[1][0]) / 2, loss.detach())
    for _, averaged in halves:
        torch.testing.assert_close(averaged, gradients(model))
