"""What the installed stack really quantises and adapts, from config.json alone."""
