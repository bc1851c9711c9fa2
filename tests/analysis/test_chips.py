"""The links of TPU slices, counted by hand, and the published rates."""

import pytest

from dpanet_jax.analysis import chips
from dpanet_jax.errors import UsageError


@pytest.mark.parametrize(
    ("topology", "count", "links", "hops"),
    [
        # Pairs of neighbours: 2 rows of 1 and 2 columns of 1; each link in both directions.
        ("v5e:2x2", 4, 2 * 4, 2),
        ("v5e:4x4", 16, 2 * (4 * 3 + 4 * 3), 6),
        ("v5e:2x4", 8, 2 * (2 * 3 + 4 * 1), 4),
        # Both axes are rings: every chip has four neighbours, and the farthest is 8 + 8 away.
        ("v5e:16x16", 256, 256 * 4, 16),
        # One ring.
        ("v6e:8x16", 128, 2 * (8 * 16 + 16 * 7), 7 + 8),
        ("v4:2x2x1", 4, 2 * 4, 2),
        # A cube's axes are rings.
        ("v5p:4x4x4", 64, 64 * 6, 6),
    ],
)
def test_links_and_hops(topology: str, count: int, links: int, hops: int) -> None:
    parts = chips.parse(topology)
    assert (parts.chips, parts.links, parts.hops) == (count, links, hops)


@pytest.mark.parametrize(
    ("topology", "words"),
    [
        ("v9:2x2", r"v4:XxYxZ, v5e:XxY, .*local, or cpu:N"),
        ("v5:2x2", "did you mean v5"),
        ("v5e", "at most 16x16, X and Y even, such as v5e:2x2"),
        ("v5e:3x2", "such as v5e:2x2"),
        ("v5e:2x2x1", "such as v5e:2x2"),
        ("v5e:32x16", "at most 16x16"),
        ("v5e:0x2", "such as v5e:2x2"),
        ("v4:2x2", "such as v4:2x2x1"),
        ("v5e:2xtwo", "such as v5e:2x2"),
    ],
)
def test_an_unknown_topology_is_told_which_there_are(topology: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        chips.parse(topology)


def test_every_rate_has_its_source() -> None:
    for chip in (*chips.TPUS.values(), *chips.GPUS.values()):
        rates = {"flops", "memory", "memory_bandwidth", "link_bandwidth"}
        assert rates <= chip.sources.keys()
        assert (chip.hop_seconds > 0) == ("hop_seconds" in chip.sources)
        assert 0.9 * chip.memory < chip.usable < 1.01 * chip.memory
        assert all(source.startswith("https://") for source in chip.sources.values())
        # A step of a convolutional network is between the two: ten to a thousand operations a byte.
        assert 10 < chip.flops["bfloat16"] / chip.memory_bandwidth < 1000


def test_gpus_go_by_jaxs_name_of_their_kind() -> None:
    found = chips.gpu_of("NVIDIA A100-SXM4-40GB")
    assert found is not None and found.memory == 40 * 10**9
    found = chips.gpu_of("NVIDIA H100 80GB HBM3")
    assert found is not None and found.name == "NVIDIA H100 SXM"
    assert chips.gpu_of("Tesla T4") is None
