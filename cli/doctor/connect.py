"""What to paste into a registry's configuration so that it notifies us. PURE.

CNCF Distribution 2.8 and 3 read the same keys; they differ in where the file is, and 3 sends a
content type of its own, which the receiver takes as well.
"""

import json
from collections.abc import Mapping
from typing import Final

CONFIGURATION_FILES: Final[Mapping[str, str]] = {
    "v2": "/etc/docker/registry/config.yml",
    "v3": "/etc/distribution/config.yml",
}
"""Where the published images look for their configuration."""

TOKEN_PLACEHOLDER: Final = "ONE-OF-RQ_WEBHOOK_TOKENS"  # noqa: S105 - says where to take it from


def notification_block(url: str, token: str = TOKEN_PLACEHOLDER) -> str:
    """YAML for the registry's configuration.

    Nothing is ignored: blob pushes tell the true sizes, pulls tell what is in use.
    """
    return f"""\
storage:
  delete:
    enabled: true              # cleanup deletes by digest
notifications:
  events:
    includereferences: true    # sizes without a request for each push
  endpoints:
    - name: registry-quota
      url: {url}
      headers:
        Authorization: {json.dumps([f"Bearer {token}"])}
      timeout: 1s              # above RQ_ACK_TIMEOUT (0.8 s)
      threshold: 5             # failures in a row before a pause ...
      backoff: 1s              # ... of this length; nothing is dropped meanwhile
"""
