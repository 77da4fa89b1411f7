"""LiteLLM's proxy."""

MASTER_KEY = "sk-benchmarks-only"
