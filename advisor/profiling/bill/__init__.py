"""What a traced step loses, by cause, and what to do about each."""
