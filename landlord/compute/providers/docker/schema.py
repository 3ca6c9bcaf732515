"""What a tenant may say to Docker. Strict: an unknown key is a fault."""

from __future__ import annotations

from typing import Any

LONGEST_STOP = 120
"""Seconds that a tenant may take to stop."""

DEFAULTS: dict[str, Any] = {"restart_policy": "unless-stopped", "network": "bridge", "stop_timeout_seconds": 10}


def _pattern(pattern: str, words: str) -> dict[str, Any]:
    """What a text must be, for the check and for people."""
    return {"pattern": pattern, "x-allowed": words}


_WORD = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_HOST = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*"
_IMAGE = _pattern(
    rf"^(?:{_HOST}(?::[0-9]+)?/)?{_WORD}(?:/{_WORD})*(?::[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}})?(?:@sha256:[a-f0-9]{{64}})?$",
    "an image reference, [registry[:port]/]name[:tag][@sha256:digest], its name in lower case",
)
"""The grammar of https://pkg.go.dev/github.com/distribution/reference: what is no reference no engine would take."""
_PATH = _pattern(r"^/[^\x00:]*$", "an absolute path without a colon")
_NAME = _pattern(
    r"^[a-z0-9]([-a-z0-9]{0,48}[a-z0-9])?$",
    "up to 50 lower-case letters, digits and hyphens, with no hyphen at either end",
)


def _text(description: str, **more: Any) -> dict[str, Any]:
    return {"description": description, "type": "string", "maxLength": 4096, **more}


def _texts(description: str, **more: Any) -> dict[str, Any]:
    items = {"type": "string", "maxLength": 32768}
    return {"description": description, "type": "array", "items": items, "maxItems": 256, **more}


def _integer(description: str, low: int, high: int, **more: Any) -> dict[str, Any]:
    return {"description": description, "type": "integer", "minimum": low, "maximum": high, **more}


def _flag(description: str) -> dict[str, Any]:
    return {"description": description, "type": "boolean", "default": False}


def _seconds(description: str, low: float, default: float) -> dict[str, Any]:
    return {"description": description, "type": "number", "minimum": low, "maximum": 3600, "default": default}


def _object(description: str, properties: dict[str, Any], *required: str, **more: Any) -> dict[str, Any]:
    closed = {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}
    return {"description": description, **closed, **more}


_PORT = _object(
    "A port of the container that is published.",
    {
        "container_port": _integer("The port the program listens on.", 1, 65535),
        "host_port": _integer("The engine's port; Landlord takes a free one when left out.", 1, 65535),
        "protocol": {"description": "Transport.", "enum": ["tcp", "udp"], "default": "tcp"},
        "scheme": _text(
            "What the endpoint's URL begins with, e.g. http; the transport when left out.",
            **_pattern("^[a-z][a-z0-9+.-]{0,31}$", "the scheme of a URL in lower case, such as http"),
        ),
        "name": _text("Names the endpoint; the port and transport when left out.", **_NAME),
    },
    "container_port",
)

_HEALTH_CHECK = _object(
    "When the tenant counts as healthy: a command or an HTTP request inside the container. Replaces the image's own.",
    {
        "test": {
            "description": "A shell command, or a command and its arguments; exit code 0 means healthy.",
            "anyOf": [
                {"type": "string", "minLength": 1, "maxLength": 4096},
                {"type": "array", "items": {"type": "string", "maxLength": 4096}, "minItems": 1, "maxItems": 64},
            ],
        },
        "http": _object(
            "A GET inside the container (its image must have wget or curl and sh); a 2xx answer means healthy.",
            {
                "port": _integer("The port asked, on 127.0.0.1 inside the container.", 1, 65535),
                "path": _text(
                    "Path and query.",
                    **_pattern(
                        "^/[A-Za-z0-9._~/%?=&+,:@-]*$",
                        "a path that begins with /, of letters, digits and ._~/%?=&+,:@-",
                    ),
                    default="/",
                ),
            },
            "port",
        ),
        "interval_seconds": _seconds("Between two checks, in seconds.", 0.1, 5),
        "timeout_seconds": _seconds("After which a check has failed, in seconds.", 0.1, 5),
        "retries": _integer("How many failures in a row make it unhealthy.", 1, 100, default=3),
        "start_period_seconds": _seconds("After the start, during which failures do not count, in seconds.", 0, 0),
    },
    oneOf=[{"required": ["test"]}, {"required": ["http"]}],
)

