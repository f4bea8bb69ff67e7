"""Talk to a ComfyUI server over HTTP and websocket. Needs neither torch nor ComfyUI."""
