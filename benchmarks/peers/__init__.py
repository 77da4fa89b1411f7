"""Rivals, built as their own documentation says: what the benchmark's README says of each."""
