"""TensorBoard, as its own command runs it, with the checks of `same_origin`.

python -m infra.local.tensorboard_server --host 127.0.0.1 --port 6006 --logdir FOLDER
"""

import sys
from typing import Any

from tensorboard import default, program

from infra.local.same_origin import same_origin_wsgi


def main() -> int:
    """Serve until the process is terminated; the options are those of `tensorboard`."""

    def server(app: Any, flags: Any) -> Any:
        return program.WerkzeugServer(same_origin_wsgi(app), flags)

    board = program.TensorBoard(plugins=default.get_plugins(), server_class=server)
    board.configure(sys.argv)
    return int(board.main() or 0)


if __name__ == "__main__":
    sys.exit(main())
