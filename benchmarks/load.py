"""Load from outside: wrk, which answers for less of the two cores than any client in Python."""

from __future__ import annotations

import asyncio
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

CONNECTIONS = 32
_SCRIPT = Path(__file__).with_name("load.lua")


class NoWrk(Exception):
    """There is no wrk on this machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What one run of wrk saw. Latencies are seconds."""

    rate: float
    p50: float
    p99: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ids:
    """Fill ``%s`` in path and body: the prefix and a number below ``most``, every ``step``-th, round and round."""

    prefix: str
    most: int = 10**9
    step: int = 1


async def run(
    url: str,
    *,
    seconds: float,
    method: str = "GET",
    path: str = "/",
    body: str = "",
    ids: Ids = Ids(prefix=""),
    connections: int = CONNECTIONS,
) -> Load:
    """Send as many requests as are answered for so long. Raises ``RuntimeError`` if one is not answered below 400."""
    program = shutil.which("wrk")
    if program is None:
        raise NoWrk("there is no wrk (apt-get install wrk; `make setup` does it as root)")
    process = await asyncio.create_subprocess_exec(
        program,
        "-t1",
        f"-c{connections}",
        f"-d{max(1, round(seconds))}s",
        "--latency",
        f"-s{_SCRIPT}",
        url,
        "--",
        *(method, path, body, ids.prefix, str(ids.most), str(ids.step)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    text = output.decode(errors="replace")
    if process.returncode != 0:
        raise RuntimeError(f"wrk ended with status {process.returncode}: {text[-500:]}")
    seen = json.loads(text.strip().splitlines()[-1])
    if seen["refused"] or seen["broken"]:
        raise RuntimeError(f"{method} {path}: {seen['refused']} refused, {seen['broken']} broken of {seen['requests']}")
    return Load(rate=seen["requests"] / (seen["microseconds"] / 1e6), p50=seen["p50"] / 1e6, p99=seen["p99"] / 1e6)
