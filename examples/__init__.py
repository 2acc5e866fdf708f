"""One program for each scenario, short enough to read in a minute: ``python -m examples``."""

# In the order of the tour: a new program takes its place here.
PROGRAMS = (
    "start_one",
    "arguments",
    "join",
    "subclass",
    "process_ids",
    "many",
    "in_series",
    "in_parallel",
    "lifecycle",
    "daemon_unfinished",
    "daemon_joined",
    "daemon_with_children",
    "tickets_without_lock",
    "tickets_with_lock",
    "producers_consumers",
    "joinable_queue",
    "queue_shutdown",
    "pipe",
    "pool_one_at_a_time",
    "pool_at_once",
    "pool_callbacks",
    "pool_many",
    "input_in_a_child",
    "by_name",
    "log_pipeline",
    "numpy_job",
    "digest_tree",
)
NEEDS = {"numpy_job": "numpy"}  # what a program needs beyond the extra `examples`
