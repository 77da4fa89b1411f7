"""LiteLLM's proxy."""
