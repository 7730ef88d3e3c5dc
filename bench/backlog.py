"""P3 and P9: a backlog of image pushes into the ledger, beside what Postgres and others can do.

The backlog stands in Kafka before anything is measured; every program
takes the same one into an empty ledger, in turn. Start-up is left out: the clock runs from the first
recorded batch to the last.
"""

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import psutil
from aiokafka import AIOKafkaProducer
from aiokafka.partitioner import DefaultPartitioner

from bench.limits import bento, flat, rows
from bench.load import events
from bench.measuring import Meter, memory_mib
from bench.processes import consuming, running
from devstack.config import StackConfig
from devstack.stack import Stack
from runtime.kafka import NOTIFICATIONS_TOPIC
from runtime.settings import Settings
from tests.support import ledgers

BATCH = 2000
_LONGEST = 600.0
_POLL = 0.02

Say = Callable[[str], None]


@asynccontextmanager
async def backlog(raws: Sequence[bytes]) -> AsyncIterator[Stack]:
    """Kafka and Postgres, with the events in the topic of the notifications."""
    with tempfile.TemporaryDirectory(prefix="rq-bench-") as folder:
        config = StackConfig.for_tests(Path(folder))
        async with Stack(config, parts=["postgres", "kafka", "migrate"]) as stack:
            producer = AIOKafkaProducer(
                bootstrap_servers=stack.kafka_bootstrap,
                acks="all",
                linger_ms=20,
                max_batch_size=2**19,
            )
            await producer.start()
            try:
                for start in range(0, len(raws), BATCH):
                    sent = [
                        await producer.send(NOTIFICATIONS_TOPIC, value=raw, key=key_of(raw))
                        for raw in raws[start : start + BATCH]
                    ]
                    await asyncio.gather(*sent)
            finally:
                await producer.stop()
            yield stack


def raw_events(count: int, seed: int) -> list[bytes]:
    """Events as the receiver puts them into Kafka."""
    return [json.dumps(event).encode() for event in events(count, seed=seed)]


def key_of(raw: bytes) -> bytes:
    """The workspace, as the receiver's key."""
    repository: str = json.loads(raw)["target"]["repository"]
    return repository.partition("/")[0].encode()


def in_log_order(raws: Sequence[bytes]) -> list[bytes]:
    """The events partition by partition, as a consumer finds them: few workspaces in each batch."""
    partitions = list(range(Settings.model_fields["kafka_partitions"].default))
    partition_of = DefaultPartitioner()
    return sorted(raws, key=lambda raw: int(partition_of(key_of(raw), partitions, partitions)))


@contextmanager
def consumers(stack: Stack, count: int) -> Iterator[list[psutil.Process]]:
    """So many consumer processes."""
    group = f"bench-{time.time_ns()}"
    with ExitStack() as open_:
        yield [open_.enter_context(consuming(stack, group)) for _ in range(count)]


async def ours(stack: Stack, count: int, *, processes: int = 1) -> dict[str, Any]:
    """Consumer processes take the whole backlog into an empty ledger."""
    async with pool_of(stack) as pool:
        await ledgers.empty(pool)
        await pool.execute("CHECKPOINT")
        with consumers(stack, processes) as started:
            first = await _recorded(pool, 1)
            meter = Meter(
                _infrastructure(stack)
                | {f"consumer{number}": process for number, process in enumerate(started)}
            )
            await _recorded(pool, count)
            found = meter.stop()
            memory = [memory_mib(process) for process in started]
        if await ledgers.usage(pool) != await ledgers.recount(pool):
            raise RuntimeError("the counters differ from a recount")
    counted = count - first
    consumer = sum(found.pop(f"cpu.consumer{number}") for number in range(processes))
    return _figures(found, counted) | {
        "consumer CPU s/10,000": consumer / counted * 1e4,
        "consumer MiB": max(memory),
    }


async def bare_rows(stack: Stack, raws: Sequence[bytes]) -> dict[str, Any]:
    """The same rows by bare upserts."""
    async with pool_of(stack) as pool:
        await ledgers.empty(pool)
        async with pool.acquire() as connection:
            batches, written = await rows.prepare(connection, in_log_order(raws), BATCH)
            await connection.execute("CHECKPOINT")
            meter = Meter(_infrastructure(stack))
            await rows.write(connection, batches)
            found = meter.stop()
    load = found["cpu.load"]
    return _figures(found, len(raws)) | {
        "rows/event": written / len(raws),
        "rows/s": written / found["seconds"],
        "consumer CPU s/10,000": load / len(raws) * 1e4,
    }


async def others(stack: Stack, argv: Sequence[Any], count: int) -> dict[str, Any]:
    """A program takes the backlog into one flat row per event; ended when `count` rows are there."""
    connection = await asyncpg.connect(stack.database_url)
    try:
        await connection.execute("DROP TABLE IF EXISTS bench_flat")
        await connection.execute(flat.TABLE)
        with running(argv) as process:
            program = psutil.Process(process.pid)
            first = await _until(connection, 1)
            meter = Meter(_infrastructure(stack) | {"program": program})
            last = await _until(connection, count)
            found = meter.stop()
            memory = memory_mib(program)
    finally:
        await connection.close()
    counted = last - first
    return _figures(found, counted) | {
        "consumer CPU s/10,000": found["cpu.program"] / counted * 1e4,
        "consumer MiB": memory,
    }


