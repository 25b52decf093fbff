"""Loss weights that adapt to the gradient norm of each loss term at the outputs of the generators.

After the balancer of EnCodec (Défossez et al., "High fidelity neural audio compression", 2022, section 3.4) and the
adaptive adversarial weight of VQGAN (Esser et al., 2021). Unlike in EnCodec, the total gradient keeps the size that
fixed weights give it, so gradient clipping keeps its meaning. The weights of a step follow from the averages of the
steps before it, so they do not depend on micro-batches.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cyclesep.cyclegan.config import LossBalancerConfig
from cyclesep.cyclegan.distributed import DistributedContext

ADVERSARIAL = ("adversarial", "feature_matching")
EPSILON = 1e-12


class LossBalancer:
    """Moving averages of the gradient norms, and the loss weights that follow from them; equal on all ranks."""

    def __init__(self, config: LossBalancerConfig, weights: Mapping[str, float], ranks: DistributedContext) -> None:
        self._config, self._weights, self._ranks = config, weights, ranks
        self._averages: dict[str, tuple[Tensor, Tensor]] = {}

    @property
    def active(self) -> bool:
        return self._config.active

    def weights(self, names: Iterable[str]) -> Mapping[str, float | Tensor]:
        """Return the weight of each named loss term in this step.

        The weights are the fixed ones until a gradient norm has been measured. A term that starts later has weight 0
        in its first step.
        """
        names = list(names)
        known = {name: total / count for name, (total, count) in self._averages.items() if name in names}
        if not self._config.active or not known:
            return self._weights
        sizes = self._target_sizes(known)
        factors = {name: sizes[name] / (norm + EPSILON) for name, norm in known.items()}
        return {name: factors.get(name, 0.0) for name in names}

    def observe(self, norms: Mapping[str, Tensor]) -> None:
        """Update the averages with the norms of a step; ignore norms that are not finite, on all ranks alike."""
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

    def _target_sizes(self, norms: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the target gradient norm of each term."""
        sizes = {name: self._weights[name] * norm for name, norm in norms.items()}
        if self._config.enabled:
            total = torch.stack(list(sizes.values())).sum()
            weight = sum(self._weights[name] for name in norms)
            sizes = {name: total * self._weights[name] / weight for name in norms}
        share = self._config.adversarial_gradient_share
        adversarial = [name for name in sizes if name in ADVERSARIAL]
        if share is None or not 0 < len(adversarial) < len(sizes):
            return sizes
        adversarial_size = torch.stack([sizes[name] for name in adversarial]).sum()
        other_size = torch.stack([size for name, size in sizes.items() if name not in ADVERSARIAL]).sum()
        factor = share / (1 - share) * other_size / (adversarial_size + EPSILON)
        return {name: size * factor if name in ADVERSARIAL else size for name, size in sizes.items()}


@contextmanager
def record_outputs(modules: Iterable[nn.Module]) -> Iterator[list[Tensor]]:
    """Collect the outputs of `modules` that require gradients; the list fills while the context is open."""
    outputs: list[Tensor] = []

    def record(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        if output.requires_grad:
            outputs.append(output)

    handles = [module.register_forward_hook(record) for module in modules]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def gradient_norms(terms: Mapping[str, Tensor], outputs: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return the norm of each term's gradient at the generator outputs, per crop, averaged over crops.

    `outputs` have shape `(batch, ...)`. Terms are means over the batch; multiplying by its size makes the norm
    independent of it.
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
