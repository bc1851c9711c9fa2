"""Label smoothing, focal, OHEM, Dice and Lovász against NumPy in float64, or the published definition."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpanet_jax.config import ConfigError
from dpanet_jax.models.loss_term import LossTerm
from dpanet_jax.options import OptionError
from dpanet_jax.training.losses import multi_loss, require_whole_batches, totals
from dpanet_jax.training.options import Loss

CLASSES = 5
WEIGHTS = (0.5, 2.0, 0.0, 1.0, 8.0)
# By name: each option that changes the loss, alone.
OPTIONS = {
    "label_smoothing": Loss(label_smoothing=0.1),
    "weighted label_smoothing": Loss(label_smoothing=0.1, class_weights=WEIGHTS),
    "focal": Loss(focal_gamma=2.0),
    "focal, below 1": Loss(focal_gamma=0.5),
    "ohem": Loss(ohem_threshold=0.2, ohem_min_kept=0),
    "ohem, kept": Loss(ohem_threshold=0.01, ohem_min_kept=9),
    "ohem, all": Loss(ohem_threshold=0.01, ohem_min_kept=100_000),
    "dice": Loss(cross_entropy=0.0, dice=1.0),
    "lovasz": Loss(cross_entropy=0.0, lovasz=1.0),
}


def loss_of(logits: jax.Array, labels: np.ndarray, options: Loss) -> jax.Array:
    terms = {"fused": LossTerm("logits", 1.0)}
    total = totals(jnp.asarray(labels), options)
    return multi_loss({"logits": logits}, jnp.asarray(labels), terms, {"fused": 1.0}, total, options=options)[
        0
    ]


def example() -> tuple[np.ndarray, np.ndarray]:
    """Three images, one of them without a valid pixel, another without class 4; none shows class 2."""
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, 3, 4], (3, 6, 7)).astype(np.uint8)
    labels[0, :4] = labels[1] = labels[2, 0] = 255
    labels[2][labels[2] == 4] = 0
    return rng.normal(size=(3, 6, 7, CLASSES)) * 2, labels


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits)
    return powers / powers.sum(-1, keepdims=True)


def of_valid(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (n, K) and labels (n,) of the valid pixels, in their order."""
    return softmax(logits)[labels != 255], labels[labels != 255]


def smoothed(logits: np.ndarray, labels: np.ndarray, weights: tuple[float, ...], epsilon: float) -> float:
    """torch's: the target is (1 − ε) · onehot + ε/K, and each class's share is times its weight."""
    probabilities, ids = of_valid(logits, labels)
    total = 0.0
    for p, i in zip(probabilities, ids, strict=True):
        target = np.full(CLASSES, epsilon / CLASSES)
        target[i] += 1 - epsilon
        total -= np.sum(np.asarray(weights) * target * np.log(p))
    return total / sum(weights[i] for i in ids)


def focal(logits: np.ndarray, labels: np.ndarray, gamma: float) -> float:
    probabilities, ids = of_valid(logits, labels)
    p = probabilities[np.arange(len(ids)), ids]
    return float(np.mean(-((1 - p) ** gamma) * np.log(p)))


def ohem(logits: np.ndarray, labels: np.ndarray, threshold: float, min_kept: int) -> float:
    """As mmsegmentation's OHEMPixelSampler, whose batch is the global one; the mean is over those kept."""
    probabilities, ids = of_valid(logits, labels)
    p = probabilities[np.arange(len(ids)), ids]
    ordered = np.sort(p)
    batch_kept = min_kept * len(labels)
    # Where all are wanted, its index stops at the last pixel, and loses it.
    least = ordered[batch_kept] if batch_kept < len(p) else np.inf
    return float(np.mean(-np.log(p[p < max(least, threshold)])))


def of_each_image(
    of_class: Callable[[np.ndarray, np.ndarray], float], logits: np.ndarray, labels: np.ndarray
) -> float:
    """The mean over images with a valid pixel, of the mean over the classes that they show."""
    found = []
    for image, image_labels in zip(logits, labels, strict=True):
        probabilities, ids = of_valid(image, image_labels)
        if len(ids):
            found.append(np.mean([of_class(probabilities[:, c], ids == c) for c in np.unique(ids)]))
    return float(np.mean(found))


def dice_of_class(p: np.ndarray, y: np.ndarray) -> float:
    return 1 - 2 * np.sum(p * y) / (np.sum(p) + np.sum(y))


def lovasz_of_class(p: np.ndarray, y: np.ndarray) -> float:
    """Berman et al., equation 8: Σ m_i · (Δ(the i largest errors) − Δ(the i − 1 largest))."""
    errors = np.abs(y - p)
    order = np.argsort(-errors)
    total, before = 0.0, 0.0
    for i in range(len(order)):
        wrong = np.zeros(len(order), bool)
        wrong[order[: i + 1]] = True
        # The set function: 1 − IoU where just these pixels are mispredicted.
        jaccard = 1 - np.sum(y & ~wrong) / np.sum(y | wrong)
        total += errors[order[i]] * (jaccard - before)
        before = jaccard
    return total


