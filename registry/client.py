"""A registry's HTTP API, as far as it is needed to read, account and delete.

Digests are raw bytes, sizes bytes, dates the registry's own clock (aware, UTC; None when an answer
tells none). Names and tags are checked against the distribution grammar before they go into a URL.
Errors are those of `registry.errors`; every method may raise RegistryUnavailable, RegistryDenied
and RegistryRefused.
"""

import hashlib
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import datetime
from importlib.metadata import version
from typing import Final, Self, TypeVar

import msgspec
from yarl import URL

from registry.address import next_page, registry_base_url
from registry.answers import Deletion, FetchedManifest, ManifestHead, TagState
from registry.auth import Authorizer
from registry.errors import (
    DeletesDisabled,
    NotFound,
    RegistryDenied,
    RegistryRefused,
    RegistryUnavailable,
    TooLarge,
    WrongContent,
)
from registry.manifests import ManifestError, parse_manifest, signed_payload
from registry.media_types import ACCEPTED, DOCKER_SCHEMA1_SIGNED, OCI_CONFIG, OCI_MANIFEST, bare
from registry.models import MAX_SIZE, OWN_USER_AGENT_PREFIX
from registry.names import (
    InvalidDigest,
    InvalidName,
    check_repository,
    check_tag,
    format_digest,
    parse_digest,
)
from registry.transport import (
    MAX_ERROR_BYTES,
    REDIRECTS,
    Answer,
    Request,
    Retries,
    Transport,
    describe,
    sent_elsewhere,
)

USER_AGENT: Final = OWN_USER_AGENT_PREFIX + version("registry-quota")
MAX_MANIFEST_BYTES: Final = 8 * 1024 * 1024
MAX_LIST_BYTES: Final = 32 * 1024 * 1024
"""Longest page of tags or repositories read."""
PAGE_SIZE: Final = 1000
"""Repositories asked for at a time, and tags where all are too much at once. A registry with a lower
limit (`catalog.maxentries`) answers 400, and is asked for as many as it likes."""

MOST_PAGES: Final = 20_000
"""Pages of one list that are followed."""
MOST_NAMES: Final = 1_000_000
"""Names of one list that are read."""
MOST_PAGES_OF_NOTHING: Final = 10
"""Pages one after the other that name nothing new, and yet lead on to another."""

PROBE_REPOSITORY: Final = "registry-quota/doctor"
"""Where what cannot exist is deleted and put; no such repository appears by it."""

_ACCEPT: Final = {"Accept": ", ".join(ACCEPTED)}
_ABSENT_CODES: Final = frozenset(
    {"MANIFEST_UNKNOWN", "NAME_UNKNOWN", "BLOB_UNKNOWN", "TAG_INVALID"}
)
_CATALOG_SCOPE: Final = "registry:catalog:*"
_HASHES: Final = {32: hashlib.sha256, 48: hashlib.sha384, 64: hashlib.sha512}
_API_VERSION: Final = "Docker-Distribution-Api-Version"


class _Errors(msgspec.Struct):
    class Error(msgspec.Struct):
        code: str | None = None

    errors: list[Error] | None = None


class _Tags(msgspec.Struct):
    tags: list[str] | None = None

    @property
    def names(self) -> list[str]:
        return self.tags or []


class _Catalog(msgspec.Struct):
    repositories: list[str] | None = None

    @property
    def names(self) -> list[str]:
        return self.repositories or []


_Page = TypeVar("_Page", _Tags, _Catalog)


