"""What bounds a figure whatever Landlord does: Postgres with its own client."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from benchmarks import load
from benchmarks.parts import Machine

_INSERT = """
insert into benchmark_limit (id, name, spec) values (
    gen_random_uuid(), 'tenant-' || :client_id || '-' || random(),
    '{"image": "registry.example/shop:1.4.2", "replicas": 2}'
) returning *;
"""
_TABLE = """
create table if not exists benchmark_limit (
    id uuid primary key, name text not null unique, spec jsonb not null, created_at timestamptz not null default now()
)
"""


async def pgbench(machine: Machine) -> float:
    """Inserts a second of a row like a tenant's, each committed by itself, at 32 connections."""
    url = await machine.server.create_database(name="limit")
    psql, program = (machine.server.binaries / name for name in ("psql", "pgbench"))
    await _output(psql, "-q", "-c", _TABLE, url)
    script = machine.folder / "insert.sql"
    script.write_text(_INSERT.replace("\n", " ") + "\n")
    options = ["-c", str(load.CONNECTIONS), "-j", "1", "-T", str(max(1, round(machine.seconds)))]
    text = await _output(program, "-n", "-M", "prepared", *options, "-f", script, url)
    found = re.search(r"tps = ([0-9.]+)", text)
    if found is None:
        raise RuntimeError(f"pgbench says no rate: {text[-500:]}")
    return float(found[1])


async def _output(*argv: str | Path) -> str:
    process = await asyncio.create_subprocess_exec(
        *argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"{argv[0]} ended with status {process.returncode}: {output.decode()[-500:]}")
    return output.decode()
