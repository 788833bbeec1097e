"""A transport of kombu, so that Celery works on a cluster of beanstalkd servers; needs the extra ``kombu``.

Call :func:`register` where the Celery application is made. Then ``beanstalk://q1:11300,q2:11300`` is a broker's URL.
"""

from beanpool.contrib.kombu.channel import Channel
from beanpool.contrib.kombu.qos import QoS
from beanpool.contrib.kombu.registration import register
from beanpool.contrib.kombu.transport import Transport

__all__ = ["Channel", "QoS", "Transport", "register"]
