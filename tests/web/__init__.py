"""The application of ``examples/web`` behind real servers."""