class RegistryClient:
    """Talks to one registry. Use as an async context manager; safe to share between tasks."""

    def __init__(
        self,
        base_url: str,
        *,
        username: str | None = None,
        password: str | None = None,
        token_hosts: frozenset[str] = frozenset(),
        redirect_hosts: frozenset[str] = frozenset(),
        concurrency: int = 8,
        timeout: float = 30.0,
        retries: Retries | None = None,
        user_agent: str = USER_AGENT,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Raises BadRegistryUrl when `base_url` is not an address.

        `token_hosts`: hosts of token realms, besides the registry's own, that get our credentials.
        `redirect_hosts`: hosts of object storage that blob reads may be redirected to. `timeout` is
        seconds for one try; at most `concurrency` requests are open at a time. `tls` says whom to
        trust behind https, other than whom the system trusts.
        """
        self.base: Final = registry_base_url(base_url)
        self.transport: Final = Transport(
            base=self.base,
            authorizer=Authorizer(
                self.base, username=username, password=password, token_hosts=token_hosts
            ),
            user_agent=user_agent,
            concurrency=concurrency,
            timeout=timeout,
            retries=retries or Retries(),
            redirect_hosts=frozenset(host.lower() for host in redirect_hosts),
            tls=tls,
        )

    async def __aenter__(self) -> Self:
        await self.transport.__aenter__()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.transport.__aexit__(*exception)

    # Reading

    async def ping(self) -> datetime | None:
        """Whether there is a registry that lets us in. Returns its clock.

        Raises RegistryRefused where something else answers: a web page has a 200 for everything.
        """
        request = Request(method="GET", url=self.url("/v2/"), scope="")
        answer = await self.transport.send(request)
        _require(answer.status == 200, request, answer)
        if _API_VERSION not in answer.headers and not _is_object(answer.body):
            raise RegistryRefused(
                f"something other than a registry answers: {describe(request, answer)}",
                date=answer.date,
            )
        return answer.date

    async def get_manifest(
        self, repository: str, reference: str | bytes, *, again: bool = True
    ) -> FetchedManifest:
        """A manifest by (raw) digest or by tag, at most 8 MiB. Raises NotFound, WrongContent, TooLarge.

        What a tag answers is checked against the digest that the registry names. `again=False`: a
        failure is an answer, too, and is not asked for again.
        """

        def check(answer: Answer) -> None:
            if answer.status == 200:
                _verify(answer, digest_of(answer))

        def digest_of(answer: Answer) -> bytes:
            if isinstance(reference, bytes):
                return reference
            return _named_digest(answer) or _computed_digest(answer)

        request = self._manifest("GET", repository, reference, max_bytes=MAX_MANIFEST_BYTES)
        answer = await self._found(request, check, again=again)
        media_type = bare(answer.headers.get("Content-Type", ""))
        return FetchedManifest(answer.body, media_type, digest_of(answer), answer.date)

    async def head_manifest(self, repository: str, reference: str | bytes) -> ManifestHead:
        """Whether a manifest exists, by tag or (raw) digest. Emits a pull event of ours."""
        request = self._manifest("HEAD", repository, reference)
        answer = await self._head(request)
        if answer.status == 404:
            return ManifestHead(
                exists=False, digest=None, media_type="", size=None, date=answer.date
            )
        _require(answer.status == 200, request, answer)
        return ManifestHead(
            exists=True,
            digest=_named_digest(answer),
            media_type=bare(answer.headers.get("Content-Type", "")),
            size=_content_length(answer),
            date=answer.date,
        )

    async def tag_digest(
        self, repository: str, tag: str, known_digest: bytes | None = None
    ) -> TagState:
        """What a tag points at. While that is `known_digest`, the question emits no event.

        Where a proxy strips the digest from the answer, the manifest is fetched for it.
        """
        known = {"If-None-Match": f'"{format_digest(known_digest)}"'} if known_digest else {}
        request = self._manifest("HEAD", repository, check_tag(tag), headers=known)
        answer = await self._head(request)
        if answer.status == 304 and known_digest:
            return TagState(known_digest, answer.date)
        if answer.status == 404:
            return TagState(None, answer.date)
        _require(answer.status == 200, request, answer)
        digest = _named_digest(answer)
        if digest is not None:
            return TagState(digest, answer.date)
        try:
            fetched = await self.get_manifest(repository, tag)
        except NotFound as error:  # it went meanwhile
            return TagState(None, error.date)
        return TagState(fetched.digest, fetched.date)

    async def head_blob(self, repository: str, digest: bytes) -> int | None:
        """Bytes that a blob takes in storage; None when the registry does not tell.

        It does not where it redirects to object storage at a host that is not in `redirect_hosts`.
        Raises NotFound.
        """
        return (await self.stat_blob(repository, digest))[0]

    async def stat_blob(self, repository: str, digest: bytes) -> tuple[int | None, datetime | None]:
        """As `head_blob`, and the registry's clock in its answer."""
        request = self._blob("HEAD", repository, digest)
        answer = await self._head(request)
        if answer.status == 404:
            raise NotFound(describe(request, answer), date=answer.date)
        if answer.status in REDIRECTS:
            return None, answer.date
        _require(answer.status == 200, request, answer)
        return _content_length(answer), answer.date

    async def has_blob(self, repository: str, digest: bytes) -> bool | None:
        """Whether a blob can be read: its first byte is asked for, at most 64 KiB are read.

        A HEAD proves nothing: a registry whose cache outlived a garbage collection answers it for what
        is gone. None where it leads to object storage at a host that is not in `redirect_hosts`.
        """
        request = self._blob("GET", repository, digest)
        request = replace(request, headers={**request.headers, "Range": "bytes=0-0"})
        try:
            answer = await self.transport.send(request)
        except TooLarge:
            return True  # no ranges here: all of it was about to come
        except WrongContent:
            return False  # announced, and not there
        if answer.status in REDIRECTS:
            return None
        if answer.status == 404:
            if answer.url == request.url:
                _require_registrys_word(request, answer)
            return False
        if answer.status in (200, 206) and answer.body:
            return True
        _require(answer.status in (200, 206, 416), request, answer)
        # Only the blob without bytes has no first one; of any other nothing is left.
        return _HASHES[len(digest)]().digest() == digest

    async def get_blob(self, repository: str, digest: bytes, max_bytes: int) -> bytes:
        """A blob of at most `max_bytes` (a config).

        Raises NotFound, WrongContent, TooLarge, SentElsewhere.
        """

        def check(answer: Answer) -> None:
            if answer.status == 200:
                _verify(answer, digest)

        request = self._blob("GET", repository, digest, max_bytes=max_bytes)
        return (await self._found(request, check)).body

    async def list_tags(self, repository: str) -> AsyncIterator[str]:
        """The tags of a repository, in the registry's order; none when there is no such repository.

        Absence from this list proves nothing. Entries outside the grammar are left out.
        """
        # All at once: asked for so many, version 3 gives `tags.maxtags` and a `Link`, which a proxy may strip.
        url = self.url(f"/v2/{check_repository(repository)}/tags/list")
        async for tags in self._pages(url, f"repository:{repository}:pull", _Tags):
            for tag in tags:
                if _fits(check_tag, tag):
                    yield tag

    async def catalog(self) -> AsyncIterator[str]:
        """The repositories of the registry, also emptied ones. Absence from it proves nothing.

        Raises RegistryRefused where there is no such list.
        """
        url = self.url("/v2/_catalog", n=PAGE_SIZE)
        async for repositories in self._pages(url, _CATALOG_SCOPE, _Catalog):
            for repository in repositories:
                if _fits(check_repository, repository):
                    yield repository

    # Changing

    async def delete_manifest(self, repository: str, digest: bytes) -> Deletion:
        """Delete a manifest and every tag on it. Gone already is as good. Raises DeletesDisabled."""
        return await self._delete(self._manifest("DELETE", repository, digest, action="delete"))

    async def delete_tag(self, repository: str, tag: str) -> Deletion:
        """Remove one tag and leave its manifest. Raises RegistryRefused before v3, which cannot."""
        return await self._delete(
            self._manifest("DELETE", repository, check_tag(tag), action="delete")
        )

    async def deletes_enabled(self, repository: str) -> bool:
        """Whether the registry deletes, found by deleting a manifest that cannot exist."""
        try:
            await self._delete(self._manifest("DELETE", repository, bytes(32), action="delete"))
        except DeletesDisabled:
            return False
        return True

    async def is_pull_through_cache(self, repository: str) -> bool | None:
        """Whether the registry fetches what it is asked for from another one (`proxy.remoteurl`).

        Such a one neither deletes nor takes anything, and says UNSUPPORTED to both. Nothing else tells
        without a download. What is tried can come to nothing in any registry: a manifest that cannot
        exist is deleted, and one put whose config cannot exist. None where the account may do neither.
        """
        try:
            if await self.deletes_enabled(repository):
                return False
        except RegistryDenied:
            pass  # perhaps it may push
        config = {"mediaType": OCI_CONFIG, "size": 1, "digest": format_digest(bytes(32))}
        document = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": config,
            "layers": [],
        }
        request = self._manifest(
            "PUT",
            repository,
            "none",
            action="pull,push",
            headers={"Content-Type": OCI_MANIFEST},
            body=msgspec.json.encode(document),
        )
        try:
            answer = await self.transport.send(request)
        except RegistryDenied:
            return None
        return answer.status == 405 and "UNSUPPORTED" in _codes(answer)

    async def put_manifest(
        self,
        repository: str,
        reference: str | bytes,
        body: bytes,
        media_type: str,
        *,
        user_agent: str | None = None,
    ) -> datetime | None:
        """Put a manifest by tag or (raw) digest. Raises RegistryRefused when blobs are missing.

        `user_agent`: instead of ours, where it says more (`registry.marks`).
        """
        agent = {} if user_agent is None else {"User-Agent": user_agent}
        request = self._manifest(
            "PUT",
            repository,
            reference,
            action="pull,push",
            headers={"Content-Type": media_type} | agent,
            body=body,
        )
        answer = await self.transport.send(request)
        if answer.status == 405:
            raise RegistryDenied(f"read-only: {describe(request, answer)}", date=answer.date)
        _require(answer.status == 201, request, answer)
        return answer.date

    # Under them

    def url(self, path: str, **query: str | int) -> URL:
        """An address of the registry; `path` is safe as it is (the grammar has no escapes)."""
        return URL(f"{self.base}{path}", encoded=True).with_query(query or None)

    def _manifest(
        self,
        method: str,
        repository: str,
        reference: str | bytes,
        *,
        action: str = "pull",
        headers: dict[str, str] | None = None,
        body: bytes | None = None,
        max_bytes: int = MAX_ERROR_BYTES,
    ) -> Request:
        name = check_tag(reference) if isinstance(reference, str) else format_digest(reference)
        return Request(
            method=method,
            url=self.url(f"/v2/{check_repository(repository)}/manifests/{name}"),
            scope=f"repository:{repository}:{action}",
            headers=_ACCEPT | (headers or {}),
            body=body,
            max_bytes=max_bytes,
        )

    def _blob(
        self, method: str, repository: str, digest: bytes, max_bytes: int = MAX_ERROR_BYTES
    ) -> Request:
        return Request(
            method=method,
            url=self.url(f"/v2/{check_repository(repository)}/blobs/{format_digest(digest)}"),
            scope=f"repository:{repository}:pull",
            max_bytes=max_bytes,
        )

    async def _found(
        self, request: Request, check: Callable[[Answer], None], *, again: bool = True
    ) -> Answer:
        answer = await self.transport.send(request, check, again=again)
        if answer.status == 404:
            _require_registrys_word(request, answer)
            raise NotFound(describe(request, answer), date=answer.date)
        if answer.status in REDIRECTS:
            raise sent_elsewhere(request, answer)
        _require(answer.status == 200, request, answer)
        return answer

    async def _head(self, request: Request) -> Answer:
        answer = await self.transport.send(request)
        if answer.status == 404 and not (_API_VERSION in answer.headers and _is_json(answer)):
            # An answer to HEAD has no body that could tell a registry's 404 from another's.
            asked_again = replace(request, method="GET", max_bytes=MAX_MANIFEST_BYTES)
            _require_registrys_word(asked_again, await self.transport.send(asked_again))
        return answer

    async def _delete(self, request: Request) -> Deletion:
        answer = await self.transport.send(request)
        if answer.status == 404:
            _require_registrys_word(request, answer)
            return Deletion(existed=False, date=answer.date)
        if answer.status == 405:
            raise DeletesDisabled(date=answer.date)
        _require(answer.status == 202, request, answer)
        return Deletion(existed=True, date=answer.date)

    async def _pages(
        self, url: URL, scope: str, page_type: type[_Page]
    ) -> AsyncIterator[list[str]]:
        """The names of a list, page by page, each name once.

        A page that may be full and has no `Link` is not taken for the last: a proxy may have taken the
        header away. What comes after it is asked for by name. Raises WrongContent where a list does not end.
        """
        asked: set[URL] = set()
        told: set[str] = set()
        size = PAGE_SIZE if url.query_string else None
        may_be_cut = size is not None
        following: URL | None = url
        of_nothing = 0
        while following is not None:
            if following in asked:
                raise WrongContent(f"the pages of {url.raw_path} go round in circles")
            if of_nothing >= MOST_PAGES_OF_NOTHING:
                raise WrongContent(
                    f"the pages of {url.raw_path} do not end: the last {of_nothing} name nothing new"
                )
            if len(asked) >= MOST_PAGES or len(told) > MOST_NAMES:
                raise WrongContent(
                    f"the list at {url.raw_path} is longer than is read: {len(told)} names on"
                    f" {len(asked)} pages, at most {MOST_NAMES} on {MOST_PAGES}, and there are more"
                )
            asked.add(following)
            request = Request(method="GET", url=following, scope=scope, max_bytes=MAX_LIST_BYTES)
            try:
                answer = await self.transport.send(request)
                if answer.status == 400 and following == url and size is not None:
                    # It gives fewer at a time, and says nowhere how many: as many as it likes, then.
                    size = None
                    request = replace(request, url=url.with_query(None))
                    answer = await self.transport.send(request)
            except TooLarge:
                if may_be_cut:
                    raise
                size, may_be_cut = PAGE_SIZE, True
                request = replace(request, url=url.with_query(n=PAGE_SIZE))
                answer = await self.transport.send(request)
            if answer.status == 404:
                _require_registrys_word(request, answer)
                _require(page_type is not _Catalog, request, answer)
                return
            _require(answer.status == 200, request, answer)
            try:
                names = msgspec.json.decode(answer.body, type=page_type).names
                following = next_page(answer.headers.get("Link"), request.url, self.base)
            except (ValueError, RecursionError) as error:
                raise WrongContent(f"{url.raw_path}: {error}", date=answer.date) from None
            fresh = [name for name in dict.fromkeys(names) if name not in told]
            told.update(fresh)
            of_nothing = 0 if fresh else of_nothing + 1
            yield fresh
            if following is None and fresh and may_be_cut and size in (None, len(names)):
                n = {} if size is None else {"n": str(size)}
                following = url.with_query({**n, "last": names[-1]})


