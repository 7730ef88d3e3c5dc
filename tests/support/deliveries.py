"""Deliveries of our own making: good ones, and everything that is wrong in one way."""

import json
import uuid
from copy import deepcopy
from typing import Any

DIGEST = "sha256:" + "ab" * 32
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"

_DROP: Any = object()


def event(
    repository: str = "acme/web", *, event_id: str = "", action: str = "push", **target: Any
) -> dict[str, Any]:
    """An event as a registry sends it; `target` fields replace the usual ones."""
    return {
        "id": event_id or str(uuid.uuid4()),
        "timestamp": "2026-11-23T20:58:28.242777812Z",
        "action": action,
        "target": {
            "mediaType": MANIFEST_TYPE,
            "size": 349,
            "digest": DIGEST,
            "length": 349,
            "repository": repository,
            "url": f"http://127.0.0.1:5000/v2/{repository}/manifests/{DIGEST}",
            "tag": "1.0",
            "references": [{"mediaType": "application/x", "size": 1, "digest": DIGEST}],
            **target,
        },
        "request": {"id": "r", "addr": "a", "host": "h", "method": "PUT", "useragent": "skopeo/1"},
        "actor": {},
        "source": {"addr": "registry-1:5000", "instanceID": "i"},
    }


def envelope(*events: object) -> bytes:
    """A delivery of these events, indented as registries do."""
    return json.dumps({"events": events}, indent=3).encode()


def _changed(path: str, value: Any) -> bytes:
    """A delivery of one event in which the value at `a.b` is another one or missing."""
    changed = deepcopy(event(event_id="641ad7d5-422b-4228-815e-34fc4948ce09"))
    *parents, key = path.split(".")
    place = changed
    for parent in parents:
        place = place[parent]
    if value is _DROP:
        del place[key]
    else:
        place[key] = value
    return envelope(changed)


