"""What we are installed with may be distributed under Apache-2.0."""

import re
from importlib import metadata
from pathlib import Path
from typing import Any

PINNED = Path(__file__).parents[2] / "requirements" / "runtime.txt"
# MPL binds its own files only, and they are used as they are.
FREE = re.compile(r"Apache|MIT|BSD|ISC|PSF|Python Software Foundation|MPL|Mozilla", re.IGNORECASE)
NOT_FREE = re.compile(r"GPL|AGPL|SSPL|Commons Clause|Proprietary", re.IGNORECASE)


def licence(name: str) -> str:
    told: Any = metadata.metadata(name)
    parts = [told.get("License-Expression"), (told.get("License") or "").partition("\n")[0]]
    parts += [item for item in told.get_all("Classifier") or () if item.startswith("License ::")]
    return "; ".join(part for part in parts if part)


def test_every_package_at_run_time_is_permissively_licensed():
    names = re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==", PINNED.read_text(), re.MULTILINE)
    assert len(names) > 20
    installed = {
        dist.metadata["Name"].lower().replace("_", "-") for dist in metadata.distributions()
    }
    # Others are pinned for other systems.
    licences = {name: licence(name) for name in names if name in installed}
    assert len(licences) > 20
    wrong = {n: t for n, t in licences.items() if not FREE.search(t) or NOT_FREE.search(t)}
    assert wrong == {}
