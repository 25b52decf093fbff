"""Weights of loss terms that follow the size of their gradients at the generators' outputs.

After the balancer of EnCodec (Défossez et al., "High fidelity neural audio compression", 2022, section 3.4) and the
adaptive adversarial weight of VQGAN (Esser et al., 2021). Unlike EnCodec's, the whole keeps the size that fixed weights
would give it, so that gradient clipping means the same, and a step is weighted by the averages of the steps before it,
which makes it independent of how a batch is divided.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cyclesep.cyclegan.config import LossBalancerConfig
from cyclesep.cyclegan.distributed import DistributedContext

ADVERSARIAL = ("adversarial", "feature_matching")
EPSILON = 1e-12


class LossBalancer:
    """Averages of each term's gradient norm and the weights that follow from them; the same on all ranks."""

    def __init__(self, config: LossBalancerConfig, weights: Mapping[str, float], ranks: DistributedContext) -> None:
        self._config, self._weights, self._ranks = config, weights, ranks
        self._averages: dict[str, tuple[Tensor, Tensor]] = {}

    def weights(self, names: Sequence[str]) -> Mapping[str, float | Tensor]:
        """The factor of each named term's loss in this step.

        Before anything has been measured these are the fixed weights; a term that comes in later counts from its second
        step on.
        """
        known = {name: total / count for name, (total, count) in self._averages.items() if name in names}
        if not self._config.active or not known:
            return self._weights
        sizes = self._sizes(known)
        factors = {name: sizes[name] / (norm + EPSILON) for name, norm in known.items()}
        return {name: factors.get(name, 0.0) for name in names}

    def observe(self, norms: Mapping[str, Tensor]) -> None:
        """Take in the norms of this step; norms that are not finite are left out on all ranks alike."""
        if not norms:
            return
        for name, norm in zip(norms, self._ranks.mean(torch.stack(list(norms.values()))), strict=True):
            total, count = self._averages.get(name, (torch.zeros_like(norm), torch.zeros_like(norm)))
            finite = torch.isfinite(norm)
            decay = self._config.decay
            self._averages[name] = (
                torch.where(finite, decay * total + (1 - decay) * norm, total),
                torch.where(finite, decay * count + (1 - decay), count),
            )

    def state_dict(self) -> dict[str, Any]:
        return {name: [total, count] for name, (total, count) in self._averages.items()}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        self._averages = {name: (total.to(device), count.to(device)) for name, (total, count) in state.items()}

    def _sizes(self, norms: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """How long the gradient of each term shall be."""
        sizes = {name: self._weights[name] * norm for name, norm in norms.items()}
        if self._config.enabled:
            whole = torch.stack(list(sizes.values())).sum()
            weight = sum(self._weights[name] for name in norms)
            sizes = {name: whole * self._weights[name] / weight for name in norms}
        share = self._config.adversarial_gradient_share
        judged = [name for name in sizes if name in ADVERSARIAL]
        if share is None or not 0 < len(judged) < len(sizes):
            return sizes
        of_judged = torch.stack([sizes[name] for name in judged]).sum()
        of_others = torch.stack([size for name, size in sizes.items() if name not in ADVERSARIAL]).sum()
        factor = share / (1 - share) * of_others / (of_judged + EPSILON)
        return {name: size * factor if name in ADVERSARIAL else size for name, size in sizes.items()}


def gradient_norms(terms: Mapping[str, Tensor], outputs: Sequence[Tensor]) -> dict[str, Tensor]:
    """The norm of each term's gradient at what the generators gave out, one crop's own loss at a time, then the mean.

    `outputs` are of shape `(batch, ...)`. Terms are means over the batch, which is multiplied out: the norm does not
    depend on the size of the batch.
    """
    return {name: _gradient_norm(term, outputs) for name, term in terms.items()}


def _gradient_norm(term: Tensor, outputs: Sequence[Tensor]) -> Tensor:
    if not term.requires_grad:
        return torch.zeros_like(term)
    gradients = torch.autograd.grad(term, outputs, retain_graph=True, allow_unused=True)
    powers = [each.float().flatten(1).square().sum(1) for each in gradients if each is not None]
    if not powers:
        return torch.zeros_like(term)
    return torch.stack(powers).sum(0).sqrt().mean() * len(powers[0])
