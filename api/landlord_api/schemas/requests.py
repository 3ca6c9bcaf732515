"""What clients send."""

from __future__ import annotations

import re
from typing import Any, ClassVar

from marshmallow import ValidationError, fields, validate

from landlord.tenants.model import TENANT_ID, DeletionPolicy, Status
from landlord.workflow.provider import MAX_EXECUTION_ID
from landlord_api.schemas.fields import (
    JSON,
    LABEL_KEY,
    LABEL_VALUE,
    MERGE_PATCH,
    Annotations,
    Body,
    Flag,
    Labels,
    Object,
    Path,
    Strict,
    Text,
)

PAGE = 100
LARGEST_PAGE = 1000
ID_RULE = "must be a DNS label: lower-case letters, digits and '-', 50 characters at most, no '-' first or last"


def _tenant_id(value: str) -> None:
    if not TENANT_ID.fullmatch(value):
        raise ValidationError(ID_RULE)


def _config(**kwargs: Any) -> Object:
    return Object(
        metadata={
            "description": "What the compute provider is to run; see `/api/compute/config` for its schema. At most "
            "128 KiB. Secrets do not belong here yet."
        },
        **kwargs,
    )


def _provider(**kwargs: Any) -> Text:
    return Text(
        validate=validate.Length(min=1, max=64, error="must have 1 to 64 characters"),
        metadata={"description": "A configured compute provider. Cannot change."},
        **kwargs,
    )


def _policy(**kwargs: Any) -> Text:
    names = [policy.value for policy in DeletionPolicy]
    return Text(
        validate=validate.OneOf(names, error=f"must be one of {', '.join(names)}"),
        metadata={"description": "Whether deleting the `Tenant` resource deletes the tenant."},
        **kwargs,
    )


_PAUSED = {"description": "No new run starts but a delete."}


class CreateTenantSchema(Body):
    """A new tenant."""

    id = Text(required=True, validate=_tenant_id, metadata={"pattern": f"^{TENANT_ID.pattern}$", "example": "acme"})
    compute_provider = _provider()
    compute_config = _config(required=True)
    labels = Labels()
    annotations = Annotations()
    paused = Flag(metadata=_PAUSED)
    deletion_policy = _policy()


class ReplaceTenantSchema(Body):
    """Replaces the configuration; the rest only where it is given."""

    compute_provider = _provider()
    compute_config = _config(required=True)
    labels = Labels()
    annotations = Annotations()
    paused = Flag(metadata=_PAUSED)
    deletion_policy = _policy()


class PatchTenantSchema(Body):
    """A JSON merge patch (RFC 7396): null takes a member away, or back to its default."""

    media_types: ClassVar[tuple[str, ...]] = (MERGE_PATCH, JSON)

    compute_provider = _provider(allow_none=True)
    compute_config = _config()
    labels = Labels(patch=True, allow_none=True)
    annotations = Annotations(patch=True, allow_none=True)
    paused = Flag(metadata=_PAUSED, allow_none=True)
    deletion_policy = _policy(allow_none=True)


class RetryTenantSchema(Body):
    """May be left out."""

    optional: ClassVar[bool] = True

    compute_config = _config()


class TenantPath(Path):
    parameter: ClassVar[str] = "id"
    pattern: ClassVar[re.Pattern[str]] = TENANT_ID
    allowed: ClassVar[str] = ID_RULE

    id = fields.String(required=True, metadata={"pattern": f"^{TENANT_ID.pattern}$"})


class ExecutionPath(Path):
    parameter: ClassVar[str] = "execution_id"
    pattern: ClassVar[re.Pattern[str]] = re.compile(rf"[A-Za-z0-9-]{{1,{MAX_EXECUTION_ID}}}", re.ASCII)
    allowed: ClassVar[str] = f"must be 1 to {MAX_EXECUTION_ID} letters, digits and '-'"

    execution_id = fields.String(required=True, metadata={"pattern": f"^{pattern.pattern}$"})


class _Whole(fields.Integer):
    """Decimal digits, as in a query."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(error_messages={"invalid": f"must be a whole number from 1 to {LARGEST_PAGE}"}, **kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> int:
        if not re.fullmatch("[0-9]{1,9}", value):
            raise self.make_error("invalid", input=value)
        return int(value)


class _YesNo(fields.Boolean):
    """``true`` or ``false`` in a query."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            truthy={"true", "1"},
            falsy={"false", "0"},
            error_messages={"invalid": "must be true or false"},
            **kwargs,
        )


class _Label(Text):
    """``key=value``."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        key, equals, wanted = value.partition("=")
        if not equals or not LABEL_KEY.fullmatch(key) or not LABEL_VALUE.fullmatch(wanted):
            raise ValidationError("must be key=value, both as in a label")
        return key, wanted


class Query(Strict):
    """The parameters behind the path."""

    error_messages: ClassVar[dict[str, str]] = {"unknown": "is not a known parameter"}  # type: ignore[misc]


class NoQuery(Query):
    """Of an operation without parameters: whoever gives one (``dry_run``, say) wants it to do something."""


class PageQuery(Query):
    """Which page of a list."""

    limit = _Whole(
        load_default=PAGE,
        validate=validate.Range(min=1, max=LARGEST_PAGE, error=f"must be a whole number from 1 to {LARGEST_PAGE}"),
        metadata={"description": "At most so many. Of large ones there are fewer, and a `next_cursor`."},
    )
    cursor = Text(metadata={"description": "`next_cursor` of the page before."})


class TenantsQuery(PageQuery):
    status = Text(
        validate=validate.OneOf([*Status], error=f"must be one of {', '.join(Status)}"),
        metadata={"description": "Only tenants in this status."},
    )
    compute_provider = Text(metadata={"description": "Only tenants of this provider."})
    label = fields.List(_Label(), metadata={"description": "`key=value`; may be repeated, all must match."})
    include_deleted = _YesNo(load_default=False, metadata={"description": "With the tombstones."})
    count = _YesNo(load_default=False, metadata={"description": "Whether to count all that match, as `total`."})


class ComputeConfigQuery(Query):
    provider = Text(metadata={"description": "A configured compute provider; the default one if left out."})
