"""The HTTP API: handlers are thin (parse, one call, map errors at the edge)."""
