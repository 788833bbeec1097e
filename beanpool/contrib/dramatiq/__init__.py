"""A broker for dramatiq: its queues are tubes of a cluster of beanstalkd servers.

It needs the extra ``dramatiq``. One message is one job: a delayed message waits in its server, a message that is worked
on is a reserved job, a dead letter is a buried one.
"""

try:
    import dramatiq as _dramatiq  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "dramatiq":
        raise
    raise ModuleNotFoundError(
        "beanpool.contrib.dramatiq needs dramatiq: pip install 'beanpool[dramatiq]'", name=error.name
    ) from error

from beanpool.contrib.dramatiq.broker import BeanpoolBroker
from beanpool.contrib.dramatiq.failures import EnqueueFailed

__all__ = ["BeanpoolBroker", "EnqueueFailed"]
