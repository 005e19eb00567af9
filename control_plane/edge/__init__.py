"""The edge: the rules for requests (Caddyfile), the sign-in, and the WebSocket relay."""
