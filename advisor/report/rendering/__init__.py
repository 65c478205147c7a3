"""From a `Report` to files: report.html, report.md, PNG, SVG and CSV."""
