"""The page and the HTTP API of a server on this machine."""
