"""The raw client of :mod:`beanpool.testing`, under the name that the tests know it by."""

from beanpool.testing.raw_client import RawClient, StoredJob, Target, UnexpectedReply, close_all

__all__ = ["RawClient", "StoredJob", "Target", "UnexpectedReply", "close_all"]
