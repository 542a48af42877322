"""The pages: static files without a CDN, and the routes that only they need."""