EXPECTED = {
    "label_smoothing": lambda x, y: smoothed(x, y, (1.0,) * CLASSES, 0.1),
    "weighted label_smoothing": lambda x, y: smoothed(x, y, WEIGHTS, 0.1),
    "focal": lambda x, y: focal(x, y, 2.0),
    "focal, below 1": lambda x, y: focal(x, y, 0.5),
    "ohem": lambda x, y: ohem(x, y, 0.2, 0),
    "ohem, kept": lambda x, y: ohem(x, y, 0.01, 9),
    "ohem, all": lambda x, y: ohem(x, y, 0.01, 100_000),
    "dice": lambda x, y: of_each_image(dice_of_class, x, y),
    "lovasz": lambda x, y: of_each_image(lovasz_of_class, x, y),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_value_in_numpy(name: str) -> None:
    """And the gradient along one direction, by differences."""
    logits, labels = example()
    direction = np.random.default_rng(1).normal(size=logits.shape)
    with jax.enable_x64(True):
        value, gradient = jax.value_and_grad(loss_of)(jnp.asarray(logits), labels, OPTIONS[name])
    gradient = np.asarray(gradient)
    np.testing.assert_allclose(value, EXPECTED[name](logits, labels), rtol=1e-11)
    if not name.startswith("ohem"):  # Its value jumps where a pixel comes in; the next test has its gradient.
        up, down = (EXPECTED[name](logits + sign * 1e-6 * direction, labels) for sign in (1, -1))
        np.testing.assert_allclose(np.sum(gradient * direction), (up - down) / 2e-6, rtol=1e-5)
    np.testing.assert_array_equal(gradient[labels == 255], 0)


def test_ohem_trains_the_hard_pixels_alone() -> None:
    logits, labels = example()
    with jax.enable_x64(True):
        gradient = jax.grad(loss_of)(jnp.asarray(logits), labels, OPTIONS["ohem"])
    of_label = np.take_along_axis(softmax(logits), np.minimum(labels, 4)[..., None].astype(int), -1)[..., 0]
    hard = (of_label < 0.2) & (labels != 255)
    assert 0 < hard.sum() < (labels != 255).sum()
    np.testing.assert_array_equal(np.any(np.asarray(gradient) != 0, axis=-1), hard)


@pytest.mark.parametrize("name", OPTIONS)
def test_no_valid_pixel_gives_zero_and_not_nan(name: str) -> None:
    value, gradient = jax.value_and_grad(loss_of)(
        jnp.ones((2, 2, 2, CLASSES)), np.full((2, 4, 4), 255, np.uint8), OPTIONS[name]
    )
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


def test_focal_loss_of_a_sure_pixel_has_a_gradient() -> None:
    logits = jnp.array([[[[200.0, 0, 0, 0, 0]]]])
    gradient = jax.grad(loss_of)(logits, np.zeros((1, 1, 1), np.uint8), OPTIONS["focal, below 1"])
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("weights", [(), WEIGHTS])
def test_label_smoothing_is_torchs(weights: tuple[float, ...]) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    logits, labels = example()
    theirs = torch.nn.functional.cross_entropy(
        torch.tensor(logits.transpose(0, 3, 1, 2)),
        torch.tensor(labels.astype(np.int64)),
        weight=torch.tensor(weights, dtype=torch.float64) if weights else None,
        ignore_index=255,
        label_smoothing=0.2,
    )
    with jax.enable_x64(True):
        options = Loss(label_smoothing=0.2, class_weights=weights)
        np.testing.assert_allclose(loss_of(jnp.asarray(logits), labels, options), theirs.item(), rtol=1e-12)


def test_losses_add_up_by_their_weights() -> None:
    logits, labels = example()
    with jax.enable_x64(True):
        x = jnp.asarray(logits)
        joined = loss_of(x, labels, Loss(cross_entropy=0.5, dice=3.0, lovasz=2.0))
        alone = (Loss(), OPTIONS["dice"], OPTIONS["lovasz"])
        parts = [float(loss_of(x, labels, each)) for each in alone]
    np.testing.assert_allclose(joined, np.dot((0.5, 3.0, 2.0), parts), rtol=1e-12)


def test_ohem_is_refused_in_parts() -> None:
    require_whole_batches(Loss(ohem_threshold=0.7), 1)
    require_whole_batches(Loss(dice=1.0, lovasz=1.0), 2)
    with pytest.raises(ConfigError, match="accumulate_steps=2: OHEM compares .* set it to 1, or"):
        require_whole_batches(Loss(ohem_threshold=0.7), 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cross_entropy": 0.0}, "cross_entropy, dice and lovasz are all 0"),
        ({"label_smoothing": 0.1, "focal_gamma": 2.0}, "set one of the two to 0"),
        ({"ohem_min_kept": 5}, "ohem_min_kept=5: OHEM is off"),
        ({"cross_entropy": 0.0, "dice": 1.0, "focal_gamma": 2.0}, "loss.cross_entropy, which uses it, is 0"),
    ],
)
def test_what_has_no_effect_is_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Loss(**options)  # type: ignore[arg-type]
