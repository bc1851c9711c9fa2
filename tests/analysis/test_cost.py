"""The cost of a compiled step against counts by hand: operations, bytes of the state, sums of gradients."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest

from dpanet_jax.analysis import cost as cost_lib
from dpanet_jax.analysis.cost import Cost, TooLarge
from dpanet_jax.config import default_config, sections
from dpanet_jax.models.segmenter import init_variables
from dpanet_jax.training import build, layout
from dpanet_jax.training.options import Sharding
from dpanet_jax.training.state import TrainState

BATCH, SIZE, CHANNELS = 16, 20, (3, 8, 12)


class TwoConvolutions(nn.Module):
    """Two 3×3 convolutions without padding: (B, 20, 20, 3) → (B, 18, 18, 8) → (B, 16, 16, 12)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for features in CHANNELS[1:]:
            x = nn.Conv(features, (3, 3), padding="VALID", use_bias=False)(x)
        return x


def conv_state_and_step() -> tuple[TrainState, layout.Batch, Any]:
    model, optimizer = TwoConvolutions(), optax.sgd(0.1, momentum=0.9)

    def train_step(state: TrainState, batch: layout.Batch) -> tuple[TrainState, layout.Metrics]:
        def loss_fn(params: Any) -> jax.Array:
            return jnp.mean(model.apply({"params": params}, batch["image"]) ** 2)

        loss, grads = jax.value_and_grad(loss_fn)(state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, state.batch_stats, opt_state), {"loss": loss}

    image = jax.ShapeDtypeStruct((BATCH, SIZE, SIZE, CHANNELS[0]), jnp.float32)
    label = jax.ShapeDtypeStruct((BATCH, SIZE, SIZE), jnp.uint8)
    extent = jax.ShapeDtypeStruct((BATCH, 2), jnp.int32)

    def init(rng: jax.Array) -> TrainState:
        params = model.init(rng, jnp.zeros(image.shape))["params"]
        return TrainState.create({"params": params, "batch_stats": {}}, optimizer)

    return (
        jax.eval_shape(init, jax.random.key(0)),
        {"image": image, "label": label, "extent": extent},
        train_step,
    )


# A multiplication and an addition for each output, kernel position and input channel: of both convolutions
# forward and for the gradient of their kernels, of the second for the gradient of its input too.
FIRST = 2 * BATCH * 18 * 18 * 9 * 3 * 8
SECOND = 2 * BATCH * 16 * 16 * 9 * 8 * 12
KERNELS = 9 * (3 * 8 + 8 * 12)


@pytest.fixture(scope="module")
def conv_cost() -> Cost:
    state, batch, train_step = conv_state_and_step()
    products = cost_lib.count_products(jax.make_jaxpr(train_step)(state, batch).jaxpr) / 8
    compiled = layout.Jit().compile(train_step, state).lower(state, batch).compile()  # type: ignore[attr-defined]
    return cost_lib.measure(compiled, state, batch, products, 1, 8)


def test_operations_of_a_small_network_by_hand(conv_cost: Cost) -> None:
    by_hand = (2 * FIRST + 3 * SECOND) / 8
    # The optimizer, the square and the mean come on top: each output a few, each parameter a few.
    others = (5 * BATCH * 16 * 16 * 12) / 8 + 6 * KERNELS + 100
    assert by_hand <= conv_cost.flops <= by_hand + others
    # As written, the gradient of the second's input is a convolution of the padded gradient.
    padded = 2 * BATCH * 18 * 18 * 9 * 8 * 12
    assert conv_cost.products == (2 * FIRST + 2 * SECOND + padded) / 8


def test_the_gradients_are_summed_once_as_many_bytes_as_the_parameters(conv_cost: Cost) -> None:
    sums = {each.purpose: each for each in conv_cost.collectives}
    assert all(each.kind == "all-reduce" and each.group == 8 for each in sums.values())
    assert conv_cost.parameter_count == KERNELS
    assert sums["gradients"].bytes == 4 * KERNELS == conv_cost.memory.parameters
    assert sum(each.bytes for each in sums.values()) == 4 * KERNELS + 4  # and the loss


def test_bytes_of_the_state_and_of_a_devices_part_of_the_batch(conv_cost: Cost) -> None:
    memory = conv_cost.memory
    assert memory.optimizer == 4 * KERNELS + 4  # momentum, and the step's count
    assert memory.statistics == 0
    assert memory.batch == 2 * SIZE * SIZE * 3 * 4  # the label is not used
    assert memory.temporaries > 2 * 18 * 18 * 8 * 4  # the activation that the backward pass needs
    parts = (memory.parameters, memory.optimizer, memory.batch, memory.temporaries)
    assert memory.total >= sum(parts)


def network(**training: Any) -> Any:
    config = default_config()
    config.model.name = "fcn"
    config.model.backbone = "resnet18"
    config.model.width = 4
    config.model.output_stride = 16
    config.model.auxiliary = False
    config.data.crop_size = (32, 32)
    config.training.update(training)
    return sections(config)


