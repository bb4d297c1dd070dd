"""Models of `clip-anytorch`, OpenAI's own code, as TorchScript archives, and its text encoding."""

import json
import sys
from pathlib import Path

import packaging.version
import torch
from safetensors.torch import save_file
from stubs import stub  # type: ignore[import-not-found]

stub("torchvision", "pkg_resources")
import pkg_resources  # type: ignore # noqa: E402

pkg_resources.packaging = packaging
from clip.model import CLIP, convert_weights  # type: ignore # noqa: E402
from clip.simple_tokenizer import SimpleTokenizer  # type: ignore # noqa: E402


def main(out: Path) -> None:
    torch.manual_seed(0)
    model = CLIP(
        embed_dim=32,
        image_resolution=32,
        vision_layers=2,
        vision_width=128,
        vision_patch_size=8,
        context_length=20,
        vocab_size=49408,
        transformer_width=64,
        transformer_heads=1,
        transformer_layers=2,
    ).eval()
    captions = json.loads((out / "captions.json").read_text(encoding="utf-8"))
    encoding = SimpleTokenizer()
    ids = {caption: encoding.encode(caption) for caption in captions}
    (out / "ids.json").write_text(json.dumps(ids), encoding="utf-8")
    text = torch.zeros(2, 20, dtype=torch.long)
    for row, caption in zip(text, captions, strict=False):
        tokens = [49406, *ids[caption][:18], 49407]
        row[: len(tokens)] = torch.tensor(tokens)
    images = torch.randn(2, 3, 32, 32)
    for parameter in model.parameters():  # biases start at 0, which would show no mistake
        if parameter.ndim == 1:
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    # As in OpenAI's files: traced, with numbers beside the weights, in half precision.
    for name in ("input_resolution", "context_length", "vocab_size"):
        if hasattr(model, name):
            delattr(model, name)
        model.register_buffer(name, torch.tensor(1))
    answer = {"images": images}
    for precision in ("float32", "float16"):
        if precision == "float16":
            convert_weights(model)
            half = torch.jit.trace_module(
                model, {"encode_image": (images,), "encode_text": (text,)}, check_trace=False
            )
            half.save(out / "clip-float16.pt")
            model.float()  # the answer is in float32, of the rounded weights
        traced = torch.jit.trace_module(
            model, {"encode_image": (images,), "encode_text": (text,)}, check_trace=False
        )
        if precision == "float32":
            traced.save(out / "clip-float32.pt")
        with torch.inference_mode():
            for kind, features in (
                ("image", model.encode_image(images)),
                ("text", model.encode_text(text)),
            ):
                answer[f"{kind}-{precision}"] = features / features.norm(dim=-1, keepdim=True)
    save_file(
        {name: value.contiguous() for name, value in answer.items()}, out / "clip.safetensors"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
