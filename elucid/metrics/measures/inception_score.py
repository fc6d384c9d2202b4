"""The inception score, from the logits of a classifier."""

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError

SPLITS = 10


def inception_score(logits: Tensor, splits: int = SPLITS) -> tuple[float, Tensor]:
    """The mean of exp(E[KL(p(y|x) || p(y))]) over consecutive parts of logits [N,classes], and the scores f64[splits].

    Salimans et al. 2016 (arXiv 1606.03498). At least 1, at most the number of classes. Raises UserError if there are
    fewer images than parts.
    """
    if len(logits) < splits:
        raise UserError(f"the inception score takes {splits} parts, and {len(logits)} images are fewer; give more")
    scores = torch.stack([_of_part(part) for part in torch.tensor_split(logits, splits)])
    return float(scores.mean()), scores


def shuffled(logits: Tensor) -> Tensor:
    """Return the rows in a fixed random order, as images sorted by class would make the parts unlike each other."""
    return logits[torch.randperm(len(logits), generator=torch.Generator().manual_seed(0)).to(logits.device)]


def _of_part(logits: Tensor) -> Tensor:
    log_p = logits.double().log_softmax(1)
    log_mean = log_p.logsumexp(0) - torch.log(torch.tensor(len(log_p), dtype=torch.float64))
    return (log_p.exp() * (log_p - log_mean)).sum(1).mean().exp()
