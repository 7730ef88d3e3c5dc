"""`registry-quota leases` beside a real API."""

import json
import uuid

DIGESTS = ["sha256:" + name * 32 for name in ("0a", "0b")]
PRINTED = f"docker-pullable://registry.example.com/acme/api@{DIGESTS[0]}\n\n{DIGESTS[1]}\n"


async def test_what_is_on_standard_input_is_in_use_until_it_is_retired(command):
    one, other = (f"leases-{uuid.uuid4().hex[:8]}" for _ in range(2))
    put = await command("leases", "put", one, other, "--source", "prod", stdin=PRINTED)
    assert put.code == 0, put
    for workspace in (one, other):
        listed = await command("leases", "list", workspace, "--json")
        assert [(item["source"], item["digests"]) for item in json.loads(listed.out)] == [
            ("prod", DIGESTS)
        ]
    assert (await command("leases", "retire", one, "prod")).code == 0
    gone = await command("leases", "retire", one, "prod")
    assert (gone.code, "no such source" in gone.err) == (1, True)


async def test_what_protects_nothing_is_refused_and_nothing_is_reported(command):
    workspace = f"leases-{uuid.uuid4().hex[:8]}"
    for stdin, said in (("", "--empty"), (f"{DIGESTS[0]} nginx:1.2", "nginx:1.2")):
        ran = await command("leases", "put", workspace, "--source", "prod", stdin=stdin)
        assert ran.code == 2, ran
        assert said in ran.err
    bad = await command("leases", "put", workspace, "--source", "p", "--ttl", "soon", stdin=PRINTED)
    assert bad.code == 2
    assert json.loads((await command("leases", "list", workspace, "--json")).out) == []
    skipped = await command(
        "leases", "put", workspace, "--source", "p", "--skip-tags", "--json",
        stdin=f"{DIGESTS[0]} nginx:1.2",
    )  # fmt: skip
    assert json.loads(skipped.out)[0]["digests"] == DIGESTS[:1]
    emptied = await command("leases", "put", workspace, "--source", "p", "--empty", stdin="")
    assert emptied.code == 0
