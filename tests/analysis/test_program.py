"""Arrays and instructions of XLA's text: padding by hand, operations against XLA's own count."""

import jax
import jax.numpy as jnp
import pytest

from dpanet_jax.analysis.program import Array, Program, arrays, flops
from dpanet_jax.errors import UsageError


@pytest.mark.parametrize(
    ("text", "shape", "unpadded", "padded", "space"),
    [
        # RGB innermost: 3 channels take the 128 lanes.
        ("bf16[2,768,768,3]{3,2,1,0:T(8,128)(2,1)}", (2, 768, 768, 3), 7_077_888, 301_989_888, 0),
        # The same with the width innermost and the height beside it: both are multiples of the tile.
        ("bf16[2,768,768,3]{2,1,3,0:T(8,128)(2,1)S(1)}", (2, 768, 768, 3), 7_077_888, 7_077_888, 1),
        # 19 classes beside the width: 24 rows.
        ("f32[2,96,19,200]{3,2,1,0:T(8,128)}", (2, 96, 19, 200), 2_918_400, 2 * 96 * 24 * 256 * 4, 0),
        ("f32[64]{0:T(128)S(1)}", (64,), 256, 512, 1),
        ("bf16[19]{0:T(256)(128)(2,1)}", (19,), 38, 512, 0),
        # As libtpu 0.0.42.1 counts the bytes of such an argument.
        ("u8[2,70,50,3]{1,2,3,0:T(8,128)(4,1)}", (2, 70, 50, 3), 21_000, 43_008, 0),
        ("s8[2,300]{1,0:T(4,128)(4,1)}", (2, 300), 600, 1536, 0),
        # By the definition alone: 9 rows of bytes in 5 tiles of 2, each of them packed by four.
        ("pred[9,128]{1,0:T(2,128)(4,1)}", (9, 128), 1152, 5 * 4 * 128, 0),
        # What stands beside the tiles is none of them.
        ("s4[9,6]{1,0:E(4)S(1)}", (9, 6), 27, 27, 1),
        ("u32[]{:S(2)}", (), 4, 4, 2),
        ("f32[5,3]{1,0}", (5, 3), 60, 60, 0),
        ("f32[5,3]", (5, 3), 60, 60, 0),
    ],
)
def test_padding_of_tiles(text: str, shape: tuple[int, ...], unpadded: int, padded: int, space: int) -> None:
    (array,) = arrays(text)
    assert (array.shape, array.unpadded, array.padded, array.space) == (shape, unpadded, padded, space)


def test_arrays_of_a_tuple() -> None:
    found = arrays("((u8[2,3]{1,0}), bf16[4]{0:T(256)(128)(2,1)S(1)}, token[])")
    assert found == [
        Array("u8", (2, 3), (0, 1)),
        Array("bf16", (4,), (0,), ((256,), (128,), (2, 1)), 1),
        Array("token", ()),
    ]
    assert [each.unpadded for each in found] == [6, 8, 0]


def test_what_cannot_be_read_is_said() -> None:
    with pytest.raises(UsageError, match="no ENTRY computation"):
        Program("HloModule empty\n")
    program = Program("ENTRY %main (x: f32[]) -> f32[] {\n  ROOT %x = f32[] <<parameter 0>>\n}\n")
    with pytest.raises(UsageError, match="cannot be read: ROOT %x = f32"):
        list(program.executed())


def test_what_a_fusion_runs_is_all_that_is_in_it() -> None:
    program = Program("""\
%inner (q: f32[2]) -> f32[2] {
  %q = f32[2]{0} parameter(0)
  ROOT %n = f32[2]{0} negate(%q)
}

%outer (p: f32[2]) -> f32[2] {
  %p = f32[2]{0} parameter(0)
  ROOT %f = f32[2]{0} fusion(%p), kind=kLoop, calls=%inner
}

ENTRY %main (x: f32[2]) -> f32[2] {
  %x = f32[2]{0} parameter(0)
  ROOT %y = f32[2]{0} fusion(%x), kind=kLoop, calls=%outer
}
""")
    entry = program.computation("main")
    assert [inner.name for _, inner in program.inside(entry["y"])] == ["p", "f", "q", "n"]
    assert list(program.inside(entry["x"])) == []


def test_operations_are_those_that_xla_counts() -> None:
    def convolutions(x: jax.Array, kernel: jax.Array, matrix: jax.Array) -> jax.Array:
        y = jax.lax.conv_general_dilated(
            x,
            kernel,
            (2, 1),
            [(2, 1), (2, 2)],
            rhs_dilation=(2, 1),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=2,
        )
        return y.reshape(-1, y.shape[-1]) @ matrix

    def gradients(*arguments: jax.Array) -> tuple[jax.Array, ...]:
        y, backward = jax.vjp(convolutions, *arguments)
        return backward(y)

    shapes = ((2, 9, 8, 6), (3, 3, 3, 10), (10, 7))
    compiled = jax.jit(gradients).lower(*(jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes)).compile()
    program = Program(compiled.as_text())
    counted = sum(
        times * flops(inner, around)
        for computation, times in program.executed()
        for each in computation.values()
        for around, inner in [(computation, each), *program.inside(each)]
    )
    assert counted == compiled.cost_analysis()["flops"] > 0
