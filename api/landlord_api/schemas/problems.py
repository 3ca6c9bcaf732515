"""Errors: RFC 9457 problem details."""

from __future__ import annotations

from marshmallow import Schema, fields


class ProblemFaultSchema(Schema):
    """One thing wrong. Exactly one of ``pointer``, ``parameter`` and ``header`` says where."""

    pointer = fields.String(metadata={"description": "JSON pointer into the body."})
    parameter = fields.String(metadata={"description": "Name of a parameter in path or query."})
    header = fields.String(metadata={"description": "Name of a header."})
    detail = fields.String(required=True, metadata={"description": "What is allowed."})


class ProblemSchema(Schema):
    """Any error."""

    type = fields.String(required=True, metadata={"description": "Kind of problem, a URN that stays the same."})
    title = fields.String(required=True)
    status = fields.Integer(required=True)
    detail = fields.String(required=True, metadata={"description": "What is wrong with this request."})
    errors = fields.List(fields.Nested(ProblemFaultSchema), required=True)
    request_id = fields.String(required=True, metadata={"description": "As in `X-Request-ID` and the logs."})
