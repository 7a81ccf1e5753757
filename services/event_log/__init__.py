"""event_log: moves what services appended into the ledger, relays it to RabbitMQ, ticks, and keeps house."""
