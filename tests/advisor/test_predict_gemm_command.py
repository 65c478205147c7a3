from __future__ import annotations

import csv
from pathlib import Path

import pytest

from advisor.cli import main
from advisor.errors import BrokenFileError
from advisor.gemm import predict_gemm
from advisor.gemm.table import read_shapes

TITLES = ["m", "n", "k", "time_s", "tflops", "tile_m", "tile_n", "split_k", "waves", "wave_efficiency", "bound"]


def test_sizes_come_back_with_the_times_of_the_library_call(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shapes, times = tmp_path / "shapes.csv", tmp_path / "times.csv"
    shapes.write_text("name,k,n,m\nfirst,512,1024,77\nsecond,4096,4096,4096\n")
    assert main(["predict", "gemm", "--gpu", "h200", "--input", str(shapes), "--output", str(times)]) == 0
    rows = list(csv.DictReader(times.open()))
    assert list(rows[0]) == TITLES
    assert [(row["m"], row["n"], row["k"]) for row in rows] == [("77", "1024", "512"), ("4096", "4096", "4096")]
    one = predict_gemm(77, 1024, 512, gpu="h200")
    assert float(rows[0]["time_s"]) == pytest.approx(one.time_s, rel=1e-5)
    assert rows[0]["bound"] == one.bound
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "off by" in captured.err
    assert "BF16" in captured.err


def test_without_an_output_the_result_alone_is_on_stdout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shapes = tmp_path / "shapes.csv"
    shapes.write_text("m,n,k\n1,2,3\n")
    assert main(["predict", "gemm", "--gpu", "rtx-3090", "--precision", "tf32", "--input", str(shapes)]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[0] == ",".join(TITLES)
    assert len(captured.out.splitlines()) == 2
    assert "TF32 is an estimate" in captured.err
    assert "borrowed from" in captured.err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("m,n\n1,2\n", "line 1: titles 'm,n' lack"),
        ("m,n,k,m\n1,2,3,4\n", "line 1"),
        ("m,n,k\n", "no line after its titles"),
        ("m,n,k\n1,2,3\n4,0,6\n", "line 3: n is '0'"),
        ("m,n,k\n1,2,3\n4,5\n", "line 3: k is missing"),
        ("m,n,k\n1,2,nan\n", "line 2: k is 'nan'"),
        ("m,n,k\n-7,2,3\n", "line 2: m is '-7'"),
        ("m,n,k\n1.5,2,3\n", "line 2: m is '1.5'"),
        ("m,n,k\n1,2,99999999999999999999\n", "line 2: k is '99999999999999999999'"),
        ("m,n,k\n1,2,2147483648\n", "line 2: k is '2147483648'"),
        ("", "line 1"),
    ],
)
def test_a_broken_line_is_named_with_its_cure(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "shapes.csv"
    path.write_text(text)
    with pytest.raises(BrokenFileError) as caught:
        read_shapes(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    assert "write" in str(caught.value) or "add" in str(caught.value)


def test_a_broken_file_leaves_no_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shapes, times = tmp_path / "shapes.csv", tmp_path / "times.csv"
    shapes.write_text("m,n,k\n1,2,x\n")
    assert main(["predict", "gemm", "--gpu", "h200", "--input", str(shapes), "--output", str(times)]) == 5
    assert not times.exists()
    assert capsys.readouterr().err.count("\n") == 1


def test_a_byte_order_mark_blank_lines_and_spaces_are_harmless(tmp_path: Path) -> None:
    path = tmp_path / "shapes.csv"
    path.write_bytes(b"\xef\xbb\xbfM, N ,K\r\n1, 2,3\r\n\r\n4,5,6\r\n")
    assert read_shapes(path).tolist() == [[1, 2, 3], [4, 5, 6]]
