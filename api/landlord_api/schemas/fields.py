"""Fields and base classes the requests share.

Messages say what is allowed and never repeat a value: it may be a secret.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from marshmallow import RAISE, Schema, ValidationError, fields

from landlord.tenants import metadata

REQUIRED = {"required": "is required", "null": "must not be null"}
MERGE_PATCH = "application/merge-patch+json"
JSON = "application/json"

LABEL_KEY = re.compile(
    r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", re.ASCII
)
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?", re.ASCII)


class Strict(Schema):
    """Refuses what it does not know."""

    class Meta:
        unknown = RAISE

    error_messages: ClassVar[dict[str, str]] = {  # type: ignore[misc]  # marshmallow leaves it open
        "unknown": "is not a known field",
        "type": "must be a JSON object",
    }


class Body(Strict):
    """A request's body."""

    media_types: ClassVar[tuple[str, ...]] = (JSON,)
    optional: ClassVar[bool] = False
    """Whether there may be none at all."""


class Path(Schema):
    """The one parameter of a path, checked by a regular expression alone: every GET comes through it."""

    parameter: ClassVar[str]
    pattern: ClassVar[re.Pattern[str]]
    allowed: ClassVar[str]


class Text(fields.String):
    """A string, and nothing that could be taken for one."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(error_messages={**REQUIRED, "invalid": "must be a string"}, **kwargs)


class Flag(fields.Boolean):
    """JSON's true or false; not "yes", not 1."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(error_messages={**REQUIRED, "invalid": "must be true or false"}, **kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> bool:
        if isinstance(value, bool):
            return value
        raise self.make_error("invalid", input=value)


class Object(fields.Dict):
    """Any JSON object."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(error_messages={**REQUIRED, "invalid": "must be an object"}, **kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> dict[str, Any]:
        if isinstance(value, dict):
            return value
        raise self.make_error("invalid")


class _Texts(Object):
    """An object of strings. In a merge patch a null takes a key away; how much there may be is not said of a patch, but
    of what it makes of a tenant's."""

    def __init__(self, *, patch: bool = False, **kwargs: Any) -> None:
        super().__init__(keys=fields.String(), values=fields.String(allow_none=patch), **kwargs)
        self._patch = patch

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> dict[str, Any]:
        texts = super()._deserialize(value, attr, data, **kwargs)
        faults: dict[str, list[str]] = {}
        for key, text in texts.items():
            if not LABEL_KEY.fullmatch(key):
                faults[key] = ["its name must be 'name' or 'domain/name' of letters, digits, '-', '_' and '.'"]
            elif text is None and self._patch:
                continue
            elif not isinstance(text, str):
                faults[key] = ["must be a string"]
            elif (why := self._fault(text)) is not None:
                faults[key] = [why]
        if faults:
            raise ValidationError(faults)
        if not self._patch and (why := self._too_much(texts)):
            raise ValidationError(why)
        return texts

    def _fault(self, text: str) -> str | None:
        return None

    def _too_much(self, texts: Mapping[str, str]) -> str | None:
        return None


class Labels(_Texts):
    """As Kubernetes has them, so that they can be put on anything a tenant is made of."""

    def _fault(self, text: str) -> str | None:
        if LABEL_VALUE.fullmatch(text):
            return None
        return "must be letters, digits, '-', '_' and '.', 63 at most, with a letter or digit first and last"

    def _too_much(self, texts: Mapping[str, str]) -> str | None:
        return metadata.labels_fault(texts)


class Annotations(_Texts):
    """Free texts under keys like those of labels."""

    def _too_much(self, texts: Mapping[str, str]) -> str | None:
        return metadata.annotations_fault(texts)
