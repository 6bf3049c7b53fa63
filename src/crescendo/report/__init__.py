"""A comparison of runs as one html page that needs nothing beside itself."""
