"""The HTTP application: routes, middleware, responses. Knows no ComfyUI."""
