"""The operations of the HTTP API: one module a subject, each with a `router`."""
