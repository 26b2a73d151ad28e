"""Two publishes of one tag at the same time both succeed, with one image."""

from __future__ import annotations

import pytest

from tests.publish.test_bad_days import start_child
from tests.support.publish import MODEL, Side, check_image

pytestmark = pytest.mark.docker


def test_two_publishes_of_one_tag_at_the_same_time_both_succeed(side: Side) -> None:
    children = [start_child(side.name, side.hub.endpoint) for _ in range(2)]
    for child in children:
        child.join(120)
    assert [child.exitcode for child in children] == [0, 0]
    check_image(side.store(), "model", MODEL)
    assert set(side.store().list_tags()) == {"model", "model.modelpack"}  # and none of a shard
