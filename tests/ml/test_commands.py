import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields
from pathlib import Path

import pytest
from PIL import Image

from ml.__main__ import main
from ml.configuration import PreprocessConfig, TrainConfig
from ml.data.decoding import Poster
from serving.bundle.model import Model
from tests.serving.conftest import write_bundle

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def table(posters: list[Poster], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of the posters with an id, a file and genres."""
    file = tmp_path_factory.mktemp("table") / "posters.csv"
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["imdb_id", "genres", "file"])
        writer.writerows([p.id, "|".join(g.name for g in p.genres), p.file.name] for p in posters)
    return file


def arguments(table: Path, posters: list[Poster], output: Path, *more: str) -> list[str]:
    return [
        "train",
        *("--catalogue", str(table), "--posters", str(posters[0].file.parent), "--output", str(output)),
        *("--workspace", str(output.parent / "workspace"), "--image-size", "32", "--min-posters", "10"),
        *("--trials", "1", "--epochs", "2", "--batch-size", "16", "--backbone", "squeezenet1_1", *more),
    ]


@pytest.fixture
def damaged(table: Path, posters: list[Poster], tmp_path: Path) -> Path:
    """The table with five more rows that cannot be learned from, beside its posters, of which two are BMP and TIFF."""
    folder = tmp_path / "posters"
    shutil.copytree(posters[0].file.parent, folder)
    for poster, ending in zip(posters, ("bmp", "tiff"), strict=False):
        with Image.open(poster.file) as image:
            image.save(folder / f"{poster.id}.{ending}")
        (folder / poster.file.name).unlink()
    (folder / "broken.jpg").write_bytes(posters[0].file.read_bytes()[:500])
    text = (
        table.read_text().replace(f",{posters[0].file.name}", ",0.bmp").replace(f",{posters[1].file.name}", ",1.TIFF")
    )
    rows = [
        "gone,Action,gone.jpg",
        "blank,Unknown,2.jpg",
        "adult,Hentai,3.jpg",
        "broken,Drama,broken.jpg",
        "short,Drama",
    ]
    file = tmp_path / "damaged.csv"
    file.write_text("\n".join([*text.splitlines(), text.splitlines()[-1], *rows]) + "\n")
    return file


@pytest.fixture
def kept_out(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Other processes cannot use the checkpoints until they are removed, which is the last step."""
    from ml.errors import TrainingError
    from ml.training.checkpoints import Checkpoints

    remove, kept_out = Checkpoints.clear, []

    def clear(checkpoints: Checkpoints) -> None:
        try:
            with checkpoints.held():
                kept_out.append(False)
        except TrainingError:
            kept_out.append(True)
        remove(checkpoints)

    monkeypatch.setattr(Checkpoints, "clear", clear)
    yield
    assert kept_out[-1]


@pytest.mark.train
@pytest.mark.usefixtures("kept_out")
def test_train_writes_a_bundle_that_predict_uses_and_counts_the_rows_that_are_left_out(
    damaged: Path,
    posters: list[Poster],
    weights_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    bundle = tmp_path / "bundle"
    more = ["--min-posters-per-part", "2", "--weights", str(weights_file)]
    given = arguments(damaged, posters, bundle, *more)
    del given[given.index("--posters") : given.index("--output")]  # its default is the folder beside the table
    assert main(given) == 0
    summary = capsys.readouterr().out
    assert "test/weighted_f1" in summary
    assert "each row is its own group" in caplog.text
    report = json.loads((bundle / "report.json").read_text())
    assert [network["name"] for network in report["networks"]] == ["scratch", "frozen", "recipe", "recipe-tuned"]
    assert {report["chosen"], "recipe", "every genre", "genre frequencies"} <= set(report["test"])
    for scores in (*report["test"].values(), *(network["validation"] for network in report["networks"])):
        assert f"{scores['weighted_f1']:.3f}" in summary
    assert set(report["seconds"]) == {"preprocess", "train", "evaluate"}
    assert str(tmp_path) not in json.dumps(report)
    assert not list((tmp_path / "workspace" / "checkpoints").iterdir())
    (curves,) = (tmp_path / "workspace" / "tensorboard").iterdir()
    assert re.fullmatch(r"bundle_\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", curves.name)
    assert {"scratch", "frozen", "recipe", "recipe-tuned"} <= {path.name for path in curves.iterdir()}

    reasons = {
        "another number of cells than the header": ["row 127"],
        "identical to an earlier row": [posters[-1].id],
        "file not found": ["gone"],
        "unknown genres": ["blank"],
        "explicit title": ["adult"],
        "poster cannot be decoded": ["broken"],
    }
    counts = {reason: len(ids) for reason, ids in reasons.items()}
    assert report["rows"] == {"read": 126, "learned_from": 120, "left_out": counts}
    assert list(report["broken_posters"]) == ["broken"]
    with (bundle / "left_out.csv").open() as stream:
        assert list(csv.reader(stream)) == [["id", "reason"], *([ids[0], reason] for reason, ids in reasons.items())]
    assert (bundle / "broken_posters.csv").read_text() == f"id,reason\nbroken,{report['broken_posters']['broken']}\n"
    page = (bundle / "report.html").read_text()
    for reason, ids in reasons.items():
        assert f'<th scope="row">{reason}</th><td>1</td>' in page
        assert ids[0] in caplog.text
    assert "broken: The image" in page

    assert main(["predict", str(bundle), str(posters[0].file), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [set(genre) for genre in result["genres"]] == [{"name", "probability", "threshold", "predicted"}] * 3
    assert all(g["predicted"] == (g["probability"] >= g["threshold"]) for g in result["genres"])


@pytest.mark.train
@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--catalogue", "absent.csv"], "The table absent.csv cannot be read: No such file"),
        (["--catalogue", "."], "The table . cannot be read: Is a directory"),
        (["--columns", "genres=plot"], "has no column 'plot' for genres"),
        (["--posters", "absent"], "The folder absent cannot be read: No such file"),
        (["--min-posters", "500"], "Of the genres of 120 posters, 0 can be learned"),
        (["--weights", "absent.pth"], "The weights absent.pth cannot be read"),
        (["--weights", __file__], "is not a weights file"),
        (["--backbone", "resnet19", "--weights", "imagenet"], "torchvision has no backbone named 'resnet19'"),
        (["--device", "cuda:77"], "this machine has no such GPU"),
        (["--image-size", "8"], "image_size must be at least 32"),
        (["--output", __file__], "exists and is not a bundle"),
        (["--workspace", __file__], "Not a directory"),
    ],
)
def test_train_reports_invalid_input_in_one_sentence(
    more: list[str],
    sentence: str,
    table: Path,
    posters: list[Poster],
    weights_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    weights = ["--min-posters-per-part", "2", "--weights", str(weights_file)]
    assert main(arguments(table, posters, tmp_path / "bundle", *weights, *more)) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Error: ")]
    assert sentence in line
    assert not (tmp_path / "bundle" / "manifest.json").exists()


@pytest.mark.train
@pytest.mark.parametrize("wrong", [["--catalogue", "absent.csv"], ["--backbone", "resnet19"], ["--posters", "absent"]])
def test_train_leaves_no_folders_if_input_is_refused(
    wrong: list[str], table: Path, posters: list[Poster], tmp_path: Path
) -> None:
    assert main(arguments(table, posters, tmp_path / "bundle", *wrong)) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.train
@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ([".new-1/manifest.json"], "absent.csv cannot be read"),
        ([".new-1/manifest.json", "model.onnx", "report.json"], "absent.csv cannot be read"),
        ([".new-1/manifest.json", "notes.txt"], "exists and is not a bundle"),
    ],
)
def test_train_accepts_the_output_of_a_killed_run(
    files: list[str],
    sentence: str,
    table: Path,
    posters: list[Poster],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in files:
        (tmp_path / "bundle" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "bundle" / name).touch()
    assert main(arguments(table, posters, tmp_path / "bundle", "--catalogue", "absent.csv")) == 1
    assert sentence in capsys.readouterr().err


@pytest.mark.train
def test_train_refuses_an_output_that_another_process_writes(
    table: Path, posters: list[Poster], weights_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from ml.standalone import checkpoint_name
    from ml.training.checkpoints import Checkpoints

    command = arguments(table, posters, tmp_path / "model", "--weights", str(weights_file), "--candidates", "frozen")
    command += ["--min-posters-per-part", "2"]
    with Checkpoints(tmp_path / "workspace" / "checkpoints" / checkpoint_name(tmp_path / "model"), {}).held():
        assert main(command) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Error: ")]
    assert "Another process trains with the checkpoints in" in line
    assert checkpoint_name(tmp_path / "a" / "model") != checkpoint_name(tmp_path / "b" / "model")


@pytest.mark.train
@pytest.mark.usefixtures("kept_out")
def test_compare_writes_its_figures_and_resumes_after_it_was_stopped(
    table: Path,
    posters: list[Poster],
    weights_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    output = tmp_path / "figures" / "comparison.json"
    more = ["--weights", str(weights_file), "--candidates", "frozen", "--epochs", "1"]
    _, *options = arguments(table, posters, tmp_path / "bundle", *more)
    assert main(["compare", *options, "--output", str(output)]) == 0
    capsys.readouterr()
    uninterrupted = output.read_bytes()
    checkpoints = tmp_path / "workspace" / "checkpoints"
    assert not list(checkpoints.iterdir())
    output.unlink()

    ended = threading.Event()

    def stop() -> None:
        while not ended.wait(0.002):
            if list(checkpoints.glob("compare-*/fold-1-recipe.pt")):
                os.kill(os.getpid(), signal.SIGINT)
                return

    thread = threading.Thread(target=stop)
    thread.start()
    try:
        assert main(["compare", *options, "--output", str(output)]) == 130
    finally:
        ended.set()
        thread.join()
    assert not output.exists()
    finished = {file.stem for file in checkpoints.glob("compare-*/*.pt")}
    assert {"fold-1-frozen", "fold-1-recipe"} <= finished
    assert "fold-3-frozen" not in finished

    caplog.clear()
    assert main(["compare", *options, "--output", str(output)]) == 0
    restored = re.findall(r"The results of '(\S+)' in (\S+) are restored from a checkpoint", caplog.text)
    assert {f"{fold}-{network}" for network, fold in restored} == finished
    trained = re.findall(r"frozen: weighted F1 \S+ on validation", caplog.text)
    assert len(trained) == 5 - len([network for network, _ in restored if network == "frozen"])
    assert output.read_bytes() == uninterrupted
    assert not list(checkpoints.iterdir())

    figures = json.loads(output.read_text())
    assert (figures["posters"], figures["rows"]["read"], figures["rows"]["left_out"]) == (120, 120, {})
    assert output.with_name("comparison-left_out.csv").read_text() == "id,reason\n"
    assert "chosen minus" in capsys.readouterr().out
    assert main(["compare", *options, "--output", str(tmp_path)]) == 1
    assert "is a folder. Give the name of a file" in capsys.readouterr().err


def test_predict_names_a_folder_that_is_not_a_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(tmp_path), "poster.jpg"]) == 1
    assert "has no readable manifest.json" in capsys.readouterr().err


def numbered(folder: Path, count: int) -> list[Path]:
    folder.mkdir(parents=True)
    files = [folder / f"{number:02}.png" for number in range(count)]
    for number, file in enumerate(files):
        Image.new("RGB", (40, 60), (number * 20, 0, 0)).save(file)
    return files


def test_predict_reads_folders_and_continues_after_broken_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    files = numbered(tmp_path / "posters" / "a", 11)
    Image.new("RGB", (40, 60)).save(tmp_path / "posters" / "b.BMP")
    (tmp_path / "posters" / "titles.csv").write_text("id\n1\n")
    files[3].write_bytes(files[3].read_bytes()[:60])
    absent, empty = tmp_path / "absent.jpg", tmp_path / "empty"
    empty.mkdir()
    assert main(["predict", str(bundle), str(absent), str(tmp_path / "posters"), str(empty), "--json"]) == 1
    captured = capsys.readouterr()
    results = [json.loads(line) for line in captured.out.splitlines()]
    assert captured.err == ""
    assert [result["file"] for result in results] == [
        *(str(absent), *map(str, files), str(tmp_path / "posters" / "b.BMP"), str(empty))
    ]
    assert [result["file"] for result in results if "error" in result] == [str(absent), str(files[3]), str(empty)]
    model = Model.load(bundle)
    for file, result in zip(files, results[1:12], strict=True):
        if file != files[3]:
            (expected,) = model.predict([file.read_bytes()])
            assert result["genres"] == [
                {key: vars(genre)[key] for key in ("name", "probability", "threshold", "predicted")}
                for genre in expected
            ]

    assert main(["predict", str(bundle), str(files[3]), str(files[10])]) == 1
    captured = capsys.readouterr()
    assert captured.out.startswith(f"{files[10]}: Action 0.9")
    (line,) = captured.err.splitlines()
    assert line.startswith(f"{files[3]}: The image is")


def test_predict_prints_each_batch_at_once_and_loses_none_at_ctrl_c(tmp_path: Path) -> None:
    bundle, files = write_bundle(tmp_path / "bundle"), numbered(tmp_path / "posters", 20)
    files[15].unlink()
    os.mkfifo(files[15])  # reading it blocks, as a slow disk does
    command = [sys.executable, "-m", "ml", "predict", str(bundle), *map(str, files)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stderr
        lines = [process.stdout.readline() for _ in range(8)]
        assert [line.partition(":")[0] for line in lines] == [str(file) for file in files[:8]]
        process.send_signal(signal.SIGINT)
        while process.poll() is None:
            with suppress(OSError):  # nobody reads it any more
                os.close(os.open(files[15], os.O_WRONLY | os.O_NONBLOCK))
            time.sleep(0.05)
        assert process.returncode == 130
        assert process.stdout.read() == ""
        assert process.stderr.read() == "Stopped.\n"


INTERRUPTED = """
import os, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except KeyboardInterrupt:
                if name == "onnxruntime":
                    raise ImportError("initialization failed")  # as extension modules do
                raise

sys.meta_path.insert(0, Finder())
from ml.__main__ import main
sys.exit(main(["predict", sys.argv[2], "a.jpg"]))
"""


@pytest.mark.parametrize("module", ["ml.commands", "onnxruntime"])
def test_ctrl_c_during_an_import_gives_130_without_a_traceback(module: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", INTERRUPTED, module, str(write_bundle(tmp_path / "bundle"))]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (130, "", "Stopped.\n")


def test_help_lists_every_setting_with_its_description(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")  # lines would also break at hyphens
    with pytest.raises(SystemExit) as stopped:
        main(["train", "--help"])
    assert stopped.value.code == 0
    help_text = " ".join(capsys.readouterr().out.split())
    for entry in (*fields(PreprocessConfig), *fields(TrainConfig)):
        assert f"--{entry.name.replace('_', '-')}" in help_text
        assert entry.metadata["description"] in help_text


def test_help_imports_neither_torch_nor_services() -> None:
    code = (
        "import sys; from ml.commands import add_train; "
        "print([name for name in ('torch', 'prefect', 'mlflow', 'aiohttp', 'flask') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
