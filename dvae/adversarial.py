"""The adversarial loss of a tokenizer, and the discriminator's own training beside it."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch._functorch import config as functorch
from torch.nn import functional as F

from dalle_base.training import processes
from dalle_base.training.config import OptimiserConfig
from dalle_base.training.schedules import warmup
from dalle_base.training.trainer import Trainer
from dvae.discriminator import Discriminator, frozen_logits
from dvae.image_losses_config import ADVERSARIAL, AdversarialConfig
from dvae.tokenizer import ImageTokenizer

if TYPE_CHECKING:
    from dalle_base.training.run import Run

LECAM_DECAY = 0.999
RIGHT, PATIENCE, WATCH_DECAY = 0.98, 300, 0.98
"""A discriminator has won that was right this often, for this many updates in a row, by an average
with this decay."""


def hinge(real: Tensor, fake: Tensor) -> Tensor:
    """Return the discriminator's hinge loss, halved, of its logits (any shapes)."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def lecam(real: Tensor, fake: Tensor, averages: Tensor) -> Tensor:
    """Return LeCam's penalty (Tseng et al. 2021) of logits of any shapes.

    `averages` [2] are the moving averages of mean D(real) and mean D(fake).
    """
    real_average, fake_average = averages
    above = F.relu(real - fake_average).square().mean()
    return above + F.relu(real_average - fake).square().mean()


def gradient_ratio(others: Tensor, adversarial: Tensor, layer: Tensor, most: float) -> Tensor:
    """Return how much larger the gradient of the other losses is at a layer's weights, detached.

    ‖∂others/∂w‖ ÷ (‖∂adversarial/∂w‖ + 1e-4), at most `most` (Esser et al. 2021, equation 7).
    """
    # The gradient of the whole batch, over all processes, has another norm than its parts.
    norms = [
        processes.mean(torch.autograd.grad(loss, layer, retain_graph=True)[0].float()).norm()
        for loss in (others, adversarial)
    ]
    return (norms[0] / (norms[1] + 1e-4)).clamp(max=most).detach()


@dataclass
class Watch:
    """Notices a discriminator that has won: then its gradient no longer says what to improve."""

    right: float = 0.5
    """Moving average of how often it is right, on real or on reconstructed patches, whichever is
    less."""
    winning: int = 0
    """Updates in a row in which that was above RIGHT."""
    bounded: int = 0
    """Updates in a row in which the adaptive weight was at its bound."""
    said: bool = False
    """Whether the run has said so: it does so once."""

    def see(self, right: float, bounded: bool) -> str:
        """Take an update's figures; return what to say, if it is time to."""
        self.right = WATCH_DECAY * self.right + (1 - WATCH_DECAY) * right
        self.winning = self.winning + 1 if self.right > RIGHT else 0
        self.bounded = self.bounded + 1 if bounded else 0
        if self.said or max(self.winning, self.bounded) < PATIENCE:
            return ""
        self.said = True
        if self.winning >= PATIENCE:
            return f"it tells {self.right:.1%} of real and reconstructed patches apart"
        return "its adaptive weight is at its bound"


