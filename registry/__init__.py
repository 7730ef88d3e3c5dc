"""What a registry says and how to talk to it."""
