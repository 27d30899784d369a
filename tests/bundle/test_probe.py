"""The probe set's file: what is written is read, and nothing else is."""

import numpy as np
import pytest

from bundle import BundleError, probe


def examples(count: int) -> list[probe.Example]:
    random = np.random.default_rng(0)
    rows = random.random((count, 10)).astype(np.float32)
    return [probe.Example(random.bytes(784), index % 10, tuple(row.tolist())) for index, row in enumerate(rows)]


@pytest.mark.parametrize("count", [1, 7, probe.MAX_IMAGES])
def test_what_is_written_is_read(count):
    assert probe.read(probe.write(examples(count))) == examples(count)


@pytest.mark.parametrize(
    "content", [b"", b"x", probe.write(examples(2))[:-1], probe.write(examples(1)) * (probe.MAX_IMAGES + 1)]
)
def test_nothing_a_part_of_a_record_and_too_many_are_refused(content):
    with pytest.raises(BundleError, match=rf"holds {len(content)} bytes; 1 to 1000 records of 825 bytes were expected"):
        probe.read(content)
