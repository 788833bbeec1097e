"""The process that beanpool runs in: its locks, its limits, and what it loads when it is needed."""

from beanpool.runtime.loading import load
from beanpool.runtime.locks import Lock, ReentrantEvent, is_mine, refuse_within, within
from beanpool.runtime.own_limits import OwnLimit, is_own_limit, no_descriptor, out_of_descriptors
from beanpool.runtime.patching import check_unpatched

__all__ = [
    "Lock",
    "OwnLimit",
    "ReentrantEvent",
    "check_unpatched",
    "is_mine",
    "is_own_limit",
    "load",
    "no_descriptor",
    "out_of_descriptors",
    "refuse_within",
    "within",
]
