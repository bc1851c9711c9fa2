"""Bytes and operations by cause: against XLA's own count, and of a program that is written out here."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from dpanet_jax.analysis import traffic
from dpanet_jax.analysis.program import Program
from dpanet_jax.analysis.traffic import COLLECTIVES, COPIES, LOSS, NORM, OPTIMIZER, Traffic


class Backbone(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(8, (3, 3), use_bias=False, name="layer1_0")(x)
        return nn.BatchNorm(use_running_average=False, name="bn1")(x)


class Segmenter(nn.Module):
    def setup(self) -> None:
        self.backbone, self.head = Backbone(), nn.Dense(5)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(self.backbone(x))


@pytest.fixture(scope="module")
def compiled() -> Any:
    model = Segmenter()

    def step(variables: Any, x: jax.Array) -> Any:
        def loss(params: Any) -> jax.Array:
            y, _ = model.apply({**variables, "params": params}, x, mutable="batch_stats")
            return jnp.mean(y**2)

        grads = jax.grad(loss)(variables["params"])
        return jax.tree.map(lambda p, g: p - 0.1 * g, variables["params"], grads)

    x = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    return jax.jit(step).lower(variables, x).compile()


def test_the_sums_are_xlas_and_each_cause_is_there(compiled: Any) -> None:
    works = list(traffic.works(Program(compiled.as_text())))
    causes = {each.cause: each for each in traffic.by_cause(works)}
    assert set(causes) >= {"backbone, layer1", NORM, OPTIMIZER}
    assert set(causes) <= {"backbone, layer1", "head", NORM, LOSS, OPTIMIZER, COPIES}
    whole = traffic.total("all", works)
    assert whole.traffic == sum(each.traffic for each in causes.values())
    assert whole.flops == sum(each.flops for each in causes.values())
    counted = compiled.cost_analysis()
    assert whole.traffic == pytest.approx(counted["bytes accessed"], rel=0.02)
    # Of the convolution, its kernel's gradient, the head and its two gradients; borders count less.
    positions = 2 * (3 * 16 - 2) ** 2
    assert causes["backbone, layer1"].flops == 2 * 2 * positions * 3 * 8
    assert 2 * 2 * positions * 3 * 8 < whole.flops < counted["flops"]


TPU_PROGRAM = """\
HloModule jit_train_step, is_scheduled=true

%products (p0: bf16[1,8,8,3], p1: bf16[1,1,3,128]) -> bf16[1,8,8,128] {
  %p0 = bf16[1,8,8,3]{3,2,1,0:T(8,128)(2,1)S(1)} parameter(0)
  %p1 = bf16[1,1,3,128]{3,2,1,0:T(4,128)(2,1)} parameter(1)
  ROOT %c = bf16[1,8,8,128]{3,2,1,0:T(8,128)(2,1)} convolution(%p0, %p1), window={size=1x1}, dim_labels=b01f_01io->b01f, metadata={op_name="jit(train_step)/jvp(Segmenter)/backbone/conv1/conv_general_dilated"}
}

%cut (q0: f32[64,128]) -> f32[8,128] {
  %q0 = f32[64,128]{1,0:T(8,128)} parameter(0)
  %part = f32[8,128]{1,0:T(8,128)} slice(%q0), slice={[0:8], [0:128]}
  ROOT %n = f32[8,128]{1,0:T(8,128)} negate(%part)
}

%moved (r0: f32[8,128]) -> f32[128,8] {
  %r0 = f32[8,128]{1,0:T(8,128)} parameter(0)
  ROOT %t = f32[128,8]{1,0:T(8,128)} transpose(%r0), dimensions={1,0}
}

%body (s: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %s = (s32[], f32[8,128]{1,0:T(8,128)}) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %v = f32[8,128]{1,0:T(8,128)} get-tuple-element(%s), index=1
  %eye = f32[8,8]{1,0:T(8,128)S(1)} constant({...})
  %e = f32[8,128]{1,0:T(8,128)} dot(%eye, %v), lhs_contracting_dims={1}, rhs_contracting_dims={0}, metadata={op_name="jit(train_step)/jvp(Segmenter)/head/spa/dot_general"}, backend_config={"window_config":{"estimated_cycles":"100"}}
  ROOT %u = (s32[], f32[8,128]{1,0:T(8,128)}) tuple(%i, %e)
}

