"""Models of `open_clip_torch` with GELU and QuickGELU, as safetensors and as checkpoints."""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from stubs import stub  # type: ignore[import-not-found]

stub("torchvision", "timm", "huggingface_hub")
from open_clip.model import CLIP  # type: ignore # noqa: E402
from open_clip.push_to_hf_hub import save_config_for_hf  # type: ignore # noqa: E402
from open_clip.tokenizer import SimpleTokenizer  # type: ignore # noqa: E402


def main(out: Path) -> None:
    captions = json.loads((out / "captions.json").read_text(encoding="utf-8"))
    images = torch.randn(2, 3, 32, 32)
    text = SimpleTokenizer(context_length=20)(captions[:2])
    answer = {"images": images, "text": text}
    for name, quick in (("gelu", False), ("quick_gelu", True)):
        torch.manual_seed(0)
        config = {
            "embed_dim": 32,
            "quick_gelu": quick,
            "vision_cfg": {
                "image_size": 32, "layers": 2, "width": 128, "patch_size": 8, "head_width": 32,
            },
            "text_cfg": {
                "context_length": 20, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2,
            },
        }  # fmt: skip
        model = CLIP(**config).eval()
        for parameter in model.parameters():
            parameter.data.add_(0.05 * torch.randn_like(parameter))
        folder = out / name
        folder.mkdir()
        model.visual.image_mean, model.visual.image_std = (0.5, 0.4, 0.3), (0.3, 0.2, 0.1)
        save_config_for_hf(model, folder / "open_clip_config.json", config)
        state = model.state_dict()
        save_file(state, folder / "open_clip_model.safetensors")
        torch.save(state, folder / "open_clip_pytorch_model.bin")
        # A training run's own checkpoint, on several devices, with an optimiser that has stepped.
        optimiser = torch.optim.AdamW(model.parameters())
        features = model.encode_image(images).sum() + model.encode_text(text).sum()
        with torch.inference_mode():
            answer[f"image-{name}"] = model.encode_image(images, normalize=True)
            answer[f"text-{name}"] = model.encode_text(text, normalize=True)
        checkpoint = {
            "epoch": 1,
            "name": "run",
            "state_dict": {f"module.{key}": value.clone() for key, value in state.items()},
        }
        features.backward()
        optimiser.step()
        torch.save({**checkpoint, "optimizer": optimiser.state_dict()}, folder / "epoch_1.pt")
    save_file({key: value.contiguous() for key, value in answer.items()}, out / "open.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
