"""pystalk's API over beanpool."""

from __future__ import annotations

from pystalk.client import BeanstalkClient, BeanstalkConnectionError, BeanstalkError

__all__ = ["BeanstalkClient", "BeanstalkConnectionError", "BeanstalkError"]