BAD_BODIES: dict[str, bytes] = {
    # Not JSON
    "empty": b"",
    "space": b"  \n",
    "text": b"hello",
    "html": b"<html><body>502 Bad Gateway</body></html>",
    "form": b"events=%5B%5D",
    "nul": b"\x00",
    "binary": bytes(range(256)),
    "latin-1": '{"events": [], "a": "é"}'.encode("latin-1"),
    "utf-16": '{"events": []}'.encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf" + envelope(event()),
    "cut short": envelope(event())[:-40],
    "cut in the middle": envelope(event())[:200],
    "two envelopes": envelope(event()) * 2,
    "trailing text": envelope(event()) + b"x",
    "trailing comma": b'{"events": [],}',
    "comment": b'{"events": [] /* none */}',
    "single quotes": b"{'events': []}",
    "not a number": b'{"events": [NaN]}',
    "bare word": b'{"events": nope}',
    "raw newline in a string": b'{"events": [], "a": "\n"}',
    "broken escape": b'{"events": [], "a": "\\x"}',
    "broken surrogate bytes": b'{"events": [], "a": "\xed\xa0\x80"}',
    "gzip": b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xab\x56",
    "open brackets": b"[" * 5000,
    "deep objects": b'{"a":' * 5000 + b"1" + b"}" * 5000,
    "deep events": b'{"events": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    # JSON, but not an envelope
    "null": b"null",
    "true": b"true",
    "number": b"42",
    "string": b'"events"',
    "array": b"[]",
    "array of events": json.dumps([event()]).encode(),
    "empty object": b"{}",
    "event without envelope": json.dumps(event()).encode(),
    "other name": json.dumps({"Events": [event()]}).encode(),
    "events null": b'{"events": null}',
    "events an object": json.dumps({"events": event()}).encode(),
    "events a string": b'{"events": "push"}',
    "events a number": b'{"events": 1}',
    # An envelope of something else
    "event null": envelope(None),
    "event a number": envelope(7),
    "event a string": envelope("push"),
    "event an array": envelope([event()]),
    "event empty": envelope({}),
    "harbor's webhook": json.dumps({"type": "PUSH_ARTIFACT", "event_data": {}}).encode(),
    # Fields that are missing
    "no id": _changed("id", _DROP),
    "id empty": _changed("id", ""),
    "id null": _changed("id", None),
    "id a number": _changed("id", 1),
    "id too long": _changed("id", "x" * 300),
    "id with nul": _changed("id", "a\x00b"),
    "no action": _changed("action", _DROP),
    "action empty": _changed("action", ""),
    "action unknown": _changed("action", "explode"),
    "action in capitals": _changed("action", "PUSH"),
    "action a list": _changed("action", ["push"]),
    "no timestamp": _changed("timestamp", _DROP),
    "timestamp a number": _changed("timestamp", 1764000000),
    "timestamp without zone": _changed("timestamp", "2026-11-23T20:58:28"),
    "timestamp of no day": _changed("timestamp", "2026-02-30T20:58:28Z"),
    "timestamp far away": _changed("timestamp", "9999-12-31T23:59:59Z"),
    "no target": _changed("target", _DROP),
    "target null": _changed("target", None),
    "target a list": _changed("target", []),
    "no repository": _changed("target.repository", _DROP),
    "repository empty": _changed("target.repository", ""),
    "repository null": _changed("target.repository", None),
    "repository a number": _changed("target.repository", 5),
    "no digest": _changed("target.digest", _DROP),
    "digest empty": _changed("target.digest", ""),
    # Names outside the grammar
    "repository climbs": _changed("target.repository", "acme/../root"),
    "repository dots": _changed("target.repository", ".."),
    "repository absolute": _changed("target.repository", "/acme/web"),
    "repository slash at the end": _changed("target.repository", "acme/web/"),
    "repository doubled slash": _changed("target.repository", "acme//web"),
    "repository percent": _changed("target.repository", "acme%2fweb"),
    "repository space": _changed("target.repository", "acme/my web"),
    "repository capitals": _changed("target.repository", "acme/Web"),
    "repository nul": _changed("target.repository", "acme/web\x00"),
    "repository newline": _changed("target.repository", "acme/web\n"),
    "repository header": _changed("target.repository", "acme/web\r\nHost: evil"),
    "repository query": _changed("target.repository", "acme/web?x=1"),
    "repository url": _changed("target.repository", "http://evil.example/acme"),
    "repository unicode": _changed("target.repository", "acme/wéb"),
    "repository wide letters": _changed("target.repository", "acme/ｗｅｂ"),  # noqa: RUF001
    "repository right to left": _changed("target.repository", "acme/‮bew"),  # noqa: PLE2502
    "repository too long": _changed("target.repository", "a/" + "b" * 254),
    "repository lone surrogate": _changed("target.repository", "acme/\ud800"),
    "from repository climbs": _changed("target.fromRepository", "../x"),
    "tag climbs": _changed("target.tag", "../1.0"),
    "tag too long": _changed("target.tag", "x" * 129),
    "tag with colon": _changed("target.tag", "a:b"),
    "tag a number": _changed("target.tag", 1.0),
    "digest short": _changed("target.digest", "sha256:abcd"),
    "digest in capitals": _changed("target.digest", "sha256:" + "AB" * 32),
    "digest not hex": _changed("target.digest", "sha256:" + "zz" * 32),
    "digest md5": _changed("target.digest", "md5:" + "ab" * 16),
    "digest without algorithm": _changed("target.digest", "ab" * 32),
    "digest climbs": _changed("target.digest", "sha256:../../etc/passwd"),
    # Impossible sizes
    "size negative": _changed("target.size", -1),
    "size above 64 bits": _changed("target.size", 2**63),
    "size huge": _changed("target.size", 10**400),
    "size a fraction": _changed("target.size", 1.5),
    "size a string": _changed("target.size", "349"),
    "size a boolean": _changed("target.size", True),
    "length negative": _changed("target.length", -349),
    "delete of nothing": envelope(event(action="delete", digest="", tag="")),
    "deep inside an event": b'{"events": [{"id": ' + b"[" * 3000 + b"]" * 3000 + b"}]}",
}
"""Each is accounted for by exactly one dead letter."""

BAD_REFERENCES: dict[str, bytes] = {
    "references an object": _changed("target.references", {}),
    "references of numbers": _changed("target.references", [1]),
    "reference negative": _changed("target.references", [{"digest": DIGEST, "size": -5}]),
    "reference above 64 bits": _changed("target.references", [{"digest": DIGEST, "size": 2**64}]),
    "reference without digest": _changed("target.references", [{"size": 1}]),
    "reference digest bad": _changed("target.references", [{"size": 1, "digest": "x"}]),
}
"""The push is a fact, what it claims to refer to is not: a notification and a dead letter each."""
