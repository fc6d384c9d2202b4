"""Cross-entropy, the loss of classifiers of noisy images."""

from collections.abc import Set as AbstractSet

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.training.losses.base import Load, Loss
from elucid.training.noise.distributions import DiscreteLevels, LogNormal, NoiseDistribution
from elucid.training.preconds.base import Denoiser, Preconditioned
from elucid.training.types import Batch, LossOutput, Step

QUARTERS = 4
DRAWS = 4096
"""Noise levels drawn to find the quarters of a continuous distribution."""


class CrossEntropy(Loss):
    """-sum_k y_k ln p(k | x; sigma) in nats per image, x = image + sigma n (Dhariwal & Nichol 2021, section 4.1).

    y is the label, one-hot or probabilities. `noise` draws sigma; None means the classifier's discrete levels if it has
    any, else EDM's log-normal distribution. Terms: `accuracy`, the fraction of images whose most probable class is
    right, and `accuracy_q1` to `accuracy_q4`, the same by quarters of the noise levels, least noise first. Raises
    UserError for labels that are missing or no probabilities.
    """

    uses_all_parameters = True

    def __init__(self, noise: NoiseDistribution | None = None):
        super().__init__()
        self.noise = noise
        self._edges: Tensor | None = None

    def check(self, denoiser: Preconditioned) -> None:
        if isinstance(denoiser, Denoiser):
            kind = type(denoiser).__name__
            raise UserError(
                f"loss CrossEntropy trains classifiers, {kind} is not one; use `precond`=classifier or ddpm_classifier"
            )
        self.noise_of(denoiser).check(denoiser)

    def setup(self, denoiser: Preconditioned, load: Load) -> None:
        self.noise_of(denoiser).setup(denoiser)

    def noise_of(self, classifier: Preconditioned) -> NoiseDistribution:
        """Return the distribution of noise levels for this classifier."""
        if self.noise is not None:
            return self.noise
        return LogNormal() if classifier.levels is None else DiscreteLevels()

    def forward(self, denoiser: Preconditioned, batch: Batch, step: Step) -> LossOutput:
        noise, device = self.noise_of(denoiser), batch.images.device
        labels = batch.cond.get("labels")
        if labels is None:
            raise UserError("loss CrossEntropy: the images have no classes; use a dataset with labels and `cond`=1")
        sigma = noise.sample(len(batch), denoiser, device)
        # The answer is not passed on to the network.
        told = {name: value for name, value in batch.cond.items() if name != "labels"}
        logits = denoiser(batch.images + torch.randn_like(batch.images) * sigma, sigma, told)
        entropy = -(labels * logits.log_softmax(dim=1)).sum(dim=1)
        noise.observe(sigma, entropy.detach(), denoiser)
        correct = (logits.argmax(dim=1) == labels.argmax(dim=1)).to(torch.float32)
        terms = {"accuracy": correct, **self.by_quarter(correct, self.quarter(sigma, denoiser), labels)}
        return LossOutput(noise.importance(sigma, denoiser).reshape(-1) * entropy, terms)

    def by_quarter(self, correct: Tensor, quarter: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the terms of the quarters that hold any images; raises UserError if `labels` are no probabilities."""
        fine = (labels >= 0).all(dim=1) & ((labels.sum(dim=1) - 1).abs() < 1e-3)
        quarter = torch.where(fine, quarter, QUARTERS)
        counts = torch.bincount(quarter, minlength=QUARTERS + 1).tolist()  # waits for the device only here
        if counts[QUARTERS]:
            raise UserError(
                f"loss CrossEntropy: {counts[QUARTERS]} of {len(labels)} images have no class, or labels that are not "
                "probabilities; use a dataset with a class for each image, without `label_dropout`"
            )
        parts = correct[quarter.argsort()].split(counts)
        return {f"accuracy_q{i + 1}": part for i, part in enumerate(parts[:QUARTERS]) if len(part)}

    def quarter(self, sigma: Tensor, classifier: Preconditioned) -> Tensor:
        """Return the quarter of the noise levels that each sigma [B,1,1,1] lies in, 0 to 3 [B], least noise first."""
        if self._edges is None:
            self._edges = quartiles(self.noise_of(classifier), classifier)
        return torch.bucketize(sigma.reshape(-1).to(torch.float32), self._edges.to(sigma.device))

    def after_step(self, denoiser: Preconditioned, step: Step, stepped: AbstractSet[str]) -> None:
        self.noise_of(denoiser).after_step()


def quartiles(noise: NoiseDistribution, classifier: Preconditioned) -> Tensor:
    """Return the quartiles f32[3] of the classifier's discrete levels, or else of the noise levels that are drawn."""
    levels = classifier.levels
    if levels is None:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)  # torch.manual_seed would reseed GPUs as well
            levels = noise.sample(DRAWS, classifier, torch.device("cpu"))
    levels = levels.flatten().to("cpu", torch.float64)
    parts = torch.arange(1, QUARTERS, dtype=torch.float64) / QUARTERS
    return torch.quantile(levels, parts).to(torch.float32)
