"""Files are written beside the work, no more of them wait than may, and an error is not lost."""

import threading

import pytest

from dpanet_jax.evaluation.writers import Writers


def test_everything_is_written_when_the_block_ends():
    written = []
    with Writers(threads=3, most_pixels=2) as writers:
        for i in range(50):
            writers.submit(1, written.append, i)
    assert sorted(written) == list(range(50))


def test_what_waits_is_bounded_but_one_large_item_passes():
    held, counted = threading.Event(), []
    with Writers(threads=2, most_pixels=10) as writers:
        writers.submit(1000, held.wait)

        def submit():
            writers.submit(1, counted.append, 1)

        thread = threading.Thread(target=submit)
        thread.start()
        thread.join(0.2)
        assert thread.is_alive() and not counted
        held.set()
        thread.join(10)
    assert counted == [1]


def fail():
    raise OSError(28, "No space left on device")


def test_an_error_is_raised_by_the_next_call_and_the_rest_is_not_written():
    written = []
    with pytest.raises(OSError, match="No space left"):
        with Writers(threads=1, most_pixels=1) as writers:
            writers.submit(1, fail)
            for i in range(100):
                writers.submit(1, written.append, i)
    assert written == []


def test_an_error_of_the_last_file():
    with pytest.raises(OSError, match="No space left"):
        with Writers() as writers:
            writers.submit(1, fail)


def test_an_error_of_the_work_itself_ends_the_threads():
    before = threading.active_count()
    with pytest.raises(KeyError):
        with Writers() as writers:
            writers.submit(1, sum, [1])
            raise KeyError
    assert threading.active_count() == before
