"""Everything runs on the device of its models: on the GPU where there is one, else on `meta`.

On the meta device tensors have shapes and no values, and one that was forgotten on the CPU raises.
"""

import numpy as np
import pytest
import torch
from builders import build, inputs
from PIL import Image
from rankers import untrained

from dalle.config import Sampling
from dalle.generate import decode_step, generate, prefill
from dalle.likelihood import log_likelihood
from dalle.sampling import guide, sample_codes
from dalle.text_to_image import TextToImage
from dalle_base.common.device import choose_device, choose_precision, enough_memory
from dalle_base.common.errors import UserError
from dalle_base.common.images import to_tensor
from dalle_base.data.text import PADDING
from dalle_base.data.text_training import train_text
from dual_encoder.config import LossConfig
from dual_encoder.loss import contrastive_loss
from dual_encoder.ranker import Ranker
from dvae.config import DVAEConfig, NetworkConfig, ObjectiveConfig
from dvae.model import DiscreteVAE

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "meta")


@pytest.fixture
def models() -> TextToImage:
    """A tiny text-to-image model whose tokenizer has the transformer's grid."""
    torch.manual_seed(0)
    network = NetworkConfig(width=8, groups=2, blocks=1, bottleneck=2, decoder_init=4)
    config = DVAEConfig(image_size=8, grid=4, codebook_size=13, network=network)
    transformer = build(rows=4, columns=4, layers=["row", "column", "conv", "full"], depth=4)
    text_tokenizer = train_text(["a red heart", "a blue heart"], 256)
    return TextToImage(transformer.eval(), text_tokenizer, DiscreteVAE(config).eval())


def on_device(models: TextToImage) -> TextToImage:
    """The models moved, which every method that moves them must bring about."""
    moved = models.to(DEVICE)
    assert moved is models
    assert moved.device.type == DEVICE.type
    return moved


@torch.inference_mode()
def test_embedding_prefill_and_a_decoding_step(models: TextToImage) -> None:
    model = on_device(models).transformer
    tokens, codes = (x.to(DEVICE) for x in inputs(model))
    tokens[0, -1] = PADDING
    assert model.embed_text(tokens).device.type == DEVICE.type
    logits, slots = prefill(model, tokens, codes[:, :3])
    slots = [each.repeat(2) for each in slots]
    uniforms = torch.rand(2, device=DEVICE)
    chosen = sample_codes(logits, uniforms, Sampling(temperature=0.7, top_k=3, top_p=0.9))
    step = decode_step(model, chosen.repeat_interleave(2), torch.tensor([3], device=DEVICE), slots)
    assert guide(step, 2.0).shape == (2, 13)
    assert step.device.type == DEVICE.type


@torch.inference_mode()
def test_encode_and_decode(models: TextToImage) -> None:
    tokenizer = on_device(models).tokenizer
    images = to_tensor([np.zeros((3, 8, 8), np.uint8)] * 2).to(DEVICE)
    codes = tokenizer.encode(images)
    assert codes.device.type == DEVICE.type
    assert tokenizer.decode(codes).shape == images.shape


@torch.inference_mode()
def test_ranking(monkeypatch: pytest.MonkeyPatch) -> None:
    ranker = untrained().to(DEVICE)
    assert isinstance(ranker, Ranker)
    assert ranker.device.type == DEVICE.type
    if not GPU:  # what comes back to the CPU has no values there
        monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: tensor)
    images = ranker.image_features([Image.new("RGB", (9, 9))] * 3)
    text = ranker.text_features(["a red thing", "a blue thing"])
    assert (images @ text.T).shape == (3, 2)


def test_a_training_step_of_the_transformer(models: TextToImage) -> None:
    model = on_device(models).transformer.train().requires_grad_(True)
    tokens, codes = (x.to(DEVICE) for x in inputs(model))
    model.loss(tokens, codes).total.backward()
    optimiser = torch.optim.AdamW(model.parameters(), foreach=False)
    optimiser.step()
    assert model.start.grad is not None


@pytest.mark.parametrize("scale", ["learned", "constant", "image"])
def test_a_training_step_of_the_tokenizer(scale: str) -> None:
    network = NetworkConfig(width=8, groups=2, blocks=1, norm="group", attention=True)
    objective = ObjectiveConfig(scale=scale, likelihood="gaussian", entropy_weight=0.1)
    config = DVAEConfig(8, 4, 13, network, objective)
    model = DiscreteVAE(config).to(DEVICE)
    report = model.loss(torch.rand(2, 3, 8, 8, device=DEVICE), step=3)
    report.total.backward()
    assert all(p.grad is not None for p in model.encoder.parameters())


@pytest.mark.parametrize("same_caption", ["negative", "ignored", "shared"])
def test_a_training_step_of_the_dual_encoder(same_caption: str) -> None:
    model = untrained().model.to(DEVICE).train().requires_grad_(True)
    images = torch.rand(3, 3, 8, 8, device=DEVICE)
    tokens = torch.randint(300, (3, 16), device=DEVICE)
    seen, read, scale = model(images, tokens)
    concepts = torch.arange(3, device=DEVICE)
    wrong = (read.detach(), torch.ones(3, dtype=torch.bool, device=DEVICE))
    config = LossConfig(same_caption=same_caption)
    contrastive_loss(seen, read, scale, concepts, config, wrong=wrong).backward()
    assert model.logit_scale.grad is not None


@pytest.mark.skipif(not GPU, reason="needs a GPU")
def test_a_gpu_samples_what_the_cpu_samples(models: TextToImage) -> None:
    tokens, codes = inputs(models.transformer)
    sampling = Sampling(candidates=3, top_k=1)
    expected = generate(models.transformer, tokens, sampling).codes
    likelihood = log_likelihood(models.transformer, tokens, codes)
    model = on_device(models)
    assert torch.equal(generate(model.transformer, tokens, sampling).codes.cpu(), expected)
    found = log_likelihood(model.transformer, tokens, codes).cpu()
    torch.testing.assert_close(found, likelihood, rtol=1e-3, atol=1e-3)
    samples = model.generate("a red heart", candidates=2)
    assert samples.codes.device.type == "cpu"
    assert torch.equal(model.codes(samples.images).cpu(), model.codes(samples.images))


def test_auto_takes_what_is_there() -> None:
    assert choose_device("auto").type == ("cuda" if GPU else "cpu")
    assert choose_device("cpu").type == "cpu"
    if not GPU:
        with pytest.raises(UserError, match="--device cuda: there is no such device here; use"):
            choose_device("cuda")


def test_auto_is_the_precision_that_suits_the_device() -> None:
    assert choose_precision("auto", torch.device("cpu")) == "float32"
    assert choose_precision("int8", torch.device("cpu")) == "int8"
    if GPU:
        assert choose_precision("auto", torch.device("cuda")) in ("bfloat16", "float32")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
    ],
)
def test_no_memory_left_is_one_line_with_advice(error: Exception) -> None:
    with pytest.raises(UserError, match=r"no memory left .*; use less$"), enough_memory("use less"):
        raise error
    says = r"; use less \(now run\.batch_size 64, memory 4 GB\)$"
    now = {"run.batch_size": 64, "memory": "4 GB"}
    with pytest.raises(UserError, match=says), enough_memory("use less", **now):
        raise error
    with pytest.raises(RuntimeError, match="a bug"), enough_memory("use less"):
        raise RuntimeError("a bug")
