"""Which launch, operator and matrix product each kernel of a trace belongs to."""
