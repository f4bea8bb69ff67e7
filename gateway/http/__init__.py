"""The HTTP side of the API: the application, its routes, middleware, responses and errors."""
