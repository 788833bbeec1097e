"""Servers 0.3 s away."""

from __future__ import annotations

from support.delay_line import DelayLine
from support.proxied_servers import ServerBehindProxy
from support.servers import BeanstalkdServer

ROUND_TRIP = 0.3


class FarBeanstalkd(ServerBehindProxy):
    """A beanstalkd behind a delay line."""

    def open_line(self, server: BeanstalkdServer) -> DelayLine:
        return DelayLine(server.host, server.port, ROUND_TRIP)


# Tests that say nothing about a far server, by what they are about.
_NEARBY = {
    "it takes hundreds of commands, one after another": """
        test_a_connection_has_one_user_at_a_time_and_there_are_no_more_than_allowed
        test_a_hundred_jobs_by_many_threads_without_waiting
        test_a_connection_that_was_lost
        test_a_connection_that_was_lost_and_some_have_other_hands
        test_a_job_is_found_wherever_it_is
        test_a_reply_that_no_reserve_may_have
        test_a_key_stays_with_its_server
        test_beside_a_good_one
        test_by_many_threads
        test_commands_on_a_job_by_what_put_returned
        test_finished_by_many_threads
        test_items_of_all_kinds
        test_ids_from_before_a_restart_touch_no_job_of_now
        test_is_kept_by_whatever_way
        test_its_server_was_restarted_and_the_ids_are_those_of_others
        test_jobs_that_were_reserved_one_by_one
        test_keys_of_other_servers_do_not_move
        test_looks_at_the_same_time_do_not_wait_for_each_other
        test_kills_and_restarts_lose_nothing_that_was_acknowledged
        test_many_threads_and_all_ends_that_a_job_can_have
        test_many_threads_and_each_job_once
        test_never_more_than_the_limit
        test_more_tubes_than_connections
        test_no_server_starves
        test_other_ends_at_the_same_time
        test_puts_without_a_key_are_spread_by_weight
        test_what_is_in_hand
        test_the_connection_is_not_taken_from_who_has_it_next
        test_the_same_jobs_by_many_threads
        test_the_tube_is_each_calls_own
    """,
    "it moves more than a window of data for each round trip": """
        test_a_stream_that_nobody_could_hold
        test_are_spread_over_a_part_of_its_connections
        test_as_many_as_one_connection_may_hold
        test_large_bodies
        test_large_bodies_among_small_ones
        test_many_that_are_dropped
        test_many_that_are_no_longer_reserved
        test_one_that_drains_gets_no_puts_and_gives_its_jobs
        test_stay_together_where_no_other_connection_is_free
    """,
    "its deadlines are shorter than what a far server takes to connect and to answer": """
        test_a_frozen_server_among_others
        test_a_frozen_server_costs_a_long_batch_two_timeouts
        test_a_frozen_server_costs_its_own_jobs
        test_a_frozen_server_leaves_time_for_another_one
        test_a_server_that_is_taken_for_down_keeps_what_it_gave
        test_a_server_that_stops_in_the_middle_of_its_share
        test_a_silent_server_takes_half_of_the_time_at_most
        test_a_timeout_closes_it
        test_all_drain
        test_all_that_are_dropped
        test_each_command_has_its_own
        test_every_server_is_named_with_its_reason
        test_frozen_servers
        test_jobs_of_all_servers
        test_jobs_of_healthy_servers_while_another_is_frozen
        test_many_left_over_end_in_time
        test_no_reserve_waits_on_a_connection_that_holds_a_job
        test_of_a_server_that_is_down
        test_one_frozen_server_and_no_job
        test_one_frozen_server_hides_no_job_of_the_others
        test_one_that_is_down_from_the_start_is_skipped_until_it_is_up
        test_puts_without_a_key_soon_avoid_it
        test_resent_and_declared
        test_the_time_is_kept_to_the_fraction
        test_two_frozen_servers_leave_time_for_the_third
        test_what_was_not_sent_is_not_ambiguous
        test_who_waits_for_a_connection_gets_it_at_once
    """,
    "what it expects of the same moment comes a moment apart": """
        test_all_connections_are_held_by_unfinished_jobs
        test_commands_by_the_ids_of_jobs_that_were_reserved
        test_jobs_of_all_servers_keep_their_priorities
        test_no_more_than_the_limit_of_what_comes_at_the_same_time
        test_what_comes_on_all_servers_at_the_same_time
        test_what_comes_on_others_while_the_first_is_looked_at
    """,
    "what it finds out is the same from near, and its commands are not about time": """
        test_a_body_that_is_too_big_is_nobodys_fault
        test_a_child_has_none_of_them
        test_a_tube_that_cannot_be_watched
        test_another_server_than_the_job_s
        test_bad_arguments_are_refused_before_a_byte_is_sent
        test_bad_ones_are_refused
        test_by_number_and_server
        test_by_number_and_the_servers_name_or_address
        test_by_number_where_there_is_one_server
        test_bytes_and_text
        test_bytes_only
        test_no_descriptor_is_left
        test_numbers_that_other_clients_are_given
        test_of_the_tubes_that_are_asked_for
        test_one_that_refuses_the_tube
        test_one_that_was_looked_at
        test_the_connection_comes_back_with_the_last_of_its_jobs
        test_the_end_of_the_pool_is_its_end
        test_the_finalizer_waits_for_nothing
        test_they_are_found_by_their_ids
        test_what_a_put_says
        test_what_a_second_delete_says
        test_what_cannot_be_kept
        test_without_a_thread_nobody_is_told_that_a_job_is_kept
    """,
    "a probe is under way for longer than it takes to look": """
        test_a_pool_that_is_forgotten_gives_all_back
        test_items_that_raise_leave_nothing_behind
    """,
    "the ends of the line are descriptors of this process": """
        test_at_any_line
        test_in_the_handshake
    """,
}
NOT_FAR = {name for names in _NEARBY.values() for name in names.split()}
