"""Reports people look at: what was measured, predicted and advised for one GPU, as one HTML page and as files.

`build.py` gathers a `Report` (records.py) from sections, each a pure function of a `Subject`; `rendering/` turns it
into report.html, report.md, PNG, SVG and CSV.
"""
