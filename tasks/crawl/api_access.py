"""The key of an official API: a secret header that is sent to the API alone and never shown."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from multidict import CIMultiDict
from pydantic import SecretStr

from tasks.crawl.http_response import Response

_HIDDEN = "***"


@dataclass(frozen=True)
class ApiAccess:
    """The header that identifies us to the API at `base_url`.

    `check` is called with each response of the API. It raises an error if the response means something else than it
    would on a site, such as an invalid key.
    """

    base_url: str
    header: str
    key: SecretStr
    check: Callable[[Response], None]

    def covers(self, url: str) -> bool:
        """Whether a URL belongs to the API. Others, such as those of posters, do not get the key."""
        return url.startswith(f"{self.base_url}/")

    def headers(self) -> dict[str, str]:
        """The header with the key."""
        return {self.header: self.key.get_secret_value()}

    def hide(self, text: str) -> str:
        """A text without the key. An API may repeat the key in its responses."""
        # Not within other words: a short key could be a part of a title.
        return re.sub(rf"(?<![0-9A-Za-z]){re.escape(self.key.get_secret_value())}(?![0-9A-Za-z])", _HIDDEN, text)

    def hide_in(self, response: Response) -> Response:
        """A response without the key."""
        headers = CIMultiDict((name, self.hide(value)) for name, value in response.headers.items())
        body = response.body
        if self.key.get_secret_value().encode() in body:
            body = self.hide(body.decode("utf-8", errors="surrogateescape")).encode("utf-8", errors="surrogateescape")
        return replace(response, reason=self.hide(response.reason), headers=headers, body=body)
