"""The report of a trace as one HTML file, and its pictures on their own."""
