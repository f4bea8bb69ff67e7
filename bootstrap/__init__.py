"""From a fresh machine to a running ComfyUI: standard library only, shared by run.py, the demo and the tests."""
