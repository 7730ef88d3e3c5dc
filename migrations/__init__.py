"""Alembic environment and date-stamped revisions of the ledger's schema."""