ENTRY %main (a: bf16[1,8,8,3], k: bf16[1,1,3,128], x: f32[64,128]) -> f32[128,8] {
  %a = bf16[1,8,8,3]{3,2,1,0:T(8,128)(2,1)} parameter(0), metadata={op_name="batch['image']"}
  %k = bf16[1,1,3,128]{3,2,1,0:T(4,128)(2,1)} parameter(1), metadata={op_name="state.params['k']"}
  %x = f32[64,128]{1,0:T(8,128)} parameter(2)
  %start = (bf16[1,8,8,3]{3,2,1,0:T(8,128)(2,1)S(1)}, bf16[1,8,8,3]{3,2,1,0:T(8,128)(2,1)}, u32[]{:S(2)}) copy-start(%a)
  %done = bf16[1,8,8,3]{3,2,1,0:T(8,128)(2,1)S(1)} copy-done(%start)
  %y = bf16[1,8,8,128]{3,2,1,0:T(8,128)(2,1)} fusion(%done, %k), kind=kOutput, calls=%products, metadata={op_name="jit(train_step)/jvp(Segmenter)/backbone/bn1/reduce_sum"}, backend_config={"window_config":{"estimated_cycles":"1000"}}
  %b = f32[8,128]{1,0:T(8,128)} fusion(%x), kind=kLoop, calls=%cut, metadata={op_name="jit(train_step)/transpose(jvp(Segmenter))/backbone/layer2_0/bn3/mul"}
  %sum = f32[8,128]{1,0:T(8,128)} all-reduce(%b), replica_groups={}, to_apply=%add, metadata={op_name="jit(train_step)/jvp(Segmenter)/backbone/bn1/reduce_sum"}
  %init = (s32[], f32[8,128]{1,0:T(8,128)}) tuple(%zero, %sum)
  %w = (s32[], f32[8,128]{1,0:T(8,128)}) while(%init), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  %out = f32[8,128]{1,0:T(8,128)} get-tuple-element(%w), index=1
  %l = f32[8,128]{1,0:T(8,128)} log(%out), metadata={op_name="jit(train_step)/jvp()/log"}
  ROOT %m = f32[128,8]{1,0:T(8,128)} fusion(%l), kind=kLoop, calls=%moved, metadata={op_name="jit(train_step)/mul"}
}
"""  # noqa: E501

TILE = 8 * 128 * 4


def test_a_program_of_a_tpu() -> None:
    image, result = 8 * 8 * 128 * 2, 8 * 8 * 128 * 2
    unpadded = 8 * 8 * 3 * 2
    kernel, of_kernel = 4 * 128 * 2, 3 * 128 * 2
    expected = [
        # The image is read with its padding and then lies in the fast memory; the move has the name of its
        # reader, and the product that of its convolution, not of the statistics that end it.
        Traffic(
            "backbone, stem", 2, image + kernel + result, image - unpadded + kernel - of_kernel,
            2 * image, 2 * 64 * 3 * 128, 1000,
        ),
        # An eighth of the array is cut out, and only it is read.
        Traffic(NORM, 1, 2 * TILE, 0, 0, 0, 0),
        Traffic(COLLECTIVES, 1, 2 * TILE, 0, 0, 0, 0),
        # Five turns of a loop.
        Traffic("attention, SPA", 1, 5 * 2 * TILE, 0, 5 * TILE, 5 * 2 * 8 * 128 * 8, 500),
        Traffic(LOSS, 1, 2 * TILE, 0, 0, 0, 0),
        # 8 columns take 128 lanes.
        Traffic(COPIES, 1, TILE + 128 * 128 * 4, 128 * 120 * 4, 0, 0, 0),
    ]  # fmt: skip
    found = traffic.by_cause(traffic.works(Program(TPU_PROGRAM)))
    assert {each.cause: each for each in found} == {each.cause: each for each in expected}
    assert [each.traffic for each in found] == sorted((each.traffic for each in found), reverse=True)


MOVES = """\
HloModule moves

%set (p0: f32[64,128], p1: f32[8,128], p2: s32[]) -> f32[64,128] {
  %p0 = f32[64,128]{1,0:T(8,128)} parameter(0)
  %p1 = f32[8,128]{1,0:T(8,128)} parameter(1)
  %p2 = s32[] parameter(2)
  ROOT %d = f32[64,128]{1,0:T(8,128)} dynamic-update-slice(%p0, %p1, %p2, %p2)
}