def _require(condition: bool, request: Request, answer: Answer) -> None:  # noqa: FBT001 - an assertion
    if not condition:
        raise RegistryRefused(describe(request, answer), date=answer.date)


def _require_registrys_word(request: Request, answer: Answer) -> None:
    """A 404 means absence only when it is the registry's, and says of what.

    A proxy has 404s of its own, and below a wrong path so has the registry: "404 page not found", with
    its own header.
    """
    if answer.status != 404 or not _codes(answer) & _ABSENT_CODES:
        raise RegistryUnavailable(
            f"something other than a registry answers: {describe(request, answer)}",
            date=answer.date,
        )


def _codes(answer: Answer) -> set[str]:
    try:
        errors = msgspec.json.decode(answer.body, type=_Errors).errors
    except (msgspec.DecodeError, RecursionError):
        return set()
    return {error.code for error in errors or () if error.code}


def _is_object(body: bytes) -> bool:
    """Whether it is a JSON object, as a registry answers `/v2/`."""
    try:
        msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def _is_json(answer: Answer) -> bool:
    return bare(answer.headers.get("Content-Type", "")) == "application/json"


def _content(answer: Answer) -> bytes:
    """What a manifest's digest is of. Raises WrongContent."""
    if bare(answer.headers.get("Content-Type", "")) != DOCKER_SCHEMA1_SIGNED:
        return answer.body
    try:
        return signed_payload(answer.body)
    except ManifestError as error:
        raise WrongContent(f"{answer.url.raw_path}: {error}", date=answer.date) from None


