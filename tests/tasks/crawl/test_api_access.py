"""The key of an API: sent to the API alone, and in nothing that a response leaves behind."""

from pathlib import Path
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr

from tasks.crawl.api_access import ApiAccess
from tasks.crawl.client import SiteClient
from tasks.errors import PageLayoutError, SiteError
from tests.strict_api import CLIENT_ID, Response, StrictApi, strict_api


def access_to(url: str, key: str = CLIENT_ID) -> ApiAccess:
    return ApiAccess(url, "X-Key", SecretStr(key), lambda response: None)


async def fetched(api: StrictApi, path: str) -> bytes:
    async with SiteClient(attempts=1, access=access_to(f"{api.url}/v2")) as client:
        found = await client.fetch(f"{api.url}{path}", bytes)
    assert found is not None
    return found.content


def paths_with_key(api: StrictApi) -> list[str]:
    return [path for path, headers in api.requests if CLIENT_ID in str(headers)]


async def test_key_is_sent_below_the_address_of_the_api_alone() -> None:
    def change(path: str, answer: Response) -> Response:
        query = urlsplit(path).query
        return (302, b"", {"Location": query}) if query else (200, b"content", {})

    with strict_api([]) as api, strict_api([]) as other:
        api.change = other.change = change
        for path in ("/v2/title", "/v2?", "/v2x/title", "/title", f"/v2/there?{other.url}/v2/title", "/v2/up?/title"):
            assert await fetched(api, path) == b"content"
        assert paths_with_key(api) == ["/v2/title", f"/v2/there?{other.url}/v2/title", "/v2/up?/title"]
        assert paths_with_key(other) == []
        assert [path for path, _ in other.requests] == ["/robots.txt", "/v2/title"]


@pytest.mark.parametrize("after_redirect", [False, True])
async def test_key_in_a_response_is_hidden(after_redirect: bool) -> None:
    def change(path: str, answer: Response) -> Response:
        if after_redirect and "***" not in path:
            return 302, b"", {"Location": f"/v2/again?key={CLIENT_ID}"}
        return 200, f'{{"key": "{CLIENT_ID}", "other": "x{CLIENT_ID}"}}'.encode(), {"ETag": CLIENT_ID}

    with strict_api([]) as api:
        api.change = change
        assert await fetched(api, "/v2/title") == f'{{"key": "***", "other": "x{CLIENT_ID}"}}'.encode()
        async with SiteClient(access=access_to(f"{api.url}/v2")) as client:
            found = await client.fetch(f"{api.url}/v2/title", bytes)
        assert found and found.validators.etag == "***"


async def test_key_is_in_no_error(tmp_path: Path) -> None:
    def parse(body: bytes) -> bytes:
        raise PageLayoutError(f"This is not a title: {body.decode()}.")

    with strict_api([]) as api:
        for answer in ((418, b"", {}), (200, CLIENT_ID.encode(), {})):
            api.change = lambda path, _, answer=answer: answer  # type: ignore[misc]
            async with SiteClient(attempts=1, access=access_to(f"{api.url}/v2")) as client:
                with pytest.raises(SiteError) as caught:
                    await client.fetch(f"{api.url}/v2/title", parse)
            assert CLIENT_ID not in f"{caught.value!r} {client!r} {access_to(api.url)!r}"
