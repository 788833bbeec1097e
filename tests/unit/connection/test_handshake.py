"""What a new connection is asked first, and what gives it its tubes: without a socket."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.replies import Heard

from beanpool.connection.handshake import identity, tube_changes, unanswered
from beanpool.errors import CommandTimeout, ConnectionFailed, Phase
from beanpool.protocol.commands import WATCH
from beanpool.protocol.replies import Reply

tubes = st.lists(st.sampled_from("abcdef"), min_size=1, unique=True).map(tuple)


@given(tubes, tubes)
def test_after_the_changes_the_tubes_are_watched_and_some_are_at_all_times(
    watched: tuple[str, ...], wanted: tuple[str, ...]
) -> None:
    now = list(watched)
    for command, tube, count in tube_changes(watched, wanted):
        if command is WATCH:
            assert tube not in now
            now.append(tube)
        else:
            now.remove(tube)
        assert len(now) == count > 0
    assert sorted(now) == sorted(wanted)


def test_a_server_that_does_not_say_who_it_is_is_no_refusal_of_a_command() -> None:
    channel = Heard()
    with pytest.raises(ConnectionFailed, match="says OUT_OF_MEMORY when asked who it is") as caught:
        identity(channel, Reply("OUT_OF_MEMORY"))
    assert caught.value.phase is Phase.HANDSHAKE
    assert "OUT_OF_MEMORY" in channel.closed_because


@pytest.mark.parametrize("kind", [ConnectionFailed, CommandTimeout])
def test_no_answer_says_that_the_connection_was_accepted(kind: type[ConnectionFailed]) -> None:
    error = unanswered("q1:11300", kind("no reply", server="q1:11300", phase=Phase.WAITING))
    assert type(error) is kind
    assert "accepted, but the server does not answer (no reply" in str(error)
    assert (error.phase, error.may_have_taken_effect) == (Phase.HANDSHAKE, False)
