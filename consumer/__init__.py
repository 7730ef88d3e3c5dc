"""Kafka in, one Postgres transaction per batch, then offsets."""
