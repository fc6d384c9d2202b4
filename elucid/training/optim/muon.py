"""Muon for convolutional networks: Muon for matrices and kernels, AdamW for everything else."""

import torch


class Muon(torch.optim.Optimizer):
    """W <- W - lr * 0.2 sqrt(max(m, n)) * orthogonalized(momentum) for weights viewed as matrices [m, n].

    Jordan et al. 2024, scaled so that Adam's learning rate and weight decay can be reused (Liu et al. 2025, "Muon is
    scalable for LLM training"). A kernel is viewed as a matrix [out, in*k*k]. AdamW, with `betas` and `eps`, updates
    all other parameters and layers with fewer than `min_channels` inputs or outputs, such as the first and last one.
    """

    def __init__(
        self,
        params,
        lr: float = 1e-3,
        weight_decay: float = 0,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        betas: list[float] = (0.9, 0.999),
        eps: float = 1e-8,
        min_channels: int = 16,
    ):
        # These two validate the options and compute the updates; `step` passes them the parameters and state.
        self._muon = torch.optim.Muon(
            [torch.zeros(1, 1)],
            lr,
            weight_decay,
            momentum,
            nesterov,
            ns_steps=ns_steps,
            adjust_lr_fn="match_rms_adamw",
        )
        self._adamw = torch.optim.AdamW([torch.zeros(1)], lr, tuple(betas), eps, weight_decay)
        groups = []
        for group in _as_groups(params):
            for muon, inner in ((True, self._muon), (False, self._adamw)):
                own = [p for p in group["params"] if muon == (p.ndim >= 2 and min(p.shape[:2]) >= min_channels)]
                if own:
                    groups.append({**inner.defaults, **group, "params": own, "muon": muon})
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        """Update all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._adamw.param_groups = [group for group in self.param_groups if not group["muon"]]
        self._adamw.state = self.state
        self._adamw.step()
        self._muon.param_groups, self._muon.state = [], {}
        for group in self.param_groups:
            if group["muon"]:
                trained = [p for p in group["params"] if p.grad is not None]
                views = [_matrix(p) for p in trained]
                self._muon.param_groups.append({**group, "params": views})
                self._muon.state.update({view: self.state[p] for view, p in zip(views, trained, strict=True)})
        self._muon.step()
        return loss


def _as_groups(params) -> list[dict]:
    """Convert parameters or parameter groups, as torch's optimizers accept them, to parameter groups."""
    params = list(params)
    return params if params and isinstance(params[0], dict) else [{"params": params}]


def _matrix(parameter: torch.Tensor) -> torch.Tensor:
    """Return a view of the parameter and its gradient as a matrix [out, ...]."""
    matrix = parameter.detach().view(len(parameter), -1)
    matrix.grad = parameter.grad.flatten(1)
    return matrix
