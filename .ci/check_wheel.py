"""Check the wheel as a user meets it: one import name, and no harm to the packages it is installed beside.

Builds the wheel, installs it into a clean environment beside Hugging Face's package `kernels`, runs the
README's first command, `advisor bench` and `advisor report` from another folder, and compares every file of theirs
with its RECORD.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import shlex
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OTHER = "kernels"  # Hugging Face's: shares its name with a folder of this checkout
NO_GPU, NO_TORCH = 3, 6  # exit codes of `advisor`
NEEDED = (
    "advisor/py.typed",
    "advisor/_worker/bench/__main__.py",
    "advisor/_worker/kernels/__init__.py",
    "advisor/planning/critical-batch.json",
    "advisor/planning/snippets/templates/torch.py.j2",
    "advisor/profiles/convolution/fp32.json",
    "advisor/profiling/live/child.py",
    "advisor/report/assets/plotly/LICENSE",
    "advisor/report/assets/plotly/plotly-basic.min.js",
    "advisor/report/assets/report.css",
    "advisor/report/assets/sortable/LICENSE",
    "advisor/report/rendering/templates/report.html.j2",
    "advisor/schemas/trace-profile.json",
)


def main(readme_command: str) -> None:
    """Run every check; raise on the first that fails."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        run([sys.executable, "-m", "build", "--wheel", "--outdir", str(work / "dist"), str(ROOT)])
        (wheel,) = (work / "dist").glob("*.whl")
        check_import_names(wheel)

        venv.create(work / ".venv", with_pip=True)
        pip = [str(work / ".venv/bin/python"), "-m", "pip", "install", "-q"]
        run([*pip, "--no-deps", OTHER])
        (record,) = (work / ".venv").glob(f"lib/python*/site-packages/{OTHER}-*.dist-info/RECORD")
        # The README's command as it stands, but for the environment that exists and the wheel that was built.
        make_environment, install, job = (part.strip() for part in readme_command.split("&&"))
        expect(make_environment, "python3 -m venv .venv")
        expect(install, ".venv/bin/pip install .")
        run([*pip, str(wheel)])
        print(run(shlex.split(job), cwd=work))
        check_measuring(work)
        check_report(work)
        check_record(record)
        megabytes = int(run(["du", "-sm", str(work / ".venv")]).split()[0])
        if megabytes > 500:
            raise SystemExit(f"the installed environment is {megabytes} MB, the limit is 500 MB: drop a dependency")
    print(f"wheel: one import name, {OTHER} untouched, {megabytes} MB installed")


def check_import_names(wheel: Path) -> None:
    """The wheel holds the package `advisor`, its metadata, and nothing else."""
    names = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    unexpected = {name for name in names if name != "advisor" and not name.endswith(".dist-info")}
    if unexpected:
        raise SystemExit(f"the wheel installs {sorted(unexpected)} beside 'advisor'")
    inside = zipfile.ZipFile(wheel).namelist()
    for needed in NEEDED:
        if needed not in inside:
            raise SystemExit(f"the wheel lacks {needed}")


def check_measuring(work: Path) -> None:
    """What measures, and what records a profile, starts beside packages named as ours, and says what it lacks."""
    bin_, decoys = work / ".venv/bin", work / "decoys"
    decoys.mkdir()
    for name in ("bench.py", "kernels.py"):
        (decoys / name).write_text("raise SystemExit('a package of the user ran instead')")
    (script,) = (work / ".venv").glob("lib/python*/site-packages/advisor/_worker/bench/__main__.py")
    run([str(bin_ / "python"), str(script), "worker", "--help"], cwd=decoys)
    measure = ["bench", "--gpu", "auto", "--records", "records.db"]
    record = ["profile", "--model", "resnet50", "--batch", "2"]
    for arguments in (measure, record):
        done = subprocess.run([bin_ / "advisor", *arguments], cwd=decoys, capture_output=True, text=True, check=False)
        lines = done.stderr.splitlines()
        if done.returncode not in (NO_GPU, NO_TORCH) or len(lines) != 1 or not lines[0].startswith("advisor: "):
            raise SystemExit(
                f"`advisor {arguments[0]}` without PyTorch exited {done.returncode}\n{done.stdout}{done.stderr}"
            )
    found = run(
        [str(bin_ / "python"), "-c", f"import importlib.util; print(importlib.util.find_spec('{OTHER}').origin)"]
    )
    if "advisor" in Path(found.strip()).parts:
        raise SystemExit(f"`import {OTHER}` finds {found.strip()}, which is ours")


def check_report(work: Path) -> None:
    """A report is written from the installed files alone: its page, its figures and its tables."""
    folder = work / "report"
    run(
        [str(work / ".venv/bin/advisor"), "report", "--gpu", "a100", "--model", "resnet50", "-o", str(folder)], cwd=work
    )
    page = (folder / "report.html").read_text(encoding="utf-8")
    if "plotly" not in page or not page.rstrip().endswith("</html>"):
        raise SystemExit("the page that the wheel writes lacks its script, or its end")
    missing = [
        kind for kind in ("report.md", "figures/*.png", "figures/*.svg", "tables/*.csv") if not any(folder.glob(kind))
    ]
    if missing:
        raise SystemExit(f"the report that the wheel writes lacks {', '.join(missing)}")


def check_record(record: Path) -> None:
    """Every file of another distribution still has the hash it was installed with."""
    site_packages = record.parent.parent
    with record.open(newline="") as file:
        for path, recorded, _size in csv.reader(file):
            if not recorded:
                continue  # RECORD itself and compiled files carry no hash
            algorithm, _, digest = recorded.partition("=")
            content = hashlib.new(algorithm, (site_packages / path).read_bytes()).digest()
            if base64.urlsafe_b64encode(content).rstrip(b"=").decode() != digest:
                raise SystemExit(f"installing batchwave changed {path} of {record.parent.name}")


def expect(found: str, wanted: str) -> None:
    """Stop where the README's command has changed and this check no longer follows it."""
    if found != wanted:
        raise SystemExit(f"README.md's first command has {found!r} where this check expects {wanted!r}")


def run(command: list[str], cwd: Path | None = None) -> str:
    """Run a command, return its standard output; show everything where it fails."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{shlex.join(command)} exited {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main(sys.argv[1])
