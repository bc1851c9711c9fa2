"""Collectives read from programs that are written out here, in the forms that XLA writes them."""

import pytest

from dpanet_jax.analysis.hlo import Collective, collectives

PROGRAM = """\
HloModule jit_train_step, is_scheduled=true, entry_computation_layout={(f32[4]{0})->f32[4]{0}}

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %p = (s32[], f32[8]) parameter(0)
  %x = f32[8]{0} get-tuple-element(%p), index=1
  %inside = f32[8]{0} all-reduce(%x), replica_groups=[2,4]<=[8], to_apply=%add, metadata={op_name="jit(f)/transpose(jvp(Net))/conv/dot"}
  ROOT %t = (s32[], f32[8]) tuple(%p, %inside)
}

ENTRY %main.1 (arg: f32[4]) -> f32[4] {
  %arg = f32[4]{0} parameter(0)
  %one = f32[64]{0:T(128)S(1)} fusion(%arg), kind=kLoop, calls=%add, metadata={op_name="jit(f)/jvp(Net)/layer1/bn1/reduce_sum"}
  %two = bf16[3,3,16]{2,1,0} fusion(%arg), kind=kLoop, calls=%add, metadata={op_name="jit(f)/transpose(jvp(Net))/layer1/conv/dot"}
  %norm = (f32[64]{0:T(128)S(1)}, f32[64]{0:T(128)}) all-reduce(%one, %one), channel_id=1, replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_0','axis_1'}, to_apply=%add, metadata={op_name="jit(f)/jvp(Net)/layer1/bn1/reduce_sum"}
  %joined = (f32[64]{0}, /*index=1*/bf16[3,3,16]{2,1,0}) all-reduce(%one, /*index=1*/%two), replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add, metadata={op_name="jit(f)/jvp(Net)/layer1/bn1/reduce_sum"}
  %loss = s32[] all-reduce-start(%arg), replica_groups={}, to_apply=%add, metadata={op_name="jit(f)/reduce_sum"}
  %done = s32[] all-reduce-done(%loss)
  %gathered = (f32[4]{0}, f32[32]{0}) all-gather-start(%arg), replica_groups=[1,8]<=[8], dimensions={0}, metadata={op_name="jit(f)/gather"}
  %scattered = f32[4]{0} reduce-scatter(%arg), replica_groups=[1,8]<=[8], dimensions={0}, to_apply=%add, metadata={op_name="jit(f)/gather"}
  %halo = f32[10]{0} collective-permute(%arg), source_target_pairs={{0,1},{1,2},{2,3}}, metadata={op_name="jit(f)/jvp(Net)/conv"}
  %alone = f32[10]{0} all-reduce(%arg), replica_groups={{0},{1}}, to_apply=%add
  %w = (s32[], f32[8]) while(%arg), condition=%add, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  ROOT %r = f32[4]{0} copy(%arg)
}
"""  # noqa: E501


def test_kinds_purposes_counts_and_bytes() -> None:
    found = {(each.kind, each.purpose, each.group): each for each in collectives(PROGRAM, 8, {"bn1"})}
    expected = [
        # Two arrays of 64 floats, and the one that was joined with a gradient that is larger.
        Collective("all-reduce", "batch norm", 1, (2 * 64 + 64) * 4, 8),
        Collective("all-reduce", "gradients", 1, 3 * 3 * 16 * 2, 8),
        Collective("all-reduce", "loss and metrics", 1, 4, 8),
        # What comes out is larger than what goes in; what is scattered is larger before.
        Collective("all-gather", "loss and metrics", 1, 32 * 4, 8),
        Collective("reduce-scatter", "loss and metrics", 1, 8 * 4 * 4, 8),
        Collective("collective-permute", "halos", 1, 40, 3),
        # Five turns of a loop, in two groups of four.
        Collective("all-reduce", "gradients", 5, 5 * 32, 4),
    ]
    # 288 bytes of the gradient are more than 256 of the batch norm's part.
    assert found == {(each.kind, each.purpose, each.group): each for each in expected}


