"""What fails, as the users of both know it."""

from __future__ import annotations

import pickle

from dramatiq.errors import ConnectionClosed

from beanpool import PutFailed
from beanpool.contrib.dramatiq import EnqueueFailed


def test_a_failed_enqueue_is_known_to_both_and_can_be_pickled() -> None:
    error = pickle.loads(pickle.dumps(EnqueueFailed("no server took it", may_be_stored=True)))
    assert isinstance(error, PutFailed)
    assert isinstance(error, ConnectionClosed)
    assert (str(error), error.may_be_stored) == ("no server took it", True)
