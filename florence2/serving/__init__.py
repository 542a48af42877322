"""Serving: the HTTP server (`server.serve`), its pages, and the MCP server (`mcp_server.serve`)."""
