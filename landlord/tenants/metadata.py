"""What a tenant's labels and annotations may come to, by whichever request they came there. Pure.

The one rule for both: a request may be small and still make a row that no other request could have sent.
"""

from __future__ import annotations

from collections.abc import Mapping

MOST_LABELS = 64
ANNOTATIONS_LIMIT = 65_536
"""Characters of all keys and values together."""


def labels_fault(labels: Mapping[str, str]) -> str | None:
    """What is allowed, where there are too many."""
    return f"must have at most {MOST_LABELS} keys" if len(labels) > MOST_LABELS else None


def annotations_fault(annotations: Mapping[str, str]) -> str | None:
    """What is allowed, where they are too long."""
    size = sum(len(key) + len(text) for key, text in annotations.items())
    return f"must have at most {ANNOTATIONS_LIMIT} characters in all" if size > ANNOTATIONS_LIMIT else None
