"""multiprocessing, awaitable."""
