"""`registry-quota gc verify` beside a real API and registry."""

import json
import uuid

from registry.push import build_image, build_layer, push_image


async def test_before_a_collection_what_was_freed_is_still_there_and_said_so(system, command):
    name = f"gc-{uuid.uuid4().hex[:8]}"
    nothing = await command("gc", "verify", "--workspace", name)
    assert nothing.code == 1
    assert f"no workspace '{name}'" in nothing.err
    image = build_image([build_layer(name, 50_000)])
    await push_image(system.registry, f"{name}/api", image, "1")
    await system.settled()
    await system.registry.delete_manifest(f"{name}/api", image.digest)
    await system.settled()
    ran = await command("gc", "verify", "--workspace", name, "--json")
    assert ran.code == 1, ran
    outcome = json.loads(ran.out)
    assert outcome["state"] == "finished"
    assert outcome["present"] >= 1
    assert outcome["collected"] == 0
    typo = await command("gc", "verify", "--workspace", f"{name}x")
    assert typo.code == 1
    assert f"did you mean {name}" in typo.err
    shown = await command("gc", "verify", "--workspace", name)
    assert shown.code == 1
    assert "still answer" in shown.out
    assert name in shown.out
