"""HTTP in, Kafka out: takes a registry's notifications and answers only when they are durable."""
