"""Loss balancer: gradient norms by hand, shares, averages and edge cases."""

import math

import pytest
import torch

from cyclesep.cyclegan.config import LossBalancerConfig
from cyclesep.cyclegan.distributed import DistributedContext
from cyclesep.cyclegan.loss_balancer import LossBalancer, gradient_norms

WEIGHTS = {"cycle": 10.0, "identity": 5.0, "adversarial": 1.0}


def norms(**values: float) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value) for name, value in values.items()}


def balancer_after(config: LossBalancerConfig, *observed: dict[str, torch.Tensor]) -> LossBalancer:
    balancer = LossBalancer(config, WEIGHTS, DistributedContext())
    for each in observed:
        balancer.observe(each)
    return balancer


def weights(balancer: LossBalancer, *names: str) -> dict[str, float]:
    return {name: float(value) for name, value in balancer.weights(names).items()}


def test_gradient_norms_do_not_depend_on_the_batch_size() -> None:
    for size in (1, 4):
        output = torch.ones(size, 1, 1, 100, requires_grad=True)
        found = gradient_norms({"l1": output.abs().mean(), "power": output.square().mean()}, [output])
        # A gradient of 1/100 in each of 100 samples has norm 1/10, one of 2/100 has norm 2/10.
        assert float(found["l1"]) == pytest.approx(0.1)
        assert float(found["power"]) == pytest.approx(0.2)


def test_gradient_norms_include_all_outputs_and_are_zero_for_constants() -> None:
    first, second = (torch.ones(2, 100, requires_grad=True) for _ in range(2))
    terms = {"both": (first + second).abs().mean(), "second": second.abs().mean(), "none": torch.tensor(3.0)}
    found = gradient_norms(terms, [first, second])
    assert {name: float(norm) for name, norm in found.items()} == pytest.approx(
        {"both": 0.1 * math.sqrt(2), "second": 0.1, "none": 0.0}
    )


def test_weights_are_fixed_before_the_first_observation_and_while_disabled() -> None:
    assert weights(balancer_after(LossBalancerConfig(enabled=True))) == WEIGHTS
    assert weights(balancer_after(LossBalancerConfig(), norms(cycle=1.0))) == WEIGHTS


def test_weights_become_shares_of_a_gradient_of_unchanged_size() -> None:
    balancer = balancer_after(LossBalancerConfig(enabled=True), norms(cycle=0.1, identity=0.4, adversarial=8.0))
    factors = weights(balancer, "cycle", "identity", "adversarial")
    total = 10 * 0.1 + 5 * 0.4 + 1 * 8.0
    assert factors["cycle"] * 0.1 == pytest.approx(total * 10 / 16)
    assert factors["identity"] * 0.4 == pytest.approx(total * 5 / 16)
    assert factors["adversarial"] * 8.0 == pytest.approx(total * 1 / 16)


def test_the_adversarial_share_works_with_fixed_weights() -> None:
    balancer = balancer_after(
        LossBalancerConfig(adversarial_gradient_share=0.2), norms(cycle=0.1, identity=0.4, adversarial=8.0)
    )
    factors = weights(balancer, "cycle", "identity", "adversarial")
    assert (factors["cycle"], factors["identity"]) == pytest.approx((10.0, 5.0))
    others = 10 * 0.1 + 5 * 0.4
    assert factors["adversarial"] * 8.0 == pytest.approx(0.2 * (others + factors["adversarial"] * 8.0))


def test_the_adversarial_share_includes_feature_matching() -> None:
    balancer = LossBalancer(
        LossBalancerConfig(adversarial_gradient_share=0.5),
        {"cycle": 1.0, "adversarial": 1.0, "feature_matching": 3.0},
        DistributedContext(),
    )
    balancer.observe(norms(cycle=2.0, adversarial=1.0, feature_matching=1.0))
    factors = weights(balancer, "cycle", "adversarial", "feature_matching")
    assert factors == pytest.approx({"cycle": 1.0, "adversarial": 0.5, "feature_matching": 1.5})


def test_averages_decay_and_early_averages_are_unbiased() -> None:
    balancer = balancer_after(
        LossBalancerConfig(adversarial_gradient_share=0.5, decay=0.5), norms(cycle=1.0, adversarial=1.0)
    )
    balancer.observe(norms(cycle=1.0, adversarial=4.0))
    # (0.5 * 0.5 * 1 + 0.5 * 4) / 0.75 = 3
    assert weights(balancer, "cycle", "adversarial")["adversarial"] == pytest.approx(10.0 / 3.0)


def test_a_term_that_starts_later_has_weight_zero_in_its_first_step() -> None:
    balancer = balancer_after(LossBalancerConfig(adversarial_gradient_share=0.5), norms(cycle=1.0))
    assert weights(balancer, "cycle", "adversarial") == {"cycle": pytest.approx(10.0), "adversarial": 0.0}
    balancer.observe(norms(cycle=1.0, adversarial=1.0))
    assert weights(balancer, "cycle", "adversarial")["adversarial"] == pytest.approx(10.0)


def test_inactive_terms_do_not_affect_the_weights() -> None:
    balancer = balancer_after(LossBalancerConfig(enabled=True), norms(cycle=1.0, identity=1.0, adversarial=1.0))
    assert weights(balancer, "cycle", "identity") == pytest.approx({"cycle": 10.0, "identity": 5.0})


def test_norms_that_are_not_finite_are_ignored() -> None:
    balancer = balancer_after(LossBalancerConfig(adversarial_gradient_share=0.5), norms(cycle=1.0, adversarial=2.0))
    before = weights(balancer, "cycle", "adversarial")
    balancer.observe(norms(cycle=math.nan, adversarial=math.inf))
    assert weights(balancer, "cycle", "adversarial") == before


def test_norms_are_averaged_over_ranks() -> None:
    balancer = LossBalancer(
        LossBalancerConfig(adversarial_gradient_share=0.5), WEIGHTS, DistributedContext(mean=lambda value: value * 3)
    )
    balancer.observe(norms(cycle=1.0, adversarial=2.0))
    assert float(balancer.state_dict()["adversarial"][0]) == pytest.approx(0.01 * 6.0)
