"""Which tenants there are and how each is set now: from the configuration file, or from the archive, where it changes
while servers run.

Above the archive, below conversations. Knows nothing of connections and turns; they ask, and are told of changes.
"""

from turnwire_server.tenants.directory import TenantDirectory, TenantRefused, TenantUnusable
from turnwire_server.tenants.prompts import PromptDirectory

__all__ = ["PromptDirectory", "TenantDirectory", "TenantRefused", "TenantUnusable"]
