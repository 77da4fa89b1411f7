"""A Chainlit app."""
