"""Pushing with a real client: skopeo from an OCI layout, else our own small push over the API."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Final, Protocol

from yarl import URL

from cli.console import CommandError
from cli.demo.images import Release
from registry.client import RegistryClient
from registry.push import Image, Index, push_image, push_index

_PUSH_SECONDS: Final = 60


class Pusher(Protocol):
    """A client that pushes a release under each of its tags."""

    name: str

    async def push(self, repository: str, release: Release) -> None:
        """Return when the registry has taken it. Raises CommandError or RegistryError."""


def choose_pusher(client: RegistryClient, folder: Path, *, anonymous: bool) -> Pusher:
    """Skopeo where it is on the PATH, with OCI layouts in `folder`.

    Where the registry wants a password (not `anonymous`) it is our own push: the password would
    stand in skopeo's command line, for everyone on the machine to read.
    """
    program = shutil.which("skopeo")
    if program is not None and anonymous:
        return Skopeo(program, client.base, folder)
    return OwnPush(client)


class Skopeo:
    """`skopeo copy` from an OCI layout."""

    def __init__(self, program: str, registry: URL, folder: Path) -> None:
        self.name = f"skopeo ({program}) from an OCI layout"
        self._program = program
        self._registry = registry
        self._folder = folder

    async def push(self, repository: str, release: Release) -> None:
        """Raises CommandError with what skopeo said."""
        # Not in a thread: it could not be stopped and would write into a folder that is being removed.
        write_layout(self._folder, release.content)
        for tag in release.tags:
            await self._copy(f"docker://{self._registry.authority}/{repository}:{tag}")

    async def _copy(self, target: str) -> None:
        process = await asyncio.create_subprocess_exec(
            self._program,
            "--insecure-policy",  # there are no signatures to check in what was built a moment ago
            "copy",
            "--quiet",
            "--all",  # every platform of an index
            f"--dest-tls-verify={str(self._registry.scheme == 'https').lower()}",
            f"oci:{self._folder}",
            target,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(_PUSH_SECONDS):
                _, said = await process.communicate()
        except TimeoutError as error:
            raise CommandError(f"skopeo took over {_PUSH_SECONDS} s to push {target}") from error
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode != 0:
            raise CommandError(f"skopeo could not push {target}: {said.decode(errors='replace')}")


class OwnPush:
    """The push of `registry.push`."""

    name = "our own push over the registry's API (there is no skopeo for it here)"

    def __init__(self, client: RegistryClient) -> None:
        self._client = client

    async def push(self, repository: str, release: Release) -> None:
        """Raises RegistryError."""
        if isinstance(release.content, Index):
            await push_index(self._client, repository, release.content, *release.tags)
        else:
            await push_image(self._client, repository, release.content, *release.tags)


def write_layout(folder: Path, content: Image | Index) -> None:
    """Write an OCI image layout that names this image or index only.

    Blobs of earlier calls stay in the folder. Source: OCI image-spec, `image-layout.md`.
    """
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    images = content.images if isinstance(content, Index) else (content,)
    needed = [blob for image in images for blob in (image.manifest, *image.blobs)]
    for blob in (*needed, content.manifest):
        path = blobs / blob.digest.hex()
        if not path.exists():
            path.write_bytes(blob.content)
    index = {"schemaVersion": 2, "manifests": [content.manifest.descriptor]}
    (folder / "index.json").write_text(json.dumps(index))
    (folder / "oci-layout").write_text(json.dumps({"imageLayoutVersion": "1.0.0"}))
