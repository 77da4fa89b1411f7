"""FastAPI, the typed stream of the openai SDK, and a Redis stream: the way that teams write it first."""
