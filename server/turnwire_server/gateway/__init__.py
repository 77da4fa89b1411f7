"""The way to language models: a step's request in, chunks out, whatever the provider.

`provider` and `errors` are the interface, `router` says which deployments are tried, `providers` reach them,
`usage` counts tokens and money. Nothing here knows conversations, turns or the wire.
"""