async def bare_flat(stack: Stack, count: int) -> dict[str, Any]:
    """Bare aiokafka, and one `unnest` a batch."""
    argv = [
        *(sys.executable, "-m", "bench.limits.flat", stack.kafka_bootstrap),
        *(NOTIFICATIONS_TOPIC, stack.database_url, f"flat-{time.time_ns()}"),
    ]
    return await others(stack, argv, count)


async def bento_rows(stack: Stack, program: Path, count: int, *, as_set: bool) -> dict[str, Any]:
    """Bento, row by row or as a set."""
    document = bento.inserting(
        stack.kafka_bootstrap,
        NOTIFICATIONS_TOPIC,
        f"bento-{time.time_ns()}",
        stack.database_url + "?sslmode=disable",
        as_set=as_set,
    )
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(document, file)
        file.flush()
        return await others(stack, [program, "-c", file.name], count)


async def compare(
    count: int, repetitions: int, seed: int, say: Say
) -> dict[str, list[dict[str, Any]]]:
    """P3: program → figures of each repetition."""
    raws = raw_events(count, seed)
    found: dict[str, list[dict[str, Any]]] = {}
    async with backlog(raws) as stack:
        program = await bento.program(stack.config.cache_dir, say)
        calls: dict[str, Callable[[], Awaitable[dict[str, Any]]]] = {
            "ledger": lambda: ours(stack, count),
            "the same rows, bare upserts": lambda: bare_rows(stack, raws),
            "aiokafka, flat row, unnest": lambda: bare_flat(stack, count),
        }
        if program is not None:
            calls["Bento, flat row, as a set"] = lambda: bento_rows(
                stack, program, count, as_set=True
            )
            calls["Bento, flat row, row by row"] = lambda: bento_rows(
                stack, program, count // 10, as_set=False
            )
        for number in range(repetitions):
            for name in _turned(list(calls), number):
                found.setdefault(name, []).append(await calls[name]())
                say(f"P3 {name}: {found[name][-1]['events/s']:,.0f} events/s")
    return found


async def scale(
    count: int, repetitions: int, seed: int, say: Say
) -> dict[str, list[dict[str, Any]]]:
    """P9: consumer processes → figures of each repetition."""
    found: dict[str, list[dict[str, Any]]] = {}
    async with backlog(raw_events(count, seed)) as stack:
        for number in range(repetitions):
            for processes in _turned([1, 2, 4], number):
                name = f"{processes} consumer{'s' * (processes > 1)}"
                figures = await ours(stack, count, processes=processes)
                found.setdefault(name, []).append(figures)
                say(f"P9 {name}: {figures['events/s']:,.0f} events/s")
    return found


async def long_run(count: int, seed: int, say: Say) -> dict[str, list[dict[str, Any]]]:
    """P9: memory of one consumer process as it takes so many events, at tenths of them."""
    raws = raw_events(count, seed)
    rows_: list[dict[str, Any]] = []
    async with backlog(raws) as stack, pool_of(stack) as pool:
        del raws
        await ledgers.empty(pool)
        with consumers(stack, 1) as (process,):
            for tenth in range(1, 11):
                began = time.perf_counter()
                before = await _recorded(pool, 1)
                after = await _recorded(pool, count * tenth // 10)
                rows_.append(
                    {
                        "events": after,
                        "events/s": (after - before) / (time.perf_counter() - began),
                        "consumer MiB": memory_mib(process),
                    }
                )
                say(f"P9 {after:,} events: {rows_[-1]['consumer MiB']:.0f} MiB")
    return {f"{row['events']:,} events": [row] for row in rows_}


def _turned(names: list[Any], number: int) -> list[Any]:
    """Each is first as often as the others."""
    at = number % len(names)
    return names[at:] + names[:at]


def _infrastructure(stack: Stack) -> dict[str, psutil.Process]:
    return {name: _part(stack, name) for name in ("postgres", "kafka")}


def _figures(found: dict[str, Any], counted: int) -> dict[str, Any]:
    return {
        "events/s": counted / found["seconds"],
        "Postgres CPU s/10,000": found["cpu.postgres"] / counted * 1e4,
        "broker CPU s/10,000": found["cpu.kafka"] / counted * 1e4,
        "foreign CPU": found["foreign"],
        "steal": found["steal"],
    }


def _part(stack: Stack, name: str) -> psutil.Process:
    return psutil.Process(stack.pid(name))


@asynccontextmanager
async def pool_of(stack: Stack) -> AsyncIterator[Any]:
    """One connection."""
    async with asyncpg.create_pool(stack.database_url, min_size=1, max_size=1) as pool:
        yield pool


async def _recorded(pool: Any, count: int) -> int:
    """How many events the ledger has, once it has so many."""
    return await _reached(
        pool, "SELECT coalesce(sum(next_offset), 0)::int8 FROM consumer_offsets", count
    )


async def _until(connection: Any, count: int) -> int:
    # Ids are handed out without gaps that matter here; counting rows would cost the programs.
    return await _reached(connection, "SELECT coalesce(max(id), 0) FROM bench_flat", count)


async def _reached(pool: Any, query: str, count: int) -> int:
    until = time.perf_counter() + _LONGEST
    while True:
        found = int(await pool.fetchval(query))
        if found >= count:
            return found
        if time.perf_counter() > until:
            raise TimeoutError(f"{found} of {count} events after {_LONGEST} s")
        await asyncio.sleep(_POLL)
