"""The service: an HTTP API, and a page in the browser, over one gallery.

Begin with `app.create_app`, which connects the routes of `routes/` with the objects they share (`service.Service`). To
add a route, write it in a module of `routes/` and add its router to `app`. Only `facespace serve` needs the extra `serve`.
"""
