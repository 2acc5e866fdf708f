"""Each measured figure in the docs names the program here that made it: ``python -m benchmarks.NAME``."""
