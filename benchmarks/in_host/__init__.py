"""What benches run inside ComfyUI's own modules: each file a module that prints its result as one line of JSON."""
