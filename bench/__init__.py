"""Measures, fits and publishes: everything that a shipped number or report comes from."""
