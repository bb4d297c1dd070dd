"""Encoder, decoder and quantisers of `taming-transformers-rom1504`, as Lightning saves them."""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from taming.modules.diffusionmodules.model import Decoder, Encoder  # type: ignore
from taming.modules.vqvae.quantize import GumbelQuantize, VectorQuantizer2  # type: ignore
from torch import nn

NETWORKS = {
    "double_z": False,
    "z_channels": 24,
    "resolution": 32,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 32,
    "ch_mult": [1, 2, 2],
    "num_res_blocks": 2,
    "attn_resolutions": [8, 16],
    "dropout": 0.0,
}
WIDTH, CODES = 24, 64


def main(out: Path) -> None:
    answer = {}
    for name in ("vq", "gumbel"):
        torch.manual_seed(0)
        model = nn.Module()
        model.encoder, model.decoder = Encoder(**NETWORKS), Decoder(**NETWORKS)
        if name == "vq":
            model.quantize = VectorQuantizer2(CODES, WIDTH, beta=0.25, sane_index_shape=True)
        else:
            model.quantize = GumbelQuantize(NETWORKS["z_channels"], WIDTH, CODES)
        model.quant_conv = nn.Conv2d(NETWORKS["z_channels"], WIDTH, 1)
        model.post_quant_conv = nn.Conv2d(WIDTH, NETWORKS["z_channels"], 1)
        model.eval()
        for parameter in model.parameters():  # gains and biases, and codes far enough apart
            parameter.data.add_(torch.randn_like(parameter) * 0.05)
        with torch.inference_mode():
            images = torch.rand(2, 3, 32, 32)
            z = model.quant_conv(model.encoder(2 * images - 1))
            if name == "vq":
                model.quantize.embedding.weight.copy_(z.movedim(1, -1).reshape(-1, WIDTH)[:CODES])
                codes = model.quantize(z)[2][2]
            else:
                codes = model.quantize.proj(z).argmax(dim=1)
            shape = (*codes.shape, WIDTH)
            vectors = model.quantize.get_codebook_entry(codes.flatten(), shape)
            decoded = (model.decoder(model.post_quant_conv(vectors)) + 1) / 2
        saved = {"state_dict": model.state_dict(), "epoch": 0, "callbacks": {}}
        torch.save(saved, out / f"{name}.ckpt")
        answer |= {f"{name}-images": images, f"{name}-codes": codes, f"{name}-decoded": decoded}
    save_file(
        {name: value.contiguous() for name, value in answer.items()}, out / "taming.safetensors"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
