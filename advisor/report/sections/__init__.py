"""The sections of a report, a module each: `section(subject) -> Section | None`, pure, drawing nothing yet."""
