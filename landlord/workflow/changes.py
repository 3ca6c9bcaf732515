"""What differs between two configurations, as places and kinds: never the values, which may be secrets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from landlord import canonical

Kind = Literal["added", "removed", "changed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One difference; ``path`` is a JSON pointer (RFC 6901), '' for the whole configuration."""

    path: str
    kind: Kind

    def to_json(self) -> dict[str, str]:
        return {"path": self.path, "kind": self.kind}


def between(observed: Mapping[str, Any] | None, desired: Mapping[str, Any]) -> list[Change]:
    """The changes that lead from ``observed`` (null where nothing exists) to ``desired``, in the order of their paths.

    Mappings are compared key by key; lists as a whole, since a place in one means nothing once an item is put in.
    """
    if observed is None:
        return [Change(path="", kind="added")]
    return sorted(_differences(observed, desired, path=""), key=lambda change: change.path)


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], *, path: str) -> Iterator[Change]:
    for key in old.keys() | new.keys():
        where = f"{path}/{key.replace('~', '~0').replace('/', '~1')}"
        if key not in old:
            yield Change(path=where, kind="added")
        elif key not in new:
            yield Change(path=where, kind="removed")
        elif isinstance(old[key], Mapping) and isinstance(new[key], Mapping):
            yield from _differences(old[key], new[key], path=where)
        elif not canonical.equal(old[key], new[key]):
            yield Change(path=where, kind="changed")
