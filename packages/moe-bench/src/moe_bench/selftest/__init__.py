"""Each part that judges, against labels that nobody here wrote."""
