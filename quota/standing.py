"""How far relay and reconciliation are, seen from outside of them."""

from ledger import outbox
from quota.reconcile import Reconciler
from quota.relay import Relay
from runtime.kafka import cluster_id
from runtime.postgres import open_pool
from runtime.settings import Settings
from runtime.watchdog import Standing


async def of_relay(relay: Relay, settings: Settings) -> Standing:
    """The event that is published next, while there is one, Kafka answers and this relay leads.

    Raises:
        KafkaError, or one of `runtime.postgres.UNAVAILABLE`: it cannot be known now.
    """
    if not relay.leading:
        return {}
    pool = await open_pool(settings.required_database_url(), size=1, name="registry-quota watchdog")
    try:
        async with pool.acquire() as connection:
            oldest = await outbox.oldest_unpublished(connection)
    finally:
        pool.terminate()
    if oldest is None:
        return {}
    await cluster_id(settings)
    return {"outbox": f"event {oldest}"}


def of_reconciliation(reconciler: Reconciler) -> Standing:
    """What a pass of this process has looked at and asked for; nothing between two passes."""
    asked = reconciler.asked
    return {} if asked is None else {"pass": f"request {asked}"}
