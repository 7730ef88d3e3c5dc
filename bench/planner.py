"""P6: the planner alone. `python -m bench.planner`: time and memory at two sizes, each in a process.

Images of eighteen layers, a third of them shared, every fifth an index of two images: ten blobs an image. Half of the usage
has to go, so that adding, taking back and explaining all have work to do.
"""

import json
import random
import resource
import statistics
import subprocess
import sys
import time
from typing import Any, Final

from quota.plan import Manifest, PlanInput
from quota.planner import make_plan
from quota.policy import Policy
from registry.kinds import IMAGE

SIZES: Final = (10_000, 100_000)
_LAYERS: Final = 18
_ROUNDS: Final = 3
_NOW_NS: Final = 1_800_000_000 * 10**9
_DAY_NS: Final = 86_400 * 10**9


def workspace(images: int, seed: int = 1) -> PlanInput:
    """A workspace of that many images and about ten times as many blobs."""
    rng = random.Random(seed)
    sizes: dict[bytes, int] = {}
    shared = [_blob(rng, sizes) for _ in range(max(images // 100, 10))]
    manifests: list[Manifest] = []
    for number in range(images):
        app = f"app{number % max(images // 50, 1)}"
        is_index = number % 5 == 4
        blobs = (
            ()
            if is_index
            else tuple(
                {
                    rng.choice(shared) if rng.random() < 0.3 else _blob(rng, sizes)
                    for _ in range(_LAYERS)
                }
            )
        )
        children = tuple(m.digest for m in manifests[-2:]) if is_index else ()
        digest = _blob(rng, sizes, 2000)
        manifests.append(
            Manifest(
                repository=f"acme/{app if not is_index else manifests[-1].app}",
                app=app,
                digest=digest,
                size=2000,
                media_type="",
                blobs=blobs,
                children=children,
                is_index=is_index,
                subject=None,
                subject_known=True,
                tags=(str(number),),
                pushed_at_ns=_NOW_NS - rng.randrange(90 * _DAY_NS),
                age_known=True,
                last_pulled_at_ns=None,
                unreferenced_since_ns=None,
                size_known=True,
                kind=IMAGE,
            )
        )
    held = {m.digest for m in manifests} | {d for m in manifests for d in m.blobs}
    usage = sum(sizes[digest] for digest in held)
    return PlanInput(
        workspace="acme",
        now_ns=_NOW_NS,
        policy=Policy(max_images_per_run=10**9, max_ratio_per_run_ppm=10**6),
        quota_bytes=usage,
        usage_bytes=usage,
        reserved_bytes=usage // 5,
        incoming_bytes=0,
        manifests=tuple(manifests),
        sizes=sizes,
    )


def _blob(rng: random.Random, sizes: dict[bytes, int], size: int | None = None) -> bytes:
    name = rng.randbytes(32)
    sizes[name] = rng.randrange(1 << 24) if size is None else size
    return name


def measure(images: int) -> dict[str, Any]:
    """Seconds of each round, and the memory before and at the most (bytes)."""
    source = workspace(images)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    seconds = []
    for _ in range(_ROUNDS):
        began = time.process_time()
        plan = make_plan(source)
        seconds.append(time.process_time() - began)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "images": images,
        "blobs": len(source.sizes) - images,
        "deleted": len(plan.steps),
        "target_reached": plan.target_reached,
        "seconds": [round(one, 3) for one in seconds],
        "median_seconds": round(statistics.median(seconds), 3),
        "input_bytes": before,
        "most_bytes": most,
    }


def main() -> None:
    """Each size in a process of its own: a process's largest memory never falls."""
    if len(sys.argv) > 1:
        print(json.dumps(measure(int(sys.argv[1]))))
        return
    for images in SIZES:
        run = [sys.executable, "-m", "bench.planner", str(images)]
        found = json.loads(subprocess.run(run, check=True, capture_output=True).stdout)
        print(
            f"{found['images']:>7} images {found['blobs']:>8} blobs: {found['median_seconds']:.2f} s"
            f" (min {min(found['seconds'])}, max {max(found['seconds'])}),"
            f" {found['deleted']} deleted, input {found['input_bytes'] / 2**20:.0f} MB,"
            f" at the most {found['most_bytes'] / 2**20:.0f} MB"
        )


if __name__ == "__main__":
    main()
