"""The model card of a bundle: for people who meet the model without its run (Mitchell et al. 2019,
https://arxiv.org/abs/1810.03993)."""

from ml.data.dataset import Dataset
from ml.data.splits import PARTS, VALIDATION
from ml.scores.intervals import Interval, Predictions, intervals
from ml.scores.metrics import Scores
from ml.training.outcome import TrainingOutcome
from serving.bundle.model import Served

_HOW = {
    "frozen": "a head fitted on a frozen backbone",
    "lp-ft": "fine-tuned after its head",
    "whole": "trained whole",
}


def model_card(outcome: TrainingOutcome, dataset: Dataset, date: str | None = None) -> str:
    """The card in Markdown, without durations or paths; `date` is that of the data, where it is known."""
    chosen = outcome.chosen
    validation = dataset.rows(VALIDATION)
    own = Predictions(chosen.validation_probabilities, chosen.validation_probabilities >= chosen.thresholds)
    sure = intervals(own, dataset.labels[validation], dataset.franchises[validation])
    lines = [
        "# Genres of an anime from its poster",
        "",
        f"Network: {chosen.name}{f' ({chosen.backbone})' if chosen.backbone else ''}, {_HOW[chosen.trained]}. Input: a "
        f"poster squashed to {dataset.preprocessing.size} x {dataset.preprocessing.size} pixels. Output: a probability "
        "a genre, and whether it reaches the genre's threshold.",
        "",
        *(_served(chosen.exported.served) if chosen.exported else ()),
        "## Data",
        "",
        f"{f'Posters and genres as of {date}; dataset' if date else 'Dataset'} {dataset.key[:12]}. Parts are drawn by "
        "franchise, as far as titles and related titles tell it, and posters that look alike count as one franchise.",
        "",
        "| part | posters |",
        "| --- | --- |",
        *(f"| {part} | {len(dataset.rows(part))} |" for part in PARTS),
        "",
        "## Compared on the validation part",
        "",
        "Thresholds a genre, fitted on other franchises than they are scored on. `recipe` and `recipe-tuned` are what "
        "is usually written, fitted on the training part; the head of a frozen network is fitted on train and "
        "validation in the end. The test part's figures stand in the run's report.",
        "",
        "| network | weighted F1 | macro F1 | micro F1 | mAP |",
        "| --- | --- | --- | --- | --- |",
        *(_row(network.name, network.validation) for network in (*outcome.networks, *outcome.recipes)),
        "",
        f"95 % interval of the chosen one's mAP (bootstrap over franchises): {_range(sure.mean_average_precision)}.",
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
        "## Intended use",
        "",
        "To suggest genres for a poster where nobody has named them yet, to sort and to browse. Not to decide about "
        "people, titles or money without someone looking.",
        "",
        "## Limits",
        "",
        "A poster shows a genre imperfectly: the answers suggest, they do not establish. Rare genres are learned from "
        "few posters and are often missed. Genres outside the list are never predicted, and a picture that is no "
        "poster gets an answer all the same. Lettering, logos and the fashion of a year are seen as much as what is "
        "drawn.",
    ]
    return "\n".join(lines) + "\n"


def _served(served: Served) -> tuple[str, ...]:
    return f"Served in {served.precision}. {served.reason}", ""


def _row(name: str, scores: Scores) -> str:
    figures = " | ".join(f"{value:.3f}" for value in scores.scalars().values())
    return f"| {name} | {figures} |"


def _range(interval: Interval) -> str:
    return f"{interval.low:.3f} to {interval.high:.3f}"
