"""The tests of other clients' suites that fail over beanpool, each with its reason; see docs/peers.md."""

from __future__ import annotations

_SOCKET = "it hands over a connected socket; beanpool makes its own, non-blocking and with deadlines of its own"
_REPR = "the repr is that of greenstalk's own class"
_JOB_REPR = "it makes a Job without a connection; one of beanpool knows where its commands go"
_BOOL = "`draining` is a bool; greenstalk leaves the text"
_PRIVATE = "about a private function of greenstalk's parser, and the text of its errors"
_NO_BODY = "an error never shows words that are none of the protocol: they may be part of a job's body"
_WORDS = "both are a TypeError, in other words"
_MOCKS = "a pool of mocks of pystalk's own client; a PoolManager makes its connections itself"
_TYPE_ERROR = "a body of a wrong type is a TypeError; beanstalkc has an AssertionError"
_KEEPS = "release and bury keep a job's priority without parse_yaml, too"

_NO_DOCUMENTS = "a pool has no parse_yaml: it adds documents up"
_JOB_ID = "put returns a JobId, an int with a repr of its own"
_SORTED = "the tubes of a cluster are sorted"
_HANDSHAKE = f"every connection of a pool asks who the server is, and counts as a `stats`; {_BOOL}"
_FAIL_OVER = "a put that no server takes is a NoServerAvailable, with each one's answer in its `errors`"
_SOON = "DeadlineSoon never reaches a pool's caller: a connection that holds a job does not reserve"
_LAZY = "the constructor of a pool does no I/O, and a server that is down is no error"

_GREENSTALK = {
    "test_init_already_connected_socket_with_timeout": _SOCKET,
    "test_client_repr_already_connected_inet": _SOCKET,
    "test_client_repr_already_connected_unix": _SOCKET,
    "test_client_repr_inet": _REPR,
    "test_client_repr_unix": _REPR,
    "test_job_repr": _JOB_REPR,
    "test_stats": _BOOL,
    "test_drain_mode": _BOOL,
    "test_str_body_no_encoding": _WORDS,
    "test_unknown_response_error": _NO_BODY,
    "test_chunk_unexpected_eof": _PRIVATE,
    "test_response_missing_crlf": _PRIVATE,
    "test_unexpected_eof": _PRIVATE,
}
_PYSTALK = {"test_single_broken_server": _MOCKS, "test_one_good_one_bad": _MOCKS}
_BEANSTALKC = {
    "TUTORIAL.mkd: 8. beanstalk.put(42)": _TYPE_ERROR,
    "test/no-yaml.mkd: 9. print(repr(job.stats()))": _KEEPS,
    "test/no-yaml.mkd: 15. print(repr(beanstalk.stats_job(jid)))": _KEEPS,
}

DIFFERENCES: dict[tuple[str, str], dict[str, str]] = {
    ("greenstalk", "connection"): _GREENSTALK,
    ("pystalk", "connection"): _PYSTALK,
    ("pystalkd", "connection"): {},
    ("beanstalkc", "connection"): _BEANSTALKC,
    ("greenstalk", "pool"): {
        **_GREENSTALK,
        "test_stats": _HANDSHAKE,
        "test_drain_mode": _FAIL_OVER,
        "test_ttr": _SOON,
    },
    ("pystalk", "pool"): _PYSTALK,
    ("pystalkd", "pool"): {"test_wrong_connection": _LAZY, "test_no_yaml": _NO_DOCUMENTS},
    ("beanstalkc", "pool"): {
        **_BEANSTALKC,
        "TUTORIAL.mkd: 3. beanstalk.put('hey!')": _JOB_ID,
        "TUTORIAL.mkd: 25. beanstalk.put('ho?')": _JOB_ID,
        "TUTORIAL.mkd: 33. beanstalk.put('yes!', delay=1)": _JOB_ID,
        "TUTORIAL.mkd: 61. beanstalk.put('o tempores', delay=120)": _JOB_ID,
        "TUTORIAL.mkd: 64. beanstalk.put('o mores!')": _JOB_ID,
        "README.mkd: 3. beanstalk.put('hey!')": _JOB_ID,
        "TUTORIAL.mkd: 20. beanstalk.tubes()": _SORTED,
        "TUTORIAL.mkd: 81. beanstalk.tubes()": _NO_DOCUMENTS,
        "TUTORIAL.mkd: 82. beanstalk.stats_tube('default')": _NO_DOCUMENTS,
        "TUTORIAL.mkd: 85. beanstalk.tubes()": _NO_DOCUMENTS,
        "TUTORIAL.mkd: 86. beanstalk.stats_tube('default')": _NO_DOCUMENTS,
        "test/no-yaml.mkd: 3. isinstance(beanstalk.stats(), str)": _NO_DOCUMENTS,
        "test/no-yaml.mkd: 6. print(repr(job.stats()))": _NO_DOCUMENTS,
        "test/no-yaml.mkd: 13. print(repr(job.stats()))": _NO_DOCUMENTS,
    },
}
