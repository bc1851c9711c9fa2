"""One training step: a pure function of (state, batch), however it is laid on devices."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dpanet_jax.data.classes import IGNORE_LABEL
from dpanet_jax.models.loss_term import LossTerm
from dpanet_jax.models.normalize import normalize
from dpanet_jax.training import average, freezing
from dpanet_jax.training.layout import Batch, Metrics, TrainStep
from dpanet_jax.training.losses import Totals, count_valid, multi_loss, require_whole_batches, totals
from dpanet_jax.training.optimizer import Schedule
from dpanet_jax.training.options import Freeze, Loss
from dpanet_jax.training.state import TrainState

# (state, part of the batch, dropout key, totals) → (batch_stats, sums); see `make_gradients`.
Gradients: TypeAlias = Callable[[TrainState, Batch, jax.Array, Totals], Any]
# A tree → the same values, laid otherwise on the devices.
Relay: TypeAlias = Callable[[Any], Any]
_PLAIN = Loss()


def _as_it_is(tree: Any) -> Any:
    return tree


class Trainable(Protocol):
    """What a step needs of a model. `models.build` makes one, and any Flax module with these will do."""

    @property
    def dtype(self) -> np.dtype[Any]: ...

    @property
    def align_corners(self) -> bool: ...

    def loss_terms(self) -> Mapping[str, LossTerm]:
        """Which outputs the loss reads: {term: LossTerm}."""

    # Called with the images and train=True, `mutable` batch statistics and a dropout key in `rngs`.
    @property
    def apply(self) -> Any: ...


def make_train_step(
    model: Trainable,
    optimizer: optax.GradientTransformation,
    schedule: Schedule,
    loss_weights: Mapping[str, float],
    *,
    options: Loss = _PLAIN,
    seed: int = 0,
    accumulate_steps: int = 1,
    freeze: Freeze = "nothing",
    ema_decay: float = 0.0,
    axis_name: str | None = None,
    gather: Relay = _as_it_is,
    scatter: Relay = _as_it_is,
) -> TrainStep:
    """Builds `train_step(state, batch) → (state, metrics)`.

    `batch` has "image" (B, H, W, 3) uint8, "label" (B, H, W) uint8 class ids or 255, and "extent"
    (B, 2) int32, the height and width that are not padding. B is the global batch, or, under `pmap`
    with `axis_name`, this device's part of it. `metrics` are scalars of the global batch: "loss", a
    "loss/TERM" for each term of the model's loss, "accuracy" in [0, 1] over valid pixels, "lr", and
    "grad_norm".

    The loss is a mean over the valid pixels of the global batch, or what else `options` say (see
    `losses.multi_loss`), so every part divides by the same total and the parts' gradients add up.
    With `accumulate_steps` > 1 the batch is computed in that many parts; batch norm then sees, and averages
    over, each part by itself. What `freeze` names stays as it is, and "grad_norm" is of the rest; the
    model's own batch norms must be frozen too (`models.build`'s `backbone_trains`). `ema_decay` is that of
    `average`, whose state must be there. `gather` and `scatter`,
    as of `layout.Jit`, lay the parameters and their gradients anew on the devices. Raises ConfigError for a
    loss that cannot be computed in parts.
    """

    def over_devices(tree: Any) -> Any:
        return tree if axis_name is None else jax.lax.psum(tree, axis_name)

    require_whole_batches(options, accumulate_steps)
    compute = make_gradients(model, loss_weights, options, scatter, over_devices, freeze)
    if accumulate_steps > 1:
        compute = in_parts(compute, accumulate_steps)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        if axis_name is not None:
            require_every_device(axis_name)
        rng = jax.random.fold_in(jax.random.key(seed), state.step)
        num_valid = over_devices(count_valid(batch["label"]))
        total = over_devices(totals(batch["label"], options))
        gathered = dataclasses.replace(state, params=gather(state.params))
        batch_stats, sums = compute(gathered, batch, rng, total)
        grads, loss, terms, correct = over_devices(sums)
        trained, frozen = freezing.split(state.params, state.batch_stats, freeze)
        updates, opt_state = optimizer.update(grads, state.opt_state, trained)
        metrics = {
            "loss": loss,
            **{f"loss/{term}": value for term, value in terms.items()},
            "accuracy": correct / jnp.maximum(num_valid, 1),
            "lr": jnp.asarray(schedule(state.step), jnp.float32),
            "grad_norm": optax.tree.norm(grads),
        }
        state = dataclasses.replace(
            state,
            step=state.step + 1,
            params=freezing.join(optax.apply_updates(trained, updates), frozen),
            batch_stats=batch_stats,
            opt_state=opt_state,
        )
        if ema_decay:
            ema = average.updated(state.ema, state.trained, state.step, ema_decay)
            state = dataclasses.replace(state, ema=ema)
        return state, metrics

    return train_step


def require_every_device(axis_name: str) -> None:
    """Raises RuntimeError where a mapped axis leaves out a device, of whichever host.

    Each host, or device, would else train a network of its own, and nothing would tell.
    """
    spanned = jax.lax.axis_size(axis_name)
    if spanned != jax.device_count():
        raise RuntimeError(f'the axis "{axis_name}" spans {spanned} of {jax.device_count()} devices')


def make_gradients(
    model: Trainable,
    loss_weights: Mapping[str, float],
    options: Loss = _PLAIN,
    scatter: Relay = _as_it_is,
    over_devices: Callable[[Any], Any] = _as_it_is,
    freeze: Freeze = "nothing",
) -> Gradients:
    """`gradients(state, part, rng, total)` → batch statistics, and (gradients, loss, terms, correct).

    The latter are this part's share of the global batch's, so that parts' and devices' add up. There is no
    gradient of what is frozen, and no backward pass through a frozen backbone.
    """
    loss_terms = model.loss_terms()

    def loss_fn(
        trained: Any, frozen: Any, batch_stats: Any, part: Batch, rng: jax.Array, total: Totals
    ) -> tuple[jax.Array, Any]:
        images = normalize(part["image"], part["extent"], model.dtype)
        outputs, updates = model.apply(
            {"params": freezing.join(trained, frozen), "batch_stats": batch_stats},
            images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": rng},
        )
        loss, terms = multi_loss(
            outputs,
            part["label"],
            loss_terms,
            loss_weights,
            total,
            model.align_corners,
            options,
            over_devices,
        )
        # A network without batch norm has none.
        return loss, (updates.get("batch_stats", {}), terms, count_correct(outputs["logits"], part["label"]))

    def gradients(state: TrainState, part: Batch, rng: jax.Array, total: Totals) -> Any:
        grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
        trained, frozen = freezing.split(state.params, state.batch_stats, freeze)
        (loss, (batch_stats, terms, correct)), grads = grad_fn(
            trained, frozen, state.batch_stats, part, rng, total
        )
        return batch_stats, (scatter(grads), loss, terms, correct)

    return gradients


def in_parts(gradients: Gradients, count: int) -> Gradients:
    """The same of a whole batch, computed in `count` parts one after another."""

    def accumulated(state: TrainState, batch: Batch, rng: jax.Array, total: Totals) -> Any:
        parts = jax.tree.map(lambda x: split_parts(x, count), batch)
        rngs = jax.random.split(rng, count)

        def one_part(carry: Any, part_and_rng: tuple[Batch, jax.Array]) -> tuple[Any, None]:
            batch_stats, sums = carry
            batch_stats, results = gradients(
                dataclasses.replace(state, batch_stats=batch_stats), *part_and_rng, total
            )
            return (batch_stats, jax.tree.map(jnp.add, sums, results)), None

        first = jax.tree.map(lambda x: x[0], (parts, rngs))
        shapes = jax.eval_shape(gradients, state, *first, total)[1]
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        return jax.lax.scan(one_part, (state.batch_stats, zeros), (parts, rngs))[0]

    return accumulated


def split_parts(x: jax.Array, parts: int) -> jax.Array:
    """(B, …) → (parts, B/parts, …), every part taking rows from all over the batch.

    A batch that is sharded over devices in contiguous blocks stays spread over them in each part.
    """
    return x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1)


def count_correct(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Valid pixels whose class has the largest logit, at the feature map's resolution scaled up.

    `logits` (B, h, w, K), `labels` (B, H, W). Nearest resizing: a progress figure, cheap on purpose;
    the exact one is evaluation's. Returns float32 ().
    """
    height, width = labels.shape[1:]
    rows = jnp.arange(height) * logits.shape[1] // height
    columns = jnp.arange(width) * logits.shape[2] // width
    predictions = jnp.argmax(logits, axis=-1)[:, rows][:, :, columns]
    return jnp.sum((predictions == labels) & (labels != IGNORE_LABEL), dtype=jnp.float32)
