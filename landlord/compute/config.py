"""Checks compute configurations against their provider's schema and rules. Pure.

Messages are written from the schema, never from the configuration: values may be secrets (``env``), and a message goes
into answers, conditions and logs. Only the names of unexpected keys are shown. What a ``pattern`` allows the schema may
say in words, beside it, as ``x-allowed``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import orjson
from jsonschema_rs import Draft202012Validator, ValidationError
from jsonschema_rs import ValidationErrorKind as Kind

from landlord.compute.provider import ComputeProvider, ConfigFault


@dataclass(frozen=True, slots=True, kw_only=True)
class _Schema:
    validator: Draft202012Validator
    words: Mapping[str, str]
    """Of patterns."""


_compiled: WeakKeyDictionary[ComputeProvider, _Schema] = WeakKeyDictionary()
_ARTICLES = {"integer": "an integer", "array": "an array", "object": "an object", "null": "null"}


def faults(provider: ComputeProvider, config: Any) -> list[ConfigFault]:
    """Everything wrong with a configuration: what the schema says, then what the provider's own rules say.

    The rules see only those top-level keys in which the schema found nothing wrong.
    """
    schema = _schema(provider)
    errors = list(schema.validator.iter_errors(config))
    found = [fault for error in errors for fault in _describe(error, words=schema.words)]
    if isinstance(config, Mapping):
        faulty = {error.instance_path[0] for error in errors if error.instance_path}
        unknown = {name for error in errors if not error.instance_path for name in _unexpected(error)}
        sound = {key: value for key, value in config.items() if key not in faulty and key not in unknown}
        found.extend(provider.validate(sound))
    return found


def with_defaults(provider: ComputeProvider, config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with the provider's top-level defaults where it says nothing. Shares nothing with either."""
    return {key: _copied(value) for key, value in {**provider.config_defaults(), **config}.items()}


def _copied(value: Any) -> Any:
    """A JSON value, as ``copy.deepcopy`` makes it, ten times as fast."""
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


def pointer(parts: Iterable[str | int]) -> str:
    """JSON pointer (RFC 6901) of a path; the empty text is the whole document."""
    return "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in parts)


def _schema(provider: ComputeProvider) -> _Schema:
    schema = _compiled.get(provider)
    if schema is None:
        source = provider.config_schema()
        schema = _compiled[provider] = _Schema(validator=Draft202012Validator(source), words=dict(_words(source)))
    return schema


def _words(schema: Any) -> Iterator[tuple[str, str]]:
    """Each pattern that has words, and these."""
    if isinstance(schema, dict):
        match schema:
            case {"pattern": str(pattern), "x-allowed": str(words)}:
                yield pattern, words
        for value in schema.values():
            yield from _words(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _words(value)


def _unexpected(error: ValidationError) -> list[str]:
    match error.kind:
        case Kind.AdditionalProperties(names) | Kind.UnevaluatedProperties(names):
            return list(names)
        case _:
            return []


def _describe(error: ValidationError, *, words: Mapping[str, str]) -> list[ConfigFault]:
    """One fault for each thing wrong: unexpected and missing keys are pointed at themselves."""
    if names := _unexpected(error):
        return [ConfigFault(path=pointer([*error.instance_path, name]), message="is not allowed") for name in names]
    if isinstance(error.kind, Kind.Required):
        return [ConfigFault(path=pointer([*error.instance_path, error.kind.property]), message="is required")]
    return [ConfigFault(path=pointer(error.instance_path), message=_message(error, words=words))]


def _message(error: ValidationError, *, words: Mapping[str, str]) -> str:
    match error.kind:
        case Kind.Type(types):
            return f"must be {_one_of([_ARTICLES.get(name, f'a {name}') for name in types])}"
        case Kind.Enum(options):
            return f"must be {_one_of([_json(option) for option in options])}"
        case Kind.Constant(value):
            return f"must be {_json(value)}"
        case Kind.Minimum(limit):
            return f"must be at least {limit}"
        case Kind.Maximum(limit):
            return f"must be at most {limit}"
        case Kind.ExclusiveMinimum(limit):
            return f"must be greater than {limit}"
        case Kind.ExclusiveMaximum(limit):
            return f"must be less than {limit}"
        case Kind.MultipleOf(step):
            return f"must be a multiple of {step}"
        case Kind.MinLength(limit):
            return f"must have at least {_count(limit, 'character')}"
        case Kind.MaxLength(limit):
            return f"must have at most {_count(limit, 'character')}"
        case Kind.MinItems(limit):
            return f"must have at least {_count(limit, 'item')}"
        case Kind.MaxItems(limit):
            return f"must have at most {_count(limit, 'item')}"
        case Kind.MinProperties(limit):
            return f"must have at least {_count(limit, 'key')}"
        case Kind.MaxProperties(limit):
            return f"must have at most {_count(limit, 'key')}"
        case Kind.UniqueItems():
            return "must not have the same item twice"
        case Kind.Pattern(pattern):
            return f"must be {words[pattern]}" if pattern in words else f"must match {pattern}"
        case Kind.Format(name):
            return f"must be a valid {name}"
        case Kind.PropertyNames(inner):
            return f"has a key that is not allowed: it {_message(inner, words=words)}"
        case Kind.AnyOf(context) | Kind.OneOfNotValid(context):
            at = pointer(error.instance_path)
            return f"must be one of: {'; '.join(_branch(branch, at=at, words=words) for branch in context)}"
        case Kind.OneOfMultipleValid():
            return "must be only one of the alternatives"
        case _:
            return f"is not valid (keyword {error.kind.name})"


def _branch(errors: list[ValidationError], *, at: str, words: Mapping[str, str]) -> str:
    """What one alternative asks for; places are told from where the alternatives begin."""
    described = [fault for error in errors for fault in _describe(error, words=words)]
    return " and ".join(f"{fault.path.removeprefix(at)} {fault.message}".strip() for fault in described)


def _one_of(options: list[str]) -> str:
    return options[0] if len(options) == 1 else f"one of {', '.join(options)}"


def _count(limit: int, noun: str) -> str:
    return f"{limit} {noun}{'' if limit == 1 else 's'}"


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()
