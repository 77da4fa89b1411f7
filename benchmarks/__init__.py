"""Benchmarks: what a delta and an idle connection cost, beside the least that could do the same. See README.md."""
