"""The HTTP side of the API: application, routes, middleware, responses. It knows ComfyUI only through jobs."""