def _verify(answer: Answer, digest: bytes) -> None:
    if _HASHES[len(digest)](_content(answer)).digest() != digest:
        raise WrongContent(
            f"the answer to {answer.url.raw_path} has another digest", date=answer.date
        )


def _computed_digest(answer: Answer) -> bytes:
    """Of a manifest that nothing vouches for: it has to be one that we read. Raises WrongContent."""
    try:
        parsed = parse_manifest(answer.body, bare(answer.headers.get("Content-Type", "")))
        if parsed.kind != "unknown":
            return hashlib.sha256(_content(answer)).digest()
        problem = "its format is not known"
    except ManifestError as error:
        problem = str(error)
    raise WrongContent(
        f"no digest is told, and {answer.url.raw_path} is no manifest: {problem}", date=answer.date
    )


def _named_digest(answer: Answer) -> bytes | None:
    try:
        return parse_digest(answer.headers.get("Docker-Content-Digest", ""))
    except InvalidDigest:
        return None


def _content_length(answer: Answer) -> int | None:
    text = answer.headers.get("Content-Length", "")
    size = int(text) if text.isascii() and text.isdigit() and len(text) <= 19 else MAX_SIZE + 1
    return size if size <= MAX_SIZE else None


def _fits(check: Callable[[str], str], name: str) -> bool:
    try:
        check(name)
    except InvalidName:
        return False
    return True
