"""One module a file format: its name, what it recognises and how it is read."""
