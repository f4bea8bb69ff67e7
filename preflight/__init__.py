"""What a run will do and what is wrong with it, found in file headers and graphs before a weight is loaded."""
