"""Only one of several processes shows bars and prints."""

import pytest

from dpanet_jax import hosts
from dpanet_jax.progress import is_main_process, message, progress_bar


@pytest.mark.parametrize(("index", "shows"), [(0, True), (1, False)])
def test_one_process_speaks(
    index: int, shows: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hosts, "index", lambda: index)
    assert is_main_process() is shows
    assert list(progress_bar(range(3), desc="reading")) == [0, 1, 2]
    message("said between bars")
    printed = capsys.readouterr()
    assert ("reading" in printed.err) is shows
    assert (printed.out == "said between bars\n") is shows


def test_a_bar_may_be_off(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress_bar(range(3), desc="reading", disable=True)) == [0, 1, 2]
    assert capsys.readouterr().err == ""
