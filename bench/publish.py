"""`python -m bench publish`: the reports in reports/ that people look at, the same bytes from the same data.

One report per GPU with timings of its own (reports/gpus/GPU), with public rows beside the predictions; the accuracy
report (reports/accuracy) from reports/ACCURACY.md; and reports/GALLERY.md, which shows a picture of each question.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from advisor.errors import BadInputError
from advisor.files import write_atomically
from advisor.gpus import find_gpu
from advisor.profile import FOLDER as PROFILES
from advisor.profile import read_profile, shipped_profiles
from advisor.report.build import build_report
from advisor.report.records import Figure, Report, Section, slug
from advisor.report.rendering.markdown import escaped
from advisor.report.rendering.write import PAGE, TEXT, write_report
from bench.accuracy_report import accuracy_report
from bench.fit_step import GPU as STEPS_GPU
from bench.public_rows import public_measured

REPORTS = Path(__file__).resolve().parent.parent / "reports"
MODELS = ("resnet50", "bert-base-512")
STEPS_MODELS = ("resnet50", "convnext_tiny", "vit_b_16")  # of the GPU whose training steps are public
SHOWN = "a100-sxm4-80gb"  # whose pictures the gallery has, where its report has them

Say = Callable[[str], None]


def published_gpus() -> tuple[str, ...]:
    """Ids of the GPUs that get a report: with FP16 timings of their own, or with training steps."""
    timed = [gpu for gpu in shipped_profiles() if "fp16" in read_profile(PROFILES / f"{gpu}.json").gemm]
    return tuple(sorted({*timed, STEPS_GPU}))


def main(argv: list[str] | None = None) -> int:
    """Publish the reports asked for; by default all, with the accuracy report and the gallery."""
    parser = argparse.ArgumentParser(prog="python -m bench publish", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the public measurements")
    parser.add_argument("--gpus", nargs="+", metavar="ID", help="these reports alone, without accuracy and gallery")
    parser.add_argument("--output", type=Path, default=REPORTS, help="folder of the reports (default: the project's)")
    options = parser.parse_args(argv)
    known = published_gpus()
    if unknown := [gpu for gpu in options.gpus or () if gpu not in known]:
        raise BadInputError(f"no report is published of {', '.join(unknown)}: choose from {', '.join(known)}")
    publish(options.data, options.output, tuple(options.gpus or ()), _say)
    return 0


def publish(data: Path, output: Path, gpus: Sequence[str] = (), say: Say | None = None) -> dict[str, Report]:
    """Write the reports of `gpus` into `output`; of all GPUs, with all else that is published, where none is named.

    Returns the reports by their folder within `output`. Raises BadInputError and BrokenFileError for a file of `data`
    that is missing or damaged, and BadInputError where `output` cannot be written.
    """
    say = say or (lambda _what: None)
    found = {}
    for gpu in gpus or published_gpus():
        found[f"gpus/{gpu}"] = report = gpu_report(gpu, data, say)
        write_report(report, output / "gpus" / gpu, force=True, progress=_within(gpu, say))
    if gpus:
        return found
    _remove_others(output / "gpus", published_gpus(), say)
    source = REPORTS / "ACCURACY.md"
    found["accuracy"] = accuracy_report(source.read_text(encoding="utf-8"), published_gpus())
    write_report(found["accuracy"], output / "accuracy", force=True, progress=_within("accuracy", say))
    write_atomically(output / "GALLERY.md", gallery(found).encode())
    return found


def gpu_report(gpu: str, data: Path, say: Say | None = None) -> Report:
    """The report of one GPU with its public rows."""
    return build_report(
        gpu=gpu,
        models=STEPS_MODELS if gpu == STEPS_GPU else MODELS,
        measured=public_measured(data, gpu),
        command=f"python -m bench publish --data DIR --gpus {gpu}",
        progress=_within(gpu, say) if say else None,
    )


def _remove_others(folder: Path, known: Iterable[str], say: Say) -> None:
    """Remove reports of GPUs that are published no more."""
    for other in sorted(folder.iterdir()):
        if other.name not in known and (other / TEXT).is_file():
            shutil.rmtree(other)
            say(f"removed {other}")


# The gallery ---------------------------------------------------------------------------------------------------------


def gallery(reports: Mapping[str, Report]) -> str:
    """One picture of each question, as Markdown with links to every report that answers it; `reports` by folder."""
    return "\n\n".join(_blocks(reports)) + "\n"


def _blocks(reports: Mapping[str, Report]) -> Iterator[str]:
    yield "# Gallery"
    yield (
        "Every picture answers the question above it for one GPU; the links lead to the reports that answer it for the "
        f"others. Each report is there as {TEXT}, which this host renders, and as {PAGE}, one file to open in a "
        "browser, with the facts of every point. Regenerated by `python -m bench publish --data DIR`."
    )
    yield "\n".join(
        f"- [{escaped(report.title)}]({folder}/{TEXT}), [page]({folder}/{PAGE})" for folder, report in reports.items()
    )
    first = next((folder for folder in reports if folder.endswith(f"/{SHOWN}")), next(iter(reports)))
    order = [first, *(folder for folder in reports if folder != first)]
    shown: set[str] = set()
    for folder in order:
        for section in reports[folder].sections:
            for figure in _of_first_model(section):
                if figure.id in shown:
                    continue
                shown.add(figure.id)
                yield from _picture(folder, figure, reports)


def _of_first_model(section: Section) -> Iterator[Figure]:
    """A section's figures without those that repeat a question for a further model."""
    others = [f"-{slug(name)}" for name in dict.fromkeys((*MODELS[1:], *STEPS_MODELS[1:]))]
    return (figure for figure in section.figures if not any(other in figure.id for other in others))


def _picture(folder: str, figure: Figure, reports: Mapping[str, Report]) -> Iterator[str]:
    yield f"## {escaped(figure.title)}"
    yield f"![{escaped(figure.alt)}]({folder}/figures/{figure.id}.png)"
    others = [
        f"[{_short(other)}]({other}/{TEXT})"
        for other, report in reports.items()
        if other != folder and figure.id in {each.id for section in report.sections for each in section.figures}
    ]
    also = f" Also for {', '.join(others)}." if others else ""
    yield f"{escaped(figure.answer)} From [{_short(folder)}]({folder}/{TEXT}).{also}"


def _short(folder: str) -> str:
    """What a link to a report reads."""
    name = folder.removeprefix("gpus/")
    return escaped(find_gpu(name).name if name != folder else f"the {name} report")


def _within(what: str, say: Say) -> Say:
    return lambda step: say(f"{what}: {step}")


def _say(what: str) -> None:
    print(what, file=sys.stderr)
