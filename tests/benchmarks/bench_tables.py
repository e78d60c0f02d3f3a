"""Reading a table of 100,000 rows beside 100,000 small files, hashing included, in three forms.

    PYTHONPATH=. python tests/benchmarks/bench_tables.py [--rows 100000]

Each form is read in a process of its own: `plain` names its files as they are, `windows` names them by Windows paths
with endings in upper case, `ids` has no column of files. The alternative reads the plain table with `csv` and hashes
the files one after the other; it checks nothing. Memory is the peak of the process, with its imports. Needs 500 MB of
disk.
"""

import argparse
import csv
import hashlib
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

GENRES = ("Action", "Comedy", "Drama", "Sci-Fi")
FORMS = ("plain", "windows", "ids", "csv module")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000, help="default: %(default)s")
    parser.add_argument("--read", nargs=2, metavar=("FORM", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        return read(options.read[0], Path(options.read[1]))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, options.rows)
        for form in FORMS:
            subprocess.run([sys.executable, __file__, "--read", form, name], check=True)


def write(folder: Path, rows: int) -> None:
    """Write 2 KB files and a table of each form, with titles and descriptions of two lines."""
    (folder / "posters").mkdir()
    for number in range(rows):
        (folder / "posters" / f"{number}.jpg").write_bytes(hashlib.sha256(str(number).encode()).digest() * 60)
    for form, file in (("plain", "posters/{}.jpg"), ("windows", r"D:\data\posters\{}.JPG"), ("ids", "")):
        with (folder / f"{form}.csv").open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(["id", "title", "genres", "synopsis", *(["file"] if file else [])])
            for number in range(rows):
                genres = ", ".join(name for place, name in enumerate(GENRES) if number >> place & 1) or "Horror"
                story = f'The "story" {number}, with a line,\nand another line. ' * 4
                writer.writerow([number, f"Title {number}", genres, story, *([file.format(number)] if file else [])])


def read(form: str, folder: Path) -> None:
    """Read the table of one form and print time and memory."""
    from ml.data.user_table import read_table

    imports = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, processor = time.perf_counter(), time.process_time()
    if form == "csv module":
        with (folder / "plain.csv").open(newline="", encoding="utf-8") as stream:
            found = [hashlib.sha256((folder / row["file"]).read_bytes()) for row in csv.DictReader(stream)]
    else:
        found = list(read_table(folder / f"{form}.csv", folder / "posters").posters)  # type: ignore[arg-type]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        f"{form:10} {len(found):,} rows: {time.perf_counter() - start:5.1f} s ({time.process_time() - processor:.1f} s "
        f"of processor time), {peak / 1024:.0f} MB, of which imports {imports / 1024:.0f} MB",
        flush=True,
    )


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    main()
