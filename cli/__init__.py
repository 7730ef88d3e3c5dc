"""The `registry-quota` command: one thin module per command group."""
