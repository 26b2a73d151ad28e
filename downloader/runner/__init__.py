"""A CI runner: its disk, its clean-up, its job matrix, where it publishes to, its summaries."""
