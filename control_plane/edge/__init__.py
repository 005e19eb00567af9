"""The edge: which requests are let through (Caddyfile), sign-in, and the WebSocket relay."""