# A gather that is spread over two fused programs; sums that fused programs split, which share a channel;
# and what the constraints of split parameters leave.
TPU_PROGRAM = """\
HloModule jit_train_step, is_scheduled=true

%start (p: bf16[64,128]) -> bf16[128,128] {
  %p = bf16[64,128]{1,0} parameter(0)
  %all-gather.1 = bf16[128,128]{1,0:S(1)} all-gather(%p), channel_id=30, replica_groups={{0,1},{2,3}}, dimensions={0}, metadata={op_name="jit(f)/sharding_constraint"}
  ROOT %c = bf16[128,128]{1,0} custom-call(%all-gather.1)
}

%done (p: bf16[64,128]) -> bf16[128,128] {
  %p = bf16[64,128]{1,0} parameter(0)
  ROOT %all-gather.2 = bf16[128,128]{1,0} all-gather(%p), channel_id=30, replica_groups={{0,1},{2,3}}, dimensions={0}, metadata={op_name="jit(f)/sharding_constraint"}
}

%all-reduce-scatter.1 (p: f32[8,16]) -> f32[2,16] {
  %p = f32[8,16]{1,0} parameter(0)
  %all-reduce.1 = f32[8,16]{1,0} all-reduce(%p), channel_id=1, replica_groups={{0,1,2,3}}, to_apply=%add
  ROOT %s = f32[2,16]{1,0} dynamic-slice(%all-reduce.1)
}

%all-reduce-scatter.2 (p: f32[8,4]) -> f32[2,4] {
  %p = f32[8,4]{1,0} parameter(0)
  %all-reduce.2 = f32[8,4]{1,0} all-reduce(%p), channel_id=1, replica_groups={{0,1,2,3}}, to_apply=%add
  ROOT %s = f32[2,4]{1,0} dynamic-slice(%all-reduce.2)
}

ENTRY %main (arg: bf16[64,128]) -> f32[2,16] {
  %arg = bf16[64,128]{1,0} parameter(0)
  %g1 = bf16[128,128]{1,0} fusion(%arg), kind=kCustom, calls=%start
  %g2 = bf16[128,128]{1,0} fusion(%arg), kind=kCustom, calls=%done
  %result = f32[32]{0} all-gather(%arg), channel_id=7, replica_groups=[1,4]<=[4], dimensions={0}
  %argument = f32[8]{0} all-gather(%arg), channel_id=11, replica_groups=[1,4]<=[4], dimensions={0}, metadata={op_name="state.params[\\'head\\']"}
  %logits = f32[16]{0} all-gather(%arg), channel_id=8, replica_groups=[2,2]<=[4], dimensions={0}, metadata={op_name="jit(f)/jvp(Hh,bhwc->bHwc)/dot_general"}
  %pooled = f32[5]{0} all-reduce(%arg), channel_id=9, replica_groups=[2,2]<=[4], to_apply=%add, metadata={op_name="jit(f)/jvp(Net)/head/dot_general"}
  %halo = f32[3]{0} collective-permute(%arg), channel_id=10, source_target_pairs={{0,1}}, metadata={op_name="jit(f)/transpose(jvp(Net))/conv"}
  %r1 = f32[2,16]{1,0} fusion(%arg), kind=kCustom, calls=%all-reduce-scatter.1
  ROOT %r2 = f32[2,4]{1,0} fusion(%arg), kind=kCustom, calls=%all-reduce-scatter.2
}
"""  # noqa: E501


def test_a_tpus_program_of_split_images_and_state() -> None:
    expected = [
        Collective("all-gather", "parameters", 1, 128 * 128 * 2, 2),
        Collective("all-gather", "parameters", 2, (32 + 8) * 4, 4),
        Collective("all-gather", "loss and metrics", 1, 16 * 4, 2),
        Collective("all-reduce", "activations", 1, 5 * 4, 2),
        Collective("collective-permute", "halos", 1, 3 * 4, 1),
        # Of whole arrays, as what goes in.
        Collective("reduce-scatter", "gradients", 2, (8 * 16 + 8 * 4) * 4, 4),
    ]
    found = collectives(TPU_PROGRAM, 4)
    assert sorted(found, key=str) == sorted(expected, key=str)


def test_nothing_is_exchanged_on_one_device() -> None:
    assert collectives("ENTRY %main (a: f32[]) -> f32[] {\n  ROOT %a = f32[] parameter(0)\n}\n", 1) == []


@pytest.mark.parametrize(
    ("kind", "sent"),
    [
        # Of four devices: each part is summed on a way of three links, and handed back on one of three.
        ("all-reduce", 6 * 1000),
        ("all-gather", 3 * 1000),
        ("reduce-scatter", 3 * 1000),
        # A quarter stays where it is.
        ("all-to-all", 4 * 750),
        ("collective-permute", 4 * 1000),
    ],
)
def test_bytes_sent_by_all(kind: str, sent: int) -> None:
    assert Collective(kind, "gradients", 1, 1000, 4).sent == sent
