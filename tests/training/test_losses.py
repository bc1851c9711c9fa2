"""The loss against NumPy in float64: its mean over valid pixels, its terms, and a batch with none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpanet_jax.models.loss_term import LossTerm
from dpanet_jax.training.losses import count_valid, cross_entropy_sum, multi_loss, totals
from dpanet_jax.training.options import Loss

FUSED = {"fused": LossTerm("logits", 1.0)}
TERMS = {
    **FUSED,
    "spatial": LossTerm("spatial", 1.0),
    "channel": LossTerm("channel", 1.0),
    "auxiliary": LossTerm("auxiliary", 0.4),
}
WEIGHTS = {name: term.weight for name, term in TERMS.items()}


def mean_in_numpy(logits: np.ndarray, labels: np.ndarray) -> np.floating:
    """Mean of −log softmax at the label, over labels that are not 255, pixel by pixel."""
    losses = []
    for index in np.ndindex(labels.shape):
        if labels[index] != 255:
            values = logits[index]
            losses.append(np.log(np.sum(np.exp(values))) - values[labels[index]])
    return np.mean(losses)


@pytest.fixture
def labels() -> np.ndarray:
    labels = np.random.default_rng(0).integers(0, 5, (2, 6, 7)).astype(np.uint8)
    labels[0, :4] = 255
    return labels


def test_mean_over_valid_pixels(labels: np.ndarray) -> None:
    logits = np.random.default_rng(1).normal(size=(2, 6, 7, 5))
    with jax.enable_x64(True):
        total = cross_entropy_sum(jnp.asarray(logits), labels) / count_valid(labels)
        assert total.dtype == jnp.float64
        np.testing.assert_allclose(total, mean_in_numpy(logits, labels), rtol=1e-12)


def test_terms_are_weighted_and_resized(labels: np.ndarray) -> None:
    rng = np.random.default_rng(2)
    outputs = {name: rng.normal(size=(2, 6, 7, 5)) for name in ("logits", "spatial", "channel", "auxiliary")}
    # A constant map is the same at every resolution: the expected loss needs no resizing.
    outputs["spatial"] = np.broadcast_to(rng.normal(size=5), (2, 3, 2, 5))
    full = {**outputs, "spatial": np.broadcast_to(outputs["spatial"][0, 0, 0], (2, 6, 7, 5))}
    expected = {name: mean_in_numpy(full[term.output], labels) for name, term in TERMS.items()}
    with jax.enable_x64(True):
        arrays = {name: jnp.asarray(value) for name, value in outputs.items()}
        loss, terms = multi_loss(arrays, labels, TERMS, WEIGHTS, totals(labels))
        np.testing.assert_allclose(loss, sum(WEIGHTS[t] * expected[t] for t in terms), rtol=1e-12)
    assert terms.keys() == expected.keys()
    for term, value in terms.items():
        np.testing.assert_allclose(value, expected[term], rtol=1e-12)


CLASS_WEIGHTS = (0.5, 2.0, 0.0, 1.0, 8.0)


def test_classes_may_weigh(labels: np.ndarray) -> None:
    """The mean is weighted too: Σ w·loss / Σ w, pixel by pixel."""
    logits = np.random.default_rng(1).normal(size=(2, 6, 7, 5))
    total = weight = 0.0
    for index in np.ndindex(labels.shape):
        if labels[index] != 255:
            w = CLASS_WEIGHTS[labels[index]]
            total += w * (np.log(np.sum(np.exp(logits[index]))) - logits[index][labels[index]])
            weight += w
    with jax.enable_x64(True):
        options = Loss(class_weights=CLASS_WEIGHTS)
        found = totals(labels, options)
        loss, _ = multi_loss({"logits": jnp.asarray(logits)}, labels, FUSED, WEIGHTS, found, options=options)
    np.testing.assert_allclose(found.weight, weight, rtol=1e-12)
    np.testing.assert_allclose(loss, total / weight, rtol=1e-12)


def test_only_pixels_of_a_class_without_weight_give_zero() -> None:
    labels = np.full((1, 4, 4), 2, np.uint8)

    def loss_of(logits: jax.Array) -> jax.Array:
        options = Loss(class_weights=CLASS_WEIGHTS)
        outputs = {"logits": logits}
        return multi_loss(outputs, labels, FUSED, WEIGHTS, totals(labels, options), options=options)[0]

    loss, gradient = jax.value_and_grad(loss_of)(jnp.ones((1, 2, 2, 5)))
    assert loss == 0
    np.testing.assert_array_equal(gradient, np.zeros((1, 2, 2, 5)))


def test_weight_zero_switches_a_term_off(labels: np.ndarray) -> None:
    outputs = {"logits": jnp.zeros((2, 6, 7, 5)), "auxiliary": jnp.full((2, 6, 7, 5), jnp.nan)}
    terms = {**FUSED, "auxiliary": TERMS["auxiliary"]}
    loss, terms = multi_loss(outputs, labels, terms, {**WEIGHTS, "auxiliary": 0.0}, totals(labels))
    assert set(terms) == {"fused"}
    np.testing.assert_allclose(loss, np.log(5), rtol=1e-6)


def test_the_terms_are_those_that_the_model_declares(labels: np.ndarray) -> None:
    """Whatever their names, and whichever outputs they read: two terms of one output count twice."""
    logits = jnp.asarray(np.random.default_rng(4).normal(size=(2, 6, 7, 5)))
    terms = {"first": LossTerm("own", 1.0), "again": LossTerm("own", 1.0)}
    outputs = {"own": logits, "logits": jnp.full((2, 6, 7, 5), jnp.nan)}
    weights = {"first": 1.0, "again": 0.5, "fused": 7.0}
    loss, values = multi_loss(outputs, labels, terms, weights, totals(labels))
    assert list(values) == ["first", "again"]
    np.testing.assert_allclose(loss, 1.5 * mean_in_numpy(np.asarray(logits), labels), rtol=1e-5)


def test_no_valid_pixel_gives_zero_and_not_nan() -> None:
    labels = np.full((1, 4, 4), 255, np.uint8)

    def loss_of(logits: jax.Array) -> jax.Array:
        return multi_loss({"logits": logits}, labels, FUSED, WEIGHTS, totals(labels))[0]

    loss, gradient = jax.value_and_grad(loss_of)(jnp.ones((1, 2, 2, 3)))
    assert loss == 0
    np.testing.assert_array_equal(gradient, np.zeros((1, 2, 2, 3)))


def test_loss_is_float32_for_bfloat16_logits(labels: np.ndarray) -> None:
    logits = jnp.zeros((2, 6, 7, 5), jnp.bfloat16)
    assert cross_entropy_sum(logits, labels).dtype == jnp.float32


@pytest.mark.parametrize("align_corners", [False, True])
def test_same_as_torch(labels: np.ndarray, align_corners: bool) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    logits = np.random.default_rng(3).normal(size=(2, 3, 4, 5))
    with jax.enable_x64(True):
        ours, gradient = jax.value_and_grad(
            lambda x: cross_entropy_sum(x, labels, align_corners) / count_valid(labels)
        )(jnp.asarray(logits))
    theirs_in = torch.tensor(logits.transpose(0, 3, 1, 2), requires_grad=True)
    resized = torch.nn.functional.interpolate(theirs_in, (6, 7), mode="bilinear", align_corners=align_corners)
    theirs = torch.nn.functional.cross_entropy(
        resized, torch.tensor(labels.astype(np.int64)), ignore_index=255
    )
    theirs.backward()
    np.testing.assert_allclose(ours, theirs.item(), rtol=1e-12)
    np.testing.assert_allclose(gradient, theirs_in.grad.numpy().transpose(0, 2, 3, 1), atol=1e-14)
