"""Images that the engine does not have yet."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web  # noqa: TID251 - a registry, served by the test
from integration.docker.harness import (
    SECRET,
    Make,
    Tenant,
    until_serving,
)

from landlord.compute.provider import (
    ComputeError,
    ComputeState,
    PermanentComputeError,
)
from landlord.compute.providers.docker import DockerProvider


async def test_an_absent_image_is_pulled(provider: DockerProvider, tenant: Tenant, absent_image: str) -> None:
    await provider.apply(tenant.spec(image=absent_image))
    assert (await until_serving(provider)).state is ComputeState.RUNNING
    assert absent_image in (await tenant.docker.images.inspect(absent_image))["RepoTags"]
    await provider.destroy("acme", generation=1)
    assert await tenant.containers(provider) == []


def image_files() -> dict[str, tuple[str, bytes]]:
    """An image of one empty layer, as a registry serves it: path to (media type, content)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("made-by-test"), io.BytesIO())
    layer = buffer.getvalue()
    packed = gzip.compress(layer)
    settings = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["/none"]},
        "rootfs": {"type": "layers", "diff_ids": [sha(layer)]},
    }
    config = json.dumps(settings).encode()
    kind = "application/vnd.docker.{}"
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": kind.format("distribution.manifest.v2+json"),
            "config": {
                "mediaType": kind.format("container.image.v1+json"),
                "size": len(config),
                "digest": sha(config),
            },
            "layers": [
                {
                    "mediaType": kind.format("image.rootfs.diff.tar.gzip"),
                    "size": len(packed),
                    "digest": sha(packed),
                }
            ],
        }
    ).encode()
    typed = (kind.format("distribution.manifest.v2+json"), manifest)
    blob = "application/octet-stream"
    return {
        "manifests/1": typed,
        f"manifests/{sha(manifest)}": typed,
        f"blobs/{sha(config)}": (blob, config),
        f"blobs/{sha(packed)}": (blob, packed),
    }


def sha(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@pytest.fixture
async def private_registry() -> AsyncIterator[str]:
    """The pulling half of the registry protocol for one image ``app:1``, behind a password."""
    files = image_files()

    async def serve(request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Basic {base64.b64encode(f'me:{SECRET}'.encode()).decode()}":
            return web.json_response(
                {"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]},
                status=401,
                headers={"WWW-Authenticate": 'Basic realm="test"'},
            )
        if request.path == "/v2/":
            return web.json_response({})
        found = files.get(request.path.removeprefix("/v2/app/"))
        if found is None:
            return web.json_response(
                {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}, status=404
            )
        headers = {"Docker-Content-Digest": sha(found[1]), "Content-Type": found[0]}
        return web.Response(body=found[1], headers=headers)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", serve)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def test_an_absent_image_is_pulled_with_the_installations_credentials(
    make: Make, tenant: Tenant, private_registry: str, tmp_path: Path
) -> None:
    image = f"{private_registry}/app:1"
    spec = tenant.spec(image=image)
    with pytest.raises(PermanentComputeError, match="may not pull it"):
        await make().apply(spec)

    file = tmp_path / "config.json"
    file.write_text(
        json.dumps({"auths": {private_registry: {"auth": base64.b64encode(f"me:{SECRET}".encode()).decode()}}})
    )
    provider = make(docker_config_file=file)
    with pytest.raises(PermanentComputeError, match=f"image {private_registry}/app:2 does not exist"):
        await provider.apply(tenant.spec(image=f"{private_registry}/app:2"))
    # The image has nothing to run: that it is refused only when started shows that it was pulled and created.
    with pytest.raises(PermanentComputeError, match="cannot start the container") as caught:
        await provider.apply(tenant.spec(image=image, init=False))
    assert SECRET not in str(caught.value)
    await tenant.docker.images.delete(image)


async def test_a_registry_that_is_away_is_tried_again(provider: DockerProvider, tenant: Tenant, free_port: int) -> None:
    with pytest.raises(ComputeError, match="connection refused") as caught:
        await provider.apply(tenant.spec(image=f"127.0.0.1:{free_port}/app:1"))
    assert not isinstance(caught.value, PermanentComputeError)
