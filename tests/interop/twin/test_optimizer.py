"""The twin's SGD and poly schedule against their definitions."""

import pytest

torch = pytest.importorskip("torch")

from dpanet_jax.interop import twin  # noqa: E402

TINY = {"backbone": "resnet18", "width": 4, "reduce_channels": 4}


def test_groups_hold_every_parameter_once():
    model = twin.build(2, **TINY)
    optimizer = twin.sgd(model, lr=0.01, momentum=0.9, weight_decay=1e-4, head_lr_multiplier=10.0)
    backbone, heads = optimizer.param_groups
    assert backbone["lr"] == 0.01 and heads["lr"] == pytest.approx(0.1)
    assert {id(p) for p in backbone["params"]} == {id(p) for p in model.pretrained.parameters()}
    of_heads = (*model.head.parameters(), *model.auxlayer.parameters())
    assert {id(p) for p in heads["params"]} == {id(p) for p in of_heads}
    assert all(g["weight_decay"] == 1e-4 and g["momentum"] == 0.9 for g in (backbone, heads))
    twin.set_lr(optimizer, 0.002)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.002, 0.02])


def test_two_updates():
    """v = m·v + (g + w·p), p = p - lr·v, with the rate of each step and the head's multiplier."""
    model = twin.build(2, **TINY).double()
    optimizer = twin.sgd(model, lr=0.1, momentum=0.9, weight_decay=0.01, head_lr_multiplier=10.0)
    followed = {1.0: model.pretrained.bn1.weight, 10.0: model.head.conv8[1].bias}
    expected = {factor: (p.detach().clone(), torch.zeros_like(p)) for factor, p in followed.items()}
    for step in range(2):
        rate = twin.poly_lr(0.1, step, total=4, power=0.9)
        twin.set_lr(optimizer, rate)
        for factor, parameter in followed.items():
            gradient = torch.linspace(-1, 1, parameter.numel()).double() * (step + 1)
            parameter.grad = gradient
            value, velocity = expected[factor]
            velocity = 0.9 * velocity + gradient + 0.01 * value
            expected[factor] = (value - rate * factor * velocity, velocity)
        optimizer.step()
    for factor, parameter in followed.items():
        torch.testing.assert_close(parameter.detach(), expected[factor][0], rtol=1e-12, atol=1e-12)


def test_poly():
    assert twin.poly_lr(0.5, 0, 100, 0.9) == 0.5
    assert twin.poly_lr(0.5, 50, 100, 0.9) == pytest.approx(0.5 * 0.5**0.9)
    assert twin.poly_lr(0.5, 100, 100, 0.9) == 0
    assert twin.poly_lr(1.0, 25, 100, 2.0) == pytest.approx(0.75**2)


def test_warmup():
    rates = [twin.poly_lr(1.0, step, 10, 1.0, warmup_steps=4) for step in range(6)]
    assert rates == pytest.approx([0.25, 0.9 * 0.5, 0.8 * 0.75, 0.7, 0.6, 0.5])


@pytest.mark.parametrize("step, total", [(-1, 10), (11, 10), (0, 0)])
def test_a_step_outside_the_schedule(step, total):
    with pytest.raises(ValueError, match=f"step={step}"):
        twin.poly_lr(0.1, step, total, 0.9)
