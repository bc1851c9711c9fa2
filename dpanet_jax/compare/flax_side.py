"""The Flax side of a comparison, measured through the code that training and evaluation run."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dpanet_jax import models
from dpanet_jax.compare.measured import STAGES, Measured, Recipe, is_statistic, nchw
from dpanet_jax.interop import torch as torch_weights
from dpanet_jax.models.normalize import normalize
from dpanet_jax.training.optimizer import schedule_for, sgd
from dpanet_jax.training.options import Loss
from dpanet_jax.training.state import TrainState
from dpanet_jax.training.step import make_train_step


def keep_gradients() -> optax.GradientTransformation:
    """Passes the gradients on, and keeps them: they are the state."""

    def update(gradients: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        return gradients, gradients

    return optax.GradientTransformation(lambda params: jax.tree.map(jnp.zeros_like, params), update)


def measure(
    recipe: Recipe, variables: dict[str, Any], batches: list[dict[str, np.ndarray]], dtype: str
) -> Measured:
    """Everything, by the train step that training runs; float64 needs JAX's x64 to be on."""
    model = models.build(recipe.num_classes, **recipe.options, dtype=dtype, param_dtype=dtype)
    variables = jax.tree.map(lambda x: jnp.asarray(x, dtype), variables)
    measured = Measured()

    @jax.jit
    def forward(variables: dict[str, Any], batch: dict[str, jax.Array]) -> Any:
        images = normalize(batch["image"], batch["extent"], model.dtype)
        return model.apply(variables, images, train=False, with_stages=True)

    outputs = forward(variables, batches[0])
    measured.stages = {name: nchw(outputs[name]) for name in STAGES}
    measured.logits = {"logits": nchw(outputs["logits"])}

    schedule = schedule_for(recipe.optimizer, recipe.batch_size, recipe.total_steps)
    optimizer = optax.chain(keep_gradients(), sgd(schedule, recipe.optimizer))
    train_step = make_train_step(
        model, optimizer, schedule, recipe.loss_weights, options=Loss(class_weights=recipe.class_weights)
    )
    step = jax.jit(train_step)
    state = TrainState.create(variables, optimizer)
    for number, batch in enumerate(batches, start=1):
        state, metrics = step(state, batch)
        loss = np.asarray(metrics["loss"])
        measured.losses[f"step {number}"] = loss
        if number == 1:
            measured.loss = {"loss": loss} | {
                name: np.asarray(value) for name, value in metrics.items() if name.startswith("loss/")
            }
            named = torch_weights.to_state_dict(
                {"params": jax.device_get(state.opt_state[0]), "batch_stats": state.batch_stats}
            )
            measured.gradients = {name: x for name, x in named.items() if not is_statistic(name)}
            measured.batch_stats = {name: x for name, x in named.items() if is_statistic(name)}
    named = torch_weights.to_state_dict(jax.device_get(state.variables))
    measured.parameters = {name: x for name, x in named.items() if not is_statistic(name)}
    return measured
