"""A model of beanstalkd in Python, and the loop that serves it over TCP.

``model.py`` and what it stands on hold no socket, thread or clock of their own: they are what beanstalkd does with its
tubes and jobs. ``dialogue.py`` turns a connection's bytes into commands and replies, ``loop.py`` moves the bytes.
"""
