"""What native agents report, durable before it is acknowledged."""