class Adversary:
    """A discriminator with its trainer: what it adds to a tokenizer's loss, and its own update.

    In an update the tokenizer steps first, then the discriminator, on the same reconstruction (as
    Esser et al. do). Neither leaves a gradient on the other.
    """

    def __init__(self, config: AdversarialConfig, tokenizer: ImageTokenizer, run: "Run") -> None:
        """Raises `UserError`: images too small, or no last layer for the adaptive weight."""
        self.config, self.run, self.watch = config, run, Watch()
        if config.adaptive:
            tokenizer.last_layer()  # says so where there is none
        if config.adaptive and run.options.compile:
            # Compiled networks may otherwise free what the gradients after the first still read.
            functorch.donated_buffer = False
        self.tokenizer = tokenizer
        self.network = Discriminator(config, self.tokenizer.image_size)
        complaint = (
            "the discriminator's {what} is {value} at its update {step}: the same "
            f"command with --change {ADVERSARIAL}.lr=LOWER goes on from the last checkpoint"
        )
        options = _optimiser(config, run.config.optimiser)
        self.trainer = Trainer(self.network, options, run.accelerator, complaint)
        self.lecam_averages: Tensor | None = None
        self._ratio: Tensor | None = None

    def started(self, step: int) -> bool:
        """Whether the discriminator takes part in update `step`."""
        return step >= self.config.start

    def generator_loss(
        self, reconstruction: Tensor, others: Tensor, step: int
    ) -> tuple[Tensor, dict[str, float | Tensor]]:
        """Return what to add to the tokenizer's other losses in update `step`, and its figures."""
        loss = -frozen_logits(self.network, reconstruction).mean()
        figures: dict[str, float | Tensor] = {"adversarial": loss.detach()}
        weight: float | Tensor = self.config.weight
        weight *= warmup(step - self.config.start, self.config.ramp)
        if self.config.adaptive:
            layer = self.tokenizer.last_layer()
            self._ratio = gradient_ratio(others, loss, layer, self.config.adaptive_max)
            weight = weight * self._ratio
            figures["adversarial_weight"] = weight
        return weight * loss, figures

    def update(self, images: Tensor, reconstruction: Tensor) -> dict[str, float | Tensor]:
        """Train the discriminator on a batch; return its figures, none of a skipped update.

        Raises `UserError` if its loss is not finite and that is to end the run.

        `discriminator_real` and `discriminator_fake` are the shares of patches it is right about.
        """
        real, fake = self.trainer.model(images, reconstruction.detach())
        loss = hinge(real, fake)
        if self.config.lecam:
            loss = loss + self.config.lecam * lecam(real, fake, self._averages(real, fake))
        value = self.trainer.update(loss)
        if self.trainer.skipped:
            return {}
        right = processes.mean(
            torch.stack([(real > 0).float().mean(), (fake < 0).float().mean()])
        ).tolist()
        bounded = self._ratio is not None and self._ratio.item() >= self.config.adaptive_max
        reason = self.watch.see(min(right), bounded)
        if reason:
            self.run.write(self._advice(reason))
        names = ("discriminator", "discriminator_real", "discriminator_fake")
        return dict(zip(names, (value, *right), strict=True))

    def _averages(self, real: Tensor, fake: Tensor) -> Tensor:
        means = torch.stack([real.detach().mean(), fake.detach().mean()])
        means = processes.mean(means)
        before = means if self.lecam_averages is None else self.lecam_averages
        before = before.nan_to_num(0.0, 0.0, 0.0)
        # An update that comes to nothing finite is skipped or ends the run: it leaves no trace.
        means = torch.where(means.isfinite(), means, before)
        self.lecam_averages = before.lerp(means, 1 - LECAM_DECAY)
        return self.lecam_averages

    def _advice(self, reason: str) -> str:
        config = self.config
        return (
            f"the discriminator has won ({reason}, for {PATIENCE} updates) and teaches little now; "
            f"the run goes on. To do better, lower {ADVERSARIAL}.weight (now {config.weight:g}) or "
            f"raise {ADVERSARIAL}.start (now {config.start}): the same command with another "
            f"run.out and init={self.run.checkpoint}"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {
            "trainer": self.trainer.state_dict(),
            "average": self.trainer.average.state_dict(),
            "lecam": self.lecam_averages,
            "watch": asdict(self.watch),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`. Raises `UserError` if it is not this discriminator's."""
        self.trainer.load_state_dict(state["trainer"], state["average"])
        averages = state["lecam"]
        device = self.run.accelerator.device
        self.lecam_averages = None if averages is None else averages.to(device)
        self.watch = Watch(**state["watch"])


def _optimiser(config: AdversarialConfig, tokenizers: OptimiserConfig) -> OptimiserConfig:
    """No average of its parameters: no discriminator ships. Bad updates end as the tokenizer's."""
    return OptimiserConfig(
        lr=config.lr,
        schedule="cosine" if config.decay_updates else "constant",
        final_lr=config.final_lr,
        decay_updates=config.decay_updates,
        beta1=config.beta1,
        beta2=config.beta2,
        ema_decay=0.0,
        non_finite=tokenizers.non_finite,
        most_skips=tokenizers.most_skips,
    )
