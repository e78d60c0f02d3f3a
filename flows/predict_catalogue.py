"""The command `predict-catalogue`: a table of a bundle's predictions for all titles of the catalogue."""

from flows.terminal import log_to_terminal
from ml.progress import TerminalReporter
from serving.bundle.wording import counted
from tasks.catalogue_predictions import predict_catalogue


def run_predict_catalogue(collection: str, bundle: str | None) -> None:
    """Predict all titles, store the table and print where it is. Raises as `predict_catalogue`."""
    log_to_terminal("tasks", "infra")
    result = predict_catalogue(collection, bundle, TerminalReporter())
    table = result.table
    unknown = table[(table["genres"].map(len) == 0) & table["predicted"].notna()]
    print(
        f"Bundle {result.bundle_sha256[:8]} predicted {counted(int(table['predicted'].notna().sum()), 'title')} of "
        f"{len(table)}; {len(unknown)} of them have no genres on the site."
    )
    print(f"The table is {result.uri}\nand {result.file}")
