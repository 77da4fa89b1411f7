"""Tools that a model may call: declared in Python, offered by MCP servers, or run by clients.

What whoever writes a tool needs is here; see docs/tools.md. The server's own parts import from the modules.
"""

from .context import ToolContext
from .declare import tool
from .errors import RetryableToolError, ToolDeclarationError, ToolError

__all__ = ["RetryableToolError", "ToolContext", "ToolDeclarationError", "ToolError", "tool"]