@pytest.fixture(scope="module")
def fcn_cost() -> Cost:
    found = cost_lib.compile_step(network(), 5, 16, jax.devices())
    assert isinstance(found, Cost)
    return found


def test_the_real_step_sums_every_gradient_and_every_batch_norm(fcn_cost: Cost) -> None:
    memory = fcn_cost.memory
    assert memory.parameters == 4 * fcn_cost.parameter_count
    sums = {each.purpose: each for each in fcn_cost.collectives}
    assert sums["batch norm"].count >= 21  # layers, of which the compiler joins neighbours
    # What a batch norm sums in the backward pass is the gradient of its own parameters: two for each channel,
    # as its statistics, which are summed in the forward pass.
    everything = sum(each.bytes for each in fcn_cost.collectives)
    assert (
        memory.parameters + memory.statistics
        <= everything
        <= memory.parameters + 1.5 * memory.statistics + 64
    )
    assert sums["batch norm"].bytes >= 2 * memory.statistics


def test_parts_of_a_batch_are_a_loop_whose_sums_count_at_each_turn(fcn_cost: Cost) -> None:
    found = cost_lib.compile_step(network(accumulate_steps=2), 5, 16, jax.devices())
    assert isinstance(found, Cost)
    assert found.traffic is None and found.flops == found.products
    # Each part's gradients are summed by itself, the images are as many.
    assert found.products == pytest.approx(fcn_cost.products, rel=0.01)
    once, twice = (sum(e.bytes for e in cost.collectives) for cost in (fcn_cost, found))
    assert twice == pytest.approx(2 * once, rel=0.01)


def test_split_images_and_parameters_by_hand(fcn_cost: Cost) -> None:
    """Over four parts of the batch and two of the height: kernels in four, and whole where they are used."""
    options = dataclasses.replace(network(), sharding=Sharding(space=2, state="parameters"))
    found = cost_lib.compile_step(options, 5, 8, jax.devices())
    assert isinstance(found, Cost)
    model = build.computation(options, 5, 1, layout.Jit()).model
    params = jax.eval_shape(lambda rng: init_variables(model, rng), jax.random.key(0))["params"]
    sizes = [(leaf.ndim > 1, leaf.size) for leaf in jax.tree.leaves(params)]
    kernels = 4 * sum(size for is_kernel, size in sizes if is_kernel)
    others = 4 * sum(size for is_kernel, size in sizes if not is_kernel)
    assert found.parameter_count == fcn_cost.parameter_count == (kernels + others) / 4
    assert found.memory.parameters == kernels / 4 + others == found.memory.optimizer - 2 * 4
    assert found.memory.batch == fcn_cost.memory.batch - 2 * 8 - 32 * 32 * 4 + 2 * 8  # half as many pixels
    exchanged = {(each.kind, each.purpose, each.group): each for each in found.collectives}
    assert exchanged["all-gather", "parameters", 4].bytes == kernels
    halos = [each for each in found.collectives if each.kind == "collective-permute"]
    assert [each.purpose for each in halos] == ["halos"] and halos[0].group == 4
    # Of half the images' pixels, and with the rows of the halos.
    assert found.products == fcn_cost.products / 2
    assert found.flops < 0.75 * fcn_cost.flops


def test_operations_do_not_depend_on_the_devices_that_share_them(fcn_cost: Cost) -> None:
    found = cost_lib.compile_step(network(), 5, 4, jax.devices()[:2])
    assert isinstance(found, Cost)
    assert found.products == fcn_cost.products
    assert found.flops == pytest.approx(fcn_cost.flops, rel=0.02)
    assert {each.group for each in found.collectives} == {2}


def test_a_convolution_with_a_stride_counts_what_it_computes() -> None:
    def conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv(x, kernel, (2, 2), "VALID")

    x, kernel = jnp.zeros((1, 6, 9, 9)), jnp.zeros((5, 6, 3, 3))
    forward = 2 * 4 * 4 * 5 * 6 * 9
    assert cost_lib.count_products(jax.make_jaxpr(conv)(x, kernel).jaxpr) == forward
    grad = jax.grad(lambda *args: jnp.sum(conv(*args)), argnums=(0, 1))
    # For the kernel as many; for the input 9·9 outputs, each of a quarter of the positions.
    backward = forward + 2 * 9 * 9 * 6 * 5 * 9 / 4
    assert cost_lib.count_products(jax.make_jaxpr(grad)(x, kernel).jaxpr) == forward + backward


def test_what_a_compiler_refuses_says() -> None:
    text = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.53G of 15.75G hbm. Exceeded"
    assert cost_lib.too_large(text) == TooLarge(int(20.53 * 2**30), int(15.75 * 2**30))
    text = (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (96.00G)"
        " exceeds available HBM (15.75G)."
    )
    assert cost_lib.too_large(text) == TooLarge(96 * 2**30, int(15.75 * 2**30))
    assert cost_lib.too_large("RESOURCE_EXHAUSTED: too much") == TooLarge(None, None)
