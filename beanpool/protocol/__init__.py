"""The beanstalkd protocol 1.13 without I/O, clock or threads: commands to bytes, bytes to replies.

Nothing here opens a socket or reads a clock, so every rule of the protocol can be tested on bytes
alone. Source: ``doc/protocol.txt`` of beanstalkd.
"""
