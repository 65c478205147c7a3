"""A profile as tables, text, JSON and pandas."""
