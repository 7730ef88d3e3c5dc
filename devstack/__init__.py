"""The embedded Kafka, Postgres and registry behind `make run`, `make demo` and `make test`."""
