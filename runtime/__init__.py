"""Settings, connections, logs, metrics and process life cycle. Knows no policy."""
