import json
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from ml.__main__ import main

pytestmark = pytest.mark.train


@pytest.mark.parametrize(
    ("name", "rows", "more"),
    [
        ("anime", 700, ["--image-size", "64"]),
        pytest.param("movies", 1800, ["--image-size", "32"], marks=pytest.mark.long),
    ],
)
def test_train_on_real_posters_beats_the_baselines(
    name: str, rows: int, more: list[str], real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with zipfile.ZipFile(real_data / "posters" / f"{name}.zip") as archive:
        catalogue = Path(archive.extract(f"{name}.csv", tmp_path))
        titles = pd.read_csv(catalogue, dtype=str, keep_default_na=False).head(rows)
        titles.to_csv(catalogue, index=False)
        cells = {*titles.to_numpy().ravel()}
        posters = [each for each in archive.namelist() if not {Path(each).name, Path(each).stem}.isdisjoint(cells)]
        archive.extractall(tmp_path, posters)
    weights = real_data / "weights" / "squeezenet1_1-imagenet-features.pth"
    bundle = tmp_path / "bundle"
    code = main(
        [
            "train",
            *("--catalogue", str(catalogue), "--posters", str(catalogue.parent / "posters"), "--output", str(bundle)),
            *("--workspace", str(tmp_path / "workspace"), "--device", "cpu"),
            *("--trials", "1", "--epochs", "1", "--candidates", "frozen"),
            *("--backbone", "squeezenet1_1", "--weights", str(weights), *more),
        ]
    )
    assert code == 0, capsys.readouterr().err
    report = json.loads((bundle / "report.json").read_text())
    chosen, baseline = (report["test"][name] for name in (report["chosen"], "every genre"))
    assert chosen["weighted_f1"] > baseline["weighted_f1"] + 0.02
    assert chosen["mean_average_precision"] > baseline["mean_average_precision"] + 0.04
    poster = next((catalogue.parent / "posters").glob("*.jpg"))
    capsys.readouterr()
    assert main(["predict", str(bundle), str(poster), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert len(result["genres"]) == len(report["dataset"]["genres"])
