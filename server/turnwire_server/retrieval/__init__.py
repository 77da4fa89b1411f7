"""Documents of tenants: cut into chunks, kept, found by words and by meaning, and packed for a prompt.

`service` is what others use. Below it: `chunking`, `fusion` and `packing` are pure; `store` is the port of the two
engines; `embedding` asks a deployment for vectors. It knows neither conversations nor the wire.
"""
