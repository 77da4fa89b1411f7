"""What an operator sees of a running server: figures and log lines.

A leaf: it imports no layer of the server, and every layer may import it.
"""

from turnwire_server.telemetry.logs import configure_logging
from turnwire_server.telemetry.metrics import Metrics
from turnwire_server.telemetry.redact import redactor

__all__ = ["Metrics", "configure_logging", "redactor"]
