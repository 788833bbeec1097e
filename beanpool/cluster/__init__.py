"""All servers: who they are, who watches them, who is asked."""

from beanpool.cluster.availability import Availability
from beanpool.cluster.background import BackgroundExecutor
from beanpool.cluster.cluster import CLOSE_GRACE, Cluster
from beanpool.cluster.fan_out import Answers, Question, ask_all, ask_each, ask_for_many, ask_one, gather, merge_stats
from beanpool.cluster.keeper import Keeping
from beanpool.cluster.kick import kick_all
from beanpool.cluster.questions import ROUND_TRIP, STATISTICS, WHO_IS_IT, about_tube, about_tubes, for_a_job
from beanpool.cluster.start_up import wait_for_servers
from beanpool.cluster.survey import Scope, ServerSurvey, survey_all
from beanpool.cluster.topology import Topology

__all__ = [
    "CLOSE_GRACE",
    "ROUND_TRIP",
    "STATISTICS",
    "Answers",
    "Availability",
    "BackgroundExecutor",
    "Cluster",
    "Keeping",
    "Question",
    "Scope",
    "ServerSurvey",
    "Topology",
    "WHO_IS_IT",
    "about_tube",
    "about_tubes",
    "ask_all",
    "ask_each",
    "ask_for_many",
    "ask_one",
    "for_a_job",
    "gather",
    "kick_all",
    "merge_stats",
    "wait_for_servers",
    "survey_all",
]
