"""Encoder and decoder of `DALL-E==0.1`, pickled whole in both layouts of `torch.save`."""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from stubs import stub  # type: ignore[import-not-found]

stub("requests")
from dall_e import Decoder, Encoder, map_pixels, unmap_pixels  # type: ignore # noqa: E402


def main(out: Path) -> None:
    torch.manual_seed(0)
    encoder = Encoder(n_hid=64, vocab_size=512).eval()
    decoder = Decoder(n_hid=64, n_init=32, vocab_size=512).eval()
    for network in (encoder, decoder):  # biases start at 0, which would show no mistake
        for name, parameter in network.named_parameters():
            if name.endswith(".b"):
                parameter.data.normal_(std=0.1)
    for layout, zipped in (("zip", True), ("legacy", False)):
        for name, network in (("encoder", encoder), ("decoder", decoder)):
            path = out / f"{name}-{layout}.pkl"
            torch.save(network, path, _use_new_zipfile_serialization=zipped)
    with torch.inference_mode():
        images = torch.rand(2, 3, 32, 32)
        logits = encoder(map_pixels(images))
        codes = logits.argmax(dim=1)
        one_hot = torch.nn.functional.one_hot(codes, 512).permute(0, 3, 1, 2).float()
        maps = decoder(one_hot)
        decoded = unmap_pixels(torch.sigmoid(maps[:, :3]))
    answer = {"images": images, "logits": logits, "codes": codes, "decoded": decoded}
    save_file(
        {name: value.contiguous() for name, value in answer.items()}, out / "dall_e.safetensors"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
