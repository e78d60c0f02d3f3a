"""The model card of a bundle: for people who meet the model without its run."""

from ml.dataset import Dataset
from ml.metrics import Scores
from ml.search import TrainingOutcome
from ml.splits import PARTS


def model_card(outcome: TrainingOutcome, dataset: Dataset) -> str:
    """The card in Markdown, without dates, durations or paths."""
    chosen = outcome.chosen
    how = "head trained on a frozen backbone" if chosen.trained == "head" else "trained whole"
    lines = [
        "# Genres of an anime from its poster",
        "",
        f"Network: {chosen.name}{f' ({chosen.backbone})' if chosen.backbone else ''}, "
        f"{how}. Input: a poster squashed to {dataset.preprocessing.size} x "
        f"{dataset.preprocessing.size} pixels. Output: a probability a genre.",
        "",
        "## Data",
        "",
        "Parts are drawn by franchise: no test title has a sibling in training.",
        "",
        "| part | posters |",
        "| --- | --- |",
        *(f"| {part} | {len(dataset.rows(part))} |" for part in PARTS),
        "",
        "## Compared on the validation part",
        "",
        "Thresholds a genre, fitted on other franchises than they are scored on.",
        "",
        "| network | weighted F1 | macro F1 | micro F1 | mAP |",
        "| --- | --- | --- | --- | --- |",
        *(_row(network.name, network.validation) for network in outcome.networks),
        "",
        "## Genres",
        "",
        "| genre | posters | threshold | validation F1 |",
        "| --- | --- | --- | --- |",
        *(
            f"| {genre.genre} | {count} | {threshold:.3f} | {genre.f1:.3f} |"
            for genre, count, threshold in zip(
                chosen.validation.genres, dataset.labels.sum(0), chosen.thresholds, strict=True
            )
        ),
        "",
        "## Use and limits",
        "",
        "A poster shows a genre imperfectly: the answers suggest, they do not establish. Genres outside the "
        "list are never predicted, and a picture that is no poster gets an answer all the same.",
    ]
    return "\n".join(lines) + "\n"


def _row(name: str, scores: Scores) -> str:
    figures = " | ".join(f"{value:.3f}" for value in scores.scalars().values())
    return f"| {name} | {figures} |"
