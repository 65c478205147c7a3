"""`python -m bench publish`: the reports in reports/ that people look at, the same bytes from the same data.

One report per GPU with timings of its own (reports/gpus/GPU), with public rows beside the predictions; the accuracy
report (reports/accuracy) from reports/ACCURACY.md; and reports/GALLERY.md, which shows one picture of each question.
"""

from __future__ import annotations

import argparse
import re
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
from advisor.report.records import Figure, Report
from advisor.report.rendering.markdown import escaped, prose
from advisor.report.rendering.write import PAGE, TEXT, write_report
from bench.accuracy_report import accuracy_report
from bench.fit_step import GPU as STEPS_GPU
from bench.public_rows import public_measured

REPORTS = Path(__file__).resolve().parent.parent / "reports"
MODELS = ("resnet50", "bert-base-512")
STEPS_MODELS = ("resnet50", "convnext_tiny", "vit_b_16")  # of the GPU whose training steps are public
SHOWN = "a100-sxm4-80gb"  # whose pictures the gallery has, where its report has them
QUESTIONS = (  # figures of the gallery: first what the project is about, last how far it can be trusted
    "throughput-m-n12288-k4096",
    "throughput-n-m2304-k4096",
    "waves-map",
    "batch-resnet50",
    "batch-memory-resnet50",
    "layers-resnet50-cliff",
    "roofline-resnet50",
    "alignment-k",
    "accuracy-fp16",
    "accuracy-steps-nhwc",
    "errors-side-by-side",
    "borrowed",
)
MOST_SAID = 240  # letters of a caption
_SENTENCE = re.compile(r"(?<=[.?!]) (?=[A-Z0-9])")

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
    """A picture of each question, as Markdown with links to every report that answers it; `reports` by folder."""
    return "\n\n".join(_blocks(reports)) + "\n"


def _blocks(reports: Mapping[str, Report]) -> Iterator[str]:
    yield "# Gallery"
    yield (
        "Each picture answers the question above it for one GPU; the names below it lead to the same picture of the "
        "others. What a point stands for, tables, and where each number comes from are in the "
        "[reports](#all-reports)."
    )
    first = f"gpus/{SHOWN}"
    order = sorted(reports, key=lambda folder: folder != first)
    for question in QUESTIONS:
        found = {
            folder: figure
            for folder in order
            for section in reports[folder].sections
            for figure in section.figures
            if figure.id == question
        }
        if found:
            yield from _picture(found)
    yield "## All reports"
    yield (
        f"{TEXT} is rendered by a code host; {PAGE} is one file to download and open in a browser, where points tell "
        "their facts and tables sort."
    )
    yield "\n".join(
        f"- {escaped(report.title)}: [{TEXT}]({folder}/{TEXT}), [{PAGE}]({folder}/{PAGE})"
        for folder, report in reports.items()
    )
    drawn = {section.id for report in reports.values() for section in report.sections if section.figures}
    if not drawn & {"ratios", "timeline"}:
        yield (
            "None of these cards was measured by this project. The report of a card that was also shows our Triton "
            "kernels beside cuBLAS and cuDNN, and the CTAs of a kernel on their SMs: "
            "[Measure my GPU](docs/measure-my-gpu.md)."
        )
    yield "Regenerated by `python -m bench publish --data DIR`."


def _picture(found: Mapping[str, Figure]) -> Iterator[str]:
    """The first report's figure with the beginning of its answer; links to the same figure of the others."""
    (folder, figure), *others = found.items()
    yield f"## {escaped(figure.title)}"
    yield f"[![{escaped(figure.alt)}]({_png(folder, figure)})]({folder}/{TEXT})"
    measured = [origin.short or origin.text for origin in figure.origins if origin.kind == "public measurement"]
    points = f" Measured: {prose('; '.join(measured))}." if measured else ""
    yield f"{_whose(folder)}{prose(beginning(figure.answer))}{points}"
    others = [(other, each) for other, each in others if other.startswith("gpus/")]
    if others:
        yield "The same for " + ", ".join(f"[{_short(other)}]({_png(other, each)})" for other, each in others)


def beginning(answer: str) -> str:
    """The first sentence of an answer, and those after it that leave a caption short."""
    said, *others = _SENTENCE.split(answer)
    for sentence in others:
        if len(said) + len(sentence) >= MOST_SAID:
            break
        said = f"{said} {sentence}"
    return said


def _png(folder: str, figure: Figure) -> str:
    return f"{folder}/figures/{figure.id}.png"


def _short(folder: str) -> str:
    """A report in a word: the id of its GPU."""
    return escaped(folder.removeprefix("gpus/"))


def _whose(folder: str) -> str:
    """The GPU that a picture is of; nothing for the accuracy report, which is of several."""
    gpu = folder.removeprefix("gpus/")
    return f"**{escaped(find_gpu(gpu).name)}**: " if gpu != folder else ""


def _within(what: str, say: Say) -> Say:
    return lambda step: say(f"{what}: {step}")


def _say(what: str) -> None:
    print(what, file=sys.stderr)
