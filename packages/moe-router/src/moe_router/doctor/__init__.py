"""Silent failures of routing, looked for on the user's own model."""
