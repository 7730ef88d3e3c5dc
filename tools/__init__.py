"""What the project itself is made with; nothing here is installed."""
