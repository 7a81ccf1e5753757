"""Everything on one machine: an embedded Postgres, a private RabbitMQ node and every service, in one process group."""
