"""What became of a request, as a tree of spans: made by turns, redacted, kept and exported here.

A leaf, as all of `telemetry`: it knows neither turns nor the archive. `spans` is what a trace is made of, `record` what
is kept of it, `policy` what may not be kept, `tracer` the node's way from the one to the other, `otlp` the way out.
"""

from turnwire_server.telemetry.tracing.spans import RunTrace, Span, trace_id_of
from turnwire_server.telemetry.tracing.tracer import Tracer

__all__ = ["RunTrace", "Span", "Tracer", "trace_id_of"]
