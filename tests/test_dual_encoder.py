"""The dual encoder: its size and names, what its towers let through, its folder."""

import dataclasses
import math

import pytest
import torch
from PIL import Image

from dalle_base.common.errors import UserError
from dalle_base.data.text import PADDING, TextTokenizer
from dalle_base.data.text_training import train_text
from dual_encoder.checkpoint import load_dual_encoder, save_dual_encoder
from dual_encoder.config import DualEncoderConfig, TowerConfig
from dual_encoder.model import DualEncoder
from dual_encoder.ranker import Ranker
from dual_encoder.text import check_vocabulary, encode_captions


def tiny(**changes) -> DualEncoderConfig:
    config = DualEncoderConfig(
        embed_dim=12,
        image_size=8,
        patch_size=4,
        vision=TowerConfig(16, 2, 2),
        vocab_size=300,
        text_length=9,
        text=TowerConfig(8, 2, 2),
    )
    return dataclasses.replace(config, **changes)


def build(seed: int = 0, **changes) -> DualEncoder:
    torch.manual_seed(seed)
    return DualEncoder(tiny(**changes)).eval()


def text_tokenizer() -> TextTokenizer:
    return train_text(["a red heart", "a blue heart", "two red stars"], 290)


def test_vit_b_32_has_the_published_size_and_names() -> None:
    with torch.device("meta"):
        model = DualEncoder(DualEncoderConfig())
    state = model.state_dict()
    assert sum(p.numel() for p in model.parameters()) == 151_277_313
    assert len(state) == 302
    assert state["visual.proj"].shape == (768, 512)
    assert state["visual.conv1.weight"].shape == (768, 3, 32, 32)
    assert state["text_projection"].shape == (512, 512)
    block = "visual.transformer.resblocks.11."
    assert state[block + "attn.in_proj_weight"].shape == (3 * 768, 768)
    assert state["transformer.resblocks.0.mlp.c_fc.weight"].shape == (2048, 512)


def test_the_scale_starts_at_one_fourteenth_and_stays_below_100() -> None:
    model = build()
    assert model.scale().item() == pytest.approx(1 / 0.07)
    model.logit_scale.data.fill_(7.0)
    assert model.scale().item() == pytest.approx(100)


def test_features_have_length_1_and_depend_on_every_patch_and_every_token() -> None:
    model = build()
    images = torch.rand(2, 3, 8, 8, requires_grad=True)
    features = model.encode_image(images)
    torch.testing.assert_close(features.norm(dim=-1), torch.ones(2))
    features[0, 0].backward()
    assert images.grad is not None
    assert (images.grad[0].abs().sum(dim=0) > 0).all()
    assert not images.grad[1].any()
    tokens = torch.tensor([[298, 5, 6, 299, -1], [298, 7, 5, 6, 299]])
    features = model.encode_text(tokens)
    torch.testing.assert_close(features.norm(dim=-1), torch.ones(2))
    for place in range(4):
        other = tokens.clone()
        other[0, place] = 9
        assert not torch.allclose(model.encode_text(other)[0], features[0])


def test_padding_changes_nothing() -> None:
    model = build()
    tokens = torch.tensor([[298, 5, 6, 299]])
    padded = torch.cat([tokens, torch.full((1, 5), PADDING)], dim=1)
    torch.testing.assert_close(model.encode_text(padded), model.encode_text(tokens))


def test_captions_have_their_two_ends_however_long_they_are() -> None:
    tokenizer, config = text_tokenizer(), tiny(text_length=5)
    tokens = encode_captions(tokenizer, ["heart", "a red heart a red heart"], config)
    assert tokens[:, 0].tolist() == [298, 298]
    length = (tokenizer.encode(["heart"], 9) != PADDING).sum()
    assert tokens[0].tolist().index(299) == 1 + length
    assert tokens[1, -1] == 299
    assert (tokens == 299).sum(dim=1).tolist() == [1, 1]
    with pytest.raises(UserError, match="is empty"):
        encode_captions(tokenizer, [" "], config)
    with pytest.raises(UserError, match="a start and an end"):
        check_vocabulary(tokenizer, tiny(vocab_size=tokenizer.vocab_size + 1))


def test_patches_are_left_out_in_training_alone() -> None:
    model = build(patch_dropout=0.5)
    images = torch.rand(1, 3, 8, 8)
    assert torch.equal(model.encode_image(images), model.encode_image(images))
    model.train()
    images.requires_grad_()
    model.encode_image(images)[0, 0].backward()
    assert images.grad is not None
    patches = images.grad.unfold(2, 4, 4).unfold(3, 4, 4).abs().sum(dim=(0, 1, 4, 5))
    assert (patches > 0).sum() == 2


def test_a_folder_gives_back_the_model(tmp_path) -> None:
    ranker = Ranker(build(), text_tokenizer())
    save_dual_encoder(tmp_path / "m", ranker, torch.float32)
    loaded = load_dual_encoder(tmp_path / "m")
    assert loaded.model.config == ranker.model.config
    captions = ["a red heart", "stars"]
    assert torch.equal(loaded.text_features(captions), ranker.text_features(captions))
    images = [Image.new("RGB", (20, 10), "red"), Image.new("RGB", (9, 9), "blue")]
    features = ranker.image_features(images, batch_size=1)
    assert features.shape == (2, 12)
    torch.testing.assert_close(loaded.image_features(images), features)
    (tmp_path / "m" / "text.json").unlink()
    with pytest.raises(UserError, match="is not a dual encoder"):
        load_dual_encoder(tmp_path / "m")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_size": 3}, "patch_size=3 does not divide"),
        ({"activation": "relu"}, "activation is 'relu'; use one of gelu, quick_gelu"),
        ({"vision": TowerConfig(16, 1, 3)}, "heads=3 does not divide"),
        ({"text_length": 2}, "model.text_length is 2: write a whole number from 3"),
        ({"std": [1.0, 1.0, 0.0]}, "model.std is .1.0, 1.0, 0.0.: write numbers from"),
        ({"dropout": 1.0}, "model.dropout is 1.0: write a number from 0 to below 1"),
    ],
)
def test_impossible_configs_are_refused(changes, message) -> None:
    with pytest.raises(UserError, match=message):
        DualEncoder(tiny(**changes))


def test_inputs_of_another_size_are_refused() -> None:
    model = build()
    with pytest.raises(UserError, match=r"the model reads \[B, 3, 8, 8\]"):
        model.encode_image(torch.rand(1, 3, 4, 8))
    with pytest.raises(UserError, match="reads at most"):
        model.encode_text(torch.zeros(1, 10, dtype=torch.long))
    assert math.isfinite(model.encode_text(torch.zeros(1, 9, dtype=torch.long)).sum().item())
