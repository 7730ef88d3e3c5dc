"""From the ledger to decisions and actions: pre-build hook, cleanup, API, quota events."""
