"""The HTTP API and the page over a gallery. Begin with `app.create_app`."""