_VOLUMES = {
    "description": "What is mounted. A named volume is the tenant's own: it outlives updates and goes with it.",
    "type": "array",
    "maxItems": 32,
    "items": _object(
        "Either `name` or `source`.",
        {
            "name": _text("A volume of this tenant, made when absent.", **_NAME),
            "source": _text("A path of the host; only below what the installation allows.", **_PATH),
            "target": _text("Where in the container.", **_PATH),
            "read_only": _flag("Whether the tenant may only read it."),
        },
        "target",
        oneOf=[{"required": ["name"]}, {"required": ["source"]}],
    ),
}

SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "Docker compute",
    **_object(
        "One tenant as one container of the installation's Docker engine.",
        {
            "image": _text("The image's reference; pulled when the engine does not have it.", **_IMAGE),
            "command": _texts("Arguments; the image's own when left out."),
            "entrypoint": _texts("The program; the image's own when left out.", minItems=1),
            "env": {
                "description": "Environment variables by name.",
                "type": "object",
                "propertyNames": {**_pattern(r"^[^=\x00\s]+$", "a name without = or white space"), "maxLength": 256},
                "additionalProperties": {
                    "type": "string",
                    "maxLength": 32768,
                    **_pattern(r"^[^\x00]*$", "a text without the character NUL"),
                },
                "maxProperties": 512,
            },
            "ports": {"description": "What is published.", "type": "array", "items": _PORT, "maxItems": 64},
            "resources": _object(
                "Limits; none where left out.",
                {
                    "cpu_millicores": _integer("Thousandths of one CPU.", 10, 1_024_000),
                    "memory_mb": _integer("Memory without any swap, in MiB (2^20 bytes).", 6, 16_777_216),
                    "pids": _integer("Processes and threads.", 1, 4_194_304),
                },
            ),
            "health_check": _HEALTH_CHECK,
            "restart_policy": {
                "description": "When the engine starts the container again by itself.",
                "enum": ["no", "on-failure", "always", "unless-stopped"],
                "default": DEFAULTS["restart_policy"],
            },
            "stop_timeout_seconds": _integer(
                "How long the program may take to stop before it is killed, in seconds.",
                0,
                LONGEST_STOP,
                default=DEFAULTS["stop_timeout_seconds"],
            ),
            "init": _flag("Whether an init process forwards signals and reaps children."),
            "network": _text(
                "bridge, none, or what the installation allows: host, or a network of the engine.",
                **_pattern("^[A-Za-z0-9][A-Za-z0-9_.-]*$", "a name of letters, digits and _.-"),
                default=DEFAULTS["network"],
            ),
            "volumes": _VOLUMES,
            "tmpfs": {
                "description": "Directories in memory.",
                "type": "array",
                "maxItems": 32,
                "items": _object(
                    "One directory.",
                    {
                        "target": _text("Where in the container.", **_PATH),
                        "size_mb": _integer("Its limit in MiB; half of the memory when left out.", 1, 1_048_576),
                    },
                    "target",
                ),
            },
            "user": _text(
                "User or uid, optionally with :group; the image's own when left out.",
                **_pattern(r"^[^\x00\s]+$", "a text without white space"),
            ),
            "read_only": _flag("Whether the container's own file system is read-only."),
            "privileged": _flag("Full access to the host; only where the installation allows it."),
            "labels": {
                "description": "Labels of the container; landlord.dev/ is Landlord's own.",
                "type": "object",
                "propertyNames": {"minLength": 1, "maxLength": 256},
                "additionalProperties": {"type": "string", "maxLength": 4096},
                "maxProperties": 128,
            },
        },
        "image",
    ),
}