ENTRY %main (x: f32[64,128], part: f32[8,128], at: s32[]) -> f32[64,128] {
  %x = f32[64,128]{1,0:T(8,128)} parameter(0)
  %part = f32[8,128]{1,0:T(8,128)} parameter(1)
  %at = s32[] parameter(2)
  %cut = ((f32[64,128]{1,0:T(8,128)}), f32[8,128]{1,0:T(8,128)S(1)}, s32[]{:S(2)}) slice-start(%x), slice={[0:8], [0:128]}
  %cut.done = f32[8,128]{1,0:T(8,128)S(1)} slice-done(%cut)
  %home = (f32[8,128]{1,0:T(8,128)}, f32[8,128]{1,0:T(8,128)S(1)}, u32[]{:S(2)}) copy-start(%cut.done)
  %home.done = f32[8,128]{1,0:T(8,128)} copy-done(%home)
  %all = (f32[8,128]{1,0:T(8,128)}, f32[16,128]{1,0:T(8,128)}) all-gather-start(%part), dimensions={0}
  %all.done = f32[16,128]{1,0:T(8,128)} all-gather-done(%all)
  %sum = f32[8,128]{1,0:T(8,128)} all-reduce-start(%part), to_apply=%add
  %sum.done = f32[8,128]{1,0:T(8,128)} all-reduce-done(%sum)
  %next = (f32[8,128]{1,0:T(8,128)}, f32[8,128]{1,0:T(8,128)}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%part)
  %next.done = f32[8,128]{1,0:T(8,128)} collective-permute-done(%next)
  %some = f32[8,128]{1,0:T(8,128)} dynamic-slice(%x, %at, %at), dynamic_slice_sizes={8,128}
  %set1 = f32[64,128]{1,0:T(8,128)} dynamic-update-slice(%x, %part, %at, %at)
  ROOT %set2 = f32[64,128]{1,0:T(8,128)} fusion(%set1, %part, %at), kind=kLoop, calls=%set
}
"""  # noqa: E501


def test_what_a_move_reads_and_writes() -> None:
    """Bytes read and written in the main memory, and in the fast one."""
    found = {}
    for work in traffic.works(Program(MOVES)):
        found[work.name] = tuple(
            sum(use.array.padded for use in work.uses if (use.array.space, use.written) == (space, written))
            for space in (0, 1)
            for written in (False, True)
        )
    # An index is 4 bytes.
    assert found == {
        "cut": (TILE, 0, 0, TILE),
        "home": (0, TILE, TILE, 0),
        "all": (TILE, 2 * TILE, 0, 0),
        "sum": (TILE, TILE, 0, 0),
        "next": (TILE, TILE, 0, 0),
        "some": (TILE + 2 * 4, TILE, 0, 0),
        "set1": (TILE + 2 * 4, TILE, 0, 0),
        "set2": (TILE + 4, TILE, 0, 0),
    }


@pytest.mark.parametrize(
    ("name", "is_product", "cause"),
    [
        ("jvp(Segmenter)/backbone/conv1/conv_general_dilated", True, "backbone, stem"),
        ("transpose(jvp(Segmenter))/backbone/layer3_0/conv1/conv_general_dilated", True, "backbone, layer3"),
        ("transpose(jvp(Segmenter))/backbone/layer3_0/bn1/mul", False, NORM),
        ("transpose(jvp(Segmenter))/backbone/layer3_0/bn1/mul", True, "backbone, layer3"),
        ("jvp(Segmenter)/head/spa/dot_general", True, "attention, SPA"),
        ("jvp(Segmenter)/head/cpa/dot_general", True, "attention, CPA"),
        ("jvp(Segmenter)/head/nonlocal/dot_general", True, "attention, non-local"),
        ("jvp(Segmenter)/head/conv_out/max", False, "head"),
        ("jvp(Segmenter)/auxiliary_head/conv_out/max", False, "auxiliary head"),
        ("jvp(Segmenter)/add", False, "head"),
        ("jvp()/log", False, LOSS),
        ("mul", False, OPTIMIZER),
    ],
)
def test_a_place_in_the_network(name: str, is_product: bool, cause: str) -> None:
    assert traffic.place(f"jit(train_step)/{name}", is_product) == cause
