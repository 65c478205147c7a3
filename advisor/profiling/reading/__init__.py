"""Chrome traces, packed or not, read in windows into columns."""
