"""What a run will do and what is wrong with it, told from files' headers and from graphs, before a weight is loaded."""
