"""What fewer bits cost: a model's held-out losses with its weights in each precision.

python -m experiments.precision --model models/emoji --config configs/dalle/emoji.yaml
"""

import argparse
from pathlib import Path

from dalle.checkpoint import load_text_to_image
from dalle.config import PRECISIONS
from dalle.examples import held_out_examples
from dalle.metrics import held_out_losses
from dalle.precision import in_precision
from dalle_base.common.errors import command
from dalle_base.data.sources import data_of, open_sources
from dalle_base.data.sources.base import captioned


@command
def main() -> None:
    parser = argparse.ArgumentParser(description="Measure held-out losses in each precision.")
    parser.add_argument("--model", type=Path, default=Path("models/emoji"), help="model folder")
    parser.add_argument("--config", type=Path, required=True, help="config with the held-out data")
    parser.add_argument(
        "--images", "--pictures", type=int, default=0, help="held-out images; 0: all"
    )
    options = parser.parse_args()
    model = load_text_to_image(options.model)
    data = data_of(options.config)
    length = model.transformer.config.text_length
    source = captioned(open_sources(data)[1])
    examples = held_out_examples(
        source, model.text_tokenizer, length, model.tokenizer, options.images
    )
    for precision in PRECISIONS:
        figures = held_out_losses(in_precision(model.transformer, precision), *examples)
        print(f"{precision:<10}" + "  ".join(f"{k} {v:.5f}" for k, v in figures.items()))


if __name__ == "__main__":
    raise SystemExit(main())
