"""A put: with fail-over, in batches, buffered."""

from beanpool.put.batch import Outcome, PutMany, Settle
from beanpool.put.failover import PutRequest, Putter, attempt_outcome, put_once
from beanpool.put.item import EncodedPut, Put, Usual, check_key, encode, encoded
from beanpool.put.lane import Place
from beanpool.put.many import put_all

__all__ = [
    "EncodedPut",
    "Outcome",
    "Place",
    "Put",
    "PutMany",
    "PutRequest",
    "Putter",
    "Settle",
    "Usual",
    "attempt_outcome",
    "check_key",
    "encode",
    "encoded",
    "put_all",
    "put_once",
]
