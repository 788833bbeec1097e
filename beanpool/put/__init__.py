"""A put: with fail-over, in batches, buffered."""

from beanpool.put.batch import PutMany
from beanpool.put.failover import PutRequest, Putter, attempt_outcome, put_once
from beanpool.put.item import EncodedPut, Put, PutDefaults, check_key, encode, encoded
from beanpool.put.lane import Token
from beanpool.put.many import put_all
from beanpool.put.outcomes import OnOutcomes, Outcome

__all__ = [
    "EncodedPut",
    "OnOutcomes",
    "Outcome",
    "Put",
    "PutDefaults",
    "PutMany",
    "PutRequest",
    "Putter",
    "Token",
    "attempt_outcome",
    "check_key",
    "encode",
    "encoded",
    "put_all",
    "put_once",
]
